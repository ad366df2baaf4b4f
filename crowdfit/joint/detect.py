"""New stars on all exposures together.

What the matched filter gathers in each exposure, and what it could gather, is resampled onto the reference grid and
added up; peaks of the sum are tested in every exposure by the score test of a single image, whose gains and
informations add up before the threshold. A star too faint for any exposure shows in the sum.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter

from crowdfit.frame import Frame, Frames
from crowdfit.joint.light import Light, combined
from crowdfit.joint.prune import in_blob, second_of_blob
from crowdfit.mapping import Box
from crowdfit.sources import Sources
from crowdfit.stages.detect import (
    LEAST_ERROR,
    ScoreDetect,
    allowed_pixels,
    model_error,
    peaks_above,
    refined,
    softened_ivar,
    strongest_first,
)
from crowdfit.stages.matched import field_filter
from crowdfit.stages.rings import ring_excess
from crowdfit.view import JointSources

__all__ = ["Grid", "JointPeaks", "Thresholds", "Tested", "find"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

FINE = 2.5
"""Below this FWHM the grid of the sum has two cells a pixel: peaks on single pixels would be seen too low (pix)."""
HINT = 0.8
"""What an exposure alone has to see of a second star under a known one, over its even share of the threshold."""
ROWS = 256
"""The grid is mapped so many rows at a time."""


@dataclass(frozen=True)
class Grid:
    """The cells on which exposures are added up: cell (row, col) lies at reference (x0 + col step, y0 + row step)."""

    x0: float
    y0: float
    step: float
    shape: tuple[int, int]

    @classmethod
    def over(cls, box: Box, fwhm: float) -> "Grid":
        """Return the grid over a box for stars of the given FWHM (reference pixels)."""
        step = 1.0 if fwhm > FINE else 0.5
        x0, y0 = np.floor(box.x0), np.floor(box.y0)
        shape = (int(np.ceil((box.y1 - y0) / step)) + 1, int(np.ceil((box.x1 - x0) / step)) + 1)
        return cls(float(x0), float(y0), step, shape)

    def reference(self, cols: F64, rows: F64) -> tuple[F64, F64]:
        """Return reference positions of places on the grid."""
        return self.x0 + self.step * cols, self.y0 + self.step * rows

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows and columns of reference pixels that the grid covers."""
        ny, nx = self.shape
        return int(ny * self.step) + 1, int(nx * self.step) + 1

    def resampled(self, frame: Frame, planes: tuple[F32, ...]) -> tuple[F32, ...]:
        """Return planes of an exposure on the grid; 0 beyond it. The first by a cubic spline, others linearly."""
        assert frame.view is not None
        ny, nx = frame.exposure.shape
        out = tuple(np.zeros(self.shape, np.float32) for _ in planes)
        sources = [spline_filter(planes[0], 3, output=np.float32), *planes[1:]]
        columns = np.arange(self.shape[1], dtype=np.float64)
        for first in range(0, self.shape[0], ROWS):
            rows = np.arange(first, min(first + ROWS, self.shape[0]), dtype=np.float64)
            col, row = (v.ravel() for v in np.meshgrid(columns, rows))
            x, y = frame.view.mapping(*self.reference(col, row))
            inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
            at = np.stack([y[inside], x[inside]])
            for k, (plane, target) in enumerate(zip(sources, out, strict=True)):
                part = np.zeros(len(x), np.float32)
                part[inside] = map_coordinates(
                    plane, at, order=1 if k else 3, prefilter=False, mode="nearest", output=np.float32
                )
                target[first : first + len(rows)] = part.reshape(len(rows), -1)
        return out


class Thresholds(NamedTuple):
    """What a new star has to exceed: a significance, alone or under a known star; and the FWHM (reference pixels)."""

    nsigma: float
    beside: float
    fwhm: float


@dataclass(frozen=True, eq=False)
class JointPeaks:
    """What one exposure knows before places are tested.

    Parameters
    ----------
    frame : Frame
        The exposure.
    local : Sources
        The stars that it shows.
    root : ndarray (ny, nx) float32
        Square root of the inverse variance with the error of the model.
    excess : ndarray (ny, nx) float32
        Of `crowdfit.stages.rings`.
    allowed : ndarray (ny, nx) bool
        Where a star may lie.
    signif : ndarray (ny, nx) float32
        Its own significance map.
    error : float
        Fractional error of its model.
    """

    frame: Frame
    local: Sources
    root: F32
    excess: F32
    allowed: NDArray[np.bool_]
    signif: F32
    error: float

    def hints(self, detect: ScoreDetect, nsigma: float) -> F64:
        """Return reference positions (n, 2) of second stars under known ones that this exposure hints at."""
        assert self.frame.view is not None
        least = nsigma * self.excess[self.frame.nearest_pixel(self.local)]
        found = detect.companions(self.frame, self.local, self.root, self.signif, least, self.error)
        return np.column_stack(self.frame.view.mapping.inverse(found[:, 2], found[:, 3]))


@dataclass(frozen=True, eq=False)
class Tested:
    """Places tested on all exposures.

    Parameters
    ----------
    flux, info : ndarray (n, n_bands) float64
        Flux by band, and the inverse of its variance once neighbours readjust.
    alone : ndarray (n, n_bands) float64
        That inverse without neighbours.
    excess : ndarray (n,) float64
        By how much the exposures scatter more there than by noise, at least 1.
    allowed : ndarray (n,) bool
        Whether some exposure may have a star there.
    """

    flux: F64
    info: F64
    alone: F64
    excess: F64
    allowed: NDArray[np.bool_]

    @property
    def snr(self) -> F64:
        """Significance of all bands, (n,)."""
        return combined(self.flux * np.sqrt(self.info))

    @property
    def share(self) -> F64:
        """What neighbours leave of the information, (n,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.alone.sum(axis=1) > 0, self.info.sum(axis=1) / self.alone.sum(axis=1), 0.0)


def find(
    detect: ScoreDetect,
    frames: Frames,
    sources: JointSources,
    grid: Grid,
    thresholds: Thresholds,
    pass_no: int,
) -> JointSources:
    """Return new stars with start fluxes.

    Parameters
    ----------
    detect : ScoreDetect
        Settings of the search.
    frames, sources
        The exposures and the stars known so far.
    grid : Grid
        Where exposures are added up.
    thresholds : Thresholds
        What a new star has to exceed.
    pass_no : int
        Number of the pass.
    """
    n_bands = 1 + max(frame.view.band for frame in frames if frame.view)
    tops = np.zeros((n_bands, *grid.shape), np.float32)
    infos = np.zeros((n_bands, *grid.shape), np.float32)
    known = []
    for frame in frames:
        assert frame.view is not None
        one, maps = seen_alone(detect, frame, sources, pass_no)
        known.append(one)
        band, scale = frame.view.band, np.float32(frame.view.band_scale)
        top, info = grid.resampled(frame, maps)
        tops[band] += scale * top
        infos[band] += scale**2 * np.maximum(info, 0)
    signif = significance(tops, infos)
    rows, cols = peaks_above(signif, signif > 0, detect.candidate * thresholds.nsigma)
    peaks = np.column_stack(grid.reference(*refined(signif, rows, cols)))
    seconds, beside = hinted(detect, known, sources, thresholds.beside)
    x, y = np.concatenate([peaks, seconds]).T
    limit = np.concatenate([np.full(len(peaks), thresholds.nsigma), beside])
    tested = tried(detect, known, x, y, n_bands)
    strength = tested.snr
    good = tested.allowed & (strength > limit * tested.excess) & (tested.share > detect.least_information)
    good[good] = strongest_first(
        x[good] - grid.x0, y[good] - grid.y0, strength[good], detect.spacing * thresholds.fwhm, grid.pixels
    )
    found = as_sources(frames, x[good], y[good], tested.flux[good], tested.info[good], pass_no)
    return found.take(one_a_blob(frames, sources, found, strength[good]))


def seen_alone(
    detect: ScoreDetect, frame: Frame, sources: JointSources, pass_no: int
) -> tuple[JointPeaks, tuple[F32, F32]]:
    """Return what an exposure knows by itself, and its matched filter: what is gathered, and what could be."""
    error = model_error(frame, LEAST_ERROR) if detect.model_error is None else detect.model_error
    ivar, filters, local = softened_ivar(frame, error), field_filter(frame), frame.local(sources).sources
    top, info = filters.correlate(frame.resid * ivar), filters.squared().correlate(ivar)
    signif = significance(top[np.newaxis], info[np.newaxis])
    # a map of independent pixels scatters by 1
    excess, allowed = (
        frame.noise_factors.flux * ring_excess(frame, local, signif),
        allowed_pixels(frame, pass_no),
    )
    return JointPeaks(frame, local, np.sqrt(ivar), excess, allowed, signif, error), (top, info)


def hinted(
    detect: ScoreDetect, known: list[JointPeaks], sources: JointSources, nsigma: float
) -> tuple[F64, F64]:
    """Return places (n, 2) close to known stars where an exposure hints at a second one, and what each has to exceed.

    All exposures together have to see it above `nsigma`, so that one of K alone sees it at about nsigma / sqrt(K); and
    above the error of the model of the star that it lies under.
    """
    share = HINT / np.sqrt(len(known))
    places = np.concatenate([one.hints(detect, share * nsigma) for one in known])
    if not len(places):
        return places, np.zeros(0)
    host = scipy.spatial.cKDTree(np.column_stack([sources.x, sources.y])).query(places)[1]
    snr = np.abs(sources.flux[host]) / np.where(sources.flux_err[host] > 0, sources.flux_err[host], np.inf)
    error = np.mean([one.error for one in known])
    return places, nsigma * np.hypot(1, error * snr)


def one_a_blob(
    frames: Frames, sources: JointSources, found: JointSources, strength: F64
) -> NDArray[np.bool_]:
    """Return which new stars may stay: in a saturated blob without a known star the strongest, elsewhere all."""
    number = in_blob(frames, sources.append(found))
    taken, own = np.unique(number[: len(sources)]), number[len(sources) :]
    keep = (own == 0) | ~np.isin(own, taken)
    return np.asarray(keep & ~second_of_blob(np.where(keep, own, 0), strength))


def significance(tops: F32, infos: F32) -> F32:
    """Return the significance of all bands from sums of both kinds, (n_bands, ny, nx) to (ny, nx)."""
    floor = 1e-4 * infos.max(axis=(1, 2), keepdims=True, initial=np.float32(0))
    each = np.where(infos > floor, tops / np.sqrt(np.maximum(infos, np.maximum(floor, 1e-38))), 0)
    if len(each) == 1:
        return np.asarray(each[0], np.float32)
    return np.asarray(combined(np.moveaxis(each, 0, -1)), np.float32)


def tried(detect: ScoreDetect, known: list[JointPeaks], x: F64, y: F64, n_bands: int) -> Tested:
    """Return what a star at each reference position (n,) would have in all exposures."""
    top, info, alone = np.zeros((len(x), n_bands)), np.zeros((len(x), n_bands)), np.zeros((len(x), n_bands))
    rough, shares, allowed = np.zeros(len(x)), np.zeros(len(x)), np.zeros(len(x), bool)
    for one in known:
        view = one.frame.view
        assert view is not None
        own_x, own_y = view.mapping(x, y)
        ny, nx = one.frame.exposure.shape
        here = np.flatnonzero((own_x > -0.5) & (own_x < nx - 0.5) & (own_y > -0.5) & (own_y < ny - 0.5))
        own_x, own_y = own_x[here], own_y[here]
        score = detect.score(one.frame, one.local, one.root, own_x, own_y)
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(score[:, 1] != 0, np.abs(score[:, 0]) / score[:, 1] ** 2, 0.0)
            whole = np.where(score[:, 2] > 0, left / score[:, 2], 0.0)
        weight = view.band_scale**2 * left
        top[here, view.band] += view.band_scale * left * score[:, 1]
        info[here, view.band] += weight
        alone[here, view.band] += view.band_scale**2 * whole
        at = one.frame.exposure.nearest_pixel(own_x, own_y)
        # in units of noise, so that exposures of different bands count alike
        share = left * one.frame.isolated_error(np.zeros(1)) ** 2
        rough[here] += share * one.excess[at]
        shares[here] += share
        allowed[here] |= one.allowed[at]
    with np.errstate(divide="ignore", invalid="ignore"):
        flux = np.where(info > 0, top / info, 0.0)
        excess = np.where(shares > 0, rough / shares, 1.0)
    return Tested(flux, info, alone, np.maximum(excess, 1.0), allowed)


def as_sources(frames: Frames, x: F64, y: F64, flux: F64, info: F64, pass_no: int) -> JointSources:
    """Return new stars with fluxes (n, n_bands) of the given information; no star begins below 0."""
    flux = np.maximum(flux, 0)
    with np.errstate(divide="ignore"):
        err = 1 / np.sqrt(info)
    views = [frame.view for frame in frames if frame.view]
    fluxes, errs = flux, err
    if views[0].by_exposure:
        band, scale = np.array([v.band for v in views]), np.array([v.band_scale for v in views])
        fluxes, errs = flux[:, band] * scale, err[:, band] * scale
    light = Light.of(tuple(views), fluxes, errs)
    return JointSources.of(Sources.at(x, y, light.flux, pass_no=pass_no), fluxes, errs)

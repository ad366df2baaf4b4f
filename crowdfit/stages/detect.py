"""New sources on the residual: what is brighter than noise and model error allow, and is not a wing.

Four stages answer the same question. `score` asks how much a new star would improve the fit once its
neighbours readjust; `crowdsource` compares residual and model at the peak; `sep` extracts and deblends;
`none` looks for nothing (forced photometry). All thresholds are in sigma or FWHM.
"""

from typing import Annotated, Literal

import numpy as np
import sep
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.ndimage import binary_dilation

from crowdfit._kernels.filters import find_peaks, refine_peaks
from crowdfit._kernels.neighbours import keep_strongest
from crowdfit._kernels.score import score_companions, score_peaks
from crowdfit.counts import Limits, least_snr, limits_of
from crowdfit.exposure import Image, Mask
from crowdfit.extraction import extract
from crowdfit.frame import Frame, Frames
from crowdfit.neighbours import build_grid
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT, Schedule, by_pass
from crowdfit.stages.blobs import only_one
from crowdfit.stages.matched import field_filter, filter_kernel, matched_filter
from crowdfit.stages.rings import ring_excess
from crowdfit.stages.system import shift_prior

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

LEAST_ERROR = 0.002
"""Fractional error of the model that is assumed where none is seen."""
ANGLES = 8
"""Directions in which a companion is tried; half a step costs 8 % of its significance at 0.75 FWHM."""


def significance(frame: Frame) -> Image:
    """Return the PSF-matched significance of the residual of a frame, noise without model error, pixels independent."""
    return matched_filter(frame.resid, frame.fit_ivar, field_filter(frame))


def model_error(frame: Frame, least: float = 0.0) -> float:
    """Return the fractional error of the model of a frame, `least` where it is smaller or not known."""
    return max(frame.model_error, least)


def start_error(frame: Frame) -> float:
    """Return what a peak of significance 1 has of flux, where no other star is (image unit)."""
    return float(frame.isolated_error(np.zeros(1))[0]) / frame.noise_factors.flux


def softened_ivar(frame: Frame, error: float) -> Image:
    """Return the inverse variance with the model error added, ``1 / (var + (error model)^2)``."""
    extra = np.float32(error) * frame.model
    return np.asarray(frame.fit_ivar / (1 + frame.fit_ivar * extra * extra), np.float32)


def local_scatter(frame: Frame, signif: Image) -> Image:
    """Return the clipped scatter of a significance map over cells of 16 FWHM, at least 1 (P023)."""
    size = int(np.clip(16 * frame.psf.fwhm, 8, min(signif.shape)))
    cells = sep.Background(np.ascontiguousarray(signif), mask=~frame.exposure.good, bw=size, bh=size)
    return np.maximum(np.asarray(cells.rms(), np.float32), np.float32(1))


def peaks_above(image: Image, usable: Mask, threshold: float) -> tuple[I64, I64]:
    """Return rows and columns of the local maxima of `image` above `threshold` on usable pixels."""
    rows, cols = np.empty(image.size // 4 + 1, np.int64), np.empty(image.size // 4 + 1, np.int64)
    n = min(find_peaks(image, usable, threshold, rows, cols), len(rows))
    return rows[:n].copy(), cols[:n].copy()


def highest_around(image: Image, rows: I64, cols: I64, reach: int) -> F64:
    """Return the highest value of `image` within `reach` pixels of each place along both axes, (n,)."""
    ny, nx = image.shape
    highest = np.full(len(rows), -np.inf)
    for dr in range(-reach, reach + 1):
        for dc in range(-reach, reach + 1):
            np.maximum(
                highest, image[np.clip(rows + dr, 0, ny - 1), np.clip(cols + dc, 0, nx - 1)], out=highest
            )
    return highest


def refined(image: Image, rows: I64, cols: I64) -> tuple[F64, F64]:
    """Return sub-pixel positions (x, y) of peaks."""
    x, y = np.empty(len(rows)), np.empty(len(rows))
    refine_peaks(image, rows, cols, x, y)
    return x, y


def strongest_first(
    x: F64, y: F64, strength: F64, radius: float, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which peaks survive when each removes all weaker ones within `radius` pixels."""
    keep, order = np.empty(len(x), bool), np.argsort(-strength, kind="stable")
    keep_strongest(x, y, order, radius, *build_grid(x, y, shape, cell=max(int(np.ceil(radius)), 1)), keep)
    return keep


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoreDetect:
    """Accept a peak when a star there would improve chi^2 enough after its neighbours readjust.

    The score test of `crowdfit._kernels.score`: flux and shifts of the stars nearby enter with the priors of
    the solve. It refuses by itself on top of a known star, with no ratio to tune (algorithm.md, section 4c).
    Peaks of the residual are tested, and places close to every known star, which may be two.
    """

    kind: Literal["score"] = "score"
    nsigma: Schedule = Field(
        default=(10.0, 10.0, 2.7),
        min_length=1,
        description="least threshold by pass, in sigma; the last value repeats",
    )
    purity: float = Field(
        default=0.4,
        ge=0,
        lt=1,
        description="raise the threshold until this share of the peaks at it are stars, by the counts, not noise",
    )
    candidate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="peaks, and known stars with a residual nearby, above this fraction of the threshold are tested",
    )
    least_information: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="refuse when neighbours leave less than this share of the information",
    )
    spacing: float = Field(
        default=0.8, ge=0, description="of two new stars closer than this the weaker waits, in FWHM"
    )
    reach: float = Field(default=2.0, gt=0, description="neighbours up to this distance readjust, in FWHM")
    neighbours: int = Field(default=8, ge=1, le=40, description="most neighbours that readjust")
    window: float = Field(default=1.5, gt=0, description="half width of the window of the test, in FWHM")
    local_sky: bool = Field(
        default=False,
        description="let a constant under the window vary too: for nebulosity, where sky is not smooth",
    )
    local_noise: bool = Field(
        default=False,
        description="raise the threshold where the significance map scatters by more than 1: no model follows it",
    )
    model_error: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="fractional error of the model added to the noise; null measures it in every pass",
    )
    shift_sigma: float = Field(default=0.8, gt=0, description="prior on the shifts of neighbours, in FWHM/3")
    companion_nsigma: Schedule = Field(
        default=(100.0, 100.0, 3.5),
        min_length=1,
        description="threshold by pass for a second star under a known one, in sigma; pruning decides later",
    )
    companion_radii: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.45, 0.75), min_length=1, description="how far from a known star one is tried, in FWHM"
    )

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> Sources:
        """Return the new stars, with start fluxes."""
        (frame,) = frames
        nsigma = least_snr(frame, sources, by_pass(self.nsigma, pass_no), self.purity)
        shared = frame.noise_factors.flux
        error = model_error(frame, LEAST_ERROR) if self.model_error is None else self.model_error
        ivar = softened_ivar(frame, error)
        signif = matched_filter(frame.resid, ivar, field_filter(frame))
        root = np.sqrt(ivar)
        rows, cols = peaks_above(signif, allowed_pixels(frame, pass_no), self.candidate * nsigma * shared)
        x, y = refined(signif, rows, cols)
        score = self.score(frame, sources, root, x, y)
        # a map of independent pixels scatters by 1
        excess = shared * ring_excess(frame, sources, signif)
        if self.local_noise:
            excess = np.maximum(excess, local_scatter(frame, signif))
        good = (score[:, 0] > (nsigma * excess[rows, cols]) ** 2) & (score[:, 2] > self.least_information)
        least = by_pass(self.companion_nsigma, pass_no) * excess[frame.nearest_pixel(sources)]
        pairs = self.companions(frame, sources, root, signif, least, error)
        x, y = np.concatenate([x[good], pairs[:, 2]]), np.concatenate([y[good], pairs[:, 3]])
        score = np.concatenate([score[good, :2], pairs[:, :2]])
        first = strongest_first(x, y, score[:, 0], self.spacing * frame.psf.fwhm, frame.exposure.shape)
        first &= only_one(frame.exposure, sources, x, y, score[:, 0])
        return Sources.at(x[first], y[first], score[first, 1], pass_no=pass_no)

    def limits(self, frame: Frame, sources: Sources) -> Limits:
        """Return what the search finds in the last passes (sigma)."""
        alone = least_snr(frame, sources, self.nsigma[-1], self.purity)
        return Limits(alone, self.companion_nsigma[-1])

    def companions(  # noqa: PLR0913, PLR0917 - what the test of a place needs
        self,
        frame: Frame,
        sources: Sources,
        root: Image,
        signif: Image,
        nsigma: NDArray[np.float32],
        error: float,
    ) -> F64:
        """Return delta chi^2, flux, x and y of second stars under known ones, on the image, (n, 4).

        Two stars fitted as one leave a pattern whose peaks lie far out and are faint; a star tried close by
        gathers all of it. `nsigma` (n,) is the threshold at each known star; an error of the PSF has the same
        shape in all pixels of a star, so `error` times the star's own S/N counts as one sigma more. Where the
        significance map `signif` (ny, nx) shows next to nothing around a star there is nothing to gather.
        """
        psf, (ny, nx) = frame.psf, frame.exposure.shape
        # stars that no solve has seen yet have no error
        snr = sources.flux / np.maximum(frame.plain_error(sources), frame.isolated_error(np.zeros(1)))
        at = frame.nearest_pixel(sources)
        limit = nsigma * np.hypot(1, error * snr)
        which = np.flatnonzero(snr * frame.noise_factors.flux > 3 * limit)
        farthest = int(np.ceil(max(self.companion_radii) * psf.fwhm))
        around = highest_around(signif, at[0][which], at[1][which], farthest)
        which = which[around > self.candidate * limit[which]]
        limit = limit[which]
        result = np.zeros((len(which), 4))
        radius, angle = np.meshgrid(
            np.array(self.companion_radii) * psf.fwhm, np.arange(ANGLES) * 2 * np.pi / ANGLES
        )
        half = psf.window(self.window + 0.25)
        reach = min(self.reach * psf.fwhm, psf.support - half - 1)
        score_companions(
            psf.coef, which, sources.x, sources.y, psf.basis(sources.x, sources.y),
            shift_prior(frame, sources.flux, self.shift_sigma * psf.fwhm / 3), half,
            (radius * np.cos(angle)).ravel(), (radius * np.sin(angle)).ravel(), self.least_information, limit**2,
            reach, self.neighbours, build_grid(sources.x, sources.y, frame.exposure.shape), root, frame.resid,
            result,
        )  # fmt: skip
        on_image = (np.abs(result[:, 2] - (nx - 1) / 2) < nx / 2) & (
            np.abs(result[:, 3] - (ny - 1) / 2) < ny / 2
        )
        return result[(result[:, 0] > 0) & on_image]

    def score(self, frame: Frame, sources: Sources, root: Image, x: F64, y: F64) -> F64:
        """Return delta chi^2, flux and share of the information that is left, of stars tried at (x, y), (n, 3)."""
        psf, result = frame.psf, np.zeros((len(x), 3))
        grid = build_grid(sources.x, sources.y, frame.exposure.shape)
        prior = shift_prior(frame, sources.flux, self.shift_sigma * psf.fwhm / 3)
        half = psf.window(self.window)
        reach = min(self.reach * psf.fwhm, psf.support - half - 1)
        score_peaks(
            psf.coef, x, y, psf.basis(x, y), half, sources.x, sources.y, psf.basis(sources.x, sources.y), prior,
            reach, self.neighbours, self.local_sky, grid, root, frame.resid, result,
        )  # fmt: skip
        return result


def allowed_pixels(frame: Frame, pass_no: int, least_qf: float = 0.3) -> Mask:
    """Return where a peak may lie: on usable pixels, and on masked ones under enough usable PSF (C010-C012).

    A star on a dead column is seen on both sides of it; in a saturated blob little of the PSF is left, and
    only the first pass may put its one star there.
    """
    good = frame.exposure.good
    if good.all():
        return good
    share = field_filter(frame).shares().correlate(good.astype(np.float32))
    allowed = good | (share > least_qf)
    return allowed | frame.exposure.saturated if pass_no == 0 else allowed


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CrowdsourceDetect:
    """crowdsource's acceptance rules: the ratios of its code, or the bright and faint peaks of its README.

    With a = residual / model, b = pixel S/N / model significance, c = residual / model significance at the
    peak, `rule: code` accepts ``c > 2B or (a > B and b > B/4 and c > B)`` with B = `blend`. `rule: readme`
    is C008-C015: bright peaks by single-pixel S/N, faint ones by significance, mask edges apart.
    """

    kind: Literal["crowdsource"] = "crowdsource"
    rule: Literal["code", "readme"] = Field(default="code", description="which of the two published rules")
    nsigma: Schedule = Field(default=(5.0,), min_length=1, description="threshold by pass, in sigma")
    bright: float = Field(
        default=5 / 0.3, gt=0, description="single-pixel S/N of a bright peak (readme rule)"
    )
    blend: Schedule = Field(default=(2.0, 2.0, 0.2), min_length=1, description="B of the code rule by pass")
    least_significance_ratio: float = Field(
        default=0.2, ge=0, description="C013: significance over model significance"
    )
    least_flux_ratio: float = Field(default=0.1, ge=0, description="C014: pixel flux over model flux")
    least_pixel_ratio: float = Field(default=0.4, ge=0, description="C014: pixel S/N over model significance")
    spacing: float = Field(
        default=0.36, ge=0, description="refuse peaks closer than this to a source, in FWHM (1.5 px at 4.2)"
    )
    model_error: float = Field(
        default=0.0, ge=0, description="fractional error of the model added to the noise"
    )

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> Sources:
        """Return the new stars, with start fluxes."""
        (frame,) = frames
        psf = field_filter(frame)
        ivar = softened_ivar(frame, self.model_error)
        signif = matched_filter(frame.resid, ivar, psf)
        known = matched_filter(frame.model, ivar, psf)
        threshold = by_pass(self.nsigma, pass_no) * frame.noise_factors.flux
        rows, cols = peaks_above(signif, allowed_pixels(frame, pass_no), threshold)
        at = (rows, cols)
        c = signif[at] / np.maximum(known[at], 0.01)
        a = frame.resid[at] / np.maximum(frame.model[at], 0.01 * frame.noise)
        pixel = frame.resid[at] * np.sqrt(ivar[at])
        b = pixel / np.maximum(known[at], 0.01)
        if self.rule == "code":
            limit = by_pass(self.blend, pass_no)
            good = (c > 2 * limit) | ((a > limit) & (b > limit / 4) & (c > limit))
        else:
            good = self._readme(frame, rows, cols, pixel, pass_no) & (c > self.least_significance_ratio)
            # a masked pixel has no value to compare: C012 has let it pass or not
            unseen = ~frame.exposure.good[at]
            good &= unseen | ((a > self.least_flux_ratio) & (b > self.least_pixel_ratio))
        x, y = refined(signif, rows[good], cols[good])
        flux = signif[at][good] * start_error(frame)
        apart = far_from(sources, x, y, self.spacing * frame.psf.fwhm)
        return Sources.at(x[apart], y[apart], flux[apart], pass_no=pass_no)

    def limits(self, frame: Frame, sources: Sources) -> Limits:  # noqa: ARG002 - as other searches have it
        """Return what the search finds in the last passes (sigma)."""
        return Limits(self.nsigma[-1], self.nsigma[-1])

    def _readme(self, frame: Frame, rows: I64, cols: I64, pixel: NDArray[np.float32], pass_no: int) -> Mask:
        """Return which peaks are bright ones off mask edges, or faint ones that should be faint (C008-C012)."""
        masked = ~frame.exposure.good
        edge = binary_dilation(masked)[rows, cols]
        bright = (pixel > self.bright) & ~edge
        centre_ok = ~masked[rows, cols] | (pass_no == 0) | edge
        return bright | ((pixel <= self.bright) & centre_ok)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SepDetect:
    """SEP's extraction with multi-threshold deblending on the residual.

    SEP takes one filter for the whole image: that of the PSF in its middle. Where the FWHM is 10 % larger or smaller
    a star loses 0.5 % of its significance to that; start fluxes are those of the local filter.
    """

    kind: Literal["sep"] = "sep"
    nsigma: Schedule = Field(
        default=(10.0, 5.0, 1.5),
        min_length=1,
        description="threshold on the filtered residual by pass, in sigma",
    )
    min_area: int = Field(default=3, ge=1, description="least number of connected pixels")
    deblend_levels: int = Field(default=32, ge=1, description="thresholds of the deblending")
    deblend_contrast: float = Field(
        default=1e-4, ge=0, le=1, description="least share of flux of a branch; 1 turns deblending off"
    )
    spacing: float = Field(
        default=0.5, ge=0, description="refuse peaks closer than this to a source, in FWHM"
    )
    model_error: float = Field(
        default=0.01, ge=0, description="fractional error of the model added to the noise"
    )
    sub_objects: int = Field(
        default=200_000, ge=1024, description="SEP's limit of sub-objects while deblending one blend"
    )
    pixel_stack: int = Field(default=5_000_000, ge=300_000, description="SEP's limit of active pixels")

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> Sources:
        """Return the new stars, with start fluxes.

        Raises
        ------
        InputError
            SEP's buffers overflow; the message says which limit to raise.
        """
        (frame,) = frames
        ivar = softened_ivar(frame, self.model_error)
        err = 1 / np.sqrt(np.where(ivar > 0, ivar, 1.0)).astype(np.float32)
        kernel = filter_kernel(frame)
        sep.set_sub_object_limit(self.sub_objects)
        sep.set_extract_pixstack(self.pixel_stack)
        # no cleaning: it compares raw with matched-filter thresholds and so drops isolated stars
        threshold = by_pass(self.nsigma, pass_no) * frame.noise_factors.flux
        found = extract(
            frame.exposure.name, "raise detect.sub_objects or detect.pixel_stack, or the threshold detect.nsigma",
            frame.resid, threshold, err=err, mask=~frame.exposure.good, minarea=self.min_area,
            filter_kernel=kernel, filter_type="matched", deblend_nthresh=self.deblend_levels,
            deblend_cont=self.deblend_contrast, clean=False,
        )  # fmt: skip
        at = (np.array(found["ycpeak"], np.int64), np.array(found["xcpeak"], np.int64))
        signif = matched_filter(frame.resid, ivar, field_filter(frame))
        x, y = refined(signif, *at)
        flux = signif[at] * start_error(frame)
        apart = far_from(sources, x, y, self.spacing * frame.psf.fwhm) & (flux > 0)
        return Sources.at(x[apart], y[apart], flux[apart], pass_no=pass_no)

    def limits(self, frame: Frame, sources: Sources) -> Limits:  # noqa: ARG002 - as other searches have it
        """Return what the search finds in the last passes (sigma)."""
        return Limits(self.nsigma[-1], self.nsigma[-1])


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoDetect:
    """Look for nothing: the list given by the user is all there is (forced photometry)."""

    kind: Literal["none"] = "none"

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> Sources:
        """Return no stars."""
        return Sources.empty()

    def limits(self, frame: Frame, sources: Sources) -> Limits:
        """Return how deep the list of the user is (sigma)."""
        return limits_of(frame, sources)


def far_from(sources: Sources, x: F64, y: F64, radius: float) -> NDArray[np.bool_]:
    """Return which positions have no source within `radius` pixels."""
    from scipy.spatial import cKDTree  # noqa: PLC0415

    if not len(sources) or not len(x):
        return np.ones(len(x), bool)
    distance, _ = cKDTree(np.column_stack([sources.x, sources.y])).query(np.column_stack([x, y]))
    return np.asarray(distance > radius)

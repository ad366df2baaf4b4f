"""Errors of fluxes and positions, and what they are made of (P059, P061, P063, P064).

    error^2 = noise^2 + sky^2 + PSF^2 + unresolved light^2

*Noise* is that of the pixels, photons of the stars included, propagated through the joint fit: from the inverse of
the normal matrix around each star with fluxes and positions of the neighbours free. Where neighbouring pixels share
their noise it is multiplied by a factor measured on the residual (`crowdfit.photometry.correlation`). *Sky* is the
error of the sky at the star times what its flux gains per unit of sky. *PSF* is what the PSF departs from the
brightest stars by, and for positions with a PSF made from the image also what no residual tells, its part beyond
the Nyquist frequency.
*Unresolved light* is that of stars which are not in the list (`crowdfit.photometry.unresolved`).
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit import flags
from crowdfit.counts import Limits
from crowdfit.frame import Frame
from crowdfit.photometry.crowd import Crowd, at_places
from crowdfit.photometry.unresolved import (
    FLUXES,
    LEAST_ERROR,
    Responses,
    Shaken,
    noise_shares,
)
from crowdfit.sources import Sources
from crowdfit.stages.system import marginal_variance, normal_matrix, shift_prior

F64 = NDArray[np.float64]

LEAST_STARS = 100
"""With fewer stars above two sigma nothing is known of those below."""
BRIGHTEST = 50
"""The error of the PSF is measured on so many stars, the brightest that are neither saturated nor cut."""
LEAST_PSF_STARS = 5
"""Fewer say nothing about it."""
CORE = 0.75
"""Half width of the window in which it is measured (FWHM)."""
BAD_CORES = ("core_masked", "saturated", "edge", "near_mask")
UNDECIDED = 3.0
"""Below this many marginal errors the flux of the fainter of two close sources is not decided."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of n stars and their parts; parts add in quadrature.

    Parameters
    ----------
    isolated, noise, sky, psf, confusion : ndarray (n,) float64
        Parts of the error of the flux (image unit); `isolated` is the noise of a star without neighbours.
    x_noise, y_noise, psf_shift, confusion_shift : ndarray (n,) float64
        Parts of the errors of x and y (pix).
    """

    isolated: F64
    noise: F64
    sky: F64
    psf: F64
    confusion: F64
    x_noise: F64
    y_noise: F64
    psf_shift: F64
    confusion_shift: F64

    def columns(self) -> dict[str, F64]:
        """Return the columns of the catalogue by name."""
        shift = np.hypot(self.psf_shift, self.confusion_shift)
        return {
            "x_err": np.hypot(self.x_noise, shift),
            "y_err": np.hypot(self.y_noise, shift),
            "x_err_marginal": self.x_noise,
            "y_err_marginal": self.y_noise,
            "shift_err_psf": self.psf_shift,
            "shift_err_confusion": self.confusion_shift,
            "flux_err": np.sqrt(self.noise**2 + self.sky**2 + self.psf**2 + self.confusion**2),
            "flux_err_isolated": self.isolated,
            "flux_err_marginal": self.noise,
            "flux_err_sky": self.sky,
            "flux_err_psf": self.psf,
            "flux_err_confusion": self.confusion,
        }


def errors_of(frame: Frame, sources: Sources, variance: F64, limits: Limits | None) -> Errors:
    """Return the errors of fitted sources.

    Parameters
    ----------
    frame : Frame
        With the model of `sources`, what shared noise does to errors, and the error of the sky if it is known.
    sources : Sources
        The stars.
    variance : ndarray (n, 3) float64
        Diagonal of the inverse of the normal matrix, see `marginal_errors`.
    limits : Limits or None
        What the search finds; None: every star that matters is in the list.
    """
    n, factors = len(sources), frame.noise_factors
    if not n:
        return Errors(*(np.zeros(0) for _ in range(9)))
    flux = np.maximum(sources.flux, 0)
    size = np.maximum(np.abs(sources.flux), frame.isolated_error(np.zeros(1)))
    noise, x_noise, y_noise = np.sqrt(variance).T
    unfiltered = frame.whitened.share[frame.nearest_pixel(sources)]
    # the filter takes unresolved light for noise; that part is counted by itself
    share, shift_share = (np.sqrt(s + (1 - s) * unfiltered) for s in noise_shares(frame))
    sigma = float(frame.isolated_error(np.zeros(1))[0])
    grid = np.geomspace(3 * sigma, max(float(flux.max()), 30 * sigma), FLUXES)
    nsigma = np.inf if limits is None else limits.beside
    responses = Responses.of(frame, sources, grid, nsigma)
    ln_flux = np.log(np.maximum(flux, 1e-300))

    def at(values: F64) -> F64:
        return np.interp(ln_flux, np.log(grid), values)

    sky = np.zeros(n)
    if frame.sky_error is not None:
        sky = np.abs(at(responses.sky)) * at_places(frame.sky_error, frame, sources)
    psf = psf_error(frame, sources)
    # a PSF that was given knows what pixels do not sample
    unseen = 0.0 if frame.psf_quality is None else responses.unseen_shift
    shaken, shaken_shift = np.zeros(n), np.zeros(n)
    if limits is not None and np.count_nonzero(flux > 2 * sigma) >= LEAST_STARS:
        crowd = Crowd.around(frame, sources)
        if np.any(crowd.density > 0):
            shaken, shaken_shift = Shaken.of(frame, responses, crowd, limits).at(flux, crowd.density)
    return Errors(
        isolated=sources.flux_err * share * factors.flux,
        noise=noise * share * factors.flux,
        sky=sky,
        psf=psf * at(responses.psf_flux) * flux,
        confusion=shaken,
        x_noise=x_noise / size * shift_share * factors.shift,
        y_noise=y_noise / size * shift_share * factors.shift,
        psf_shift=np.hypot(psf * at(responses.psf_shift), unseen),
        confusion_shift=shaken_shift,
    )


def marginal_errors(frame: Frame, sources: Sources, reach: float, neighbours: int) -> F64:
    """Return the diagonal of the inverse of the normal matrix around each star, (n, 3).

    Unknowns are the flux and the flux times the steps in x and y, of the star and of its `neighbours` nearest
    neighbours within `reach` (pix). The prior on the steps is one sigma of the PSF: a star that may wander farther
    is another star.
    """
    if not len(sources):
        return np.zeros((0, 3))
    eq = normal_matrix(frame, sources, frame.fit_half_sizes(sources.flux))
    prior = shift_prior(frame, sources.flux, frame.psf.fwhm / 2.3548)
    return marginal_variance(sources, eq, prior, reach, neighbours)


def psf_error(frame: Frame, sources: Sources) -> float:
    """Return by which share of itself the PSF departs from the brightest stars, per pixel; at least `LEAST_ERROR`.

    Median over stars of the mean square of residual over model in the core, less that of noise.
    """
    half = max(int(np.ceil(CORE * frame.psf.fwhm)), 1)
    bad = np.any([flags.has(sources.flags, name) for name in BAD_CORES], axis=0)
    ny, nx = frame.exposure.shape
    row, col = frame.nearest_pixel(sources)
    bad |= (row < half) | (col < half) | (row >= ny - half) | (col >= nx - half)
    bad |= ~(sources.flux > 30 * frame.isolated_error(sources.flux))
    is_star = ~bad & ~flags.has(sources.flags, "misfit")
    # where next to nothing looks like the PSF it is the PSF that is wrong
    usable = np.flatnonzero(is_star if np.count_nonzero(is_star) >= LEAST_PSF_STARS else ~bad)
    chosen = usable[np.argsort(-sources.flux[usable], kind="stable")[:BRIGHTEST]]
    if len(chosen) < LEAST_PSF_STARS:
        return LEAST_ERROR
    excess = [_excess(frame, sources, int(i), half) for i in chosen]
    return max(float(np.sqrt(max(np.median(excess), 0.0))), LEAST_ERROR)


def _excess(frame: Frame, sources: Sources, i: int, half: int) -> float:
    """Return the square of residual over model of one star in its core, less that of noise."""
    (row,), (col,) = frame.nearest_pixel(sources.take(np.array([i])))
    core = np.s_[row - half : row + half + 1, col - half : col + half + 1]
    planes = frame.psf.at(sources.x[i], sources.y[i]).planes(sources.x[i], sources.y[i], 2 * half + 1)
    columns, ivar = planes.reshape(3, -1).astype(np.float64), frame.fit_ivar[core].ravel().astype(np.float64)
    resid, seen = frame.resid[core].ravel().astype(np.float64), frame.fit_ivar[core].ravel() > 0
    if np.count_nonzero(seen) < 6:
        return 0.0
    columns, ivar, resid = columns[:, seen], ivar[seen], resid[seen]
    weighted = columns * ivar
    # flux and position take their part of the noise
    left = 1 - np.sum(columns * np.linalg.solve(weighted @ columns.T, weighted), axis=0)
    return float(np.sum(resid**2 - left / ivar) / np.sum((sources.flux[i] * columns[0]) ** 2))


def undecided(sources: Sources, variance: F64, radius: float) -> NDArray[np.bool_]:
    """Return which sources share light with another within `radius` (pix) in a way that the data do not decide.

    That is so when the flux of one of the two is below `UNDECIDED` times its marginal error: without it the
    other would fit nearly as well. Both are marked.
    """
    out = np.zeros(len(sources), bool)
    if len(sources) < 2:
        return out
    tree = scipy.spatial.cKDTree(np.column_stack([sources.x, sources.y]))
    pairs = tree.query_pairs(radius, output_type="ndarray")
    weak = ~(sources.flux > UNDECIDED * np.sqrt(variance[:, 0]))
    either = weak[pairs].any(axis=1) if len(pairs) else np.zeros(0, bool)
    out[pairs[either].ravel()] = True
    return out

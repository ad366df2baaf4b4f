"""How much the light of stars that are not in the list shakes the fluxes and positions of those that are.

A fit gives part of the light of an unlisted star to the listed one beside it: all of it when both coincide, none
some FWHM away. Two limits decide what is unlisted. Alone, a star is found above a number of sigma, noise and
confusion together. Close to a brighter one it is found when it improves the fit although flux and position of the
brighter one adjust; within half an FWHM a companion of a tenth of the light may never show.

With N(>f) ~ f^-a the light that a star gets from others is the sum of many small contributions and few large ones:
its distribution is skewed and has no useful variance, since rare large companions decide that. It is a compound
Poisson distribution, whose characteristic function is known,

    ln phi(t) = integral d^2r  integral_0^limit(r) n(f) (exp(i t R(r) f) - 1) d ln f,

with the response R of the fit. The error is half of the range that holds 68 % of it together with the noise, less the
noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit._kernels.stamps import fill_window
from crowdfit.counts import Limits
from crowdfit.frame import Frame
from crowdfit.photometry.crowd import Crowd
from crowdfit.psf.epsf import EPSF
from crowdfit.sources import Sources

F64 = NDArray[np.float64]
C128 = NDArray[np.complex128]

FLUXES, DENSITIES = 14, 8
"""Points of the table of errors, which is interpolated."""
REACH, RINGS, ANGLES = 2.0, 12, 4
"""Companions are looked at out to this distance (FWHM), at so many distances and angles of half a turn."""
WINDOW = 3.2
"""Half width of the window in which a response is computed (FWHM)."""
LARGEST = 0.7
"""A companion has at most this share of the light that is taken for one star; the star itself has the rest."""
SHIFT_PRIOR = 0.8
"""Width of the prior on shifts with which the search lets stars adjust (FWHM / 3)."""
LEAST_ERROR = 0.002
"""Fractional error of the PSF in a pixel below which it is not told from noise."""
STEPS, STEP = 1024, 0.1
"""Points of a distribution, and their distance in units of its width."""
PATCH = 0.5
"""Errors of the PSF are alike over patches of this width (FWHM)."""


@dataclass(frozen=True, eq=False)
class Responses:
    """What a fit makes of other light, for stars of several fluxes.

    Parameters
    ----------
    flux : ndarray (m,) float64
        Fluxes, ascending (image unit).
    radius, area : ndarray (k,) float64
        Distances of companions (pix), and the area of the ring that each stands for (pix^2).
    light : ndarray (m, k) float64
        Share of a companion's flux that the star's flux gets.
    shift : ndarray (m, k) float64
        Step towards a companion per unit of its flux (pix per image unit).
    limit : ndarray (m, k) float64
        Flux above which a companion is found (image unit).
    sky : ndarray (m,) float64
        What the flux gains for a unit of sky in every pixel (pix).
    psf_flux, psf_shift : ndarray (m,) float64
        Error of the flux (as a share) and of the position (pix) for a PSF that is wrong by its own value in every
        patch, independently.
    unseen_shift : float
        Error of the position along an axis for a PSF that is wrong by what pixels do not sample (pix).
    """

    flux: F64
    radius: F64
    area: F64
    light: F64
    shift: F64
    limit: F64
    sky: F64
    psf_flux: F64
    psf_shift: F64
    unseen_shift: float

    @classmethod
    def of(cls, frame: Frame, sources: Sources, flux: F64, nsigma: float) -> "Responses":
        """Return the responses for stars of the given fluxes (m,), companions found above `nsigma`."""
        psf, fwhm = frame.psf.middle, frame.psf.fwhm
        filtered, sum_filter = frame.whitening.psf.middle, 1.0
        if frame.whitening.kernel is not None:
            sum_filter = float(frame.whitening.kernel.sum())
        # windows of companions reach farther out by their distance
        most = min(psf.support, filtered.support) - int(np.ceil(REACH * fwhm)) - 1
        half = min(psf.window(WINDOW), most)
        radius = (np.arange(RINGS) + 0.5) / RINGS * REACH * fwhm
        angle = (np.arange(ANGLES) + 0.5) / ANGLES * np.pi
        step_x, step_y = (np.outer(radius, f(angle)).ravel() for f in (np.cos, np.sin))
        # a quarter of a pixel off the centre stands for all places on a pixel
        own, own_filtered = (window(p, half, 0.25, 0.25) for p in (psf, filtered))
        other, other_filtered = (
            np.array([window(p, half, 0.25 + x, 0.25 + y)[0] for x, y in zip(step_x, step_y, strict=True)])
            for p in (psf, filtered)
        )
        patch = max(1.0, (PATCH * fwhm) ** 2)
        prior = (np.array([np.inf, 1, 1]) * SHIFT_PRIOR * fwhm / 3) ** -2.0
        rows = []
        for f, share in zip(flux, unfiltered_shares(frame, sources, flux), strict=True):
            light = np.maximum(own[0], 0) * f
            ivar = 1 / (frame.noise**2 + light / frame.exposure.gain)
            columns = share * own + (1 - share) * own_filtered
            estimate = np.linalg.solve((columns * ivar) @ columns.T, columns * ivar)
            gets = estimate @ (share * other + (1 - share) * other_filtered).T
            towards = (gets[1] * step_x + gets[2] * step_y) / np.hypot(step_x, step_y)
            softened = 1 / (1 / ivar + (LEAST_ERROR * light) ** 2)
            wrong = np.sqrt(patch * np.sum((estimate * own[0]) ** 2, axis=1))
            rows.append(
                (
                    gets[0].reshape(RINGS, ANGLES).mean(axis=1),
                    towards.reshape(RINGS, ANGLES).mean(axis=1) / f,
                    nsigma / np.sqrt(information(own, other, softened, prior / f**2)),
                    np.sum(estimate[0]) * (share + (1 - share) * sum_filter),
                    wrong[0],
                    np.hypot(wrong[1], wrong[2]) / np.sqrt(2),
                )
            )
        light, shift, limit, sky, psf_flux, psf_shift = (np.array(part) for part in zip(*rows, strict=True))
        limit = np.median(limit.reshape(len(flux), RINGS, ANGLES), axis=2)
        area = 2 * np.pi * radius * radius[0] * 2
        return cls(flux, radius, area, light, shift, limit, sky, psf_flux, psf_shift, unseen_shift(psf))


def unseen_shift(psf: EPSF) -> float:
    """Return how far positions move if a constant PSF is wrong by its own part beyond the Nyquist frequency (pix).

    A star moves with the pixel phase at which such an error has hold of it and leaves no residual, so that stars do
    not tell whether that part is right.
    """
    # with the zeros around it: a table that ends abruptly varies there
    power = np.abs(np.fft.fft2(np.pad(psf.cube[0], psf.oversample))) ** 2
    k = np.fft.fftfreq(len(power), 1 / psf.oversample)
    # along x only what varies within a pixel in x has hold of a star
    slope = np.sum(power * (2 * np.pi * k) ** 2)
    return float(np.sqrt(np.sum(power[:, np.abs(k) > 0.5]) / slope))


def window(psf: EPSF, half: int, x: float, y: float) -> F64:
    """Return P, dP/dx and dP/dy of a star at (x, y) on the pixels -half..half, (3, pixels)."""
    out = np.zeros((3, 2 * half + 1, 2 * half + 1), np.float32)
    fill_window(psf.coef, psf.basis(x, y)[0], float(x), float(y), -half, -half, out[0], out[1], out[2])
    return out.reshape(3, -1).astype(np.float64)


def unfiltered_shares(frame: Frame, sources: Sources, flux: F64) -> F64:
    """Return the share of the unfiltered PSF that stars of about the given fluxes (m,) have."""
    if frame.whitening.kernel is None or not len(sources):
        return np.ones(len(flux))
    share = frame.whitened.share[frame.nearest_pixel(sources)]
    nearest = np.abs(np.log(np.maximum(sources.flux, 1e-300))[:, None] - np.log(flux)).argmin(axis=1)
    known = np.unique(nearest)
    medians = [np.median(share[nearest == k]) for k in known]
    return np.asarray(np.interp(np.arange(len(flux)), known, medians), np.float64)


def information(own: F64, other: F64, ivar: F64, prior: F64) -> F64:
    """Return the inverse variance of the fluxes of companions `other` (k, pixels) of a star that adjusts, (k,)."""
    matrix = (own * ivar) @ own.T + np.diag(prior)
    shared = (own * ivar) @ other.T
    lost = np.sum(shared * np.linalg.solve(matrix, shared), axis=0)
    return np.asarray(np.maximum(np.sum(other**2 * ivar, axis=1) - lost, 1e-300))


@dataclass(frozen=True, eq=False)
class Shaken:
    """Errors from unresolved light by flux and density.

    Parameters
    ----------
    ln_flux, ln_density : ndarray (m,), (d,) float64
        Even grids of ln flux and of ln density.
    flux_err, shift_err : ndarray (m, d) float64
        Error of the flux as a share of it, and of the position along one axis (pix).
    """

    ln_flux: F64
    ln_density: F64
    flux_err: F64
    shift_err: F64

    @classmethod
    def of(cls, frame: Frame, responses: Responses, crowd: Crowd, limits: Limits) -> "Shaken":
        """Return the table for the densities of a field with crowded stars."""
        some = crowd.density[crowd.density > 0]
        low, high = np.quantile(some, 0.01), np.max(some)
        density = np.geomspace(min(low, 0.5 * high), high, DENSITIES)
        phase = Phase.of(crowd.slope)
        found = np.empty((2, len(responses.flux), DENSITIES))
        for k, here in enumerate(density):
            depth = single_limit(frame, crowd, here, limits.alone)
            for i in range(len(responses.flux)):
                found[:, i, k] = shaken_by(frame, responses, i, crowd, here, depth, phase)
        return cls(np.log(responses.flux), np.log(density), *found)

    def at(self, flux: F64, density: F64) -> tuple[F64, F64]:
        """Return the errors of flux (image unit) and position (pix) of stars (n,); 0 where nothing crowds."""
        grids = (self.ln_flux, flux), (self.ln_density, density)
        at = [
            np.clip((np.log(np.maximum(value, 1e-300)) - grid[0]) / (grid[1] - grid[0]), 0, len(grid) - 1)
            for grid, value in grids
        ]
        share, shift = (
            np.where(density > 0, scipy.ndimage.map_coordinates(table, at, order=1), 0.0)
            for table in (self.flux_err, self.shift_err)
        )
        return share * np.clip(flux, np.exp(self.ln_flux[0]), None), shift


def single_limit(frame: Frame, crowd: Crowd, density: float, nsigma: float) -> float:
    """Return the flux above which a single star is found: `nsigma` errors that hold the fainter ones as noise."""
    power = native_power(frame.psf)
    limit = nsigma * crowd.sigma
    for _ in range(20):
        unseen = density * (limit / crowd.sigma) ** -crowd.slope * limit**2 / (2 - crowd.slope)
        error = np.sqrt(np.mean(power) / np.mean(power / (1 + unseen / frame.noise**2 * power)))
        limit = 0.5 * limit + 0.5 * nsigma * crowd.sigma * float(error)
    return limit


def native_power(psf: EPSF) -> F64:
    """Return |P(k)|^2 on the frequencies of a stamp of the PSF."""
    return np.asarray(np.abs(np.fft.fft2(psf.native().astype(np.float64))) ** 2)


def noise_shares(frame: Frame) -> tuple[float, float]:
    """Return which share of the variance of a filtered fit is noise of pixels, of fluxes and of positions.

    The rest is the light of undetected stars, as the filter assumes it.
    """
    power, ratio = native_power(frame.psf), frame.whitening.ratio
    if frame.whitening.kernel is None:
        return 1.0, 1.0
    loss = 1 / (1 + ratio * power)
    k2 = np.fft.fftfreq(len(power)) ** 2
    both = np.ones_like(power), k2[:, None] + k2
    flux, shift = (float(np.sum(w * power * loss**2) / np.sum(w * power * loss)) for w in both)
    return flux, shift


class Phase(NamedTuple):
    """A table of ``g(z) = integral_0^1 u^(-a-1) (exp(i z u) - 1) du``, 0 < a < 1."""

    z: F64
    real: F64
    imag: F64

    @classmethod
    def of(cls, slope: float) -> "Phase":
        """Return the table for the slope a."""
        z = np.concatenate([[0.0], np.geomspace(1e-3, 1e4, 3000)])
        g = phase_integral(z, slope)
        return cls(z, g.real.copy(), g.imag.copy())

    def __call__(self, z: F64) -> C128:
        """Return g at any z."""
        return np.interp(np.abs(z), self.z, self.real) + 1j * np.sign(z) * np.interp(
            np.abs(z), self.z, self.imag
        )


def phase_integral(z: F64, slope: float) -> C128:
    """Return g of `Phase` by its series, and for large z by its asymptotic form."""
    small = z < 20
    out = np.zeros(len(z), np.complex128)
    term = np.ones(np.count_nonzero(small), np.complex128)
    for k in range(1, 90):
        term = term * 1j * z[small] / k
        out[small] += term / (k - slope)
    iz = 1j * z[~small]
    # the integral from 0 to infinity, less that from 1 on, by parts
    rest, factor = np.zeros(len(iz), np.complex128), np.ones(len(iz), np.complex128)
    for k in range(8):
        rest -= np.exp(iz) / iz * factor
        factor = factor * (slope + 1 + k) / iz
    out[~small] = scipy.special.gamma(-slope) * (-iz) ** slope + 1 / slope - rest
    return out


def shaken_by(  # noqa: PLR0913, PLR0917 - a star, its surroundings, and the table they need
    frame: Frame, responses: Responses, i: int, crowd: Crowd, density: float, depth: float, phase: Phase
) -> tuple[float, float]:
    """Return the errors of flux (as a share) and position (pix) of stars of flux number `i` at a density."""
    flux = float(responses.flux[i])
    limit = np.minimum(np.maximum(responses.limit[i], depth), LARGEST * flux)
    number = responses.area * density * (limit / crowd.sigma) ** -crowd.slope
    noise = float(frame.isolated_error(np.array([flux]))[0])

    def of_flux(t: F64) -> C128:
        return np.asarray(number @ phase(np.outer(responses.light[i] * limit, t)))

    def of_shift(t: F64) -> C128:
        # along one axis, companions being in all directions
        sizes = np.outer(np.cos((np.arange(4) + 0.5) * np.pi / 8), responses.shift[i] * limit).ravel()
        return np.asarray(np.tile(number / 4, 4) @ phase(np.outer(sizes, t)).real + 0j)

    noise_shift = 0.6 * frame.psf.fwhm * noise / flux
    return added_width(of_flux, noise) / flux, added_width(of_shift, noise_shift)


def added_width(ln_phi: Callable[[F64], C128], noise: float) -> float:
    """Return what a distribution adds in quadrature to the width of Gaussian noise, both together.

    Parameters
    ----------
    ln_phi : callable
        Logarithm of its characteristic function at t (k,), complex.
    noise : float
        Standard deviation of the noise, above 0.
    """
    trial = np.geomspace(1e-4, 3, 60) / noise
    fall = -ln_phi(trial).real + 0.5 * (trial * noise) ** 2
    scale = 1 / np.interp(0.5, fall, trial)
    t = np.arange(STEPS) * np.pi / (STEPS * STEP * scale)
    phi = np.exp(ln_phi(t) - 0.5 * (t * noise) ** 2)
    density = np.fft.fftshift(np.fft.irfft(np.conj(phi), 2 * STEPS))
    share = np.cumsum(np.maximum(density, 0))
    low, high = np.interp([0.1587, 0.8413], share / share[-1], np.arange(2 * STEPS) * STEP * scale)
    return float(np.sqrt(max(((high - low) / 2) ** 2 - noise**2, 0.0)))

"""Analytic PSFs, integrated over the pixel, in the lowered form."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.special import j1

from crowdfit.psf.epsf import EPSF

F64 = NDArray[np.float64]
_FINE = 5
"""Sub-samples per table sample when integrating over a pixel; odd."""


def gaussian(
    fwhm: float,
    ellipticity: float = 0.0,
    angle: float = 0.0,
    *,
    oversample: int = 4,
    radius: int | None = None,
) -> EPSF:
    """Return a Gaussian PSF.

    Parameters
    ----------
    fwhm : float
        Full width at half maximum before pixel integration, geometric mean of both axes (pix).
    ellipticity : float
        1 - minor / major axis.
    angle : float
        Major axis from the x axis towards y (deg).
    oversample : int
        Samples per pixel.
    radius : int or None
        Half width of the table (pix); None: 4 FWHM.
    """
    sigma2 = (fwhm / 2.3548200450309493) ** 2
    return sampled(
        lambda r2: np.exp(-0.5 * r2 / sigma2),
        ellipticity,
        angle,
        oversample=oversample,
        radius=radius or int(4 * fwhm) + 1,
    )


def moffat(
    fwhm: float,
    beta: float = 3.0,
    ellipticity: float = 0.0,
    angle: float = 0.0,
    *,
    oversample: int = 4,
    radius: int | None = None,
) -> EPSF:
    """Return a Moffat (1969) PSF, ``(1 + r^2 / alpha^2)^-beta``; arguments as in `gaussian`."""
    alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    return sampled(
        lambda r2: (1 + r2 / alpha2) ** -beta,
        ellipticity,
        angle,
        oversample=oversample,
        radius=radius or int(10 * fwhm) + 1,
    )


def airy(
    fwhm: float,
    ellipticity: float = 0.0,
    angle: float = 0.0,
    *,
    obscuration: float = 0.0,
    oversample: int = 4,
    radius: int | None = None,
) -> EPSF:
    """Return the diffraction pattern of a round aperture with a central obscuration.

    Born & Wolf (1999), section 8.6: amplitude 2 J1(v)/v - e^2 2 J1(ev)/(ev); `obscuration` is e.
    Other arguments as in `gaussian`; `fwhm` is that of the unobscured pattern.
    """
    scale = 2 * 1.616339948 / fwhm

    def profile(r2: F64) -> F64:
        v = np.maximum(scale * np.sqrt(r2), 1e-9)
        amplitude = 2 * j1(v) / v
        if obscuration > 0:
            amplitude -= obscuration**2 * 2 * j1(obscuration * v) / (obscuration * v)
        return np.asarray(amplitude**2)

    return sampled(profile, ellipticity, angle, oversample=oversample, radius=radius or int(12 * fwhm) + 1)


def sampled(
    profile: Callable[[F64], F64], ellipticity: float, angle: float, *, oversample: int, radius: int
) -> EPSF:
    """Return the PSF whose surface brightness is `profile` of the squared elliptical radius (pix^2).

    The profile is sampled `_FINE` times finer than the table and averaged over one pixel.
    """
    fine = oversample * _FINE
    half = (radius * oversample) * _FINE + fine
    grid = np.arange(-half, half + 1) / fine
    xx, yy = np.meshgrid(grid, grid)
    q = 1 - ellipticity
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    major, minor = c * xx + s * yy, -s * xx + c * yy
    surface = profile(major**2 * q + minor**2 / q)
    for axis in (0, 1):
        surface = _pixel_mean(surface, fine, axis)
    keep = slice(fine, -fine or None, _FINE)
    return EPSF.from_samples(surface[keep, keep], oversample)


def _pixel_mean(surface: F64, width: int, axis: int) -> F64:
    """Average over `width` intervals along an axis by the trapezium rule."""
    if width % 2 == 1:
        return np.asarray(uniform_filter1d(surface, width, axis=axis, mode="nearest"))
    inner = uniform_filter1d(surface, width - 1, axis=axis, mode="nearest") * (width - 1)
    ends = np.roll(surface, width // 2, axis) + np.roll(surface, -(width // 2), axis)
    return np.asarray((inner + ends / 2) / width)

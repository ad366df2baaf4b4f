"""Analytic PSFs, integrated over the pixel, in the lowered form."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

from crowdfit.psf.epsf import EPSF

F64 = NDArray[np.float64]
_NODES, _WEIGHTS = np.array(np.polynomial.legendre.leggauss(6)) / 2
"""Gauss-Legendre rule over one pixel: from FWHM 1 px on exact to 1e-5 of the peak, at 0.5 px to 2e-3."""


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

    Each sample is the mean of the profile over the pixel around it, by a product of two Gauss-Legendre rules.
    Of a round one only a quadrant is computed.
    """
    is_round = ellipticity == 0
    grid = np.arange(0 if is_round else -radius * oversample, radius * oversample + 1) / oversample
    q = 1 - ellipticity
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    x = (grid[:, np.newaxis] + _NODES).ravel()
    table = np.zeros((len(grid), len(grid)))
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        y = grid[:, np.newaxis] + node
        surface = profile((c * x + s * y) ** 2 * q + (c * y - s * x) ** 2 / q)
        table += weight * (surface.reshape(len(grid), len(grid), len(_NODES)) @ _WEIGHTS)
    if is_round:
        table = np.pad(table, ((len(table) - 1, 0), (len(table) - 1, 0)), "reflect")
    return EPSF.from_samples(table, oversample)

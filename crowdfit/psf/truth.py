"""PSFs for simulated truth, integrated over the pixel far more finely than the fitter needs.

The fitter starts from `crowdfit.psf.analytic`; truth is made here by another rule, Simpson's at ten samples
a pixel, so that a fit is never judged by its own approximations.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d
from scipy.optimize import brentq
from scipy.special import j1

from crowdfit.psf.epsf import EPSF

F64 = NDArray[np.float64]
Profile = Callable[[F64], F64]
"""Surface brightness at radius r (pix), for unit flux over the plane."""

OVERSAMPLE: Final = 10
"""Samples per pixel; even, because Simpson's rule needs an even number of intervals in a pixel."""


def gaussian(fwhm: float) -> Profile:
    """Return a Gaussian of this FWHM (pix)."""
    variance = fwhm**2 / (8 * np.log(2))
    return lambda r: np.exp(-0.5 * r**2 / variance) / (2 * np.pi * variance)


def moffat(fwhm: float, beta: float) -> Profile:
    """Return the profile of Moffat (1969, A&A 3, 455) with this FWHM (pix) and exponent."""
    alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    return lambda r: (beta - 1) / (np.pi * alpha2) * (1 + r**2 / alpha2) ** -beta


def airy(fwhm: float, obscuration: float) -> Profile:
    """Return the diffraction pattern of an annular aperture (Born & Wolf 1999, section 8.6).

    Parameters
    ----------
    fwhm : float
        That of the pattern itself, not of the pattern without obscuration (pix).
    obscuration : float
        Inner over outer radius of the aperture.
    """

    def intensity(v: F64) -> F64:
        v = np.maximum(v, 1e-9)
        amplitude = 2 * j1(v) / v
        if obscuration > 0:
            amplitude -= obscuration * 2 * j1(obscuration * v) / v
        return np.asarray((amplitude / (1 - obscuration**2)) ** 2)

    half_width = brentq(lambda v: float(intensity(np.array(v))) - 0.5, 0.5, 2.0)
    scale = half_width / (fwhm / 2)
    # Parseval: the integral of the pattern over v is 4 pi / (1 - obscuration^2)
    peak = scale**2 * (1 - obscuration**2) / (4 * np.pi)
    return lambda r: peak * intensity(scale * r)


def integrated(profile: Profile, half: int, ellipticity: float = 0.0, angle: float = 0.0) -> EPSF:
    """Return a profile integrated over the pixel at every sample of a table.

    Parameters
    ----------
    profile : callable
        Surface brightness at the elliptical radius (pix); the ellipse has the area of the circle.
    half : int
        Half width of the table (pix).
    ellipticity, angle : float
        1 - minor / major axis, and the direction of the major axis from x towards y (deg).
    """
    pad = OVERSAMPLE // 2
    grid = np.arange(-half * OVERSAMPLE - pad, half * OVERSAMPLE + pad + 1) / OVERSAMPLE
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    stretch = np.sqrt(1 - ellipticity)
    major = c * grid[np.newaxis, :] + s * grid[:, np.newaxis]
    minor = c * grid[:, np.newaxis] - s * grid[np.newaxis, :]
    surface = profile(np.hypot(major * stretch, minor / stretch))
    simpson = np.ones(OVERSAMPLE + 1)
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    simpson /= simpson.sum()
    for axis in (0, 1):
        surface = convolve1d(surface, simpson, axis=axis)
    return EPSF.from_samples(surface[pad:-pad, pad:-pad], OVERSAMPLE)

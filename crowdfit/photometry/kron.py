"""Shape, Kron flux and radii of every star on its cleaned stamp.

The shape is that of the Gaussian that fits the light best (adaptive moments). Where a star is too faint for a shape of
its own, the PSF's is taken, so that its apertures do not follow the noise.
"""

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray

from crowdfit._kernels.cleaned import fit_ellipses
from crowdfit.photometry.cleaned import Canvas, Ellipses
from crowdfit.psf.epsf import EPSF

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

FWHM_PER_RMS = 2 * np.sqrt(2 * np.log(2))
REACH = 6.0
"""The first moment is taken within this many rms (SExtractor)."""
MOST_TURNS = 40
SUBPIXELS = 5
"""Radii are found on pixels divided so often along each axis; SEP has no exact overlap here."""


def shapes_of_psf(canvas: Canvas, psf: EPSF) -> Ellipses:
    """Return the shape of the PSF at each star; of one too narrow for its pixels, that of its half-maximum contour."""
    major, minor, angle = psf.moments
    n = len(canvas.x)
    contour = Ellipses(
        np.full(n, major / FWHM_PER_RMS), np.full(n, minor / FWHM_PER_RMS), np.full(n, np.radians(angle))
    )
    own = measured_shapes(canvas, canvas.own, psf.fwhm / FWHM_PER_RMS)
    return own.where(np.isfinite(own.a), contour)


def measured_shapes(canvas: Canvas, plane: NDArray[np.float32], sigma: float) -> Ellipses:
    """Return the shapes of the light on a plane of a canvas, starting from rms `sigma` (pix); NaN without light."""
    moments = np.empty((len(canvas.x), 3))
    fit_ellipses(plane, canvas.x, canvas.y, sigma, canvas.half, MOST_TURNS, moments)
    return Ellipses.of_moments(moments)


@dataclass(frozen=True, eq=False)
class Kron:
    """Kron apertures: semi-axes (pix) as an ellipse, and where they are not what the light asks for, each (n,).

    `is_least` marks radii that were raised to the minimum, `is_most` those cut at the edge of the cell.
    """

    ellipses: Ellipses
    radius: F64
    is_least: Mask
    is_most: Mask


def kron_apertures(
    canvas: Canvas, plane: NDArray[np.float32], shapes: Ellipses, factor: float, least: float
) -> Kron:
    """Return apertures of `factor` times the first moment radius, at least circles of radius `least` (pix).

    The first moment is ``sum r I / sum I`` with r the elliptical radius in units of the shape (Kron 1980), over
    `REACH` of them or as far as the cell goes.
    """
    n = len(canvas.x)
    reach = np.minimum(REACH, canvas.half / shapes.a)
    first = np.zeros(0)
    if n:
        first, _ = sep.kron_radius(plane, canvas.x, canvas.y, shapes.a, shapes.b, shapes.theta, reach)
    first = np.where(np.isfinite(first) & (first > 0), first, 0.0)
    scale = factor * first
    small = scale * np.sqrt(shapes.a * shapes.b) < least
    most = canvas.half / shapes.a
    large = ~small & (scale > most)
    scale = np.minimum(scale, most)
    axes = Ellipses(
        np.where(small, least, scale * shapes.a),
        np.where(small, least, scale * shapes.b),
        np.where(small, 0.0, shapes.theta),
    )
    return Kron(axes, first, small, large)


def light_radii(canvas: Canvas, plane: NDArray[np.float32], fractions: F64, total: F64, reach: F64) -> F64:
    """Return the radii of circles that hold given fractions (m,) of `total` (n,), (n, m) (pix).

    NaN where the total is not positive, or the circle of radius `reach` (n,) (pix), or the cell, holds less.
    """
    if not len(total):
        return np.zeros((0, len(fractions)))
    reach = np.minimum(reach, float(canvas.half))
    good = np.isfinite(total) & (total > 0)
    radii, bits = sep.flux_radius(
        plane,
        canvas.x,
        canvas.y,
        reach,
        fractions,
        normflux=np.where(good, total, 1.0),
        subpix=SUBPIXELS,
    )
    radii = np.asarray(radii).reshape(len(total), len(fractions))
    return np.where(good[:, None] & (radii < reach[:, None]) & (radii > 0), radii, np.nan)

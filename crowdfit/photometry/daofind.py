"""Sharpness and roundness as DAOFIND defines them (Stetson 1987), on the cleaned stamp of each star.

A Gaussian of the width of the PSF, lowered so that its sum is zero, is fitted to the light at each pixel; its height at
the star's pixel is H.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate

from crowdfit.photometry.cleaned import Canvas

F64 = NDArray[np.float64]

SIGMA_RADIUS = 1.5
"""The Gaussian is cut at so many sigma, or at two pixels if that is more."""


@dataclass(frozen=True, eq=False)
class Lowered:
    """The Gaussian and the pixels it is fitted to: values, the mask, and the weights that give H; (k, k), k odd."""

    values: F64
    mask: NDArray[np.bool_]
    weights: F64
    sigma: float

    @classmethod
    def of(cls, fwhm: float) -> "Lowered":
        """Return the lowered Gaussian of a FWHM (pix)."""
        sigma = fwhm / (2 * np.sqrt(2 * np.log(2)))
        half = int(max(2.0, SIGMA_RADIUS * sigma))
        v, u = np.mgrid[-half : half + 1, -half : half + 1]
        r2 = (u * u + v * v).astype(float)
        mask = (r2 <= (SIGMA_RADIUS * sigma) ** 2) | (r2 <= 4)
        values = np.exp(-0.5 * r2 / sigma**2)
        n, inside = mask.sum(), values * mask
        variance = np.sum(inside**2) - inside.sum() ** 2 / n
        return cls(values, mask, mask * (values - inside.sum() / n) / variance, sigma)

    @property
    def half(self) -> int:
        """Half width of the arrays (pix)."""
        return int(self.values.shape[0] // 2)


@dataclass(frozen=True, eq=False)
class Shapes:
    """Sharpness, and roundness from symmetry and from marginal heights, each (n,); NaN where they have no meaning."""

    sharpness: F64
    roundness1: F64
    roundness2: F64


def daofind_shapes(canvas: Canvas, lowered: Lowered) -> Shapes:
    """Return DAOFIND's statistics of every star on a canvas.

    * sharpness: central pixel less the mean of the others under the Gaussian, over H;
    * roundness1: two-fold over four-fold symmetry of the map of H around the star;
    * roundness2: heights of Gaussians fitted to the marginal sums in x and in y, difference over mean.
    """
    half = lowered.half
    stamps = central(canvas, canvas.light, half)
    heights = central(
        canvas, correlate(canvas.light.astype(np.float64), lowered.weights, mode="constant"), half
    )
    height, peak = heights[:, half, half].copy(), stamps[:, half, half]
    others = (np.sum(stamps * lowered.mask, axis=(1, 2)) - peak) / (lowered.mask.sum() - 1)
    heights[:, half, half] = 0
    with np.errstate(invalid="ignore", divide="ignore"):
        sharpness = np.where(height > 0, (peak - others) / height, np.nan)
        roundness1 = 2 * np.tensordot(heights, _quadrants(half), 2) / np.sum(np.abs(heights), axis=(1, 2))
        height_x, height_y = (_marginal_height(stamps, lowered, axis) for axis in (1, 2))
        roundness2 = 2 * (height_x - height_y) / (height_x + height_y)
    return Shapes(sharpness, roundness1, roundness2)


def central(canvas: Canvas, plane: NDArray[np.floating], half: int) -> F64:
    """Return the pixels within `half` of the middle of each cell, (n, 2 half + 1, 2 half + 1)."""
    side, n = 2 * canvas.half + 1, len(canvas.x)
    rows, cols = (size // side for size in plane.shape)
    cells = plane.reshape(rows, side, cols, side)
    middle = slice(canvas.half - half, canvas.half + half + 1)
    cut = cells[:, middle, :, middle].transpose(0, 2, 1, 3)
    return np.asarray(cut.reshape(rows * cols, 2 * half + 1, 2 * half + 1)[:n], np.float64)


def _quadrants(half: int) -> F64:
    """Return +1 and -1 on opposite quadrants around the middle, each with one of the half axes, and 0 in the middle."""
    v, u = np.mgrid[-half : half + 1, -half : half + 1]
    plus = ((v < 0) & (u <= 0)) | ((v > 0) & (u >= 0))
    minus = ((v <= 0) & (u > 0)) | ((v >= 0) & (u < 0))
    return np.asarray(plus.astype(float) - minus)


def _marginal_height(stamps: F64, lowered: Lowered, axis: int) -> F64:
    """Return the height (n,) of the Gaussian fitted to the sums along `axis`; NaN where it is not positive.

    Sums and fit are weighted with triangles that are highest at the star.
    """
    half = lowered.half
    triangle = half + 1 - np.abs(np.arange(-half, half + 1)).astype(float)
    data = np.tensordot(stamps, triangle, axes=(axis, 0))
    model = lowered.values @ triangle  # the same along both axes
    total = triangle.sum()
    numerator = data @ (triangle * model) - (data @ triangle) * (model @ triangle) / total
    denominator = model**2 @ triangle - (model @ triangle) ** 2 / total
    return np.where(numerator > 0, numerator / denominator, np.nan)

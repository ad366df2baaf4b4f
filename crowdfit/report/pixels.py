"""Numbers behind the image panels: smaller versions of large images, and the stretch they share."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from astropy.stats import sigma_clipped_stats
from numpy.typing import NDArray

from crowdfit.exposure import Image, Mask
from crowdfit.frame import Frame

MAX_SIDE = 700
"""Longest side of an image panel, in its own pixels."""

SAMPLE = 1_000_000
"""About this many pixels are enough for statistics of the whole image."""


def block_factor(shape: tuple[int, ...], max_side: int = MAX_SIDE) -> int:
    """Return the side of the blocks that bring the longest side of `shape` to at most `max_side`."""
    return -(-max(shape) // max_side)


def _blocks(plane: NDArray[Any], factor: int, ufunc: np.ufunc = np.add) -> NDArray[Any]:
    """Combine blocks of factor x factor pixels; those at the far edges may be smaller."""
    if factor == 1:
        return plane
    for _ in range(2):  # rows, then columns; whole rows at a time, since short runs along a row are slow
        combined = plane[::factor].copy()
        for start in range(1, factor):
            rows = plane[start::factor]
            ufunc(combined[: len(rows)], rows, out=combined[: len(rows)])
        plane = combined.T
    return plane


def _hide(values: NDArray[Any], count: NDArray[Any], shape: tuple[int, ...], factor: int) -> Image:
    """Return `values` with NaN where less than half of a block of an image of `shape` is usable."""
    rows, columns = (np.minimum(factor, n - np.arange(0, n, factor)) for n in shape)
    return np.where(count >= rows[:, None] * columns / 2, values, np.nan).astype(np.float32)


def block_mean(plane: Image, good: Mask, factor: int) -> Image:
    """Return the mean of the usable pixels of each block.

    Parameters
    ----------
    plane : ndarray (ny, nx) float32
    good : ndarray (ny, nx) bool
        Usable pixels.
    factor : int
        Side of a block (pix).

    Returns
    -------
    ndarray (ceil(ny / factor), ceil(nx / factor)) float32
        NaN where less than half of a block is usable.
    """
    count = _blocks(good.astype(np.float32), factor)
    total = _blocks(np.where(good, plane, np.float32(0)), factor)
    return _hide(total / np.maximum(count, 1), count, plane.shape, factor)


def block_noise(resid: Image, ivar: Image, factor: int) -> Image:
    """Return the residual of each block in units of the error of that block.

    White noise keeps its rms of 1 whatever the factor; a residual that is coherent over a block grows.

    Parameters
    ----------
    resid, ivar : ndarray (ny, nx) float32
        Residual (image unit) and its inverse variance, 0 = not usable.
    factor : int
        Side of a block (pix).
    """
    weight = _blocks(ivar, factor)
    total = _blocks(resid * ivar, factor)
    count = _blocks((ivar > 0).astype(np.float32), factor)
    return _hide(total / np.sqrt(np.where(weight > 0, weight, 1)), count, ivar.shape, factor)


def block_extreme(plane: Image, good: Mask, factor: int) -> Image:
    """Return the value farthest from zero in each block, so that no peak is lost."""
    usable = np.where(good, plane, np.float32(0))
    high, low = _blocks(usable, factor, np.maximum), _blocks(usable, factor, np.minimum)
    count = _blocks(good.astype(np.float32), factor)
    return _hide(np.where(high >= -low, high, low), count, plane.shape, factor)


def thin(plane: NDArray[Any], limit: int = SAMPLE) -> NDArray[Any]:
    """Return every k-th row and column of `plane`, about `limit` pixels."""
    step = max(1, int(np.ceil(np.sqrt(plane.size / limit))))
    thinned: NDArray[Any] = plane[::step, ::step]
    return thinned


@dataclass(frozen=True)
class Stretch:
    """An asinh stretch: linear near the sky, logarithmic for bright stars.

    Parameters
    ----------
    low, high : float
        Values drawn lightest and darkest (image unit).
    soft : float
        Width of the linear part (image unit).
    """

    low: float
    high: float
    soft: float

    @property
    def _length(self) -> float:
        return float(np.arcsinh((self.high - self.low) / self.soft))

    def norm(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return how far along the stretch values lie, from 0 to 1; those outside it are clipped."""
        share: NDArray[Any] = np.arcsinh((values - self.low) / self.soft) / self._length
        return share.clip(0, 1)

    def ticks(self, n: int = 6) -> NDArray[np.float64]:
        """Return about `n` round values, evenly spread over the stretch."""
        even = np.sinh(np.linspace(0, self._length, n)) * self.soft + self.low
        step = np.gradient(even)
        digit = 10.0 ** np.floor(np.log10(step))
        values = np.unique(np.round(even / digit) * digit)
        return values[(values >= self.low) & (values <= self.high)]


def sky_stretch(data: Image, good: Mask) -> Stretch:
    """Return the stretch for an image, from sigma-clipped statistics of its usable pixels.

    From two standard deviations below the sky to the brightest part per thousand. Pixels without data
    take no part (N002).
    """
    values = thin(data)[thin(good)]
    if values.size == 0:
        values = data[good]
    _, middle, width = sigma_clipped_stats(values, sigma=3, maxiters=5)
    dark, bright = (float(v) for v in np.percentile(values, (0.1, 99.9)))
    width = max(float(width), 1e-4 * ((bright - dark) or float(np.ptp(values)) or 1.0))
    low = float(middle) - 2 * width
    high = max(bright, low + 8 * width)
    return Stretch(low, high, 2 * width)


def box_stretch(values: Image, sky: Stretch) -> Stretch:
    """Return the stretch for a small box: the depth of `sky`, up to the brightest pixel of the box."""
    if not np.isfinite(values).any():
        return sky
    return Stretch(sky.low, max(float(np.nanmax(values)), sky.low + 4 * sky.soft), sky.soft)


@dataclass(frozen=True)
class Planes:
    """The pixels of a fit as the report shows them, each (ny, nx) float32.

    Parameters
    ----------
    data, model : ndarray
        Image, and sky plus stars (image unit).
    resid : ndarray
        Residual, 0 where not usable (image unit).
    ivar : ndarray
        Its inverse variance, the photon noise of the model included; 0 = not usable (image unit^-2).
    """

    data: Image
    model: Image
    resid: Image
    ivar: Image

    @classmethod
    def of(cls, frame: Frame) -> "Planes":
        """Return the planes of one fitted frame."""
        return cls(frame.exposure.data, frame.sky + frame.model, frame.resid, frame.fit_ivar)

    @cached_property
    def good(self) -> Mask:
        """Usable pixels."""
        return self.ivar > 0

    @cached_property
    def stretch(self) -> "Stretch":
        """The stretch of the image."""
        return sky_stretch(self.data, self.good)

    @property
    def chi(self) -> Image:
        """Residual in units of its error, 0 where not usable."""
        return self.resid * np.sqrt(self.ivar)

    def cut(self, box: tuple[slice, slice]) -> "Planes":
        """Return the planes inside a box (rows, columns)."""
        return Planes(self.data[box], self.model[box], self.resid[box], self.ivar[box])

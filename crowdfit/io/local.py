"""Smooth maps of local statistics over blocks of pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["local_percentile"]

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

BLOCK = 64
"""Side of a block (pix): many PSFs wide, small against the scale on which sky and vignetting change."""
LEAST = 25
"""A block with fewer usable pixels takes its value from the others."""


def local_percentile(values: NDArray[Any], good: Mask, q: float, block: int = BLOCK) -> F32:
    """Return the percentile of the usable pixels in blocks, linearly interpolated between block centres.

    Parameters
    ----------
    values : ndarray (ny, nx)
        Any real image.
    good : ndarray (ny, nx) bool
        Pixels that count; at least one.
    q : float
        Percentile, 0 to 100.
    block : int
        Side of a block (pix); the image is divided as evenly as possible.

    Returns
    -------
    ndarray (ny, nx) float32
        Same unit as `values`.
    """
    ys, xs = (_edges(n, block) for n in values.shape)
    step = (
        2 if block >= BLOCK and good.size > block**2 else 1
    )  # every other row tells as much in half the time
    grid = np.full((len(ys) - 1, len(xs) - 1), np.nan)
    for j, i in np.ndindex(grid.shape):
        box = slice(ys[j], ys[j + 1], step), slice(xs[i], xs[i + 1])
        inside = values[box][good[box]]
        if inside.size >= LEAST:
            rank = round(q / 100 * (inside.size - 1))
            grid[j, i] = np.partition(inside, rank)[rank]
    known = np.isfinite(grid)
    grid[~known] = np.median(grid[known]) if known.any() else np.percentile(values[good], q)
    weights_y, weights_x = (_hat_weights(edges) for edges in (ys, xs))
    return weights_y @ grid.astype(np.float32) @ weights_x.T


def _edges(n: int, block: int) -> NDArray[np.int64]:
    """Return the first pixel of every block and, last, `n`."""
    return np.linspace(0, n, max(1, round(n / block)) + 1).astype(np.int64)


def _hat_weights(edges: NDArray[np.int64]) -> F32:
    """Return (n, n_block) weights of linear interpolation between block centres, constant beyond them."""
    centres = (edges[:-1] + edges[1:] - 1) / 2
    pixels = np.arange(edges[-1])
    hats = [np.interp(pixels, centres, unit) for unit in np.eye(len(centres))]
    return np.stack(hats, axis=1).astype(np.float32)

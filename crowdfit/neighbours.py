"""Who is near whom: one search grid for all kernels that visit neighbours."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Grid(NamedTuple):
    """Stars by grid cell.

    Parameters
    ----------
    cell : int
        Side of the cells (pix).
    start : ndarray (n_cells + 2,) int64
        Where each cell begins in `members`; the last entry is the number of cells per row.
    members : ndarray (n,) int64
        Star numbers, cell by cell.
    """

    cell: int
    start: I64
    members: I64


def build_grid(x: F64, y: F64, shape: tuple[int, int], *, cell: int = 16) -> Grid:
    """Return the search grid of stars at (x, y) on an image of `shape` (ny, nx).

    Stars off the image belong to the cell at the border that is nearest.
    """
    ny, nx = (-(-n // cell) for n in shape)
    column = np.clip(x // cell, 0, nx - 1).astype(np.int64)
    row = np.clip(y // cell, 0, ny - 1).astype(np.int64)
    number = row * nx + column
    start = np.zeros(nx * ny + 2, np.int64)
    np.cumsum(np.bincount(number, minlength=nx * ny), out=start[1:-1])
    start[-1] = nx
    return Grid(cell, start, np.argsort(number, kind="stable"))

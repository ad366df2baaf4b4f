"""The split of a large image, and the memory that it is made for.

The linear system of all stars is solved as a whole. What makes it large is not the system but the stamps it is made
from: three planes of some hundred pixels for every star, against a block of nine numbers for every pair of stars that
overlap, a fourth or less. So the system is assembled tile by tile. A tile owns the stars of its core and borrows those
of its neighbours whose stamps overlap theirs, the halo; the stamps of a tile are given back before the next one is
visited. Every block is the same sum of the same numbers whichever tile makes it, so that the layout, the order of
the visits and the memory of the machine change no bit of the result, and there is no seam.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit.errors import ConfigError
from crowdfit.memory import free_mb, resident_mb
from crowdfit.stages.base import STRICT

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

BYTES = 12
"""Of a pixel of a stamp: P, dP/dx and dP/dy in single precision."""


LEAST, MOST = 16 * 2**20, 64 * 2**20
"""Bytes that the stamps of a tile may take, when little memory is left and when there is enough. The halo of the larger
tiles costs less than the stamps of all stars, far apart in memory, would (benchmarks/README.md); below the smaller it
outweighs the core."""
SLACK = 24
"""MB that the allocator may hold back: what is freed in pieces is not always given back."""
PLANES, FIXED = 48, 110
"""Bytes per pixel, and MB besides, by which a fit grows beyond an image that has been read: sky, model, residual,
weights and what is made of them on the way. Measured (benchmarks/README.md)."""
FULL = 0.9
"""A fit that holds more than this share of its ceiling after a pass goes no further: the last pass takes the stars
farther out, so that more of them overlap."""


class Tile(NamedTuple):
    """Numbers of the stars that a tile owns, and of those beyond it that it needs; both in rising order, (n,) int64."""

    core: I64
    halo: I64


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tiles:
    """In which parts the linear system of an image is assembled; it has no say in the numbers."""

    layout: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="rows and columns of tiles; null: tiles as large as is fastest, or as fits"
    )
    memory_mb: float | None = Field(
        default=None,
        gt=0,
        description="most memory that the process may hold, in MB; null: what it holds at the start, and half of "
        "what is free then",
    )

    def with_ceiling(self, n_pixels: int) -> "Tiles":
        """Return the tiles with the ceiling as a number, as it holds from now on; None where the system tells nothing.

        Raises
        ------
        ConfigError
            The planes of an image of `n_pixels` alone would need more.
        """
        held = resident_mb()
        ceiling = held + free_mb() / 2 if self.memory_mb is None else self.memory_mb
        if np.isnan(held) or np.isnan(ceiling):
            return replace(self, memory_mb=None)
        least = held + FIXED + n_pixels * PLANES / 2**20
        if ceiling < least:
            what = "" if self.memory_mb else " (what is held and half of what is free)"
            raise ConfigError(
                f"tiles.memory_mb: {ceiling:.0f}{what} is less than the {least:.0f} MB that an image of {n_pixels:,} "
                f"pixels takes before its stars; set tiles.memory_mb={np.ceil(1.2 * least):.0f} where there is so "
                "much, or fit parts of the image"
            )
        return replace(self, memory_mb=ceiling)

    def is_full(self, held_mb: float) -> bool:
        """Return whether so much memory leaves no room below the ceiling for stars more and for the last pass."""
        return self.memory_mb is not None and held_mb > FULL * self.memory_mb

    def visit(  # noqa: PLR0913, PLR0917 - places, sizes and links of the stars
        self, x: F64, y: F64, half: I64, shape: tuple[int, int], first: I64, links: I32, coming: int
    ) -> Iterator[Tile]:
        """Yield the tiles of a frame of `shape` (ny, nx): those of the layout, or as large as is fast and fits.

        The other arguments are those of `visit`; `coming` are the bytes that the system will take beside the stamps.
        """
        if self.layout is not None:
            return visit(x, y, half, first, links, grid(x, y, shape, self.layout), np.inf)
        room = MOST if self.memory_mb is None else 2**20 * (self.memory_mb - resident_mb() - SLACK) - coming
        return visit(x, y, half, first, links, [np.arange(len(x))], min(max(room, LEAST), MOST))


def grid(x: F64, y: F64, shape: tuple[int, int], layout: tuple[int, int]) -> list[I64]:
    """Return the cores of a grid of tiles: the numbers of the stars in each, tile by tile, row by row.

    Parameters
    ----------
    x, y : ndarray (n,) float64
        Positions (pix). Stars off the image belong to the nearest tile.
    shape : (ny, nx)
        Size of the image.
    layout : (rows, columns)
        Tiles along each axis, of the same size.

    Returns
    -------
    list of ndarray (m,) int64
        Tiles without stars are left out.
    """
    (ny, nx), (rows, cols) = shape, layout
    row = np.clip((y + 0.5) / ny * rows, 0, rows - 1).astype(np.int64)
    col = np.clip((x + 0.5) / nx * cols, 0, cols - 1).astype(np.int64)
    number = row * cols + col
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def halo(core: I64, first: I64, links: I32) -> I64:
    """Return the stars outside a core that blocks of the core's stars are made with, in rising order.

    A block is made with the star of the higher number: bright stars, which overlap many, are found first and lent to
    those, where their own tile would have to borrow them all. `first` (n + 1,), `links` (total,): who overlaps whom, as
    `crowdfit._kernels.normal.link_pairs` lists them.
    """
    if len(core) == len(first) - 1:
        return core[:0]
    counts = first[core + 1] - first[core]
    begins = np.cumsum(counts) - counts
    other = links[np.repeat(first[core] - begins, counts) + np.arange(counts.sum())]
    near = np.zeros(len(first) - 1, bool)
    near[other[other < np.repeat(core, counts)]] = True
    near[core] = False
    return np.flatnonzero(near)


def halved(core: I64, x: F64, y: F64, cost: F64) -> tuple[I64, I64]:
    """Return a core cut in two of about the same cost (n,) across its longer side."""
    along = x[core] if np.ptp(x[core]) >= np.ptp(y[core]) else y[core]
    order = np.argsort(along, kind="stable")
    total = np.cumsum(cost[core][order])
    cut = int(np.clip(np.searchsorted(total, total[-1] / 2), 1, len(core) - 1))
    return np.sort(core[order[:cut]]), np.sort(core[order[cut:]])


def visit(  # noqa: PLR0913, PLR0917 - places, sizes and links of the stars
    x: F64, y: F64, half: I64, first: I64, links: I32, cores: list[I64], most: float
) -> Iterator[Tile]:
    """Yield the tiles of a frame, cut until the stamps of each take at most so much memory.

    Parameters
    ----------
    x, y : ndarray (n,) float64
        Positions (pix).
    half : ndarray (n,) int64
        Half widths of the stamps (pix).
    first, links
        Who overlaps whom, as for `halo`.
    cores : list of ndarray (m,) int64
        What to begin with: the cores of a grid, or all stars.
    most : float
        Bytes that the stamps of a tile may take. A tile of one star is not cut, whatever it needs.
    """
    cost = BYTES * np.square(2.0 * half + 1)
    waiting = cores[::-1]
    while waiting:
        core = waiting.pop()
        # the halo of a core that is too large by itself is not looked for: among very many links it takes memory too
        fits = cost[core].sum() <= most
        around = halo(core, first, links) if fits or len(core) == 1 else core[:0]
        if len(core) > 1 and not (fits and cost[core].sum() + cost[around].sum() <= most):
            waiting += halved(core, x, y, cost)[::-1]
        else:
            yield Tile(core, around)

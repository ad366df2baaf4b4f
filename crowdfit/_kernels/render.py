"""The model image: stars added tile by tile, so that threads never share a pixel."""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel
from crowdfit._kernels.stamps import add_window


@kernel
def touched_tiles(x, y, half, ny, nx, tile):
    """Return first and last tile column and row that a stamp touches; an empty range when it lies off the image."""
    xc, yc = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    if xc + half < 0 or yc + half < 0 or xc - half >= nx or yc - half >= ny:
        return 0, -1, 0, -1
    c0, c1 = max(xc - half, 0) // tile, min(xc + half, nx - 1) // tile
    r0, r1 = max(yc - half, 0) // tile, min(yc + half, ny - 1) // tile
    return c0, c1, r0, r1


@kernel
def bin_to_tiles(x, y, half, ny, nx, tile, start, members):
    """List the stars whose stamps touch each tile, in order of star number.

    x, y : (n,) float64; half : (n,) int64; tile : tile side (pix);
    start : (n_tiles + 1,) int64, filled; members : (total,) int64, filled, or of length 0 to count only.
    Tiles are numbered row by row.
    """
    tiles_x = (nx + tile - 1) // tile
    start[:] = 0
    for i in range(x.size):
        c0, c1, r0, r1 = touched_tiles(x[i], y[i], half[i], ny, nx, tile)
        for r in range(r0, r1 + 1):
            for c in range(c0, c1 + 1):
                start[r * tiles_x + c + 1] += 1
    for k in range(start.size - 1):
        start[k + 1] += start[k]
    if members.size == 0:
        return
    place = start.copy()
    for i in range(x.size):
        c0, c1, r0, r1 = touched_tiles(x[i], y[i], half[i], ny, nx, tile)
        for r in range(r0, r1 + 1):
            for c in range(c0, c1 + 1):
                k = r * tiles_x + c
                members[place[k]] = i
                place[k] += 1


@kernel
def add_stars_of_tile(coef, basis, x, y, flux, half, row0, col0, tile, chosen, image):
    """Add the stars numbered `chosen` to the square of `image` that begins at (row0, col0)."""
    ny, nx = image.shape
    row1, col1 = min(row0 + tile, ny), min(col0 + tile, nx)
    for i in chosen:
        xc, yc = int(np.floor(x[i] + 0.5)), int(np.floor(y[i] + 0.5))
        a, b = max(xc - half[i], col0), min(xc + half[i] + 1, col1)
        c, d = max(yc - half[i], row0), min(yc + half[i] + 1, row1)
        add_window(coef, basis[i], x[i], y[i], flux[i], a, b, c, d, image)


@tile_kernel
def add_stars(coef, basis, x, y, flux, half, tile, start, members, image):
    """Add all stars to `image` (ny, nx) float32; tile lists from `bin_to_tiles`; other arguments as there."""
    tiles_x = (image.shape[1] + tile - 1) // tile
    for k in prange(start.size - 1):
        tile_no = np.int64(k)
        add_stars_of_tile(
            coef, basis, x, y, flux, half, (tile_no // tiles_x) * tile, (tile_no % tiles_x) * tile, tile,
            members[start[k] : start[k + 1]], image,
        )  # fmt: skip

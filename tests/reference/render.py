"""Twins of `crowdfit._kernels.render`."""

import numpy as np

from tests.reference import span
from tests.reference.stamps import at_pixels


def touched_tiles(x, y, half, ny, nx, tile):
    """Return the tile columns and rows that hold a pixel of the stamp."""
    cols, rows = span(x, half, nx), span(y, half, ny)
    if not (cols.size and rows.size):
        return [], []
    return sorted(set(cols // tile)), sorted(set(rows // tile))


def bin_to_tiles(x, y, half, ny, nx, tile):
    """Return for each tile the numbers of the stars that touch it."""
    tiles_x, tiles_y = -(-nx // tile), -(-ny // tile)
    lists = [[] for _ in range(tiles_x * tiles_y)]
    for i in range(len(x)):
        cols, rows = touched_tiles(x[i], y[i], half[i], ny, nx, tile)
        for r in rows:
            for c in cols:
                lists[r * tiles_x + c].append(i)
    return lists


def add_stars(coef, basis, x, y, flux, half, image):
    out = np.array(image, float)
    ny, nx = out.shape
    for i in range(len(x)):
        cols, rows = span(x[i], half[i], nx), span(y[i], half[i], ny)
        out[np.ix_(rows, cols)] += flux[i] * at_pixels(coef, basis[i], x[i], y[i], cols, rows)[0]
    return out


def add_stars_of_tile(coef, basis, x, y, flux, half, row0, col0, tile, chosen, image):
    every = add_stars(coef, basis[chosen], x[chosen], y[chosen], flux[chosen], half[chosen], image)
    out = np.array(image, float)
    box = np.s_[row0 : row0 + tile, col0 : col0 + tile]
    out[box] = every[box]
    return out

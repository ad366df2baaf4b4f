"""Marginal errors: the inverse of the normal matrix around each star."""

import numpy as np
from numba import prange

from crowdfit._kernels.jit import kernel, tile_kernel
from crowdfit._kernels.neighbours import find_link, insert_nearest
from crowdfit._kernels.score import factorize, forward_solve


@kernel
def closest_links(x, y, first, links, i, reach, chosen, dist):
    """List the linked stars within `reach` (pix) of star i, nearest first, at most chosen.size; returns how many."""
    n = np.int64(0)
    for k in range(first[i], first[i + 1]):
        j = np.int64(links[k])
        d2 = (x[j] - x[i]) ** 2 + (y[j] - y[i]) ** 2
        if d2 <= reach * reach:
            n = insert_nearest(j, d2, n, chosen, dist)
    return n


@kernel
def fill_local_matrix(i, chosen, prior, own, first, links, cross, matrix):
    """Fill the lower triangle of the normal matrix of stars chosen..., i, the star itself last."""
    m = chosen.size
    for a in range(m + 1):
        j = i if a == m else chosen[a]
        for p in range(3):
            for q in range(3):
                matrix[3 * a + p, 3 * a + q] = own[j, 3 * p + q]
        matrix[3 * a + 1, 3 * a + 1] += prior[j]
        matrix[3 * a + 2, 3 * a + 2] += prior[j]
        for b in range(a):
            k = find_link(first, links, j, chosen[b])
            if k < 0:
                continue
            for p in range(3):
                for q in range(3):
                    matrix[3 * a + p, 3 * b + q] = cross[k, 3 * p + q]


@kernel
def invert_one(i, x, y, reach, most, prior, own, first, links, cross, variance):
    """Fill the variances (3,) of star i (see `invert_around`)."""
    chosen, dist = np.empty(most, np.int64), np.empty(most)
    m = closest_links(x, y, first, links, i, reach, chosen, dist)
    n = 3 * (m + 1)
    matrix = np.zeros((n, n))
    fill_local_matrix(i, chosen[:m], prior, own, first, links, cross, matrix)
    factorize(matrix, n)
    # the star comes last, so the corner of the inverse needs no back substitution
    for p in range(3):
        unit = np.zeros(n)
        unit[n - 3 + p] = 1.0
        forward_solve(matrix, n, unit)
        variance[p] = np.sum(unit * unit)


@tile_kernel
def invert_around(x, y, reach, most, prior, own, first, links, cross, variance):
    """Fill variance (n, 3) float64: diagonal of the inverse of the normal matrix for each star's three unknowns.

    The matrix is that of the star and its `most` nearest linked stars within `reach` (pix), flux and both
    shifts free; prior : (n,) float64, added to the shift diagonals. Stars farther away hardly share light.
    """
    for i in prange(x.size):
        variance[i, :] = np.inf
        if own[i, 0] > 0.0:
            invert_one(np.int64(i), x, y, reach, most, prior, own, first, links, cross, variance[i])

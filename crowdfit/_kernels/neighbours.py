"""Lists of neighbours: the nearest few of many, the place of a link, and who gives way to whom."""

import numpy as np

from crowdfit._kernels.jit import kernel


@kernel
def insert_nearest(j, d2, n, chosen, dist):
    """Put star j at squared distance d2 into a list of the nearest, ordered by distance; returns its new length.

    chosen : (most,) int64, dist : (most,) float64, the first n entries filled; a full list loses its farthest.
    Of equal distances the first to come stays in front.
    """
    most = chosen.size
    if n == most and (n == 0 or d2 >= dist[n - 1]):
        return n
    at = n if n < most else n - 1
    while at > 0 and dist[at - 1] > d2:
        dist[at] = dist[at - 1]
        chosen[at] = chosen[at - 1]
        at -= 1
    dist[at], chosen[at] = d2, j
    return min(n + 1, most)


@kernel
def find_link(first, links, i, j):
    """Return the place of the link (i, j), or -1.

    first : (n + 1,) int64, links : (total,) int32, as `link_pairs` fills them: sorted per star.
    """
    low, high = first[i], first[i + 1]
    while low < high:
        mid = (low + high) // 2
        if links[mid] < j:
            low = mid + 1
        else:
            high = mid
    return low if low < first[i + 1] and links[low] == j else -1


@kernel
def keep_strongest(x, y, order, radius, cell, start, members, keep):
    """Fill keep (n,) bool: which points stay when each that stays removes all later ones within `radius` (pix).

    order : (n,) int64, the points from the strongest to the weakest; cell, start, members : the search grid of
    `build_grid`, of cells no smaller than `radius`.
    """
    nx = start[-1]
    ny = (start.size - 2) // nx
    keep[:] = False
    for i in order:
        column = min(max(int(np.floor(x[i] / cell)), 0), nx - 1)
        row = min(max(int(np.floor(y[i] / cell)), 0), ny - 1)
        free = True
        for r in range(max(row - 1, 0), min(row + 2, ny)):
            for k in range(start[r * nx + max(column - 1, 0)], start[r * nx + min(column + 1, nx - 1) + 1]):
                j = members[k]
                if keep[j] and (x[j] - x[i]) ** 2 + (y[j] - y[i]) ** 2 < radius * radius:
                    free = False
        keep[i] = free

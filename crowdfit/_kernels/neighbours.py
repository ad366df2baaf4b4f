"""Lists of neighbours: the nearest few of many, and the place of a link."""

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

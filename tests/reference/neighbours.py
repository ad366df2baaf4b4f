"""Twins of `crowdfit._kernels.neighbours`."""

import numpy as np


def insert_nearest(j, d2, chosen, dist, most):
    """Return the list with star j put in, and its distances."""
    chosen, dist = np.append(chosen, j), np.append(dist, d2)
    order = np.argsort(dist, kind="stable")[:most]
    return chosen[order].astype(int), dist[order]


def find_link(first, links, i, j):
    here = [k for k in range(first[i], first[i + 1]) if links[k] == j]
    return here[0] if here else -1


def keep_strongest(x, y, order, radius):
    """Return which points stay, by looking at all pairs."""
    keep = np.zeros(len(x), bool)
    for i in order:
        keep[i] = not np.any((np.hypot(x - x[i], y - y[i]) < radius) & keep)
    return keep

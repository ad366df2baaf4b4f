"""Slow plain-numpy twins of the compiled kernels.

A twin has the name of its kernel and lives in the module of the same name; it returns what the kernel fills.
It is written from the formula and not from the kernel: dense matrices instead of linked blocks, a spline as a
sum over all knots instead of four taps, brute force instead of search grids, double precision throughout.
"""

import numpy as np

EPS = float(np.finfo(np.float32).eps)
"""Rounding of a pixel or stamp value."""


def nearest(v):
    """Return the pixel nearest to a coordinate; halves go up."""
    return int(np.floor(v + 0.5))


def span(centre, half, n):
    """Return the pixels of an axis of length n that a stamp of this half width covers."""
    return np.array([k for k in range(nearest(centre) - half, nearest(centre) + half + 1) if 0 <= k < n], int)

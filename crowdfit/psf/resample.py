"""Tables of samples on another grid: centred on a sample, summed over the pixel, or as fine as asked for."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift

F64 = NDArray[np.float64]

LANCZOS = 3
"""Half width of the interpolating kernel of PSFEx (samples)."""


def centred(planes: F64) -> F64:
    """Return tables (n, sy, sx) whose centre is a sample: ``(s - 1) / 2`` of an even side lies between two.

    Along an even side the samples move by half a step (cubic spline, zeros around) and become one more.
    """
    for axis in (1, 2):
        if planes.shape[axis] % 2 == 0:
            width, step = [(0, 0)] * 3, [0.0] * 3
            width[axis], step[axis] = (0, 1), 0.5
            # the spline needs room for the zeros around
            room = [(0, 0), (8, 8), (8, 8)]
            moved = shift(np.pad(np.pad(planes, width), room), step, order=3, mode="constant")
            planes = moved[:, 8:-8, 8:-8]
    return planes


def over_pixel(planes: F64, oversample: int) -> F64:
    """Return tables (n, sy, sx) of light summed over the native pixel around every place, with the same centre.

    Samples are the light on squares of ``1 / oversample`` pixels. Every sum is over whole squares, so that it is exact,
    and sides grow by ``oversample - 1``: an even number of squares has its middle between two of them.
    """
    for axis in (1, 2):
        width = [(0, 0)] * 3
        width[axis] = (oversample - 1, oversample - 1)
        grown = np.pad(planes, width)
        n = grown.shape[axis] - oversample + 1
        planes = np.sum([grown.take(range(k, k + n), axis) for k in range(oversample)], axis=0)
    return planes


def lanczos(planes: F64, step: float, oversample: int) -> F64:
    """Return tables (n, sy, sx) with `oversample` samples per native pixel, of tables sampled every `step` pixels.

    Interpolated as PSFEx does (Bertin 2011, ASP Conf. 442, 435): Lanczos kernel of half width 3, weights scaled to
    sum 1, centre at sample ``s // 2``; zero beyond the outermost samples.
    """
    rows, cols = (_weights(n, step, oversample) for n in planes.shape[1:])
    return np.asarray(np.einsum("ri,nij,cj->nrc", rows, planes, cols, optimize=True))


def _weights(n: int, step: float, oversample: int) -> F64:
    """Return the interpolation weights (m, n) of n samples, for places that end on a whole pixel."""
    half = int(np.ceil(step * (n // 2))) * oversample
    place = np.arange(-half, half + 1) / (oversample * step)
    gap = place[:, np.newaxis] - (np.arange(n) - n // 2)
    kernel = np.where(np.abs(gap) < LANCZOS, np.sinc(gap) * np.sinc(gap / LANCZOS), 0)
    inside = (place >= -(n // 2) - 1e-9) & (place <= n - 1 - n // 2 + 1e-9)
    return np.asarray(inside[:, np.newaxis] * kernel / kernel.sum(axis=1, keepdims=True).clip(0.1))

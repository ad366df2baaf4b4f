"""Where the wings of very bright stars are wrong: the significance map scatters more there than elsewhere.

A PSF that is wrong by some per cent far out leaves rings and spokes round the brightest stars, far above the noise,
and each would be taken for a swarm of stars. They would stay, too: once they hold the light of the ring, nothing tells
the PSF that it lacks it (P018, P023).
"""

import numpy as np

from crowdfit.exposure import Image
from crowdfit.frame import Frame
from crowdfit.sources import Sources

MOST = 200
"""So many stars, the brightest, are looked at."""
CHANCE = 1.6
"""A median scatters by 1.2 over the root of the number of independent values, of which a ring of radius r FWHM has
about 2 r + 1 for each two of its FWHM; this is two sigma of that."""
INNERMOST = 2
"""Rings from so many FWHM on; further in the score test itself knows the error of the model."""
LEAST_REACH = 5.0
"""Stars whose wings drown in noise within so many FWHM have none to speak of."""
BEYOND = 1.5
"""The surroundings of a star are looked at out to so many times its own reach."""


def ring_excess(frame: Frame, sources: Sources, signif: Image) -> Image:
    """Return by how much a significance map scatters more round bright stars than in the field, at least 1, (ny, nx).

    Measured in rings one FWHM wide, out to where the star drowns in noise; about 0, so that a ring that is too high
    all round counts. Stars not yet found are in the map as well, everywhere; hence the comparison with the field, and
    with what lies just beyond the star where that is rougher. What a small ring may scatter more by chance does not
    count.
    """
    excess, good = np.ones_like(signif), frame.exposure.good
    fwhm, (ny, nx) = frame.psf.fwhm, signif.shape
    half = frame.half_sizes(sources.flux)
    wide = np.flatnonzero(half > LEAST_REACH * fwhm)
    wide = wide[np.argsort(-sources.flux[wide], kind="stable")][:MOST]
    if not len(wide):
        return excess
    field = float(np.median(np.abs(signif[good])))
    for i in wide:
        x, y, reach = sources.x[i], sources.y[i], int(half[i])
        edge = int(BEYOND * reach)
        rows = slice(max(int(y) - edge, 0), max(min(int(y) + edge + 1, ny), 0))
        cols = slice(max(int(x) - edge, 0), max(min(int(x) + edge + 1, nx), 0))
        yy, xx = np.mgrid[rows, cols]
        ring = (np.hypot(xx - x, yy - y) / fwhm).astype(int)
        n = int(reach / fwhm) + 1
        size, usable = np.abs(signif[rows, cols]), good[rows, cols]
        outside = size[usable & (ring >= n)]
        # in a cluster the surroundings are as rough as the rings, whatever the star does
        level = max(field, float(np.median(outside)) if len(outside) else 0.0)
        scatter = ring_medians(size, usable, ring, n)
        chance = 1 + CHANCE / np.sqrt(2 * np.arange(n) + 1)
        around = np.append(np.maximum(scatter / (max(level, 1e-9) * chance), 1), 1.0)
        around[:INNERMOST] = 1  # one neighbour fills half of so small a ring
        here = np.asarray(around[np.minimum(ring, len(around) - 1)], np.float32)
        np.maximum(excess[rows, cols], here, out=excess[rows, cols])
    return excess


def ring_medians(values: Image, usable: np.ndarray, ring: np.ndarray, n: int) -> np.ndarray:
    """Return the medians of usable values by the number of their ring, 0 to n - 1; 0 where there are fewer than 10."""
    inside = usable & (ring < n)
    number, value = ring[inside], values[inside]
    order = np.lexsort((value, number))
    number, value = number[order], value[order]
    first = np.searchsorted(number, np.arange(n + 1))
    size = np.diff(first)
    middle = np.minimum(first[:-1] + size // 2, max(len(value) - 1, 0))
    return np.where(size >= 10, value[middle] if len(value) else 0.0, 0.0)

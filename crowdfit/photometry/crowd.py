"""How crowded it is around every star, counted in stars bright enough to be found there.

The number of stars grows towards faint fluxes as a power law; where they crowd, a list holds ever fewer of them.
Around every place the counts are therefore taken above the flux at which a number of stars that is still told
apart shares the light of one PSF. From there the power law leads on to the stars that are not in the list.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit.counts import FEW, NOISY, USUAL_SLOPE
from crowdfit.frame import Frame
from crowdfit.sources import Sources

F64 = NDArray[np.float64]

RADIUS = 8.0
"""Stars within this distance are counted around a place (FWHM)."""
SPACING = 6.0
"""Distance of the places (FWHM); between them densities are interpolated."""
TOLD_APART = 0.5
"""So many stars to the area of the PSF, 1 / sum(P^2), are still found; measured in fields of 8 to 260 pixels a star."""
BLENDED, BRIGHTER = np.log(2.0), np.log(64.0)
"""The slope is that of stars brighter than the faintest counted by a factor (ln), where blends are few, and by up to
another one more."""
WEIGHT = 1.0
"""The whole field counts around every place like an area with this many stars."""
SLOPES = (0.3, 0.95)
"""Least and largest slope; with 1 the faintest stars would hold an infinite amount of light."""


@dataclass(frozen=True)
class Crowd:
    """Counts N(>f) ~ f^-slope, and their local normalisation.

    Parameters
    ----------
    sigma : float
        Error of an isolated faint star without confusion (image unit).
    slope : float
        Of the logarithmic counts, for the whole field.
    density : ndarray (n,) float64
        Stars per pixel and unit of ln f at the flux `sigma`, as the power law has it, around every source.
    """

    sigma: float
    slope: float
    density: F64

    @classmethod
    def around(cls, frame: Frame, sources: Sources) -> "Crowd":
        """Return the counts around every source of a list."""
        sigma = float(frame.isolated_error(np.zeros(1))[0])
        x, y = places(frame.exposure.shape, SPACING * frame.psf.fwhm)
        faintest, number, area = count_around(frame, sources, x, y, NOISY * sigma)
        limit = at_places(np.log(faintest), frame, sources)
        slope = slope_of(np.log(np.maximum(sources.flux, 1e-300)) - limit)
        # stars above the limit, all as if it were sigma: what they would be there by the power law
        scaled = (faintest / sigma) ** slope
        everywhere = float(np.sum(number * scaled) / max(np.sum(area), 1.0))
        # a place with little area, or where only the brightest are told apart, has few stars to go by
        extra = WEIGHT * scaled / max(everywhere, 1e-300)
        local = (number * scaled + WEIGHT * scaled) / (area + extra) if everywhere > 0 else 0 * scaled
        density = slope * np.exp(at_places(np.log(np.maximum(local, 1e-300)), frame, sources))
        return cls(sigma, slope, np.where(density > 1e-290, density, 0.0))


def places(shape: tuple[int, int], spacing: float) -> tuple[F64, F64]:
    """Return columns x (cx,) and rows y (cy,) of even places over an image, about `spacing` pixels apart."""
    ny, nx = shape
    rows, cols = (max(int(np.ceil(size / spacing)), 1) for size in (ny, nx))
    return (np.arange(cols) + 0.5) * nx / cols - 0.5, (np.arange(rows) + 0.5) * ny / rows - 0.5


def at_places(grid: F64, frame: Frame, sources: Sources) -> F64:
    """Return values of a grid over the image, (cy, cx), interpolated linearly at every source, (n,)."""
    (ny, nx), (rows, cols) = frame.exposure.shape, grid.shape
    at = [(sources.y + 0.5) / ny * rows - 0.5, (sources.x + 0.5) / nx * cols - 0.5]
    return np.asarray(scipy.ndimage.map_coordinates(grid, at, order=1, mode="nearest"))


def count_around(frame: Frame, sources: Sources, x: F64, y: F64, least: float) -> tuple[F64, F64, F64]:
    """Return the faintest flux that is counted, how many stars are above it, and on how many usable pixels.

    Parameters
    ----------
    frame, sources
        The field and its list.
    x, y : ndarray (cx,), (cy,) float64
        Columns and rows of the places.
    least : float
        No star fainter than this is counted (image unit).

    Returns
    -------
    faintest, number, area : ndarray (cy, cx) float64
    """
    radius = RADIUS * frame.psf.fwhm
    xx, yy = np.meshgrid(x, y)
    area = usable_area(frame, xx, yy, radius)
    seen = np.flatnonzero(sources.flux > least)
    faintest, number = np.full(xx.shape, least), np.zeros(xx.shape)
    if not len(seen):
        return faintest, number, area
    tree = scipy.spatial.cKDTree(np.column_stack([sources.x[seen], sources.y[seen]]))
    near = tree.query_ball_point(np.column_stack([xx.ravel(), yy.ravel()]), radius)
    most = (TOLD_APART * area / frame.psf.n_eff).astype(np.int64)
    for k, (found, enough) in enumerate(zip(near, most.ravel(), strict=True)):
        flux = sources.flux[seen[found]]
        if len(flux) > enough:
            faintest.flat[k] = np.partition(flux, -enough - 1)[-enough - 1]
        number.flat[k] = np.count_nonzero(flux > faintest.flat[k])
    return faintest, number, area


def usable_area(frame: Frame, x: F64, y: F64, radius: float) -> F64:
    """Return how many usable pixels discs of `radius` (pix) around places hold."""
    ny, nx = frame.exposure.shape
    sums = np.zeros((ny + 1, nx + 1))
    sums[1:, 1:] = np.cumsum(np.cumsum(frame.exposure.good, axis=0, dtype=np.float64), axis=1)
    left, right = (np.clip(np.round(x + d), 0, nx).astype(int) for d in (0.5 - radius, 0.5 + radius))
    low, high = (np.clip(np.round(y + d), 0, ny).astype(int) for d in (0.5 - radius, 0.5 + radius))
    square = sums[high, right] - sums[low, right] - sums[high, left] + sums[low, left]
    return np.asarray(np.pi / 4 * square)


def slope_of(ratio: F64) -> float:
    """Return the slope of counts from ln(flux / least flux) (n,), by maximum likelihood."""
    used = ratio[(ratio > BLENDED) & (ratio < BLENDED + BRIGHTER)] - BLENDED
    if len(used) < FEW:
        return USUAL_SLOPE
    mean = float(np.mean(used))

    def misses(slope: float) -> float:
        # mean of an exponential distribution that is cut off
        return float(1 / slope - BRIGHTER / np.expm1(slope * BRIGHTER) - mean)

    low, high = SLOPES
    if misses(low) < 0:
        return low
    if misses(high) > 0:
        return high
    return float(scipy.optimize.brentq(misses, low, high))

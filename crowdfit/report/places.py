"""Places of the field that deserve a close look: the densest, the brightest, the worst fitted."""

from dataclasses import dataclass

import numpy as np

from crowdfit.exposure import Image
from crowdfit.report import canvas, pixels
from crowdfit.sources import Sources

LARGE = 5.0
"""A residual counts as large above this significance (sigma)."""

Box = tuple[slice, slice]
"""Rows and columns."""


@dataclass(frozen=True)
class Place:
    """A box worth a close look: its centre (pix) and why it was chosen."""

    x: float
    y: float
    why: str


def places(sources: Sources, left: Image, side: float, n: int = 2) -> list[Place]:
    """Return up to `n` each of the densest, brightest and worst fitted places, no two of them overlapping.

    Parameters
    ----------
    sources : Sources
    left : ndarray (ny, nx) float32
        PSF-matched significance of the residual, 0 where not usable (sigma).
    side : float
        Side of a box (pix).
    n : int
        How many of each kind.
    """
    shape = left.shape
    inside = (
        (sources.x > -0.5) & (sources.x < shape[1] - 0.5) & (sources.y > -0.5) & (sources.y < shape[0] - 0.5)
    )
    stars = sources.take(inside & np.isfinite(sources.flux))
    bright = np.argsort(-stars.flux, kind="stable")[: 50 * n]
    brightest = [
        Place(stars.x[i], stars.y[i], f"bright star, flux {canvas.number(float(f'{stars.flux[i]:.3g}'))}")
        for i in bright
    ]
    chosen = _apart(brightest, [], side, n)
    chosen = _apart(_dense(stars, shape, side), chosen, side, n) + chosen
    return chosen + _apart(_worst(left, side), chosen, side, n)


def _worst(left: Image, side: float) -> list[Place]:
    """Return the places where the significance of the residual is beyond the scale, worst first."""
    cell = max(int(side / 2), 1)
    extreme = np.abs(pixels.block_extreme(left, np.ones(left.shape, bool), cell))
    found = []
    for r, c in zip(
        *np.unravel_index(np.argsort(-extreme, axis=None, kind="stable")[:50], extreme.shape), strict=True
    ):
        box = np.abs(left[r * cell : (r + 1) * cell, c * cell : (c + 1) * cell])
        row, column = np.unravel_index(np.argmax(box), box.shape)
        y, x = int(r * cell + row), int(c * cell + column)
        if extreme[r, c] > LARGE:
            found.append(
                Place(x, y, f"large residual, significance {canvas.number(round(float(left[y, x])))}")
            )
    return found


def _dense(stars: Sources, shape: tuple[int, ...], side: float) -> list[Place]:
    """Return the boxes of a grid that hold more than one star, fullest first."""
    if len(stars) < 2:
        return []
    edges = [np.arange(0, max(length - side / 2, side), side) - 0.5 for length in shape]
    count, _, _ = np.histogram2d(stars.y, stars.x, [np.append(edge, edge[-1] + side) for edge in edges])
    order = np.argsort(-count, axis=None, kind="stable")[:200]
    rows, columns = np.unravel_index(order, count.shape)
    return [
        Place(edges[1][c] + side / 2, edges[0][r] + side / 2, f"dense place, {int(count[r, c])} sources")
        for r, c in zip(rows, columns, strict=True)
        if count[r, c] > 1
    ]


def _apart(candidates: list[Place], taken: list[Place], side: float, n: int) -> list[Place]:
    """Return the first `n` candidates that overlap neither each other nor those taken."""
    chosen: list[Place] = []
    for place in candidates:
        if len(chosen) == n:
            break
        if all(max(abs(place.x - other.x), abs(place.y - other.y)) >= side for other in (*taken, *chosen)):
            chosen.append(place)
    return chosen


def box_around(place: Place, side: float, shape: tuple[int, int]) -> Box:
    """Return the rows and columns of a box of `side` pixels, moved inside the image."""
    cuts = []
    for centre, length in zip((place.y, place.x), shape, strict=True):
        size = min(round(side), length)
        start = int(np.clip(round(centre - (size - 1) / 2), 0, length - size))
        cuts.append(slice(start, start + size))
    return cuts[0], cuts[1]

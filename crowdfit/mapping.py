"""Where a star of the common list lies on an exposure: from the pixels of the reference to those of the exposure.

The way over the sky, by two WCS, is tabulated once: an affine map and a spline of what departs from it. On top of it
lies a correction that the stars themselves ask for: a polynomial of the reference position.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.world import pixel_to_sky, sky_to_pixel

__all__ = ["TERMS", "Box", "Mapping", "Places", "between", "polynomial"]

F64 = NDArray[np.float64]

TERMS = {"none": 0, "shift": 1, "affine": 3, "quadratic": 6}
"""Number of terms of a correction, by name."""
ACCURACY = 1e-3
"""Largest error of the table between its nodes (pix)."""
NEWTON = 4
"""Steps to the inverse of a mapping that is nearly affine; each squares the error."""
NODES, MOST_NODES = 9, 129
"""Nodes of the table along an axis: tried first, and at most."""


class Box(NamedTuple):
    """A rectangle on the reference grid: centres of its first and last pixels (pix)."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: "Box") -> bool:
        """Return whether the two share more than an edge."""
        in_x = max(self.x0, other.x0) < min(self.x1, other.x1)
        return in_x and max(self.y0, other.y0) < min(self.y1, other.y1)

    def joined(self, other: "Box") -> "Box":
        """Return the smallest box that holds both."""
        return Box(
            min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1)
        )


class Places(NamedTuple):
    """Column and row on an exposure, (n,) float64 (pix)."""

    x: F64
    y: F64


@dataclass(frozen=True, eq=False)
class Mapping:
    """From reference pixels (X, Y) to the pixels (x, y) of an exposure.

    Parameters
    ----------
    box : Box
        Where on the reference grid the exposure lies.
    affine : ndarray (3, 2) float64
        Constant and factors of X and Y, for x and y.
    tables : tuple of two splines, or None
        What x and y depart from the affine map by; None: by nothing.
    terms : ndarray (6, 2) float64
        Correction of x and y (pix): factors of 1, u, v, u^2, u v, v^2, where (u, v) run from -1 to 1 over the longer
        side of the box.
    """

    box: Box
    affine: F64
    tables: tuple[Any, Any] | None
    terms: F64

    @classmethod
    def identity(cls, shape: tuple[int, int]) -> "Mapping":
        """Return the mapping of an exposure of `shape` (ny, nx) whose pixels are those of the reference."""
        ny, nx = shape
        affine = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        return cls(Box(0.0, 0.0, nx - 1.0, ny - 1.0), affine, None, np.zeros((6, 2)))

    def __call__(self, x: F64, y: F64) -> Places:
        """Return the places of reference positions (n,) on the exposure."""
        base = np.column_stack([np.ones(len(x)), x, y]) @ self.affine
        if self.tables is not None:
            at = self._inside(x, y)
            base += np.column_stack([table.ev(*at) for table in self.tables])
        base += polynomial(*self.unit(x, y)) @ self.terms
        return Places(base[:, 0].copy(), base[:, 1].copy())

    def jacobian(self, x: F64, y: F64) -> F64:
        """Return d(x, y) / d(X, Y) at reference positions, (n, 2, 2), the first index that of the exposure."""
        out = np.empty((len(x), 2, 2))
        out[:] = self.affine[1:].T
        if self.tables is not None:
            at = self._inside(x, y)
            for axis, table in enumerate(self.tables):
                out[:, axis, 0] += table.ev(*at, dx=1)
                out[:, axis, 1] += table.ev(*at, dy=1)
        u, v = self.unit(x, y)
        one, none = np.ones(len(x)), np.zeros(len(x))
        for axis, slope in enumerate(
            (
                np.column_stack([none, one, none, 2 * u, v, none]),
                np.column_stack([none, none, one, none, u, 2 * v]),
            )
        ):
            out[:, :, axis] += slope @ self.terms / self.scale
        return out

    def inverse(self, x: F64, y: F64) -> Places:
        """Return the reference positions of places (n,) on the exposure."""
        matrix = np.linalg.inv(self.affine[1:])
        found = (np.column_stack([x, y]) - self.affine[0]) @ matrix
        for _ in range(NEWTON):
            there = self(found[:, 0], found[:, 1])
            left = np.column_stack([x - there.x, y - there.y])
            found = (
                found + np.linalg.solve(self.jacobian(found[:, 0], found[:, 1]), left[:, :, None])[:, :, 0]
            )
        return Places(found[:, 0].copy(), found[:, 1].copy())

    @property
    def scale(self) -> float:
        """Reference pixels for one unit of (u, v)."""
        return max(self.box.x1 - self.box.x0, self.box.y1 - self.box.y0, 1.0) / 2

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box (pix)."""
        return (self.box.x0 + self.box.x1) / 2, (self.box.y0 + self.box.y1) / 2

    def unit(self, x: F64, y: F64) -> tuple[F64, F64]:
        """Return reference positions as (u, v), within two units of the middle."""
        (cx, cy), scale = self.centre, self.scale
        return np.clip((x - cx) / scale, -2, 2), np.clip((y - cy) / scale, -2, 2)

    def corrected(self, terms: F64) -> "Mapping":
        """Return the mapping with `terms` (6, 2) added to its correction."""
        return replace(self, terms=self.terms + terms)

    def _inside(self, x: F64, y: F64) -> tuple[F64, F64]:
        """Return positions, those beyond the box moved to its edge: splines do not go on."""
        return np.clip(x, self.box.x0, self.box.x1), np.clip(y, self.box.y0, self.box.y1)


def polynomial(u: F64, v: F64) -> F64:
    """Return 1, u, v, u^2, u v, v^2 at positions (n,), shape (n, 6)."""
    return np.column_stack([np.ones(len(u)), u, v, u * u, u * v, v * v])


def between(reference: Any, wcs: Any, shape: tuple[int, int], name: str) -> Mapping:
    """Return the mapping from the pixels of a WCS to those of an exposure, over the sky.

    Parameters
    ----------
    reference, wcs : WCS
        Of the reference grid and of the exposure.
    shape : (ny, nx)
        Size of the exposure.
    name : str
        Of the exposure, for messages.

    Raises
    ------
    InputError
        The exposure lies where the reference has no pixel coordinates, or the two cannot be tied to `ACCURACY`.
    """
    ny, nx = shape
    edge = np.linspace(-0.5, 0.5, 17)
    x = np.concatenate([edge, edge, np.full(17, -0.5), np.full(17, 0.5)]) * nx + (nx - 1) / 2
    y = np.concatenate([np.full(17, -0.5), np.full(17, 0.5), edge, edge]) * ny + (ny - 1) / 2
    corners = _over_the_sky(wcs, reference, x, y, name)
    box = Box(*(float(v) for v in (corners.x.min(), corners.y.min(), corners.x.max(), corners.y.max())))
    number = NODES
    while True:
        mapping = _tabulated(reference, wcs, box, number, name)
        middle_x, middle_y = _grid(box, 2 * number - 1)
        there = _over_the_sky(reference, wcs, middle_x, middle_y, name)
        found = mapping(middle_x, middle_y)
        off = float(np.max(np.hypot(found.x - there.x, found.y - there.y)))
        if off < ACCURACY:
            return mapping
        if number >= MOST_NODES:
            raise InputError(
                f"{name}: its WCS and that of the first exposure cannot be tied to {ACCURACY} pix (off by {off:.2g}); "
                "check the distortion tables of both headers"
            )
        number = 2 * number - 1


def _tabulated(reference: Any, wcs: Any, box: Box, number: int, name: str) -> Mapping:
    """Return the mapping by way of `number` x `number` nodes on the box."""
    from scipy.interpolate import RectBivariateSpline  # noqa: PLC0415 - slow to import

    x, y = _grid(box, number)
    there = np.column_stack(_over_the_sky(reference, wcs, x, y, name))
    design = np.column_stack([np.ones(len(x)), x, y])
    affine = np.linalg.lstsq(design, there, rcond=None)[0]
    left = (there - design @ affine).reshape(number, number, 2)
    axes = np.linspace(box.x0, box.x1, number), np.linspace(box.y0, box.y1, number)
    tables = tuple(RectBivariateSpline(*axes, left[:, :, axis], s=0) for axis in range(2))
    return Mapping(box, np.asarray(affine, np.float64), (tables[0], tables[1]), np.zeros((6, 2)))


def _grid(box: Box, number: int) -> tuple[F64, F64]:
    """Return the X and Y of number^2 nodes on a box, X the slower."""
    x, y = np.meshgrid(
        np.linspace(box.x0, box.x1, number), np.linspace(box.y0, box.y1, number), indexing="ij"
    )
    return x.ravel(), y.ravel()


def _over_the_sky(first: Any, second: Any, x: F64, y: F64, name: str) -> Places:
    """Return where pixels of the first WCS lie on the second."""
    try:
        sky = pixel_to_sky(first, x, y)
        there = sky_to_pixel(second, sky.ra, sky.dec)
    except (ValueError, RuntimeError) as problem:  # astropy's NoConvergence is a RuntimeError or a ValueError
        raise InputError(
            f"{name}: its WCS and that of the first exposure do not lead to each other ({problem}); do "
            "both show the same part of the sky?"
        ) from problem
    if not np.isfinite(np.column_stack(there)).all():
        raise InputError(
            f"{name}: lies where the first exposure has no pixel coordinates; fit it on its own, or give the exposures "
            "of one part of the sky"
        )
    return Places(there.x, there.y)

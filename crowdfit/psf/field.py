"""How a PSF varies over the field: the weights of its planes at every position.

Each form has the same three things: `basis`, `middle` and `places`. Kernels see the weights only, and leave out
planes whose weight is exactly 0.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crowdfit.errors import InputError

F64 = NDArray[np.float64]

PLACES = 5
"""So many places per axis stand for the field of a polynomial."""


@dataclass(frozen=True)
class Constant:
    """The same PSF everywhere: one plane."""

    @property
    def n_basis(self) -> int:
        """Number of planes."""
        return 1

    @property
    def middle(self) -> tuple[float, float]:
        """A position (x, y) for which the whole field may stand (pix)."""
        return 0.0, 0.0

    @property
    def places(self) -> F64:
        """Positions (x, y) between which the PSF departs from no mixture of those there, (m, 2) (pix)."""
        return np.zeros((1, 2))

    def shifted(self, x: float, y: float) -> "Constant":
        """Return the field whose positions are larger by (x, y): the same."""
        return self

    def nodes(self, shape: tuple[int, int]) -> tuple[F64, F64]:
        """Return columns and rows between which the PSF is linear on an image (ny, nx): one of each is enough."""
        return np.zeros(1), np.zeros(1)

    def basis(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return the weights at positions (x, y), all 1, (n, 1)."""
        return np.ones((len(_columns(x, y)[0]), 1))


@dataclass(frozen=True)
class Polynomial:
    """Planes are the coefficients of a polynomial: 1, u, v, u^2, uv, v^2, ... of u = (x - x0) / sx and v alike.

    Parameters
    ----------
    order : int
        Total degree.
    origin : tuple of float
        Field position (x0, y0) of the constant term, in the middle of the field (pix).
    scale : tuple of float
        Unit lengths (sx, sy): half the width and half the height of the field (pix).

    Raises
    ------
    InputError
        A negative degree, or a scale that is not positive.
    """

    order: int
    origin: tuple[float, float]
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        """Refuse what is no polynomial."""
        if self.order < 0:
            raise InputError(f"psf.field: order {self.order} is refused; it must be 0 or more")
        if not (min(self.scale) > 0 and np.isfinite([*self.origin, *self.scale]).all()):
            raise InputError(
                f"psf.field: origin {self.origin} and scale {self.scale} are refused; they must be finite, and the "
                "scale positive: half the width and half the height of the field in pixels"
            )

    @property
    def n_basis(self) -> int:
        """Number of planes."""
        return (self.order + 1) * (self.order + 2) // 2

    @property
    def middle(self) -> tuple[float, float]:
        """The middle of the field (x, y) (pix)."""
        return self.origin

    @property
    def places(self) -> F64:
        """Positions (x, y) all over the field, (m, 2) (pix)."""
        u, v = np.meshgrid(*2 * [np.linspace(-1, 1, max(PLACES, 2 * self.order + 1))])
        return np.column_stack([u.ravel(), v.ravel()]) * self.scale + self.origin

    def shifted(self, x: float, y: float) -> "Polynomial":
        """Return the field whose positions are larger by (x, y)."""
        return Polynomial(self.order, (self.origin[0] + x, self.origin[1] + y), self.scale)

    def nodes(self, shape: tuple[int, int]) -> tuple[F64, F64]:
        """Return columns and rows between which the PSF is nearly linear on an image (ny, nx), its edges included."""
        n = self.order**2 + 1
        return np.linspace(0, max(shape[1] - 1, 1), n + 1), np.linspace(0, max(shape[0] - 1, 1), n + 1)

    def basis(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return the terms at positions (x, y), (n, n_basis)."""
        x, y = _columns(x, y)
        u, v = (x - self.origin[0]) / self.scale[0], (y - self.origin[1]) / self.scale[1]
        terms = [u ** (n - j) * v**j for n in range(self.order + 1) for j in range(n + 1)]
        return np.ascontiguousarray(np.stack(terms, axis=1), np.float64)


@dataclass(frozen=True)
class Grid:
    """Planes are PSFs at the nodes of a rectangular grid: bilinear between them, constant beyond its edges.

    Parameters
    ----------
    x_nodes, y_nodes : tuple of float
        Columns and rows of the nodes (pix), increasing. Planes are ordered row by row: x varies fastest.

    Raises
    ------
    InputError
        No nodes along an axis, or nodes that do not increase.
    """

    x_nodes: tuple[float, ...]
    y_nodes: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no grid."""
        for name, nodes in (("x_nodes", self.x_nodes), ("y_nodes", self.y_nodes)):
            if not (nodes and np.isfinite(nodes).all() and np.all(np.diff(nodes) > 0)):
                raise InputError(
                    f"psf.field: {name} {nodes} is refused; give one or more positions that increase"
                )

    @property
    def n_basis(self) -> int:
        """Number of planes."""
        return len(self.x_nodes) * len(self.y_nodes)

    @cached_property
    def middle(self) -> tuple[float, float]:
        """The middle of the field (x, y) (pix)."""
        x, y = self.x_nodes, self.y_nodes
        return (x[0] + x[-1]) / 2, (y[0] + y[-1]) / 2

    @cached_property
    def places(self) -> F64:
        """The nodes (x, y) in the order of the planes, (n_basis, 2) (pix)."""
        x, y = np.meshgrid(self.x_nodes, self.y_nodes)
        return np.column_stack([x.ravel(), y.ravel()])

    def shifted(self, x: float, y: float) -> "Grid":
        """Return the field whose positions are larger by (x, y)."""
        return Grid(tuple(node + x for node in self.x_nodes), tuple(node + y for node in self.y_nodes))

    def nodes(self, shape: tuple[int, int]) -> tuple[F64, F64]:
        """Return columns and rows between which the PSF is bilinear on an image (ny, nx), its edges included."""
        return _between(self.x_nodes, shape[1]), _between(self.y_nodes, shape[0])

    def basis(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return the bilinear weights at positions (x, y), (n, n_basis); all but four are exactly 0."""
        x, y = _columns(x, y)
        rows, cols = _hats(self.y_nodes, y), _hats(self.x_nodes, x)
        return np.ascontiguousarray(
            (rows[:, :, np.newaxis] * cols[:, np.newaxis]).reshape(len(x), self.n_basis)
        )


Field = Constant | Polynomial | Grid
_FORMS: dict[str, type[Field]] = {"constant": Constant, "polynomial": Polynomial, "grid": Grid}


def as_values(field: Field) -> dict[str, Any]:
    """Return a form as plain values by name, of which `from_values` makes it again; `form` tells which it is."""
    form = next(name for name, kind in _FORMS.items() if isinstance(field, kind))
    return {"form": form} | {name: _listed(value) for name, value in asdict(field).items()}


def from_values(values: Mapping[str, Any]) -> Field:
    """Return the form that `as_values` has taken apart.

    Raises
    ------
    KeyError, TypeError
        The values are those of no form.
    """
    others = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name != "form"}
    form: Any = _FORMS[values["form"]]
    made: Field = form(**others)
    return made


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _columns(x: ArrayLike, y: ArrayLike) -> tuple[F64, F64]:
    """Return positions as arrays (n,)."""
    return np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))


def _between(nodes: tuple[float, ...], n: int) -> F64:
    """Return the nodes that lie on an axis of n pixels, and its ends."""
    end = max(n - 1, 1)
    inside = [node for node in nodes if 0 < node < end]
    return np.array([0.0, *inside, end])


def _hats(nodes: tuple[float, ...], at: F64) -> F64:
    """Return the weights of linear interpolation between nodes, (n, len(nodes)); the last one holds beyond the ends."""
    weights = np.zeros((len(at), len(nodes)))
    if len(nodes) == 1:
        weights[:] = 1
        return weights
    knots = np.array(nodes)
    left = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(nodes) - 2)
    share = np.clip((at - knots[left]) / (knots[left + 1] - knots[left]), 0, 1)
    star = np.arange(len(at))
    weights[star, left] = 1 - share
    weights[star, left + 1] = share
    return weights

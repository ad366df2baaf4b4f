"""How the PSF of an image changes over its field, from the stars of the image itself.

What stars of one part of the field have more or less of than a PSF that is known, the mean PSF of the image
(`crowdfit.psf.empirical`) or that of a library, is one linear equation per pixel again, in planes of B-spline
coefficients that functions of the position mix:

    resid + flux (P_old - P_known) = flux sum_k b_k(x, y) t_k

The b_k are polynomials, or bilinear between the nodes of a grid. Normal equations are summed by cells of the field,
over each of which b_k is taken as constant. How far the variation goes is decided by stars that took no part: each half
of the stars is foretold from the other half, and without a gain the PSF stays as it is known. Planes carry no flux and
do not move the centre, so that fluxes and positions mean the same everywhere (P036).

A wing is faint, and conjugate gradients come to it last: what is smooth over radius and angle is solved for directly,
and they add what is not.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate

from crowdfit.psf.departures import BENDING, departure_shape, spline_samples, stencil_products
from crowdfit.psf.empirical import StarPixels, sampling
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Constant, Field, Grid, Polynomial

F64 = NDArray[np.float64]

REACH = 5.0
"""Half width of the planes (FWHM); farther out a wing of the known PSF is good enough."""
CELLS, STARS_PER_CELL = 4, 8
"""Most cells per axis, and how many stars a cell should have at least."""
WIDTH = 3.0
"""Prior width of the planes, over the local height of the known PSF."""
GAIN = 25.0
"""Least gain in chi^2 of the stars that took no part, for every further degree."""
RINGS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
"""Radii between which smooth planes are linear, in units of the prior width (FWHM)."""
ITERATIONS = 15
"""Most steps of conjugate gradients; what they have not reached then, noise would have reached first."""
FIRST_LOOK = 4
"""After so many steps the core of a variation is there: without a gain by then it is not looked at further."""


@dataclass(frozen=True, eq=False)
class Prior:
    """What is likely of a plane before any star is looked at, in units in which every coefficient is of order one.

    Parameters
    ----------
    width : ndarray (g, g)
        Unit of the coefficients.
    modes : ndarray (m, g, g)
        Shapes that are smooth over radius and angle, in that unit.
    """

    width: F64
    modes: F64

    @classmethod
    def of(cls, known: EPSF, half: int, knots: int, reach: float) -> "Prior":
        """Return the prior of planes of `half` knots to either side, `knots` a pixel, within `reach` (pix)."""
        psf = known.middle
        width = WIDTH * departure_shape(psf.cube[0], psf.oversample, half, knots, reach)
        at = np.arange(-half, half + 1) / (knots * psf.fwhm)
        radius, angle = np.hypot(at[:, np.newaxis], at), np.arctan2(at[:, np.newaxis], at)
        hats = [np.interp(radius, RINGS, row) for row in np.eye(len(RINGS))[:-1]]
        waves = [np.ones_like(radius)]
        for m in (1, 2):
            # smooth at the centre, where an angle means nothing
            waves += [np.minimum(2 * radius, 1) ** m * wave(m * angle) for wave in (np.cos, np.sin)]
        return cls(width, np.array([hat * wave for hat in hats for wave in waves]))

    def precision(self, planes: F64) -> F64:
        """Return the product of planes (k, g, g) with the prior precision: 1 plus that of bending."""
        return np.asarray(planes + np.array([correlate(plane, BENDING, mode="constant") for plane in planes]))

    @cached_property
    def of_modes(self) -> F64:
        """The prior precision of the modes, (m, m)."""
        m = len(self.modes)
        return np.asarray(self.modes.reshape(m, -1) @ self.precision(self.modes).reshape(m, -1).T)


@dataclass(frozen=True, eq=False)
class CellEquations:
    """Normal equations of what stands out of the known PSF, by cell of the field, without a constant of each cell.

    Parameters
    ----------
    matrices : ndarray (c, g, g, 7, 7)
        Coefficients with coefficients, as stencils.
    right, border : ndarray (c, g, g)
        Coefficients with the right side and with the constant.
    weight : ndarray (c,)
        The constant with itself.
    prior : Prior
        Of the planes.
    """

    matrices: F64
    right: F64
    border: F64
    weight: F64
    prior: Prior

    def plus(self, other: "CellEquations") -> "CellEquations":
        """Return the equations of both sets of stars, each with constants of its own."""
        return CellEquations(
            self.matrices + other.matrices,
            self.right + other.right,
            self.border + other.border,
            self.weight + other.weight,
            self.prior,
        )

    def product(self, coefs: F64) -> F64:
        """Return what the equations make of one table of coefficients for each cell (c, g, g)."""
        along = np.einsum("cij,cij->c", self.border, coefs) / np.maximum(self.weight, 1e-300)
        return np.asarray(
            stencil_products(self.matrices, coefs) - self.border * along[:, np.newaxis, np.newaxis]
        )

    def gain(self, coefs: F64) -> float:
        """Return by how much the coefficients (c, g, g) lower chi^2."""
        return float(np.sum(coefs * (2 * self.right - self.product(coefs))))

    @cached_property
    def of_modes(self) -> tuple[F64, F64]:
        """The equations of the modes of the prior, (c, m, m), and their right sides, (c, m)."""
        tables = self.prior.width * self.prior.modes
        n, m = len(self.weight), len(tables)
        flat = tables.reshape(m, -1)
        products = [self.product(np.broadcast_to(t, (n, *t.shape))).reshape(n, -1) for t in tables]
        return np.einsum("mcp,np->cmn", products, flat, optimize=True), self.right.reshape(n, -1) @ flat.T

    def smooth_planes(self, terms: F64, between: F64) -> F64:
        """Return the planes (k, g, g) made of modes of the prior that explain the cells best, in units of its width."""
        own, right = self.of_modes
        m, k = right.shape[1], terms.shape[1]
        normal = np.einsum("ck,cl,cij->kilj", terms, terms, own, optimize=True).reshape(k * m, k * m)
        normal += np.kron(between, self.prior.of_modes)
        found = np.linalg.solve(normal, (terms.T @ right).ravel())
        return np.asarray(np.tensordot(found.reshape(k, m), self.prior.modes, 1))

    def planes(self, terms: F64, between: F64, iterations: int, *, start: F64 | None = None) -> F64:
        """Return the planes (k, g, g) that explain the cells best.

        Parameters
        ----------
        terms : ndarray (c, k)
            Weights of the planes at the cells.
        between : ndarray (k, k)
            Prior precision of the planes with one another.
        iterations : int
            Most steps of conjugate gradients in units of the prior width (Hestenes & Stiefel 1952).
        start : ndarray (k, g, g), optional
            Where they start from, in those units; 0 if not given.
        """
        width = self.prior.width

        def apply(z: F64) -> F64:
            by_cell = np.tensordot(terms, width * z, 1)
            data = width * np.tensordot(terms.T, self.product(by_cell), 1)
            return np.asarray(data + np.tensordot(between, self.prior.precision(z), 1))

        left = width * np.tensordot(terms.T, self.right, 1)
        enough = 1e-6 * float(np.sum(left**2))
        if start is None:
            z = np.zeros(left.shape)
        else:
            z = start.copy()
            left -= apply(z)
        step, size = left.copy(), float(np.sum(left**2))
        for _ in range(iterations):
            if size <= enough:
                break
            applied = apply(step)
            length = size / float(np.sum(step * applied))
            z += length * step
            left -= length * applied
            before, size = size, float(np.sum(left**2))
            step = left + size / before * step
        return np.asarray(width * z)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A form of the PSF over the field that is tried, and how planes of departures enter it.

    Parameters
    ----------
    field : Constant, Polynomial or Grid
        The form.
    spread : ndarray (n_basis, k)
        What each of k planes adds to those of the form.
    between : ndarray (k, k)
        Prior precision of the planes with one another.
    """

    field: Field
    spread: F64
    between: F64

    def terms(self, x: F64, y: F64) -> F64:
        """Return the weights of the planes of departures at positions, (n, k)."""
        return np.asarray(self.field.basis(x, y) @ self.spread)


def variations(
    kind: Literal["polynomial", "grid"], shape: tuple[int, ...], max_order: int
) -> list[Candidate]:
    """Return the forms in which a mean PSF may vary over an image (ny, nx), simple ones first.

    Polynomials of degree 1 to `max_order`, or grids of 2 to ``max_order + 1`` nodes along each axis.
    """
    found = []
    for order in range(1, max_order + 1):
        if kind == "polynomial":
            form = polynomial(order, shape)
            found.append(Candidate(form, np.eye(form.n_basis)[:, 1:], np.eye(form.n_basis - 1)))
        else:
            found.append(_grid(order + 1, shape))
    return found


def _grid(n: int, shape: tuple[int, ...]) -> Candidate:
    """Return the form of n x n nodes, whose departures are 0 on average, and alike where nodes are neighbours."""
    grid = Grid(*(tuple(np.linspace(0, size - 1, n).tolist()) for size in (shape[1], shape[0])))
    steps = np.diff(np.eye(n), axis=0)
    along = steps.T @ steps
    between = np.eye(n * n) + np.kron(along, np.eye(n)) + np.kron(np.eye(n), along)
    _, vectors = np.linalg.eigh(between)
    spread = vectors[:, 1:]  # all but the mean, which has no steps
    return Candidate(grid, spread, spread.T @ between @ spread)


def corrections(library: EPSF, shape: tuple[int, ...], max_order: int) -> list[Candidate]:
    """Return the forms of a correction to a PSF on an image (ny, nx): the same everywhere, then of every degree.

    The variation that the PSF has stays, and its form where it is a grid: the correction is then bilinear between the
    nodes.
    """
    found = []
    for order in range(max_order + 1):
        n = (order + 1) * (order + 2) // 2
        if isinstance(library.field, Grid):
            spread = polynomial(order, shape).basis(*library.field.places.T)
            found.append(Candidate(library.field, spread, np.eye(n)))
        else:
            widest = max(order, degree(library))
            form = polynomial(widest, shape) if widest else Constant()
            found.append(Candidate(form, np.eye(form.n_basis)[:, :n], np.eye(n)))
    return found


def fit_variation(stars: StarPixels, old: EPSF, known: EPSF, reach: F64, candidates: list[Candidate]) -> EPSF:
    """Return a known PSF with the departures from it that the stars bear out, in the best of some forms.

    Parameters
    ----------
    stars : StarPixels
        Stars and residual of the image.
    old : EPSF
        PSF with which the residual was made, sampled like `known`.
    known : EPSF
        The new mean of the PSF, or that of a library.
    reach : ndarray (n,) float64
        How far out each star's pixels are used (pix).
    candidates : list of Candidate
        Simple ones first; each must gain on the one before.

    Returns
    -------
    EPSF
        `known` itself when there are too few stars, or nothing is gained.
    """
    n_cells = min(CELLS, int(np.sqrt(len(stars.x) / STARS_PER_CELL)))
    # one cell shows what is the same everywhere
    candidates = [c for c in candidates if c.spread.shape[1] <= max(n_cells, 1) ** 2]
    if not candidates or len(stars.x) < STARS_PER_CELL:
        return known
    fwhm = known.fwhm
    knots = max(sampling(fwhm) // 2, 1)
    reach = np.minimum(reach, min(REACH * fwhm, known.radius))
    half = int(np.ceil(reach.max())) * knots + 3
    prior = Prior.of(known, half, knots, float(reach.max()))
    cell, u, v = cells_of(stars, max(n_cells, 1), float(known.middle.cube.max()))
    halves = equations_of(stars, old, known, prior, knots, reach, cell, len(u))
    best, most = None, 0.0
    for candidate in candidates:
        terms, between = candidate.terms(u, v), candidate.between
        if foretold(halves, [half.planes(terms, between, FIRST_LOOK) for half in halves], terms) <= 0:
            continue
        gain = foretold(halves, [best_planes(half, terms, between) for half in halves], terms)
        if gain > most + GAIN:
            best, most = candidate, gain
    if best is None:
        return known
    planes = best_planes(halves[0].plus(halves[1]), best.terms(u, v), best.between)
    s, side, middle = known.oversample, known.cube.shape[1] // 2, known.middle
    drawn = np.array([neutral(spline_samples(plane, knots, s, side), middle) for plane in planes])
    return EPSF(in_form(known, best.field).cube + np.tensordot(best.spread, drawn, 1), s, best.field)


def best_planes(equations: CellEquations, terms: F64, between: F64) -> F64:
    """Return the planes (k, g, g) that explain the cells best: what is smooth, then what is not."""
    start = equations.smooth_planes(terms, between)
    return equations.planes(terms, between, ITERATIONS, start=start)


def foretold(halves: list[CellEquations], planes: list[F64], terms: F64) -> float:
    """Return by how much planes fitted to each half of the stars lower chi^2 of the other half."""
    return sum(halves[1 - k].gain(np.tensordot(terms, planes[k], 1)) for k in (0, 1))


def polynomial(order: int, shape: tuple[int, ...]) -> Polynomial:
    """Return the form of a PSF on an image (ny, nx): terms from -1 to 1 over the image."""
    ny, nx = shape
    middle = ((nx - 1) / 2, (ny - 1) / 2)
    return Polynomial(order, middle, (nx / 2, ny / 2))


def on_image(psf: EPSF, shape: tuple[int, int]) -> EPSF:
    """Return the same PSF with the terms of a polynomial, or the nodes of a grid, that belong to an image (ny, nx)."""
    if isinstance(psf.field, Constant):
        return psf
    if isinstance(psf.field, Polynomial):
        return in_form(psf, polynomial(psf.field.order, shape))
    return in_form(psf, Grid(*(tuple(nodes.tolist()) for nodes in psf.field.nodes(shape))))


def in_form(psf: EPSF, field: Field) -> EPSF:
    """Return a PSF in another form: the same PSF where that form can hold it, else the closest."""
    if psf.field == field:
        return psf
    places = field.places.T
    # what is 0 in truth must be 0, since such planes are left out of every star
    mixing = np.round(np.linalg.pinv(field.basis(*places)) @ psf.basis(*places), 12)
    return EPSF(np.tensordot(mixing, psf.cube, 1), psf.oversample, field)


def richer(a: EPSF, b: EPSF) -> Field:
    """Return the form of the one with more planes."""
    return a.field if len(a.cube) > len(b.cube) else b.field


def common_plane(psf: EPSF) -> EPSF:
    """Return what the PSF is everywhere: the constant term of a polynomial, the mean of the nodes of a grid."""
    table = psf.cube.mean(axis=0) if isinstance(psf.field, Grid) else psf.cube[0]
    return EPSF(table[np.newaxis], psf.oversample)


def cells_of(stars: StarPixels, n: int, peak: float) -> tuple[NDArray[np.int64], F64, F64]:
    """Return the cell of each star on a grid of n x n, and the place (x, y) that stands for each cell (n^2,).

    The mean of its stars, by what their cores weigh in the equations; `peak` is the highest value of the PSF.
    """
    ny, nx = stars.resid.shape
    col = np.clip(stars.x / nx * n, 0, n - 1).astype(np.int64)
    row = np.clip(stars.y / ny * n, 0, n - 1).astype(np.int64)
    ivar = float(np.median(stars.ivar[stars.ivar > 0]))
    cell, weight = row * n + col, 1 / (1 / (ivar * stars.flux**2) + (stars.error * peak) ** 2)
    total = np.maximum(np.bincount(cell, weight, n * n), 1e-300)
    x, y = (np.bincount(cell, weight * at, n * n) / total for at in (stars.x, stars.y))
    return cell, x, y


def equations_of(  # noqa: PLR0913, PLR0917 - what the equations are made of
    stars: StarPixels,
    old: EPSF,
    known: EPSF,
    prior: Prior,
    knots: int,
    reach: F64,
    cell: NDArray[np.int64],
    n_cells: int,
) -> list[CellEquations]:
    """Return the equations of each half of the stars."""
    form = richer(old, known)
    old, known = in_form(old, form), in_form(known, form)
    parts, half = 2 * n_cells, len(prior.width) // 2
    part = 2 * cell + np.arange(len(cell)) % 2
    every = stars.table_equations(old, old.with_cube(old.cube - known.cube), half, knots, reach, part, parts)
    data, border = np.moveaxis(every.vectors, 1, 0)
    common = every.sums[:, 0] / np.maximum(every.sums[:, 1], 1e-300)
    right = data - border * common[:, np.newaxis, np.newaxis]

    def of(k: int) -> CellEquations:
        some = [np.ascontiguousarray(part[k::2]) for part in (every.matrices, right, border)]
        return CellEquations(some[0], some[1], some[2], every.sums[k::2, 1], prior)

    return [of(0), of(1)]


def neutral(plane: F64, mean: EPSF) -> F64:
    """Return a plane (side, side) without flux, at each phase, and without a shift of the centre.

    What changes flux or position of a star belongs to the star.
    """
    s, base, out = mean.oversample, mean.cube[0], plane.copy()
    grid = np.arange(-(len(base) // 2), len(base) // 2 + 1) / s
    window = np.exp(-0.5 * (grid[:, np.newaxis] ** 2 + grid**2) / (mean.fwhm / 2.3548) ** 2)
    slopes = np.gradient(base, 1 / s)
    moments = [window * grid[:, np.newaxis], window * grid]
    response = np.array([[np.sum(m * slope) for slope in slopes] for m in moments])
    for _ in range(3):
        shift = np.linalg.solve(response, [np.sum(m * out) for m in moments])
        out -= shift[0] * slopes[0] + shift[1] * slopes[1]
        for a in range(s):
            for b in range(s):
                out[a::s, b::s] -= base[a::s, b::s] * (out[a::s, b::s].sum() / base[a::s, b::s].sum())
    return out


def degree(psf: EPSF) -> int:
    """Return the degree of a constant or polynomial PSF; -1 for another form."""
    if isinstance(psf.field, Polynomial):
        return psf.field.order
    return 0 if isinstance(psf.field, Constant) else -1


def mixed(old: EPSF, new: EPSF, share: float) -> EPSF:
    """Return the PSF a share of the way from one to another, in the form of the one with more planes."""
    form = richer(old, new)
    old, new = in_form(old, form), in_form(new, form)
    return new.with_cube((1 - share) * old.cube + share * new.cube)

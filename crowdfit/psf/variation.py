"""How the PSF of an image changes over its field, from the stars of the image itself.

The mean PSF is known (`crowdfit.psf.empirical`). What stars of one part of the field have more or less of is one linear
equation per pixel again, in planes of B-spline coefficients that a polynomial of the position mixes:

    resid + flux (P_old - mean) = flux sum_k b_k(x, y) t_k,      k = 1, 2, ...

Normal equations are summed by cells of the field, over each of which b_k is taken as constant. How far the polynomial
goes is decided by stars that took no part: each half of the stars is foretold from the other half, and without a gain
the PSF stays constant. Planes carry no flux and do not move the centre, so that fluxes and positions mean the same
everywhere (P036).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate

from crowdfit.psf.departures import BENDING, departure_shape, spline_samples, stencil_products
from crowdfit.psf.empirical import StarPixels
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Constant, Polynomial

F64 = NDArray[np.float64]

REACH = 4.0
"""Half width of the planes (FWHM); farther out a wing of the mean PSF is good enough."""
CELLS, STARS_PER_CELL = 4, 8
"""Most cells per axis, and how many stars a cell should have at least."""
WIDTH = 3.0
"""Prior width of the planes, over the local height of the mean PSF."""
GAIN = 25.0
"""Least gain in chi^2 of the stars that took no part, for every further degree."""
ITERATIONS = 15
"""Most steps of conjugate gradients; what they have not reached then, noise would have reached first."""
FIRST_LOOK = 4
"""After so many steps the main part of a variation is there: without a gain by then it is not looked at further."""


@dataclass(frozen=True, eq=False)
class CellEquations:
    """Normal equations of what stands out of the mean PSF, by cell of the field, without a common constant.

    Parameters
    ----------
    matrices : ndarray (c, g, g, 7, 7)
        Coefficients with coefficients, as stencils.
    right, border : ndarray (c, g, g)
        Coefficients with the right side and with the constant.
    weight : ndarray (c,)
        The constant with itself.
    """

    matrices: F64
    right: F64
    border: F64
    weight: F64

    def product(self, coefs: F64) -> F64:
        """Return what the equations make of one table of coefficients for each cell (c, g, g)."""
        along = np.einsum("cij,cij->c", self.border, coefs) / np.maximum(self.weight, 1e-300)
        return np.asarray(
            stencil_products(self.matrices, coefs) - self.border * along[:, np.newaxis, np.newaxis]
        )

    def gain(self, coefs: F64) -> float:
        """Return by how much the coefficients (c, g, g) lower chi^2."""
        return float(np.sum(coefs * (2 * self.right - self.product(coefs))))

    def planes(self, terms: F64, width: F64, iterations: int) -> F64:
        """Return the planes (k, g, g) that explain the cells best with a prior of the given width (g, g).

        terms : (c, k), the polynomial's terms without the constant one at the cells. At most so many steps of
        conjugate gradients in units of the prior width (Hestenes & Stiefel 1952).
        """

        def apply(z: F64) -> F64:
            by_cell = np.tensordot(terms, width * z, 1)
            bent = np.array([correlate(plane, BENDING, mode="constant") for plane in z])
            return np.asarray(width * np.tensordot(terms.T, self.product(by_cell), 1) + z + bent)

        z = np.zeros((terms.shape[1], *width.shape))
        left = width * np.tensordot(terms.T, self.right, 1)
        step, size = left.copy(), float(np.sum(left**2))
        enough = 1e-6 * size
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


def fit_variation(stars: StarPixels, old: EPSF, mean: EPSF, reach: F64, max_order: int) -> EPSF:
    """Return the mean PSF together with how it varies, of the degree that the stars bear out.

    Parameters
    ----------
    stars : StarPixels
        Stars and residual of the image.
    old : EPSF
        PSF with which the residual was made: constant or a polynomial, sampled like `mean`.
    mean : EPSF
        The new constant PSF.
    reach : ndarray (n,) float64
        How far out each star's pixels are used (pix).
    max_order : int
        Highest degree that is tried.

    Returns
    -------
    EPSF
        `mean` itself when there are too few stars, or nothing is gained.
    """
    shape = stars.resid.shape
    n_cells = min(CELLS, int(np.sqrt(len(stars.x) / STARS_PER_CELL)))
    if n_cells < 2 or max_order < 1:
        return mean
    s, knots = mean.oversample, max(mean.oversample // 2, 1)
    reach = np.minimum(reach, REACH * mean.fwhm)
    half = int(np.ceil(reach.max())) * knots + 3
    width = WIDTH * departure_shape(mean.cube[0], s, half, knots, float(reach.max()))
    cell, u, v = cells_of(stars, n_cells, float(mean.cube.max()))
    part = 2 * cell + np.arange(len(cell)) % 2
    halves = equations_of(stars, old, mean, half, knots, reach, part, 2 * n_cells**2)
    best, most = 0, 0.0
    for order in range(1, max_order + 1):
        terms = polynomial(order, shape).basis(u, v)[:, 1:]
        if foretold(halves, terms, width, FIRST_LOOK) <= 0:
            continue
        gain = foretold(halves, terms, width, ITERATIONS)
        if gain > most + GAIN:
            best, most = order, gain
    if best == 0:
        return mean
    field = polynomial(best, shape)
    whole = CellEquations(*(a + b for a, b in zip(*(vars(part).values() for part in halves), strict=True)))
    planes = whole.planes(field.basis(u, v)[:, 1:], width, ITERATIONS)
    side = mean.cube.shape[1] // 2
    drawn = [neutral(spline_samples(plane, knots, s, side), mean) for plane in planes]
    return EPSF(np.array([mean.cube[0], *drawn]), s, field)


def foretold(halves: list[CellEquations], terms: F64, width: F64, iterations: int) -> float:
    """Return by how much planes fitted to each half of the stars lower chi^2 of the other half."""
    planes = [half.planes(terms, width, iterations) for half in halves]
    return sum(halves[1 - k].gain(np.tensordot(terms, planes[k], 1)) for k in (0, 1))


def polynomial(order: int, shape: tuple[int, ...]) -> Polynomial:
    """Return the form of a PSF on an image (ny, nx): terms from -1 to 1 over the image."""
    ny, nx = shape
    middle = ((nx - 1) / 2, (ny - 1) / 2)
    return Polynomial(order, middle, (nx / 2, ny / 2))


def on_image(psf: EPSF, shape: tuple[int, ...]) -> EPSF:
    """Return a constant or polynomial PSF with the terms of an image (ny, nx)."""
    field = polynomial(degree(psf), shape)
    if len(psf.cube) == 1 or psf.field == field:
        return psf
    mixing = np.linalg.pinv(field.basis(*field.places.T)) @ psf.basis(*field.places.T)
    return EPSF(np.tensordot(mixing, psf.cube, 1), psf.oversample, field)


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
    mean: EPSF,
    half: int,
    knots: int,
    reach: F64,
    part: NDArray[np.int64],
    parts: int,
) -> list[CellEquations]:
    """Return the equations of each half of the stars: those of even parts, and those of odd ones."""
    replaced = old.with_cube(np.concatenate([old.cube[:1] - mean.cube, old.cube[1:]]))
    every = stars.table_equations(old, replaced, half, knots, reach, part, parts)
    matrices, (data, border), sums = every.matrices, np.moveaxis(every.vectors, 1, 0), every.sums
    common = sums[:, 0] / np.maximum(sums[:, 1], 1e-300)
    right = data - border * common[:, np.newaxis, np.newaxis]
    whole = (matrices, right, border, sums[:, 1])
    return [CellEquations(*(np.ascontiguousarray(values[k::2]) for values in whole)) for k in (0, 1)]


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
    """Return the PSF a share of the way from one to another, both constant or polynomials of the same image.

    Terms that only one of them has are 0 in the other.
    """
    wide = old if len(old.cube) > len(new.cube) else new
    planes = np.zeros_like(wide.cube)
    planes[: len(old.cube)] += (1 - share) * old.cube
    planes[: len(new.cube)] += share * new.cube
    return EPSF(planes, wide.oversample, wide.field)

"""The table of departures of a PSF from its radial profile: its normal equations, its prior, and their solution.

Equations of neighbouring splines only are kept, as a stencil of 7 x 7 round every knot. The prior is a Gaussian field
whose width is a share of the local height of the profile; the share is the one that lets one half of the stars
foretell the other half best.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray
from scipy.ndimage import correlate, maximum_filter1d

from crowdfit._kernels.psf_sums import apply_stencils

F64 = NDArray[np.float64]

SHARES = (0.1, 1 / 3, 1.0, 3.0, 10.0)
"""Prior widths of the table of departures that are tried, over the profile."""
USUAL = 1
"""Where the search among them starts."""


_LAPLACE = np.array(
    [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, -4, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], float
)
BENDING = 36.0 * correlate(_LAPLACE, _LAPLACE, mode="constant")
"""Prior precision of bending in units of the prior width: the squared Laplacian over half a FWHM. With eight samples
per FWHM a smooth departure has a Laplacian of about a sixth of itself, hence the factor 36. On a grid of half the
sampling that is a FWHM."""


class TableEquations(NamedTuple):
    """Normal equations of the table's spline coefficients and of a constant under all stars.

    The constant takes what lies under every star, the error of the sky and the stars too faint to be found, which
    would otherwise be wings of the PSF.

    Parameters
    ----------
    matrices : ndarray (m, g, g, 7, 7) or (g, g, 7, 7)
        Coefficients with coefficients, as stencils; by part of the stars or summed.
    vectors : ndarray ([m,] 2, g, g)
        Coefficients with the right side and with the constant.
    sums : ndarray ([m,] 2)
        The constant with the right side and with itself.
    """

    matrices: F64
    vectors: F64
    sums: F64

    def summed(self, first: int = 0, step: int = 1) -> "TableEquations":
        """Return the equations of every `step`th part together."""
        return TableEquations(*(part[first::step].sum(axis=0) for part in self))

    def solve(self, width: F64) -> F64:
        """Return the coefficients (g, g) for a prior of the given width (g, g)."""
        # in units of the prior width the unknowns are of order one and the system is well scaled
        bands = banded(scaled_stencil(self.matrices, width))
        right = (width * self.vectors).reshape(2, -1).T
        free, border = scipy.linalg.solveh_banded(bands, right, lower=True, check_finite=False).T
        # the constant is eliminated
        constant = (self.sums[0] - right[:, 1] @ free) / max(self.sums[1] - right[:, 1] @ border, 1e-300)
        return np.asarray(width * (free - constant * border).reshape(width.shape))

    def chi2(self, coefs: F64) -> float:
        """Return chi^2 of the coefficients, with the best constant, less that of zeros without one."""
        data, border = self.vectors
        value = np.sum(coefs * (stencil_product(self.matrices, coefs) - 2 * data))
        return float(value - (self.sums[0] - np.sum(border * coefs)) ** 2 / max(self.sums[1], 1e-300))

    def best_share(self, shape: F64) -> float:
        """Return the share of the profile, of `SHARES`, whose departures foretell other stars best.

        Each half of the stars is fitted and the other half asked: too tight a prior keeps spikes and rings out of
        the PSF, too wide a one lets in noise and the blends of the stars it is made of.
        """
        halves = [self.summed(first, 2) for first in (0, 1)]

        def miss(k: int) -> float:
            width = SHARES[k] * shape
            return sum(halves[1 - i].chi2(halves[i].solve(width)) for i in (0, 1))

        # chi^2 has one minimum: from the usual share downhill
        best, least = USUAL, miss(USUAL)
        for step in (1, -1):
            while 0 <= best + step < len(SHARES) and (other := miss(best + step)) < least:
                best, least = best + step, other
            if best != USUAL:
                break
        return SHARES[best]


def stencil_product(matrix: F64, coefs: F64) -> F64:
    """Return the product of a symmetric matrix in stencil form (g, g, 7, 7) with coefficients (g, g)."""
    return np.asarray(stencil_products(matrix[np.newaxis], coefs[np.newaxis])[0])


def stencil_products(matrices: F64, coefs: F64) -> F64:
    """Return the products of symmetric matrices in stencil form (m, g, g, 7, 7) with coefficients (m, g, g)."""
    out = np.empty(coefs.shape)
    apply_stencils(np.ascontiguousarray(matrices), np.ascontiguousarray(coefs), out)
    return out


def departure_shape(base: F64, s: int, half: int, knots: int, reach: float) -> F64:
    """Return what the prior width of the departures is in proportion to: the highest profile within a pixel, tapered.

    `base` has `s` samples per pixel, the result (2 half + 1, 2 half + 1) has `knots`.
    """
    highest = np.maximum(base, 0)
    for axis in (0, 1):
        highest = maximum_filter1d(highest, 2 * s + 1, axis=axis)
    grid = np.arange(-half, half + 1) / knots
    at = np.round(grid * s).astype(int) + base.shape[0] // 2
    inside = (at >= 0) & (at < base.shape[0])
    local = np.zeros((len(grid), len(grid)))
    local[np.ix_(inside, inside)] = highest[np.ix_(at[inside], at[inside])]
    radius = np.hypot(*np.meshgrid(grid, grid))
    taper = np.clip((reach - radius) / max(0.25 * reach, 1.0), 0, 1)
    return np.asarray((local + 3e-9) * (1e-3 + taper))


def scaled_stencil(matrix: F64, width: F64) -> F64:
    """Return data and prior precision in units of the prior width, (7, 7, g, g) by offset (dr, dc).

    The prior precision is 1 plus that of bending.
    """
    planes = np.ascontiguousarray(np.moveaxis(matrix, (2, 3), (0, 1))) * width
    padded, g = np.pad(width, 3), width.shape[0]
    bending = np.pad(BENDING, 1)
    for i in range(7):
        for j in range(7):
            partner = padded[i : i + g, j : j + g]
            planes[i, j] = planes[i, j] * partner + bending[i, j] * (partner > 0)
    planes[3, 3] += 1
    return planes


def banded(planes: F64) -> F64:
    """Return a symmetric (7, 7, g, g) stencil as the lower bands of LAPACK, (3 g + 4, g * g)."""
    g = planes.shape[-1]
    bands = np.zeros((3 * g + 4, g * g))
    for dr in range(4):
        for dc in range(-3 if dr else 0, 4):
            bands[dr * g + dc] = planes[3 + dr, 3 + dc].ravel()
    return bands


def spline_samples(coefs: F64, knots: int, s: int, half: int) -> F64:
    """Return `s` samples per pixel, `half` on either side, of the cubic B-spline with (g, g) coefficients."""
    at = np.arange(-half, half + 1) / s * knots + coefs.shape[0] // 2
    grid = np.arange(coefs.shape[0])
    distance = np.abs(at[:, None] - grid)
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
    weight = np.where(distance < 1, near, far)
    return np.asarray(weight @ coefs @ weight.T)

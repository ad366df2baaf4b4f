"""Smooth surfaces of B-splines, as rough as the image shows its surroundings to be.

A surface is fitted to an image with weights and a Gaussian prior of mean 0 on its coefficients. The width of the
prior is measured nearby, from how much more the projections of the image on the splines vary than noise does.
Where they vary by noise alone the surface is 0: a Wiener filter of one scale that follows the place.
"""

from typing import NamedTuple

import numpy as np
import scipy  # scipy.interpolate is imported when it is first used
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import cg

from crowdfit.robust import MAD
from crowdfit.stages.sky import fill_holes

__all__ = ["Surface", "star_share", "trust"]

F64 = NDArray[np.float64]

DEGREE = 2
"""Of the splines: smooth slopes, and a better conditioned system than with cubic ones."""
OVERLAP = 1.72
"""Variance of the projection on one spline for independent coefficients of variance 1, over (sum w B^2)^2: the sum of
the squared overlaps of a quadratic B-spline with its neighbours, 1.3108 on each axis."""
NEARBY = 5
"""Side of the window in which the power of a surface is measured (splines)."""
PHASES = 4
"""Positions of a star between two knots, per axis, over which its share is averaged."""
SEEN = 0.1
"""Splines with less than this share of the typical weight on usable pixels stay out."""


class Surface(NamedTuple):
    """Quadratic B-splines of both axes: the value of each spline at each pixel, (ny, ky) and (nx, kx)."""

    rows: csr_array
    cols: csr_array

    @classmethod
    def of(cls, shape: tuple[int, int], spacing: float) -> "Surface":
        """Return splines with knots about `spacing` pixels apart on an image of `shape`."""
        return cls(*(_splines(n, spacing) for n in shape))

    def projection(self, image: F64, weight: F64) -> tuple[F64, F64]:
        """Return ``sum w r B`` of each spline, and its variance if there is only noise, ``sum w B^2``, (ky, kx)."""
        own = products(self.rows, 0).T @ weight @ products(self.cols, 0)
        return np.asarray(self.rows.T @ (weight * image) @ self.cols), np.asarray(own)

    def typical(self, own: F64) -> tuple[NDArray[np.bool_], F64]:
        """Return which splines see enough usable pixels, and ``sum w B^2`` of a whole spline nearby, (ky, kx).

        Parameters
        ----------
        own : ndarray (ky, kx) float64
            ``sum w B^2`` of each spline on the usable pixels of the image.
        """
        whole = np.outer(*(np.asarray(products(axis, 0).sum(axis=0)).ravel() for axis in self))
        mean = own / np.maximum(whole, 1e-12)
        seen = mean > SEEN * np.median(mean)
        nearby = median_filter(fill_holes(np.where(seen, mean, np.nan)), NEARBY, mode="nearest")
        return seen, np.asarray(whole.max() * nearby)

    def excess(self, image: F64, weight: F64) -> F64:
        """Return by how much the variance of the projections exceeds that of noise nearby, in its units, (ky, kx).

        Parameters
        ----------
        image : ndarray (ny, nx) float64
            What is to be fitted.
        weight : ndarray (ny, nx) float64
            Its inverse variance; 0 = not used.
        """
        target, own = self.projection(image, weight)
        seen, _ = self.typical(own)
        signif = np.where(seen, np.abs(target) / np.sqrt(np.where(seen, own, 1)), np.nan)
        scatter = MAD * median_filter(fill_holes(signif), NEARBY, mode="nearest")
        return np.asarray(np.maximum(scatter**2 - 1, 0))

    def fitted(self, image: F64, weight: F64, excess: F64) -> F64:
        """Return the surface that the image asks for, (ny, nx), its prior as wide as `excess` (ky, kx) says."""
        target, own = self.projection(image, weight)
        seen, typical = self.typical(own)
        free = (seen & (excess > 0)).ravel()
        if not free.any():
            return np.zeros_like(image)
        # a coefficient that stays out is 0; the unit diagonal keeps the system regular
        prior = np.where(free, OVERLAP * typical.ravel() / np.where(free, excess.ravel(), 1), 1.0)
        keep = diags_array(free.astype(float))
        system = (keep @ self.normal(weight) @ keep + diags_array(prior)).tocsr()
        scale = diags_array(1 / system.diagonal())
        answer, _ = cg(system, np.where(free, target.ravel(), 0.0), rtol=1e-3, maxiter=300, M=scale)
        return np.asarray(self.rows @ answer.reshape(own.shape) @ self.cols.T)

    def normal(self, weight: F64) -> coo_array:
        """Return the normal matrix ``sum w B_i B_j`` of the splines, (ky kx, ky kx), coefficients row by row."""
        ky, kx = self.rows.shape[1], self.cols.shape[1]
        number = np.arange(ky * kx).reshape(ky, kx)
        rows, cols, values = [], [], []
        for i in range(DEGREE + 1):
            along = products(self.rows, i).T @ weight
            for j in range(-DEGREE if i else 0, DEGREE + 1):
                one = number[: ky - i, max(-j, 0) : kx - max(j, 0)].ravel()
                other = number[i:, max(j, 0) : kx - max(-j, 0)].ravel()
                block = np.asarray(along @ products(self.cols, abs(j))).ravel()
                for a, b in ((one, other), (other, one)) if i or j else ((one, other),):
                    rows.append(a)
                    cols.append(b)
                    values.append(block)
        where = (np.concatenate(rows), np.concatenate(cols))
        return coo_array((np.concatenate(values), where), shape=(ky * kx, ky * kx))


def products(splines: csr_array, step: int) -> csr_array:
    """Return the products of each spline with the one `step` further on, (n, k - step)."""
    n = splines.shape[1]
    return csr_array(splines[:, : n - step].multiply(splines[:, step:]))


def trust(excess: F64) -> F64:
    """Return the share of an image that a surface takes, where it can, if its prior is that of `excess`."""
    return np.asarray(excess / (OVERLAP + excess))


def star_share(psf: F64, spacing: float) -> float:
    """Return the share of the light of a star that a surface without prior takes, as a matched filter sees it.

    ``P^T H P / P^T P`` with the projector H on the splines, mean over positions between the knots.

    Parameters
    ----------
    psf : ndarray (m, m) float64
        Stamp of the star.
    spacing : float
        Distance of the knots (pix).
    """
    spans = int(np.ceil(psf.shape[0] / spacing)) + 5
    side = int(round(spans * spacing)) + 1
    surface = Surface.of((side, side), spacing)
    first = (side - psf.shape[0]) // 2
    steps = np.unique(np.round(np.arange(PHASES) * spacing / PHASES).astype(int))
    targets = []
    for dy in steps:
        for dx in steps:
            image = np.zeros((side, side))
            image[first + dy :, first + dx :][: psf.shape[0], : psf.shape[1]] = psf
            targets.append((surface.rows.T @ image @ surface.cols).ravel())
    target = np.stack(targets, axis=1)
    normal = surface.normal(np.ones((side, side))).toarray()
    taken = np.sum(target * np.linalg.lstsq(normal, target)[0], axis=0)
    return float(np.mean(taken) / np.sum(psf**2))


def _splines(n: int, spacing: float) -> csr_array:
    """Return quadratic B-splines on `n` pixels, (n, k), with knots about `spacing` pixels apart."""
    spans = max(int(np.ceil((n - 1) / spacing)), 1)
    step = (n - 1) / spans
    knots = step * np.arange(-DEGREE, spans + DEGREE + 1)
    inside = np.minimum(np.arange(n), (n - 1) * (1 - 1e-12))
    return csr_array(scipy.interpolate.BSpline.design_matrix(inside, knots, DEGREE))

"""Small random scenes for kernels: PSFs that vary over the field, stars across the border, masked pixels."""

from dataclasses import dataclass

import numpy as np

from crowdfit.psf.analytic import gaussian
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Polynomial

ORDERS = (0, 1, 2)
"""Degrees of the polynomial PSF: 1, 3 and 6 basis functions."""


def varying_psf(order, *, fwhm=2.4, oversample=3, radius=8, shape=(40, 44)):
    """Return a PSF whose polynomial of this degree changes its width and centre; every further plane sums to 0."""
    base = gaussian(fwhm, 0.2, 30.0, oversample=oversample, radius=radius).cube[0]
    steps = [(1, 0, 0.05), (1, 1, 0.05), (2, 0, 0.03), (-1, 1, 0.03), (-2, 0, 0.03)]
    planes = [size * (np.roll(base, step, axis) - base) for step, axis, size in steps]
    n_basis = (order + 1) * (order + 2) // 2
    middle = (shape[1] / 2, shape[0] / 2)
    return EPSF(np.array([base, *planes][:n_basis]), oversample, Polynomial(order, middle, middle))


@dataclass(frozen=True, eq=False)
class Scene:
    """Arguments that kernels share: `psf`, stars, stamps' half widths and offsets, whitening, residual."""

    psf: EPSF
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    half: np.ndarray
    root: np.ndarray
    resid: np.ndarray

    @property
    def shape(self):
        return self.root.shape

    @property
    def coef(self):
        return self.psf.coef

    @property
    def basis(self):
        return self.psf.basis(self.x, self.y)

    @property
    def ivar(self):
        return self.root**2

    @property
    def sizes(self):
        return (2 * self.half + 1) ** 2

    @property
    def offset(self):
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    def with_masked(self, value):
        """Return the residual with `value` in every masked pixel."""
        return np.where(self.root > 0, self.resid, np.float32(value))


def make_scene(order=0, *, n=14, seed=1, shape=(40, 44), largest=6):
    """Return a scene with stars inside, on the corners and edges, and beyond the border; a fifth is masked."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    x, y = rng.uniform(-0.5, nx - 0.5, n), rng.uniform(-0.5, ny - 0.5, n)
    edge = [
        (-0.499, -0.499),
        (nx - 0.501, ny / 2),
        (nx + 3.2, 5.0),
        (nx + 70.0, 3.0),
        (7.5, -4.0),
        (0.0, ny - 1),
    ]
    x[: len(edge)], y[: len(edge)] = np.array(edge[:n], float).T
    root = np.sqrt(rng.uniform(0.5, 1.5, shape)).astype(np.float32)
    root[rng.random(shape) < 0.1] = 0
    root[ny // 2 : ny // 2 + 4, : nx // 3] = 0
    return Scene(
        psf=varying_psf(order, shape=shape),
        x=x,
        y=y,
        flux=10 ** rng.uniform(1, 3, n),
        half=rng.integers(3, largest + 1, n),
        root=root,
        resid=rng.normal(0, 1, shape).astype(np.float32),
    )

"""Sources and a PSF become a model image."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crowdfit._kernels.render import add_stars, bin_to_tiles
from crowdfit.psf.epsf import EPSF

TILE = 64
"""Side of the squares that threads own (pix)."""


def render(
    psf: EPSF,
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    shape: tuple[int, int],
    *,
    radius: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Return the image of all stars.

    Parameters
    ----------
    psf : EPSF
        Point spread function.
    x, y, flux : array_like (n,)
        Positions (pix; may lie off the image) and fluxes (image unit).
    shape : (ny, nx)
        Size of the image.
    radius : array_like (n,) or scalar, optional
        Half width of each star's stamp (pix); None: the full extent of the PSF.

    Returns
    -------
    ndarray (ny, nx) float32
        Same bits on any number of threads.
    """
    image = np.zeros(shape, np.float32)
    add_to(image, psf, x, y, flux, radius=radius)
    return image


def add_to(
    image: NDArray[np.float32],
    psf: EPSF,
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    *,
    radius: ArrayLike | None = None,
) -> None:
    """Add stars to `image` in place; arguments as in `render`."""
    x, y, flux = (np.ascontiguousarray(np.atleast_1d(v), np.float64) for v in (x, y, flux))
    if not len(x):
        return
    half = np.broadcast_to(psf.radius if radius is None else np.minimum(radius, psf.radius), x.shape)
    half = np.array(half, np.int64, order="C")  # a copy: a broadcast view is read-only, another type to numba
    ny, nx = image.shape
    start = np.zeros(-(-ny // TILE) * -(-nx // TILE) + 1, np.int64)
    bin_to_tiles(x, y, half, ny, nx, TILE, start, np.empty(0, np.int64))
    members = np.empty(start[-1], np.int64)
    bin_to_tiles(x, y, half, ny, nx, TILE, start, members)
    add_stars(psf.coef, psf.basis(x, y), x, y, flux, half, TILE, start, members, image)

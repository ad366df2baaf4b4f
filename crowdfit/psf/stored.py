"""PSFs as crowdfit writes them: the extension PSF of a fit image, with the form of its field in keywords."""

from typing import TypeAlias

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Constant, Field, Grid, Polynomial

F64 = NDArray[np.float64]
Image: TypeAlias = fits.ImageHDU | fits.PrimaryHDU

NAME = "PSF"
"""Name of the extension."""


def psf_hdu(psf: EPSF) -> fits.ImageHDU:
    """Return the PSF table, (sy, sx) when it is constant over the field, else (n_basis, sy, sx) float32."""
    cube = psf.cube[0] if len(psf.cube) == 1 else psf.cube
    hdu = fits.ImageHDU(np.asarray(cube, np.float32), name=NAME)
    hdu.header["OVERSAMP"] = (psf.oversample, "samples per native pixel")
    hdu.header["FWHM"] = (float(psf.fwhm), "of the PSF, in the middle of the field (pix)")
    _put_field(hdu.header, psf.field)
    return hdu


def _put_field(header: fits.Header, field: Field) -> None:
    """Add how the planes mix to a header; of a constant PSF there is nothing to say."""
    if isinstance(field, Polynomial):
        header["PSFFORM"] = ("polynomial", "planes are terms 1, u, v, u^2, uv, v^2, ...")
        header["PSFORDER"] = (field.order, "degree")
        for axis, origin, scale in zip("XY", field.origin, field.scale, strict=True):
            header[f"PSF{axis}0"] = (origin, f"origin in {axis.lower()}, counted from 0 (pix)")
            header[f"PSF{axis}S"] = (scale, f"unit length in {axis.lower()} (pix)")
    elif isinstance(field, Grid):
        header["PSFFORM"] = ("grid", "planes are PSFs at nodes, x varies fastest")
        for axis, nodes in zip("XY", (field.x_nodes, field.y_nodes), strict=True):
            header[f"PSFN{axis}"] = (len(nodes), f"nodes along {axis.lower()}")
            for i, node in enumerate(nodes, 1):
                header[f"PSF{axis}{i:04d}"] = (node, "node, counted from 0 (pix)")


def stored_image(hdus: fits.HDUList) -> Image | None:
    """Return the extension of a file that holds a PSF of ours, None if there is none."""
    found = (
        h for h in hdus if h.name == NAME and h.is_image and h.data is not None and "OVERSAMP" in h.header
    )
    return next(found, None)


def stored_psf(hdu: Image, path: str) -> EPSF:
    """Return the PSF of an extension that `psf_hdu` made.

    Raises
    ------
    InputError
        Keywords that are missing or contradict the planes.
    """
    header, cube = hdu.header, np.array(hdu.data, np.float64)
    planes = cube[np.newaxis] if cube.ndim == 2 else cube
    side = planes.shape[-1]
    if planes.ndim != 3 or planes.shape[1] != side or side % 2 == 0 or not np.isfinite(planes).all():
        raise InputError(
            f"{path}[{NAME}]: shape {cube.shape} or its values are refused; square planes of finite numbers with odd "
            "sides are needed, as crowdfit writes them"
        )
    try:
        return EPSF(planes, int(header["OVERSAMP"]), _get_field(header))
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(
            f"{path}[{NAME}]: the keywords do not say how the planes mix ({problem})"
        ) from problem


def _get_field(header: fits.Header) -> Field:
    """Undo `_put_field`."""
    form = header.get("PSFFORM", "constant")
    if form == "polynomial":
        origin, scale = ((header[f"PSFX{end}"], header[f"PSFY{end}"]) for end in "0S")
        return Polynomial(int(header["PSFORDER"]), origin, scale)
    if form == "grid":
        nodes = [
            tuple(float(header[f"PSF{axis}{i:04d}"]) for i in range(1, int(header[f"PSFN{axis}"]) + 1))
            for axis in "XY"
        ]
        return Grid(*nodes)
    if form != "constant":
        raise ValueError(f"PSFFORM is {form!r}; 'polynomial' or 'grid' is known")
    return Constant()

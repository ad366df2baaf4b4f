"""Images become exposures here: FITS files, plain arrays and NDData alike, checked once at the door.

`read_exposure`, `exposure_from_arrays` and `exposure_from_nddata` differ in where the planes come from; what
follows is the same for all (`crowdfit.io.build`).
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from astropy.io import fits
from astropy.units import Quantity
from numpy.typing import ArrayLike, NDArray

from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.build import build_exposure
from crowdfit.io.hdus import Layers, Plane, file_stem, read_layers, read_plane, sha256_of
from crowdfit.io.options import InputOptions
from crowdfit.io.positions import Positions, check_positions, read_positions

if TYPE_CHECKING:
    from astropy.nddata import NDData

__all__ = [
    "InputOptions",
    "Positions",
    "check_positions",
    "exposure_from_arrays",
    "exposure_from_nddata",
    "read_exposure",
    "read_positions",
]


def read_exposure(
    path: str | Path,
    options: InputOptions | None = None,
    *,
    err: str | Path | ArrayLike | None = None,
    dq: str | Path | ArrayLike | None = None,
) -> Exposure:
    """Read an exposure from a FITS file, plain, gzipped or tile-compressed (P004, N001).

    Parameters
    ----------
    path : str or Path
        File with the image, and its error and data-quality planes where it has them.
    options : InputOptions, optional
        Which extensions to use, gain, saturation, mask policy.
    err, dq : str, Path or array (ny, nx), optional
        Planes kept elsewhere; they replace those in the file. `options.err_kind` says what `err` holds.

    Returns
    -------
    Exposure

    Raises
    ------
    InputError
        If the file or a plane cannot be used; the message names it and the remedy.
    """
    options = options or InputOptions()
    layers = read_layers(path, options)
    _replace_planes(layers, err, dq, options)
    return build_exposure(layers, options, file_stem(path))


def exposure_from_arrays(
    data: ArrayLike,
    err: str | Path | ArrayLike | None = None,
    dq: str | Path | ArrayLike | None = None,
    *,
    options: InputOptions | None = None,
    header: fits.Header | None = None,
    wcs: Any = None,
    name: str = "image",
) -> Exposure:
    """Make an exposure of arrays.

    Parameters
    ----------
    data : array (ny, nx)
        Any real type and byte order; masked arrays and Quantities are understood.
    err : array (ny, nx), optional
        Errors, or what `options.err_kind` says, in the unit of the image.
    dq : array (ny, nx), optional
        Data quality, any integer type or bool; non-zero is bad unless the options say otherwise.
    options : InputOptions, optional
    header : astropy.io.fits.Header, optional
        For gain, read noise, saturation, exposure time, unit, filter and WCS.
    wcs : astropy.wcs.WCS, optional
        Wins over that of the header.
    name : str
        For messages and file names.

    Returns
    -------
    Exposure
    """
    pixels, unit = _pixels_of(data)
    header = fits.Header() if header is None else header.copy()
    if unit:
        header["BUNIT"] = unit
    layers = Layers(data=pixels, label=name, header=header)
    options = options or InputOptions()
    _replace_planes(layers, err, dq, options)
    layers.meta["SHA256"] = _checksum(pixels)
    return build_exposure(layers, options, name, wcs)


def _checksum(source: str | Path | ArrayLike) -> str:
    """Return the SHA-256 of a file, or of the values of an array (P076)."""
    if isinstance(source, str | Path):
        return sha256_of(source)
    return hashlib.sha256(np.ascontiguousarray(source).tobytes()).hexdigest()


def exposure_from_nddata(
    ndd: "NDData", options: InputOptions | None = None, *, name: str = "image"
) -> Exposure:
    """Make an exposure of an NDData or CCDData with its uncertainty, mask, flags, unit, WCS and header.

    Parameters
    ----------
    ndd : astropy.nddata.NDData
        `mask` (True = bad) and `flags` become data quality; standard deviation, variance and inverse variance
        are understood as uncertainty.
    options : InputOptions, optional
    name : str
        For messages and file names.
    """
    from astropy.nddata import StdDevUncertainty  # noqa: PLC0415 - slow to import, and no file needs it

    err = None
    if ndd.uncertainty is not None:
        try:
            err = ndd.uncertainty.represent_as(StdDevUncertainty).array
        except (TypeError, AttributeError) as exc:
            kind = type(ndd.uncertainty).__name__
            raise InputError(
                f"{name}: uncertainty of type {kind} cannot be used; give a standard deviation, a "
                "variance or an inverse variance"
            ) from exc
    data = np.ma.masked_array(ndd.data, mask=np.ma.nomask if ndd.mask is None else ndd.mask)
    header = ndd.meta if isinstance(ndd.meta, fits.Header) else fits.Header()
    header = header.copy()
    if ndd.unit is not None:
        header["BUNIT"] = ndd.unit.to_string()
    flags = getattr(ndd, "flags", None)
    return exposure_from_arrays(data, err, flags, options=options, header=header, wcs=ndd.wcs, name=name)


def _replace_planes(
    layers: Layers,
    err: str | Path | ArrayLike | None,
    dq: str | Path | ArrayLike | None,
    options: InputOptions,
) -> None:
    """Put planes that are kept elsewhere in the place of those that are there."""
    if err is not None:
        layers.replace_err(_plane(err, "err"))
        layers.meta["SHA256_ERR"] = _checksum(err)
    if options.wht_file is not None:
        if options.err_kind == "ivar":
            raise InputError(
                f"{options.wht_file}: input.wht_file names weights, and input.err_kind says that the error plane holds "
                "weights too; leave one of the two out"
            )
        layers.replace_weight(read_plane(options.wht_file, "wht"))
        layers.meta["SHA256_WHT"] = sha256_of(options.wht_file)
    if dq is not None:
        layers.replace_dq(_plane(dq, "dq"))
        layers.meta["SHA256_DQ"] = _checksum(dq)


def _plane(plane: str | Path | ArrayLike, what: Literal["err", "dq"]) -> Plane:
    """Return an error or quality plane given as a file or an array."""
    if isinstance(plane, str | Path):
        return read_plane(plane, what)
    return Plane(_pixels_of(plane)[0] if what == "err" else np.asarray(plane), "error")


def _pixels_of(data: object) -> tuple[NDArray[Any], str]:
    """Return pixels and unit of an array-like; masked pixels become NaN."""
    unit = ""
    values: Any = data
    if isinstance(values, Quantity):
        values, unit = values.value, values.unit.to_string()
    if np.ma.is_masked(values):
        values = np.ma.filled(values.astype(np.result_type(values.dtype, np.float32)), np.nan)
    return np.asarray(values), unit

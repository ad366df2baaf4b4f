"""Galactic extinction: E(B-V) as a number or a map, times a coefficient for the filter (P057).

Coefficients of tables that stop at 3 um are 0 beyond; the curve of Gordon et al. (2023, ApJ 950, 86) covers 0.0912 to
32 um. It is taken at the pivot wavelength, which is right to a few percent for filters as narrow as those of JWST and
for stars that are not very cool.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from crowdfit.errors import InputError
from crowdfit.world import read_wcs, sky_to_pixel

__all__ = ["coefficient", "read_ebv"]

F64 = NDArray[np.float64]


def coefficient(pivot: float, rv: float = 3.1) -> float:
    """Return A(filter) / E(B-V) at a pivot wavelength (um) from the curve of Gordon et al. (2023).

    Raises
    ------
    InputError
        dust_extinction is not installed, or the wavelength is off the curve.
    """
    try:
        curves = import_module("dust_extinction.parameter_averages")
    except ImportError as exc:
        raise InputError(
            "calibration.extinction: the curve needs dust_extinction: pip install 'crowdfit[extinction]', or set "
            "A(filter) / E(B-V) yourself"
        ) from exc
    curve = curves.G23(Rv=rv)
    low, high = sorted(1 / limit for limit in curve.x_range)
    if not low <= pivot <= high:
        raise InputError(
            f"calibration.wavelength: {pivot:g} um is off the extinction curve, which goes from {low:.4g} "
            f"to {high:.3g} um; "
            "set calibration.extinction"
        )
    return float(curve(pivot * u.um)) * rv


def read_ebv(path: str | Path, ra: ArrayLike, dec: ArrayLike) -> F64:
    """Return E(B-V) (mag) of a FITS image at sky positions (n,; ICRS, deg), linearly interpolated.

    Raises
    ------
    InputError
        No such file, no image with a celestial WCS, or positions that are not on it.
    """
    path = Path(path)
    data, header = _image_of(path)
    checked = read_wcs(header, data.shape)
    if checked.wcs is None:
        raise InputError(f"{path}: has no celestial WCS; give a FITS image of E(B-V) with one, or a number")
    where = sky_to_pixel(checked.wcs, ra, dec)
    values = ndimage.map_coordinates(
        data.astype(np.float64), (where.y, where.x), order=1, mode="constant", cval=np.nan
    )
    missing = int(np.count_nonzero(~np.isfinite(values)))
    if missing:
        raise InputError(
            f"{path}: {missing} of {len(values)} stars lie outside of the map or where it has no value; "
            "give a larger one"
        )
    return np.asarray(values, np.float64)


def _image_of(path: Path) -> tuple[NDArray[Any], fits.Header]:
    """Return the first two-dimensional image of a FITS file."""
    try:
        with fits.open(path) as hdus:
            for hdu in hdus:
                if hdu.is_image and hdu.header.get("NAXIS") == 2:
                    return np.asarray(hdu.data), hdu.header.copy()
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file; check the path") from exc
    except (OSError, ValueError, TypeError) as exc:
        raise InputError(f"{path}: cannot be read ({exc}); give a FITS image of E(B-V)") from exc
    raise InputError(f"{path}: has no image of two dimensions; give a FITS image of E(B-V)")

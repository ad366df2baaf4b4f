"""World coordinates of the pixel grid: read, checked, applied. Pixels are 0-based, centres at whole numbers.

Any celestial frame that astropy knows is welcome (ICRS, FK5, Galactic, ...); what comes out is ICRS.
"""

import re
import warnings
from typing import Any, Final, NamedTuple

import numpy as np
from astropy import units as u
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CheckedWCS",
    "PixelCoords",
    "SkyCoords",
    "pixel_to_sky",
    "read_wcs",
    "sky_to_pixel",
    "without_jump",
]

F64 = NDArray[np.float64]

ROUND_TRIP = 0.1
"""Pixel -> sky -> pixel errors above this (pix) are reported; SIP inverses are good to about 0.01."""

MOST_AXES = 99
"""The standard has no keywords for more."""

_BROKEN = (ValueError, KeyError, TypeError, IndexError, AttributeError, fits.VerifyError)
"""What astropy raises for headers that make no sense; `WcsError` is a ValueError."""

_PLATE: Final = re.compile(r"CNPIX[12]|PPO[1-6]|[XY]PIXELSZ|PLTRA[HMS]|PLTDEC(SN|D|M|S)|AMD[XY]\d{1,2}")
"""Keywords of the plate solution of the Digitized Sky Survey."""
_PLATE_NEEDED: Final = frozenset(
    [
        "CNPIX1",
        "CNPIX2",
        "PPO3",
        "PPO6",
        "XPIXELSZ",
        "YPIXELSZ",
        "PLTRAH",
        "PLTRAM",
        "PLTRAS",
        "PLTDECSN",
        "PLTDECD",
        "PLTDECM",
        "PLTDECS",
    ]
) | {f"AMD{axis}{k}" for axis in "XY" for k in range(1, 14)}


class CheckedWCS(NamedTuple):
    """A usable WCS or None, and what there is to say about it (empty when all is well)."""

    wcs: Any
    note: str


class SkyCoords(NamedTuple):
    """ICRS right ascension and declination, (n,) float64 (deg)."""

    ra: F64
    dec: F64


class PixelCoords(NamedTuple):
    """Column and row, 0-based, (n,) float64 (pix)."""

    x: F64
    y: F64


def read_wcs(header: fits.Header, shape: tuple[int, int]) -> CheckedWCS:
    """Read the celestial WCS of a header and try it out on the image (P008).

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of the image extension.
    shape : (int, int)
        Rows and columns of the image; corners and centre are converted there and back.

    Returns
    -------
    CheckedWCS
        `wcs` is None when the header has none or a broken one; it never raises.
    """
    if not any(str(key).startswith("CTYPE") for key in header):
        return CheckedWCS(None, "")
    axes = header.get("WCSAXES")
    if isinstance(axes, int) and axes > MOST_AXES:  # memory goes with the square
        return CheckedWCS(None, f"broken WCS ignored, ra, dec are left out (WCSAXES is {axes})")
    from astropy.wcs import WCS  # noqa: PLC0415 - slow to import, and not every image has one

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old date styles, PV on TAN, ...: repaired by astropy
        try:
            wcs = WCS(_without_torn_plate(header))
            if wcs.naxis != 2:
                wcs = wcs.celestial
            if not wcs.has_celestial:
                return CheckedWCS(None, "the header has no celestial WCS: ra, dec are left out")
            return CheckedWCS(wcs, _check_round_trip(wcs, shape))
        except _BROKEN as exc:
            reason = str(exc).strip().splitlines()
            return CheckedWCS(
                None, f"broken WCS ignored, ra, dec are left out ({reason[0] if reason else exc!r})"
            )


def _without_torn_plate(header: fits.Header) -> fits.Header:
    """Return a header without the keywords of a plate solution that is not whole.

    wcslib takes a single one for a whole plate: it spoils the WCS beside it, and text in it ends the process.
    """
    plate = {key for key in header if _PLATE.fullmatch(str(key))}
    if not plate:
        return header
    is_text = {key: isinstance(header[key], str) for key in plate}
    if plate >= _PLATE_NEEDED and all(text == (key == "PLTDECSN") for key, text in is_text.items()):
        return header
    header = header.copy()
    for key in plate:
        header.remove(key, remove_all=True)
    return header


def _check_round_trip(wcs: Any, shape: tuple[int, int]) -> str:
    """Return a complaint about a WCS that is not invertible, or nothing; ValueError when it is useless."""
    from astropy.wcs import NoConvergence  # noqa: PLC0415

    ny, nx = shape
    x = np.array([0, nx - 1, 0, nx - 1, (nx - 1) / 2])
    y = np.array([0, 0, ny - 1, ny - 1, (ny - 1) / 2])
    sky = pixel_to_sky(wcs, x, y)
    if not np.isfinite(sky.ra[4] + sky.dec[4]):
        raise ValueError("the image centre has no finite sky position")
    try:
        back = sky_to_pixel(wcs, sky.ra, sky.dec)
    except NoConvergence:
        return "the WCS cannot be inverted: lists of ra, dec cannot be used"
    off = float(np.max(np.hypot(back.x - x, back.y - y)))
    if not off < 1:
        raise ValueError(f"the round trip pixel-sky-pixel is off by {off:.2g} pix")
    return "" if off < ROUND_TRIP else f"the WCS round trip pixel-sky-pixel is off by {off:.2g} pix"


def without_jump(ra: ArrayLike) -> F64:
    """Return right ascensions (n,; deg) without a jump: from -180 to 180 in a field that straddles 0 (M026).

    A field that holds a pole has stars at all right ascensions, and keeps 0 to 360.
    """
    ra = np.asarray(ra, np.float64)
    with np.errstate(invalid="ignore"):
        straddles = np.any(ra < 90) and np.any(ra > 270) and not np.any((ra >= 90) & (ra <= 270))
        return np.where(ra > 180, ra - 360, ra) if straddles else ra


def pixel_to_sky(wcs: Any, x: ArrayLike, y: ArrayLike) -> SkyCoords:
    """Convert 0-based pixel positions (n,) to ICRS degrees, whatever the frame of the WCS."""
    sky = wcs.pixel_to_world(np.asarray(x, np.float64), np.asarray(y, np.float64)).icrs
    return SkyCoords(np.asarray(sky.ra.deg, np.float64), np.asarray(sky.dec.deg, np.float64))


def sky_to_pixel(wcs: Any, ra: ArrayLike, dec: ArrayLike) -> PixelCoords:
    """Convert ICRS degrees (n,) to 0-based pixel positions."""
    from astropy.coordinates import SkyCoord  # noqa: PLC0415

    x, y = wcs.world_to_pixel(SkyCoord(ra, dec, unit=u.deg, frame="icrs"))
    return PixelCoords(np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64)))

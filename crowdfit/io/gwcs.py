"""The gwcs object in the ASDF extension of a JWST file, where it can be read and is to be trusted.

It is the exact form of what the FITS header approximates by SIP polynomials. In a cutout it still speaks of the
whole frame, so it is used only where it agrees with the header at the centre of the image.
"""

import io
import warnings
from importlib import import_module
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import yaml

from crowdfit.errors import InputError
from crowdfit.world import CheckedWCS, pixel_to_sky, sky_to_pixel

__all__ = ["ExactWCS", "with_gwcs"]

AGREES: Final = 0.5
"""Largest distance (pix) between the two at the centre of the image; SIP is good to 0.25 pix."""
_BROKEN: Final = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, RuntimeError, ImportError,
    NotImplementedError, yaml.YAMLError,
)  # fmt: skip
"""What converters of several packages raise for trees that they do not understand."""
PACKAGES: Final = "asdf, asdf-astropy and gwcs: pip install 'crowdfit[jwst]'"


class ExactWCS:
    """A FITS WCS whose conversions are those of a gwcs object; everything else is that of the header.

    Parameters
    ----------
    header_wcs : astropy.wcs.WCS
        For headers of products, axes of plots and the pixel scale.
    exact : gwcs.WCS
        0-based pixels to sky.
    """

    def __init__(self, header_wcs: Any, exact: Any) -> None:
        self._header_wcs = header_wcs
        self._exact = exact

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_header_wcs", "_exact"):
            raise AttributeError(name)
        return getattr(self._header_wcs, name)

    def pixel_to_world(self, x: Any, y: Any) -> Any:
        """Return the sky coordinates of 0-based pixels, also just outside the image."""
        ra, dec = self._exact(x, y, with_bounding_box=False)
        from astropy.coordinates import SkyCoord  # noqa: PLC0415 - slow to import

        return SkyCoord(ra, dec, unit="deg", frame=self._exact.output_frame.reference_frame)

    def world_to_pixel(self, sky: Any) -> Any:
        """Return the 0-based pixels of sky coordinates."""
        there = sky.transform_to(self._exact.output_frame.reference_frame)
        return self._exact.invert(there.ra.deg, there.dec.deg, with_bounding_box=False)


class _Found(NamedTuple):
    """A gwcs object, or why there is none."""

    wcs: Any
    problem: str


def with_gwcs(
    checked: CheckedWCS, content: bytes, shape: tuple[int, int], choice: Literal["auto", "gwcs"], label: str
) -> CheckedWCS:
    """Return the WCS with the conversions of the gwcs object in an ASDF extension, where that is to be trusted.

    Parameters
    ----------
    checked : CheckedWCS
        From the header.
    content : bytes
        Of the ASDF extension; may be empty.
    shape : (int, int)
        Rows and columns of the image.
    choice : {"auto", "gwcs"}
        Whether the header will do when gwcs cannot be had.
    label : str
        File and extension, for messages.

    Raises
    ------
    InputError
        gwcs is insisted on, but missing, not readable, or that of another frame.
    """
    found = _read_gwcs(content) if content else _Found(None, "the file has no ASDF extension")
    problem = found.problem
    if checked.wcs is None and not problem:
        problem = "the header has no WCS to compare it with"
    if not problem:
        apart = _apart(checked.wcs, found.wcs, shape)
        if not apart < AGREES:
            problem = (
                f"at the centre of the image it is {apart:.3g} pix from the WCS of the header, so one of them belongs "
                "to another frame; in a cutout that is the gwcs object"
            )
    if problem and choice == "gwcs":
        raise InputError(f"{label}: gwcs cannot be used: {problem}; set input.wcs to header")
    if problem:
        # that optional packages are missing is said only where the header is inaccurate (crowdfit.io.jwst)
        is_news = bool(content) and PACKAGES not in problem
        note = f"gwcs in the ASDF extension not used: {problem}" if is_news else ""
        return CheckedWCS(checked.wcs, "; ".join(filter(None, (checked.note, note))))
    return CheckedWCS(
        ExactWCS(checked.wcs, found.wcs), "ra and dec from the gwcs object in the ASDF extension"
    )


def _read_gwcs(content: bytes) -> _Found:
    """Return the object at meta.wcs of an ASDF tree."""
    try:
        asdf, gwcs = import_module("asdf"), import_module("gwcs")
    except ImportError:
        return _Found(None, f"reading it needs {PACKAGES}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tags that are not recognised show in the type of what comes out
        try:
            with asdf.open(io.BytesIO(content), lazy_load=False, memmap=False) as tree:
                wcs = tree["meta"]["wcs"]
        except _BROKEN as exc:
            reason = str(exc).strip().splitlines()
            return _Found(None, f"it cannot be read ({reason[0] if reason else type(exc).__name__})")
    if not isinstance(wcs, gwcs.WCS):
        return _Found(None, f"it cannot be understood (meta.wcs is a {type(wcs).__name__})")
    return _Found(wcs, "")


def _apart(header_wcs: Any, exact: Any, shape: tuple[int, int]) -> float:
    """Return the distance of the two (pix) at the centre of the image, infinite where one has no sky there."""
    from astropy.wcs import NoConvergence  # noqa: PLC0415 - slow to import

    ny, nx = shape
    x, y = (nx - 1) / 2, (ny - 1) / 2
    try:
        sky = pixel_to_sky(ExactWCS(header_wcs, exact), [x], [y])
        there = sky_to_pixel(header_wcs, sky.ra, sky.dec)
    except (*_BROKEN, NoConvergence):
        return np.inf
    return float(np.hypot(there.x[0] - x, there.y[0] - y))

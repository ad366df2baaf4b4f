"""Zero points: from the header, from a table, or given; which one won is said.

A zero point is the magnitude of a star whose flux, summed over pixels, is one image unit.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from astropy import units as u

from crowdfit.calibration.bands import JWST_BANDS, VEGA_ERROR
from crowdfit.calibration.options import Calibration
from crowdfit.calibration.references import read_offset, read_rows, read_table
from crowdfit.calibration.units import AB_ZERO, LIGHT, st_minus_ab
from crowdfit.errors import InputError

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "Facts",
    "ZeroPoint",
    "facts_of",
    "header_zero_point",
    "pivot_of",
    "vega_offset_of",
    "zero_point_of",
]

log = logging.getLogger(__name__)

Facts = Mapping[str, str]
"""Metadata of a catalogue, keys in capitals."""

HEADER_ERRORS: Final = {"NIRCAM": 0.05, "MIRI": 0.03}
"""Uncertainty of header zero points (mag): NIRCam detectors agree to 0.05 (Weisz et al. 2024), standard stars on MIRI
scatter by 0.01 to 0.04 (Gordon et al. 2025)."""
PLAUSIBLE: Final = (10.0, 45.0)
"""Zero points of keywords outside of this (mag) are placeholders."""
CONTRADICTS: Final = 0.01
"""Difference from the header (mag) above which a zero point that was given is worth a word."""


@dataclass(frozen=True)
class ZeroPoint:
    """A zero point.

    Parameters
    ----------
    value : float
        Magnitude of a flux of one image unit.
    error : float
        Its uncertainty (mag), NaN when it is not known.
    system : str
        "AB", "Vega" or "ST".
    source : str
        Where it comes from, in words.
    """

    value: float
    error: float
    system: str
    source: str


def facts_of(meta: Mapping[str, object]) -> dict[str, str]:
    """Return the metadata of a catalogue as text by keys in capitals, whatever a file format has made of them."""
    return {str(key).upper(): str(value).strip() for key, value in meta.items()}


def number(facts: Facts, key: str) -> float | None:
    """Return a finite number from the metadata, None where there is none."""
    try:
        value = float(facts[key])
    except (KeyError, ValueError):
        return None
    return value if np.isfinite(value) else None


def zero_point_of(facts: Facts, options: Calibration) -> ZeroPoint | None:
    """Return the zero point in the system of the options, None where nothing tells one.

    Parameters
    ----------
    facts : mapping of str to str
        Metadata of the catalogue.
    options : Calibration
        What is given here wins, then a table, then the header; a contradiction is logged (P005).

    Raises
    ------
    InputError
        A table without the filter, or a system that needs facts that are missing.
    """
    from_header = header_zero_point(facts)
    ours = None if from_header is None else _in_system(from_header, facts, options)
    if options.zero_point is not None:
        found = ZeroPoint(options.zero_point, np.nan, options.system, "given")
    elif options.zero_points is not None:
        found = _from_table(options.zero_points, facts, options)
    elif ours is None:
        return None
    else:
        found = ours
    if ours is not None and abs(ours.value - found.value) > CONTRADICTS:
        log.warning(
            "zero point %.3f (%s) is used, not the %.3f of the header (%s)",
            found.value, found.source, ours.value, ours.source,
        )  # fmt: skip
    error = found.error if options.zero_point_err is None else options.zero_point_err
    return ZeroPoint(found.value, error, found.system, found.source)


def header_zero_point(facts: Facts) -> ZeroPoint | None:
    """Return the AB zero point that the header tells, None where it tells none (P054).

    In this order: the flux density of one image unit from its unit and the pixel area (PIXAR_SR, else that of the
    WCS); PHOTMJSR for counts per second; PHOTFLAM and PHOTPLAM; MAGZERO or MAGZPT.
    """
    unit = facts.get("UNIT", "")
    for jansky, source in (_jansky_of_unit(facts, unit), _jansky_of_photflam(facts, unit)):
        if jansky is not None and jansky > 0:
            error = (
                HEADER_ERRORS.get(facts.get("INSTRUME", "").upper(), np.nan) if _is_jwst(facts) else np.nan
            )
            return ZeroPoint(AB_ZERO - 2.5 * float(np.log10(jansky)), error, "AB", source)
    return _zero_point_card(facts, unit)


def _is_jwst(facts: Facts) -> bool:
    return facts.get("TELESCOP") == "JWST"


def _jansky_of_unit(facts: Facts, unit: str) -> tuple[float | None, str]:
    """Return the flux density (Jy) of one image unit that is a flux density or surface brightness, and the source."""
    pixel_sr, area_from = number(facts, "PIXAR_SR"), "PIXAR_SR"
    if pixel_sr is None:
        pixel_sr, area_from = number(facts, "PIXEL_SR"), "the pixel area of the WCS"
    photmjsr = number(facts, "PHOTMJSR")
    if unit == "adu/s" and photmjsr and pixel_sr:
        return 1e6 * photmjsr * pixel_sr, f"PHOTMJSR = {photmjsr:g}, {area_from} = {pixel_sr:.6g}"
    try:
        parsed = u.Unit(unit)
    except (ValueError, TypeError):
        return None, ""
    per_pixel = parsed * u.pix if parsed.is_equivalent(u.Jy / u.pix) else parsed
    if per_pixel.is_equivalent(u.Jy):
        return float(per_pixel.to(u.Jy)), f"the image is in {unit}"
    if parsed.is_equivalent(u.Jy / u.sr) and pixel_sr:
        return float(parsed.to(u.Jy / u.sr)) * pixel_sr, f"{unit} x {area_from} = {pixel_sr:.6g} sr"
    return None, ""


def _jansky_of_photflam(facts: Facts, unit: str) -> tuple[float | None, str]:
    """Return the flux density (Jy) of one image unit from the inverse sensitivity of HST, and the source."""
    photflam, pivot = number(facts, "PHOTFLAM"), number(facts, "PHOTPLAM")
    time = 1.0 if unit.endswith("/s") else number(facts, "EXPTIME")
    if (
        not photflam
        or not pivot
        or not time
        or unit.split("/", maxsplit=1)[0] not in ("", "ct", "adu", "electron")
    ):
        return None, ""
    jansky = 1e23 * photflam * pivot**2 / LIGHT / time
    return jansky, f"PHOTFLAM = {photflam:g}, PHOTPLAM = {pivot:g}" + ("" if time == 1 else f", {time:g} s")


def _zero_point_card(facts: Facts, unit: str) -> ZeroPoint | None:
    """Return the zero point that a keyword gives, for counts (MAGZERO) or counts per second (MAGZPT)."""
    if unit.split("/", maxsplit=1)[0] not in ("", "ct", "adu", "electron"):
        return None
    per_image, per_second = (_plausible(number(facts, key)) for key in ("MAGZERO", "MAGZPT"))
    time = number(facts, "EXPTIME")
    if unit.endswith("/s"):
        return None if per_second is None else ZeroPoint(per_second, np.nan, "AB", "MAGZPT, taken as AB")
    if per_image is not None:
        return ZeroPoint(per_image, np.nan, "AB", "MAGZERO, taken as AB")
    if per_second is not None and time:
        value = per_second + 2.5 * float(np.log10(time))
        return ZeroPoint(value, np.nan, "AB", f"MAGZPT, taken as AB, {time:g} s")
    return None


def _plausible(value: float | None) -> float | None:
    """Return a zero point, None for a placeholder such as 0 or 99."""
    low, high = PLAUSIBLE
    return value if value is not None and low < value < high else None


def _from_table(path: Path, facts: Facts, options: Calibration) -> ZeroPoint:
    """Return the zero point of a table of them, or that of a CRDS photom table."""
    table = read_table(path, "PHOTOM")
    if "zero_point" not in table.colnames and "photmjsr" in table.colnames:
        return _from_photom(path, table, facts, options)
    if "zero_point" not in table.colnames:
        raise InputError(f"{path}: has no column zero_point or photmjsr; it has {', '.join(table.colnames)}")
    row = read_rows(table, facts, path)[0]
    error = float(row["zero_point_err"]) if "zero_point_err" in table.colnames else np.nan
    return ZeroPoint(float(row["zero_point"]), error, options.system, f"table {path.name}")


def _from_photom(path: Path, table: "Table", facts: Facts, options: Calibration) -> ZeroPoint:
    """Return the zero point with another PHOTMJSR than the one the pipeline used (R002)."""
    row = read_rows(table, facts, path)[0]
    header, old, new = header_zero_point(facts), number(facts, "PHOTMJSR"), float(row["photmjsr"])
    if header is None or not old or not new > 0:
        raise InputError(
            f"{path}: PHOTMJSR of the table is {new:g}, but the image has no PHOTMJSR and PIXAR_SR of its "
            "own to be scaled "
            "from; give calibration.zero_point"
        )
    scale = 2.5 * float(np.log10(new / old))
    ours = _in_system(ZeroPoint(header.value - scale, header.error, "AB", ""), facts, options)
    error = ours.error
    if "uncertainty" in table.colnames and float(row["uncertainty"]) > 0:
        error = 2.5 / np.log(10) * float(row["uncertainty"]) / new
    return ZeroPoint(ours.value, error, ours.system, f"{path.name}: PHOTMJSR = {new:g} instead of {old:g}")


def _in_system(ab: ZeroPoint, facts: Facts, options: Calibration) -> ZeroPoint:
    """Return an AB zero point in the system of the options."""
    if options.system == "AB":
        return ab
    if options.system == "ST":
        return ZeroPoint(ab.value + st_minus_ab(pivot_of(facts, options)), ab.error, "ST", ab.source)
    offset, error = vega_offset_of(facts, options)
    return ZeroPoint(
        ab.value - offset, float(np.hypot(ab.error, error)), "Vega", f"{ab.source}, AB - Vega = {offset:g}"
    )


def vega_offset_of(facts: Facts, options: Calibration) -> tuple[float, float]:
    """Return m_AB - m_Vega and its uncertainty (mag): given, from a table, or the built-in JWST one (M035).

    Raises
    ------
    InputError
        The filter is in no table.
    """
    if options.vega_offset is not None:
        return options.vega_offset, 0.0
    if options.vega_offsets is not None:
        return read_offset(options.vega_offsets, facts), 0.0
    band = facts.get("BAND", "")
    if not _is_jwst(facts) or band not in JWST_BANDS:
        raise InputError(
            f"calibration.vega_offset: AB - Vega of filter {band or '(not named in the header)'} is not "
            "known; set it in mag"
        )
    return JWST_BANDS[band].ab_minus_vega, VEGA_ERROR


def pivot_of(facts: Facts, options: Calibration) -> float:
    """Return the pivot wavelength (um): given, PHOTPLAM, or that of a JWST filter.

    Raises
    ------
    InputError
        It is not known.
    """
    if options.wavelength is not None:
        return options.wavelength
    if pivot := number(facts, "PHOTPLAM"):
        return pivot / 1e4
    band = facts.get("BAND", "")
    if _is_jwst(facts) and band in JWST_BANDS:
        return JWST_BANDS[band].pivot
    raise InputError(
        f"calibration.wavelength: the pivot wavelength of filter {band or '(not named in the header)'} is "
        "not known; set "
        "it in um"
    )

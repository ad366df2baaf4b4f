"""What FITS headers say about an exposure: gain, read noise, saturation, time, unit, filter.

The image header is asked first, then the primary one. The keyword tables below are the only place where
the habits of instruments appear.
"""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from astropy import units as u
from astropy.io import fits

from crowdfit.io.options import InputOptions

__all__ = ["Facts", "header_value", "normalise_unit", "read_facts"]

# Each entry is one keyword, or the keywords of the amplifiers whose mean is taken.
GAIN_KEYS: Final = (("GAIN",), ("EGAIN",), ("CCDGAIN",), ("ATODGAIN",), ("GAINA", "GAINB"))
RDNOISE_KEYS: Final = (("RDNOISE",), ("READNOIS",), ("RON",), ("RDNOISEA", "RDNOISEB"))
SATURATE_KEYS: Final = (("SATURATE",), ("SATLEVEL",))
EXPTIME_KEYS: Final = (("EXPTIME",), ("XPOSURE",), ("EFFEXPTM",), ("EXPOSURE",))
FILTER_KEYS: Final = ("FILTER", "FILTNAM1", "FILTER1", "FILTER2", "BAND")
PUPIL_FILTERS: Final = ("F162M", "F164N", "F323N", "F405N", "F466N", "F470N")
"""NIRCam filters that sit in the pupil wheel; FILTER then names the blocker in front of them."""
KEPT_KEYS: Final = (
    "TELESCOP", "INSTRUME", "DETECTOR", "SUBARRAY", "OBJECT", "DATE-OBS", "EXPSTART", "EXPMID", "CAL_VER", "CRDS_CTX",
    "CRDS_VER", "FASTAXIS", "PHOTMJSR", "PIXAR_SR", "PIXAR_A2", "PHOTFLAM", "PHOTPLAM", "PHOTZPT",
    "MAGZERO", "MAGZPT",
)  # fmt: skip
"""Carried into the metadata of the products when present."""

ABSURD: Final = 1e100
"""No gain, noise, level or time is as large, whatever the unit of the image."""

_SPELLINGS: Final = {
    "counts": "ct", "count": "ct", "cts": "ct", "dn": "adu", "adu": "adu", "adus": "adu",
    "electrons": "electron", "electron": "electron", "e-": "electron", "e": "electron",
    "seconds": "s", "second": "s", "sec": "s", "photons": "ph", "photon": "ph",
}  # fmt: skip
_WORD: Final = re.compile(r"e-|[A-Za-z]+")


@dataclass
class Facts:
    """What is known about an exposure besides its pixels.

    Parameters
    ----------
    gain : float or None
        Electrons per image unit.
    rdnoise : float or None
        Read noise (electrons).
    saturate : float or None
        Saturation level (image unit); `saturate_given` when the user set it.
    exptime : float or None
        Exposure time (s).
    unit, band : str
        Image unit (astropy's spelling, no spaces around /), and filter; empty when unknown.
    meta : dict
        Header cards worth keeping.
    notes : list of str
        What was assumed or ignored, in order.
    """

    gain: float | None = None
    rdnoise: float | None = None
    saturate: float | None = None
    saturate_given: bool = False
    exptime: float | None = None
    unit: str = ""
    band: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_facts(headers: Iterable[fits.Header], options: InputOptions) -> Facts:
    """Collect the facts from headers (most specific first) and options, which win.

    Values that are blank or no numbers are passed over with a note.
    """
    headers = tuple(headers)
    facts = Facts(band=_band(headers))
    is_jwst = header_value(headers, "TELESCOP") == "JWST"
    # EXPOSURE counts exposure requests there
    facts.exptime = _number(headers, EXPTIME_KEYS[:-1] if is_jwst else EXPTIME_KEYS, facts.notes)
    facts.unit = _unit(headers, facts.notes)
    facts.gain = _gain(headers, facts, options)
    facts.rdnoise = _given_or_read(
        options.rdnoise, _number(headers, RDNOISE_KEYS, facts.notes), "rdnoise", facts.notes
    )
    facts.saturate = _given_or_read(
        options.saturate, _number(headers, SATURATE_KEYS, facts.notes), "saturate", facts.notes
    )
    facts.saturate_given = options.saturate is not None
    facts.meta = {key: value for key in KEPT_KEYS if (value := header_value(headers, key)) is not None}
    for key, value in (("EXPTIME", facts.exptime), ("SATURATE", facts.saturate), ("FILTER", facts.band)):
        if value:
            facts.meta[key] = value
    return facts


def header_value(headers: Iterable[fits.Header], key: str) -> Any:
    """Return the first value of `key` that is there, readable and not blank, else None."""
    for header in headers:
        try:
            value = header.get(key)
        except (fits.VerifyError, ValueError):  # a card that breaks the standard
            continue
        if isinstance(value, fits.card.Undefined) or value is None or value == "":
            continue
        return value.strip() if isinstance(value, str) else value
    return None


def normalise_unit(bunit: str) -> str | None:
    """Return a unit in one spelling ("COUNTS" -> "ct", "DN/s" -> "adu/s"), or None if it is no unit."""
    words = _WORD.sub(lambda word: _SPELLINGS.get(word[0].lower(), word[0]), bunit.strip())
    words = words.replace("Mjy", "MJy")
    # S is siemens, so a name written in capitals is first read as if it were not
    for attempt in (words.lower(), words) if bunit.isupper() else (words, words.lower()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", u.UnitsWarning)  # deprecated but readable spellings
                return str(u.Unit(attempt).to_string()).replace(" / ", "/")
        except (ValueError, TypeError):
            continue
    return None


def _number(
    headers: tuple[fits.Header, ...], keys: tuple[tuple[str, ...], ...], notes: list[str]
) -> float | None:
    """Return the first number >= 0 that is not absurd found under `keys`, and note values that are none."""
    for group in keys:
        values = [
            _as_number(key, value, notes)
            for key in group
            if (value := header_value(headers, key)) is not None
        ]
        numbers = [value for value in values if value is not None]
        if numbers:
            return float(np.mean(numbers))
    return None


def _as_number(key: str, value: object, notes: list[str]) -> float | None:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = np.nan
        if 0 <= number < ABSURD:
            return number
    notes.append(f"header {key} = {value!r} ignored: not a number that makes sense")
    return None


def _unit(headers: tuple[fits.Header, ...], notes: list[str]) -> str:
    raw = header_value(headers, "BUNIT")
    if raw is None:
        return ""
    unit = normalise_unit(str(raw))
    if unit is None:
        notes.append(f"header BUNIT = {raw!r} is not a known unit: fluxes have no unit")
    return unit or ""


def _gain(headers: tuple[fits.Header, ...], facts: Facts, options: InputOptions) -> float | None:
    """Return electrons per image unit; the header's gain is per count, which the image may not be in."""
    header_gain = _number(headers, GAIN_KEYS, facts.notes) or None
    base, _, per = facts.unit.partition("/")
    time = {"": 1.0, "s": facts.exptime}.get(per)
    per_count = {"electron": 1.0, "": header_gain, "adu": header_gain, "ct": header_gain}.get(base)
    gain = per_count * time if per_count and time else None
    if header_gain and options.gain is None and base not in ("electron", "", "adu", "ct"):
        facts.notes.append(
            f"header gain {header_gain:g} is per count but the image is in {facts.unit}: not used; "
            "set input.gain to electrons per image unit"
        )
    return _given_or_read(options.gain, gain, "gain", facts.notes)


def _given_or_read(given: float | None, read: float | None, name: str, notes: list[str]) -> float | None:
    """Return what the user gave, else what the header says, and note a contradiction (P005)."""
    if given is None:
        return read
    if read is not None and not np.isclose(given, read, rtol=1e-3):
        notes.append(f"{name} = {given:g} as configured, not {read:g} as in the header")
    return given


def _band(headers: tuple[fits.Header, ...]) -> str:
    """Return the filter; the pupil wheel wins where it holds one, and empty wheel positions do not count."""
    pupil = header_value(headers, "PUPIL")
    if pupil in PUPIL_FILTERS:
        return str(pupil)
    values = [value for key in FILTER_KEYS if isinstance(value := header_value(headers, key), str)]
    names = [value for value in values if not value.upper().startswith("CLEAR")]
    # a name before a description: BAND = 'z' rather than FILTER = 'z DECam SDSS c0004 9260.0 1520.0'
    return next((name for name in names if " " not in name), names[0] if names else "")

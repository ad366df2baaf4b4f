"""Units in table files, spelled so that other programs read them without complaint.

`electron` is a unit of neither the FITS standard nor VOUnits. In VOTable it is quoted, as that standard asks. In
FITS the keyword TUNIT would make astropy warn about every flux column, so the unit goes into a comment block
in which astropy looks for it (and finds it), into the description for people, and into TXUNI for `read_catalog`.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Final

from astropy import units as u

__all__ = ["astropy_comments", "fits_unit", "votable_unit"]

_WIDTH: Final = 70
"""Longest line of a comment card that astropy reads back as one."""
_NAME: Final = re.compile(r"[A-Za-z]+")


def fits_unit(text: str) -> str | None:
    """Return a unit in the spelling of the FITS standard, or None when it has none."""
    return _spelled(u.Unit(text, parse_strict="silent"), "fits")


def votable_unit(text: str) -> str | None:
    """Return a unit in the spelling of VOUnits, unknown names in quotes, or None when it cannot be written."""
    unit = u.Unit(text, parse_strict="silent")
    if (known := _spelled(unit, "vounit")) is not None:
        return known
    if unit.scale != 1:
        return None
    parts = []
    for base, power in zip(unit.bases, unit.powers, strict=True):
        name = _spelled(base, "vounit") or f"'{base.name}'"
        if not _NAME.fullmatch(name.strip("'")):
            return None
        parts.append(name if power == 1 else f"{name}**{power}")
    return ".".join(parts)


def _spelled(unit: u.UnitBase, standard: str) -> str | None:
    """Return a unit as a standard spells it, or None when it would not be read back without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", u.UnitsWarning)
        try:
            text = str(unit.to_string(standard))
            return text if u.Unit(text, format=standard) == unit else None
        except (ValueError, u.UnitsWarning):
            return None


def astropy_comments(units: Mapping[str, str]) -> list[str]:
    """Return the comment lines from which astropy restores the units of FITS columns.

    Parameters
    ----------
    units : mapping of str to str
        Units by column, in astropy's generic spelling; those astropy does not know are passed over.
    """
    columns, quantities = [], []
    for name, text in units.items():
        lines = [
            f"    {name}:",
            "      __class__: astropy.units.quantity.Quantity",
            f"      unit: !astropy.units.Unit {{unit: {text}}}",
            f"      value: !astropy.table.SerializedColumn {{name: {name}}}",
        ]
        is_unknown = isinstance(u.Unit(text, parse_strict="silent"), u.UnrecognizedUnit)
        if is_unknown or max(map(len, lines)) > _WIDTH:
            continue
        columns.append(f"- {{name: {name}, unit: {text}, datatype: float64}}")
        quantities += lines
    if not columns:
        return []
    return [
        "--BEGIN-ASTROPY-SERIALIZED-COLUMNS--",
        "datatype:",
        *columns,
        "meta: !!omap",
        "- __serialized_columns__:",
        *quantities,
        "--END-ASTROPY-SERIALIZED-COLUMNS--",
    ]

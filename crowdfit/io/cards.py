"""Metadata as FITS header cards and back, whatever the length of keys and values."""

import re
from collections.abc import Mapping
from typing import Any, Final

from astropy.io import fits

__all__ = ["add_metadata", "read_metadata"]

_PLAIN: Final = re.compile(r"[A-Z][A-Z0-9_-]{0,7}")
_NUMBERED: Final = re.compile(r"([A-Z0-9_]{4})(\d{4})")
_CARD: Final = 80
_STRUCTURE: Final = re.compile(
    r"SIMPLE|EXTEND|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|EXTNAME|CHECKSUM|DATASUM|COMMENT|HISTORY|"
    r"T(TYPE|FORM|UNIT|XUNI|COMM|UCD|ZERO|SCAL|NULL|DISP|DIM)\d+|"
)


def add_metadata(header: fits.Header, metadata: Mapping[str, Any]) -> None:
    """Write metadata into a header (P076).

    Short values become one card, `KEY` or `HIERARCH key`. Text of several lines, or too long for that,
    becomes numbered cards: `CONF0000 = 'config'` names it and `CONF0001` onwards hold its lines.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Changed in place.
    metadata : mapping
        Text, numbers and booleans by name; anything else is written as its text.
    """
    used: set[str] = set()
    for key, given in metadata.items():
        value = given if isinstance(given, bool | int | float) else _ascii(str(given))
        plain = _PLAIN.fullmatch(key.upper()) is not None and _NUMBERED.fullmatch(key.upper()) is None
        if _fits_one_card(key, value, plain=plain):
            header[key.upper() if plain else f"HIERARCH {key}"] = value
            continue
        prefix = _free_prefix(key, used)
        for number, line in enumerate([key, *str(value).split("\n")]):
            header[f"{prefix}{number:04d}"] = line


def read_metadata(header: fits.Header) -> dict[str, Any]:
    """Return the metadata of a header: what `add_metadata` wrote, and any other card that is not structure.

    Names that went into a keyword come back in capitals, as FITS has them.
    """
    metadata: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for card in header.cards:
        numbered = _NUMBERED.fullmatch(card.keyword)
        if numbered and int(numbered[2]) == 0:
            texts[numbered[1]] = str(card.value)
        elif numbered and numbered[1] in texts:
            name = texts[numbered[1]]
            metadata[name] = f"{metadata[name]}\n{card.value}" if name in metadata else card.value
        elif not _STRUCTURE.fullmatch(card.keyword):
            metadata[card.keyword] = card.value
    return metadata


def _ascii(text: str) -> str:
    """Return text as FITS headers allow it: other characters are escaped, tabs become blanks."""
    return text.expandtabs(4).encode("ascii", "backslashreplace").decode("ascii").rstrip("\n")


def _fits_one_card(key: str, value: bool | float | str, *, plain: bool) -> bool:
    """Return whether key and value fit one card, or for a plain keyword one line of any length."""
    if not isinstance(value, str):
        return True
    if "\n" in value:
        return False
    return plain or len(f"HIERARCH {key} = '{value.replace(chr(39), chr(39) * 2)}'") <= _CARD


def _free_prefix(key: str, used: set[str]) -> str:
    """Return four characters for numbered cards, made of the key, that are not yet taken."""
    word = re.sub(r"[^A-Z0-9]", "", key.upper()) + "____"
    for candidate in (word[:4], *(f"{word[:2]}{number:02d}" for number in range(100))):
        if candidate not in used:
            break
    used.add(candidate)
    return candidate

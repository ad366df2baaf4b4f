"""Data-quality bits of JWST by name, and the grammar in which a policy about them is written.

A policy says which bits leave a pixel usable, in the words of the JWST pipeline: an integer, a sum such as
``4+8``, names such as ``SATURATED+JUMP_DET``; a leading ``~`` means that these are the bad ones; 0 makes every
flagged pixel bad, and None ignores data quality. Three policies have names of their own (`PRESETS`).
"""

import re
from typing import Final

from crowdfit.errors import InputError

__all__ = ["DQ_BITS", "PRESETS", "decode_dq", "good_bits"]

_NAMES: Final = (
    "DO_NOT_USE", "SATURATED", "JUMP_DET", "DROPOUT", "OUTLIER", "PERSISTENCE", "AD_FLOOR", "CHARGELOSS",
    "RESERVED", "NON_SCIENCE", "DEAD", "HOT", "WARM", "LOW_QE", "RC", "TELEGRAPH", "NONLINEAR", "BAD_REF_PIXEL",
    "NO_FLAT_FIELD", "NO_GAIN_VALUE", "NO_LIN_CORR", "NO_SAT_CHECK", "UNRELIABLE_BIAS", "UNRELIABLE_DARK",
    "UNRELIABLE_SLOPE", "UNRELIABLE_FLAT", "OPEN", "ADJ_OPEN", "FLUX_ESTIMATED", "MSA_FAILED_OPEN",
    "OTHER_BAD_PIXEL", "REFERENCE_PIXEL",
)  # fmt: skip
DQ_BITS: Final = {name: 1 << bit for bit, name in enumerate(_NAMES)}
"""Value of each bit of a JWST data-quality plane; bit 31 needs unsigned arithmetic."""
ALL: Final = 2**32 - 1

PRESETS: Final = {
    "strict": "0",
    # the MIRI notebook keeps 0, 2, 4, 6 and nothing else (M003)
    "notebook": "SATURATED+JUMP_DET",
    # where the value is wrong or there is none; what had a cosmic ray or was saturated for a while has a good slope
    "photometry": "~DO_NOT_USE+OUTLIER+NON_SCIENCE+DEAD+HOT+UNRELIABLE_SLOPE+OPEN+ADJ_OPEN+REFERENCE_PIXEL",
}
"""Policies by name, from the hardest to the mildest."""


def good_bits(policy: str | int | None) -> int | None:
    """Return the bits that leave a pixel usable as one integer, or None when data quality is ignored (M003).

    Parameters
    ----------
    policy : str, int or None
        A name of `PRESETS`, or bits in the grammar of this module.

    Raises
    ------
    InputError
        A word that is no bit, or a number that is not from 0 to 2^32 - 1.

    Examples
    --------
    >>> good_bits("SATURATED+JUMP_DET"), good_bits("4+8"), good_bits("~1")
    (6, 12, 4294967294)
    """
    if policy is None or str(policy).strip().lower() == "none":
        return None
    text = PRESETS.get(str(policy).strip().lower(), str(policy).strip())
    are_bad = text.startswith("~")
    total = 0
    for word in re.split(r"\s*[+,|]\s*", text.removeprefix("~").strip(" ()")):
        total |= _value(word, policy)
    return ALL & ~total if are_bad else total


def decode_dq(value: int) -> tuple[str, ...]:
    """Return the names of the bits that are set in a JWST data-quality value (M004).

    Examples
    --------
    >>> decode_dq(2049)
    ('DO_NOT_USE', 'HOT')
    """
    return tuple(name for name, bit in DQ_BITS.items() if int(value) & bit)


def _value(word: str, policy: object) -> int:
    """Return the bits that a word of a policy stands for."""
    if word.upper() in DQ_BITS:
        return DQ_BITS[word.upper()]
    if re.fullmatch(r"\d+", word) and int(word) <= ALL:
        return int(word)
    raise InputError(
        f"{word!r} in the data-quality policy {policy!r} is neither a bit nor a number from 0 to {ALL}; give a "
        f"sum such as 4+8 or names such as SATURATED+JUMP_DET, with ~ in front for the bad ones, or one of "
        f"{', '.join(PRESETS)}; the names are {', '.join(DQ_BITS)}"
    )

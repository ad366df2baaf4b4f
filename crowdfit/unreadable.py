"""What astropy raises at FITS files that are damaged or are none: which exception is a matter of which byte."""

import io
import lzma
import math
import re
import struct
import zipfile
import zlib
from typing import BinaryIO, Final

from astropy.io.fits.verify import VerifyError

UNREADABLE: Final = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,  # sizes in a damaged header
    VerifyError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)
"""Not to be caught around more than reading, since mistakes of our own look the same; InputError is one of them."""


def reason_of(exc: Exception) -> str:
    """Return the first line of what an exception says, or its kind where it says nothing."""
    said = str(exc).strip().splitlines()
    return said[0][:200] if said else type(exc).__name__


BLOCK: Final = 2880
MOST: Final = 999
"""The standard's limit on NAXIS and TFIELDS; astropy counts up to whatever is written there."""
_COUNT: Final = re.compile(rb"(NAXIS|TFIELDS) *= *([-+]?\d+)")
_NEGATIVE: Final = re.compile(rb"(NAXIS\d*|PCOUNT|GCOUNT|TFIELDS) *= *-\d+")
_SIZE: Final = re.compile(rb"(BITPIX|NAXIS|NAXIS\d+|PCOUNT|GCOUNT) *= *([-+]?\d+)")


def endless_card(stream: BinaryIO) -> str:
    """Return the card of a FITS file that would keep astropy busy for ever, empty if there is none.

    Headers are walked through from the beginning up to the first that makes no sense, which is left to astropy; the
    stream is put back to its beginning.
    """
    found = ""
    while not found and (header := _next_header(stream)):
        cards = [header[at : at + 80] for at in range(0, len(header), 80)]
        # a negative size sends astropy backwards to the same header
        odd = [match for card in cards if (match := _NEGATIVE.match(card))]
        odd += [match for card in cards if (match := _COUNT.match(card)) and int(match[2]) > MOST]
        found = " ".join(odd[0][0].decode("ascii").split()) if odd else ""
        size = _data_size({m[1]: int(m[2]) for card in cards if (m := _SIZE.match(card))})
        if size is None:
            break
        stream.seek(-(-size // BLOCK) * BLOCK, io.SEEK_CUR)
    stream.seek(0)
    return found


def _next_header(stream: BinaryIO) -> bytes:
    """Return the header that begins here, empty where there is none."""
    header = b""
    while len(header) < MOST * BLOCK:
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            return b""
        header += block
        if any(block[at : at + 8] == b"END     " for at in range(0, BLOCK, 80)):
            return header
    return b""


def _data_size(cards: dict[bytes, int]) -> int | None:
    """Return the number of bytes of the data of a header, None where it does not say."""
    axes = [cards.get(b"NAXIS%d" % k) for k in range(1, min(cards.get(b"NAXIS", -1), MOST) + 1)]
    if b"NAXIS" not in cards or b"BITPIX" not in cards or any(n is None or n < 0 for n in axes):
        return None
    pixels = math.prod(n for n in axes if n is not None) if axes else 0
    size = abs(cards[b"BITPIX"]) // 8 * cards.get(b"GCOUNT", 1) * (cards.get(b"PCOUNT", 0) + pixels)
    return size if 0 <= size < 2**62 else None

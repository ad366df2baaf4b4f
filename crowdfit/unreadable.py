"""What astropy raises at FITS files that are damaged or are none: which exception is a matter of which byte."""

import lzma
import struct
import zipfile
import zlib
from typing import Final

from astropy.io.fits.verify import VerifyError

UNREADABLE: Final = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
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

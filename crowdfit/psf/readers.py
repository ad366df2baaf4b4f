"""PSFs from files and arrays given by the user."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike

from crowdfit.errors import InputError
from crowdfit.psf.epsf import EPSF


def psf_from_array(array: ArrayLike, *, oversample: int = 1, recentre: bool = True) -> EPSF:
    """Return the PSF held by an array.

    Parameters
    ----------
    array : array_like (sy, sx)
        Odd sizes; any positive sum, scaled to 1.
    oversample : int
        Samples per detector pixel.
    recentre : bool
        Shift the table so that the centroid of its core is its middle sample. A PSF that is off centre moves
        every position by the same amount.

    Raises
    ------
    InputError
        Even-sized, not 2-D, not finite, or a sum that is not positive.
    """
    psf = EPSF.from_samples(array, oversample)
    return psf.recentred()[0] if recentre else psf


def read_psf_image(path: str | Path, *, oversample: int | None = None) -> EPSF:
    """Return the PSF in a plain FITS image.

    Parameters
    ----------
    path : str or Path
        File whose first image extension is the PSF.
    oversample : int or None
        Samples per detector pixel; None: keyword OVERSAMP of the image's own header, else 1. DET_SAMP is not
        read, since it speaks of the calculation behind the file and not of its sampling.

    Raises
    ------
    InputError
        Unreadable file, no image, or an array that `psf_from_array` refuses; the message names the file.
    """
    try:
        with fits.open(path) as hdus:
            image = next((h for h in hdus if h.is_image and h.data is not None), None)
            if image is None:
                raise InputError(f"{path}: no image extension to read a PSF from")
            table, header = np.asarray(image.data, np.float64), image.header
    except OSError as problem:
        raise InputError(f"{path}: cannot be read as a FITS file ({problem})") from problem
    factor = oversample if oversample is not None else _header_sampling(header, path)
    if table.ndim == 3 and len(table) == 1:
        table = table[0]
    try:
        return psf_from_array(table, oversample=factor)
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from problem


def _header_sampling(header: fits.Header, path: str | Path) -> int:
    """Return OVERSAMP of a header, 1 if it is not there."""
    value = header.get("OVERSAMP", 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(1, 21):
        raise InputError(
            f"{path}: OVERSAMP is {value!r}, which is no whole number from 1 to 20; correct the header, or set "
            "psf.oversample"
        )
    return int(value)

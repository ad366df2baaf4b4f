"""PSFs from files and arrays given by the user. What a file is follows from what is in it, not from its name."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from numpy.typing import ArrayLike

from crowdfit.errors import InputError
from crowdfit.psf import grids, psfex, stored, stpsf
from crowdfit.psf.epsf import EPSF
from crowdfit.unreadable import UNREADABLE, endless_card, reason_of

log = logging.getLogger(__name__)


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


def read_psf(
    path: str | Path,
    *,
    oversample: int | None = None,
    detector: int | str | None = None,
    recentre: bool | None = None,
) -> EPSF:
    """Return the PSF in a file, which may vary over the field.

    Understood are STDPSF files (HST, JWST), grids and single PSFs of STPSF and WebbPSF, PSFEx models (.psf files and
    the tables of the Legacy Surveys), the fit images of crowdfit itself, and plain FITS images.

    Parameters
    ----------
    path : str or Path
        The file.
    oversample : int or None
        Samples per detector pixel, instead of what the file says; not where the format itself settles it (PSFEx,
        STDPSF, fit images).
    detector : int, str or None
        Which of several detectors: number of the chip in STDPSF files (as in photutils), number or name of the model
        in files of PSFEx.
    recentre : bool or None
        Shift the PSF so that the centroid of its core is its middle sample. None: plain images only, because
        libraries define what a position means.

    Raises
    ------
    InputError
        Unreadable file, none of these formats, or content that contradicts itself; the message names file and
        keyword, and what would be right.
    """
    with _opened(path) as hdus:
        psf = _library_psf(hdus, str(path), oversample, detector)
        is_plain = psf is None
        if psf is None:
            _refuse_detector(detector, path)
            psf = _plain_psf(hdus, path, oversample)
    psf.check_width(str(path))
    return psf.recentred()[0] if (is_plain if recentre is None else recentre) else psf


@contextmanager
def _opened(path: str | Path) -> Iterator[fits.HDUList]:
    """Open a FITS file; what is wrong with it becomes an `InputError`."""
    try:
        with warnings.catch_warnings():
            # lower-case keywords of STDPSF files are a matter of style
            warnings.simplefilter("ignore", VerifyWarning)
            with Path(path).open("rb") as stream:
                card = endless_card(stream)
            if card:
                raise InputError(f"{path}: the file is damaged ({card} makes no sense)")
            with fits.open(path, memmap=False) as hdus:
                yield hdus
    except InputError:
        raise
    except UNREADABLE as problem:
        raise InputError(f"{path}: cannot be read as a FITS file ({reason_of(problem)})") from problem


def _library_psf(
    hdus: fits.HDUList, path: str, oversample: int | None, detector: int | str | None
) -> EPSF | None:
    """Return the PSF of a file in one of the formats of libraries, None if it is in none of them."""
    if psfex.is_psfex(hdus):
        if oversample is not None:
            raise InputError(
                f"{path}: psf.oversample {oversample} is refused, since PSF_SAMP of the PSFEx model says it; "
                "leave it out"
            )
        return psfex.read_psfex(hdus, path, detector)
    header, cube = hdus[0].header, hdus[0].data
    if cube is not None and grids.is_stdpsf(header):
        if oversample not in (None, grids.STDPSF_OVERSAMPLE):
            raise InputError(
                f"{path}: psf.oversample {oversample} is refused, since STDPSF files have "
                f"{grids.STDPSF_OVERSAMPLE} samples a pixel; leave it out"
            )
        return grids.read_stdpsf(np.asarray(cube, np.float64), header, path, detector)
    if cube is not None and grids.is_stpsf_grid(header):
        _refuse_detector(detector, path)
        planes = np.asarray(cube, np.float64)
        return grids.read_stpsf_grid(planes.reshape(-1, *planes.shape[-2:]), header, path, oversample)
    ours = stored.stored_image(hdus)
    if ours is not None:
        _refuse_detector(detector, path)
        if oversample is not None:
            raise InputError(
                f"{path}: psf.oversample {oversample} is refused, since OVERSAMP of the extension PSF says it; "
                "leave it out"
            )
        return stored.stored_psf(ours, path)
    if stpsf.is_stpsf(hdus):
        _refuse_detector(detector, path)
        return stpsf.read_stpsf(hdus, path, oversample)
    return None


def _refuse_detector(detector: int | str | None, path: str | Path) -> None:
    """Refuse a choice of detector where there is none."""
    if detector is not None:
        raise InputError(
            f"{path}: psf.detector {detector!r} is refused, since the file holds one detector; leave it out"
        )


def _plain_psf(hdus: fits.HDUList, path: str | Path, oversample: int | None) -> EPSF:
    """Return the PSF in the first image of a file, as it is."""
    image = next((h for h in hdus if h.is_image and h.data is not None), None)
    if image is None:
        raise InputError(f"{path}: no image extension to read a PSF from")
    table = np.asarray(image.data, np.float64)
    if table.ndim == 3 and len(table) == 1:
        table = table[0]
    if table.ndim == 3:
        raise InputError(
            f"{path}: psf: shape {table.shape} is refused: nothing says what its {len(table)} planes are. "
            "Understood are STDPSF (NXPSFS, NYPSFS), STPSF grids (DET_YX0), PSFEx models (PSF_MASK), single planes"
        )
    factor = oversample if oversample is not None else _header_sampling(image.header, path)
    try:
        return psf_from_array(table, oversample=factor, recentre=False)
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from problem


def _header_sampling(header: fits.Header, path: str | Path) -> int:
    """Return OVERSAMP of a header, 1 if it is not there.

    DET_SAMP is not read, since it speaks of the calculation behind the file and not of its sampling.
    """
    value = header.get("OVERSAMP", 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(1, 21):
        raise InputError(
            f"{path}: OVERSAMP is {value!r}, which is no whole number from 1 to 20; correct the header, or set "
            "psf.oversample"
        )
    return int(value)

"""Single PSFs of STPSF, which was WebbPSF (and of POPPY below it): up to four extensions of one calculation.

OVERSAMP and OVERDIST hold the light on squares of ``1 / DET_SAMP`` pixels: the optical PSF, to which OVERDIST adds
geometric distortion and the detector's charge diffusion. DET_SAMP and DET_DIST are the same binned to detector
pixels, DET_DIST with the coupling of neighbouring pixels on top. A PSF for fitting is the oversampled one summed over
the detector pixel around every place; where squares make up a pixel that is the binning of the program itself.

Arrays are centred on their middle, which is between two samples when their sides are even.
"""

import logging

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.resample import centred, over_pixel

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

OVERSAMPLED = ("OVERDIST", "OVERSAMP")
"""Extensions in the order of choice: with distortion first."""
DETECTOR = ("DET_DIST", "DET_SAMP")
"""Extensions at detector sampling, taken where no other is there."""


def is_stpsf(hdus: fits.HDUList) -> bool:
    """Return whether a file has an extension of the names that STPSF gives."""
    return bool(_images(hdus))


def read_stpsf(hdus: fits.HDUList, path: str, oversample: int | None = None) -> EPSF:
    """Return the PSF of a calculation of STPSF.

    Parameters
    ----------
    hdus : HDUList
        The file.
    path : str
        Its name, for messages.
    oversample : int or None
        Samples per pixel of the oversampled extension, instead of its keywords.

    Raises
    ------
    InputError
        Keywords and shapes that contradict each other, or a table that cannot be used.
    """
    images = _images(hdus)
    name = next(iter(images))
    table, header = images[name]
    if table.ndim != 2:
        raise InputError(
            f"{path}[{name}]: shape {table.shape} is refused; a 2-D PSF is needed, not a cube of them"
        )
    if name in DETECTOR:
        factor = 1
        log.warning(
            "%s: there are detector-sampled PSFs only (%s); between pixels they are interpolated, which is poor for a "
            "FWHM below 2 px. Keep the oversampled extensions when the PSF is calculated", path, ", ".join(images)
        )  # fmt: skip
    else:
        factor = oversample if oversample is not None else _factor(header, f"{path}[{name}]")
        _compare_binned(images, name, factor, path)
    log.info("%s: extension %s is taken, %d samples a pixel", path, name, factor)
    try:
        return EPSF.from_samples(centred(over_pixel(table[np.newaxis], factor))[0], factor)
    except InputError as problem:
        raise InputError(f"{path}[{name}]: {problem}") from problem


def _images(hdus: fits.HDUList) -> dict[str, tuple[F64, fits.Header]]:
    """Return tables and headers of the extensions that STPSF writes, by name, the best first."""
    found = {h.name: h for h in reversed(hdus) if h.is_image and h.data is not None}
    names = [name for name in OVERSAMPLED + DETECTOR if name in found]
    return {name: (np.asarray(found[name].data, np.float64), found[name].header) for name in names}


def _factor(header: fits.Header, where: str) -> int:
    """Return the samples per pixel of an oversampled extension.

    DET_SAMP is the sampling of the image; OVERSAMP that of the pupil, which is the same unless asked for otherwise.
    """
    key = "DET_SAMP" if "DET_SAMP" in header else "OVERSAMP"
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(1, 21):
        raise InputError(
            f"{where}: {key} is {value!r}; a whole number from 1 to 20 is needed: correct it, or set psf.oversample"
        )
    return int(value)


def _compare_binned(images: dict[str, tuple[F64, fits.Header]], name: str, factor: int, path: str) -> None:
    """Refuse a number of samples per pixel that the extension binned to pixels contradicts."""
    fine = images[name][0].shape
    for other in (key for key in DETECTOR if key in images):
        binned = images[other][0].shape
        if tuple(factor * n for n in binned) != fine:
            raise InputError(
                f"{path}[{name}]: {factor} samples a pixel do not make the shape {binned} of {other} into {fine}; "
                "correct DET_SAMP (or OVERSAMP), or set psf.oversample"
            )

"""Copies of FITS files without the stripes of the readout, everything else in them as it was (R010-R017)."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from crowdfit.detectors.destripe import Destripe, Destriped
from crowdfit.errors import InputError
from crowdfit.io.atomic import atomic_path, check_writable
from crowdfit.io.fits import read_exposure
from crowdfit.io.hdus import file_stem, opened_to_change
from crowdfit.io.options import InputOptions

if TYPE_CHECKING:
    from crowdfit.exposure import Exposure, Image

__all__ = ["DestripedFile", "destripe_file"]

log = logging.getLogger(__name__)

ALREADY: Final = "S_CLNFNS"
"""Header card of the jwst pipeline's own step against 1/f noise; COMPLETE where it was made."""


@dataclass(frozen=True)
class DestripedFile:
    """What was written for an image.

    Parameters
    ----------
    files : tuple of Path
        The corrected copy first; empty where there was nothing to do.
    text : str
        One line for the user.
    """

    files: tuple[Path, ...]
    text: str


def destripe_file(
    path: str | Path,
    folder: str | Path,
    destripe: Destripe | None = None,
    options: InputOptions | None = None,
    *,
    masks: bool = False,
) -> DestripedFile:
    """Write a copy of a FITS file whose image has no stripes.

    The copy has all extensions of the file: the stripes are taken out of the image, and their error is added to its
    error, variance or weight plane. Pixels without a value stay so.

    Parameters
    ----------
    path, folder : path
        Image, and where to write `<stem>_rowbgsub.fits`.
    destripe : Destripe, optional
        How the stripes are found.
    options : InputOptions, optional
        Which extensions and pixels to use.
    masks : bool
        Write `detections_segm_<stem>.fits` (number of the source of each pixel, uint32) and `<stem>_masked.fits` (the
        image with NaN on sources) too.

    Raises
    ------
    InputError
        If the image cannot be read or holds too little sky, or the folder cannot be written.
    """
    path, folder, options = Path(path), check_writable(Path(folder)), options or InputOptions()
    stem = file_stem(path)
    with opened_to_change(path, options) as (hdus, sci, noise):
        state = str(sci.header.get(ALREADY, hdus[0].header.get(ALREADY, "")))
        if state.strip().upper() == "COMPLETE":
            return DestripedFile((), f"{path}: has no stripes any more ({ALREADY} is COMPLETE); left alone")
        target = folder / f"{stem}_rowbgsub.fits"
        if target.exists() and target.samefile(path):
            raise InputError(
                f"{path}: would be overwritten by its own correction; choose another folder with -o"
            )
        # the drift is one of pixels, whatever area of the sky they see
        exposure = read_exposure(path, replace(options, area="none"))
        found = (destripe or Destripe())(exposure)
        header = sci.header.copy()
        pixels = np.asarray(sci.data)
        sci.data = _as_float(pixels) - found.stripes.astype(_as_float(pixels).dtype)
        sci.header.extend(_cards(found), update=True)
        for number, kind in noise.items():
            hdus[number].data = _with_error(
                _as_float(np.asarray(hdus[number].data)), kind, found.stripes_error
            )
        with atomic_path(target) as temporary:
            hdus.writeto(temporary, checksum=True)
    files = [target, *(_write_masks(folder, stem, header, exposure, found) if masks else ())]
    return DestripedFile(tuple(files), f"{path}: {summary(exposure, found)}")


def summary(exposure: "Exposure", found: Destriped) -> str:
    """Return one line about what was found."""
    parts = []
    for stripes in found.found:
        name = "rows" if stripes.along_rows else "columns"
        if stripes.amplitude == 0:
            parts.append(f"no stripes along {name}")
            continue
        part = f"stripes of {stripes.amplitude / exposure.noise:.2f} sigma along {name}"
        parts.append(f"{part}, {stripes.unseen} pieces of lines unseen" if stripes.unseen else part)
    return f"{'; '.join(parts)}; {found.usable:.0%} of the pixels are free of sources"


def _as_float(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels that can hold fractions, in native byte order."""
    wide = pixels.dtype.kind == "f"
    return pixels.astype(pixels.dtype.newbyteorder("=") if wide else np.float32)


def _with_error(plane: NDArray[Any], kind: str, error: "Image") -> NDArray[Any]:
    """Return a noise plane of a kind ("error", "variance", "ivar") with a further error in it."""
    square = np.square(error.astype(plane.dtype))
    if kind == "variance":
        return np.asarray(plane + square)
    if kind == "ivar":
        return np.asarray(plane / (1 + plane * square))
    return np.asarray(np.sqrt(np.square(plane) + square))


def _cards(found: Destriped) -> fits.Header:
    """Return the header cards that say what was done."""
    header = fits.Header()
    for stripes in found.found:
        name = "rows" if stripes.along_rows else "columns"
        header[f"CFST{'ROW' if stripes.along_rows else 'COL'}"] = (
            stripes.amplitude, f"rms of the offsets of {name} taken out"
        )  # fmt: skip
    header["CFSTAMP"] = (found.found[0].offset.shape[1], "amplifiers with offsets of their own")
    header["CFSTFREE"] = (round(found.usable, 4), "share of pixels free of sources")
    return header


def _write_masks(
    folder: Path, stem: str, header: fits.Header, exposure: "Exposure", found: Destriped
) -> list[Path]:
    """Write the sources that were masked, and the image without them; the header keeps its WCS whole (SIP too)."""
    labels = found.segments.labels
    masked = np.where(exposure.good & (labels == 0), exposure.data - found.stripes, np.float32(np.nan))
    files = []
    for name, pixels in (
        (f"detections_segm_{stem}.fits", labels.astype(np.uint32)), (f"{stem}_masked.fits", masked)
    ):  # fmt: skip
        with atomic_path(folder / name) as temporary:
            fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels, header)]).writeto(temporary, checksum=True)
        files.append(folder / name)
    return files

"""What a fit starts from: the first PSF, given or seen on the image, and the frame before the first pass."""

import logging
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from crowdfit.config import Config
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.initial import BlindPsf, GivenPsf, agreed_fwhm, check_fits_image
from crowdfit.psf.readers import psf_from_array
from crowdfit.stages.psf_update import FixedPsf
from crowdfit.tiles import Tiles

log = logging.getLogger(__name__)

PsfLike: TypeAlias = EPSF | ArrayLike | str | Path

DISAGREE = 1.3
"""A given width that differs from the seen one by more than this factor is worth a warning."""


def first_frame(psf: PsfLike | None, exposure: Exposure, config: Config, tiles: Tiles) -> Frame:
    """Return the frame before the first pass."""
    found = first_psf(psf, exposure, config)
    log.debug("%s: first PSF ready", exposure.name, extra={"done": "first PSF"})
    seen = _seen_fwhm(psf, found, exposure, config)
    return Frame.start(exposure, found, config.stamps, seen, tiles, is_given=is_given(psf, config))


def first_psf(psf: PsfLike | None, exposure: Exposure, config: Config) -> EPSF:
    """Return the PSF that the first pass starts from."""
    if psf is None or isinstance(psf, str | Path):
        first = config.psf(exposure)
    else:
        first = psf if isinstance(psf, EPSF) else psf_from_array(psf)
        check_fits_image(first, exposure)
    return first


def is_given(psf: object, config: Config) -> bool:
    """Return whether the first PSF was given, as an argument or a file, and not made from the image."""
    return psf is not None or isinstance(config.psf, GivenPsf)


def _seen_fwhm(psf: object, found: EPSF, exposure: Exposure, config: Config) -> float | None:
    """Return the width of the bright peaks where the first PSF was given; warn when the two disagree."""
    if psf is None and isinstance(config.psf, BlindPsf) and config.psf.fwhm is None:
        return None
    seen = agreed_fwhm(exposure)
    if seen is not None and abs(np.log(found.fwhm / seen)) > np.log(DISAGREE):
        held = isinstance(config.psf_update, FixedPsf)
        log.warning(
            "%s: the PSF that was given has a FWHM of %.2f px on the pixels, but the bright peaks of the image agree "
            "on %.2f px. %s; if they are stars, correct psf.fwhm or the PSF, or leave it out",
            exposure.name, found.fwhm, seen,
            "It is held fixed as given" if held else "The fit starts from what was given and may go to either",
        )  # fmt: skip
    return seen

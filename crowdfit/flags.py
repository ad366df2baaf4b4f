"""Source flags set by the fitter, and what each bit means.

One table (`SOURCE_FLAGS`) is the only definition: the constants, the decoder, `crowdfit flags` and the
documentation are all made from it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Flag:
    """One bit: its value, its short name, and a sentence for people."""

    bit: int
    name: str
    text: str

    @property
    def value(self) -> int:
        """The bit as an integer mask."""
        return 1 << self.bit


SOURCE_FLAGS: Final = (
    Flag(0, "core_masked", "less than half of the PSF falls on usable pixels (qf < 0.5): wings only"),
    Flag(1, "saturated", "the core lies in a saturated blob; flux and position come from the wings"),
    Flag(2, "edge", "the measuring stamp reaches beyond the image"),
    Flag(3, "near_mask", "a masked pixel lies inside the measuring stamp"),
    Flag(4, "step_limit", "the last position step hit the step limit"),
    Flag(5, "not_moved", "the position was held fixed (forced list, or no usable pixel)"),
    Flag(6, "merged", "another source closer than the merge radius was absorbed into this one"),
    Flag(7, "close_pair", "another source lies within one FWHM"),
    Flag(8, "new", "found in the last pass that looked for sources"),
    Flag(9, "negative", "the fitted flux is not positive"),
    Flag(10, "not_converged", "the last solve stopped at its iteration limit"),
    Flag(11, "forced", "the position comes from a list given by the user"),
    Flag(12, "psf_star", "used for the last PSF estimate"),
    Flag(13, "truncated", "the PSF stamp was cut before the PSF falls below the noise"),
    Flag(14, "measure_failed", "too few usable pixels to measure shape columns; they are NaN"),
    Flag(15, "several", "in an average: an exposure has several detections inside the match radius"),
    Flag(
        16,
        "undecided",
        "another source lies within one FWHM, and the flux of one of the two is below three marginal errors: "
        "the data do not decide how they share their light",
    ),
    Flag(
        17,
        "misfit",
        "over a third of its own light is left under the source, beyond the noise: cosmic ray, hot pixel, galaxy "
        "or blend",
    ),
    Flag(20, "outside", "in a fit of several exposures: the source lies off the footprint of this one"),
)

APERTURE_FLAGS: Final = (
    Flag(
        0, "sky_failed", "too few pixels in the ring of the local sky; the sky of the fit alone is subtracted"
    ),
    Flag(1, "edge", "the largest circle reaches beyond the image; the star's own model stands there"),
    Flag(
        2,
        "masked",
        "masked pixels in the largest circle, or pixels off the image; the star's own model stands there",
    ),
    Flag(3, "psf_shape", "too faint for a shape of its own: ellipses and Kron aperture are those of the PSF"),
    Flag(4, "kron_least", "the Kron radius was raised to its minimum: a circle"),
    Flag(5, "kron_cut", "the Kron aperture was cut at the reach of the apertures"),
)
"""Bits of the column `aper_flags`."""

_BY_NAME: Final = {flag.name: flag for flag in SOURCE_FLAGS}


def bit(name: str) -> np.uint32:
    """Return the mask of the flag called `name`.

    Raises
    ------
    KeyError
        If there is no such flag.
    """
    return np.uint32(_BY_NAME[name].value)


def aperture_bits(name: str, where: ArrayLike) -> np.ndarray:
    """Return the aperture flag called `name` as uint32 where `where` (n,) is true, 0 elsewhere."""
    value = next(flag.value for flag in APERTURE_FLAGS if flag.name == name)
    return np.where(np.asarray(where), np.uint32(value), np.uint32(0)).astype(np.uint32)


def decode(value: int) -> tuple[str, ...]:
    """Return the names of all bits set in `value`, lowest bit first."""
    return tuple(flag.name for flag in SOURCE_FLAGS if value & flag.value)


def has(values: ArrayLike, name: str) -> np.ndarray:
    """Return a boolean array: which of `values` (integers) carry the flag called `name`."""
    return np.asarray((np.asarray(values, np.uint32) & bit(name)) != 0)

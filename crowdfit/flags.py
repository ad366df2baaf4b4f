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
        "misfit",
        "over a third of its own light is left under the source, beyond the noise: cosmic ray, hot pixel, galaxy "
        "or blend",
    ),
)

_BY_NAME: Final = {flag.name: flag for flag in SOURCE_FLAGS}


def bit(name: str) -> np.uint32:
    """Return the mask of the flag called `name`.

    Raises
    ------
    KeyError
        If there is no such flag.
    """
    return np.uint32(_BY_NAME[name].value)


def decode(value: int) -> tuple[str, ...]:
    """Return the names of all bits set in `value`, lowest bit first."""
    return tuple(flag.name for flag in SOURCE_FLAGS if value & flag.value)


def has(values: ArrayLike, name: str) -> np.ndarray:
    """Return a boolean array: which of `values` (integers) carry the flag called `name`."""
    return np.asarray((np.asarray(values, np.uint32) & bit(name)) != 0)

"""Noise that neighbouring pixels share, as after drizzling: thresholds in sigma have to know of it (P061)."""

from typing import Literal

from pydantic.dataclasses import dataclass

from crowdfit.frame import Factors, Frames
from crowdfit.photometry.correlation import noise_factors
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MeasuredSharedNoise:
    """Errors and thresholds are raised by what noise that pixels share, as after drizzling, is found to do to fluxes.

    Measured on the residual in every pass, and once more in the last; no change where it does not stand out. While no
    star is known the residual tells of stars alone, and pixels count as independent.
    """

    kind: Literal["measured"] = "measured"

    def __call__(self, frames: Frames, sources: Sources) -> Frames:
        """Return the frames with the factors by which noise exceeds that of independent pixels."""
        if not len(sources):
            return frames
        return tuple(frame.with_(noise_factors=noise_factors(frame)) for frame in frames)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoSharedNoise:
    """Pixels count as independent."""

    kind: Literal["none"] = "none"

    def __call__(self, frames: Frames, sources: Sources) -> Frames:  # noqa: ARG002 - as the measured one has it
        """Return the frames with independent pixels."""
        return tuple(frame.with_(noise_factors=Factors()) for frame in frames)

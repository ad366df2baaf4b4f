"""The stripes of the readout, measured on the image with sky and all known stars removed.

A crowded image has no empty pixels to mask the stars away from; with the model subtracted it needs none. What is
found belongs to the sky of the frame, so all that follows sees an image without stripes.
"""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit.detectors.destripe import lines_of
from crowdfit.detectors.one_over_f import find_stripes
from crowdfit.frame import Frame, Frames
from crowdfit.stages.base import STRICT
from crowdfit.stages.sky import usable_for_sky


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoStripes:
    """Nothing is done: the lines of the image lie where they should."""

    kind: Literal["none"] = "none"

    def __call__(self, frames: Frames) -> Frames:
        """Return the frames as they are."""
        return frames


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LineStripes:
    """An offset for each line of the readout, as far as it stands out of the noise (1/f noise)."""

    kind: Literal["lines"] = "lines"
    along: Literal["rows", "columns"] | None = Field(
        default=None, description="which lines; null: by FASTAXIS of the header (2: columns), else rows"
    )
    amplifiers: int = Field(
        default=1, ge=1, le=64, description="pieces of equal length that drift apart, side by side in a line"
    )
    bright: float = Field(
        default=10.0, gt=0, description="leave out pixels where the model exceeds this many sigma"
    )

    def __call__(self, frames: Frames) -> Frames:
        """Return the frames with the stripes in their sky."""
        return tuple(self._striped(frame) for frame in frames)

    def _striped(self, frame: Frame) -> Frame:
        along_rows = (self.along or lines_of(frame.exposure)) == "rows"
        usable = usable_for_sky(frame, self.bright)
        found = find_stripes(
            frame.resid, frame.fit_ivar, usable, along_rows=along_rows, amplifiers=self.amplifiers
        )
        return frame.with_(sky=frame.sky + found.image) if found.amplitude > 0 else frame

"""A fit that has shredded extended sources into stars is made anew with them masked."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from crowdfit.config import Config
from crowdfit.exposure import Exposure, Mask
from crowdfit.frame import Frame
from crowdfit.loop import State
from crowdfit.photometry.segments import Segments, measure_segments
from crowdfit.stages.segments import SepSegments

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Extended:
    """What has been found so far.

    Parameters
    ----------
    exposure : Exposure
        The image with nothing of it masked.
    cores, masked : ndarray (ny, nx) bool
        Pixels of extended sources, and those that the fit of the stars leaves out.
    in_front : ndarray (ny, nx) bool
        Cores of stars before extended sources, which are not masked.
    rounds : int
        How many times was looked and something found.
    """

    exposure: Exposure
    cores: Mask
    masked: Mask
    in_front: Mask
    rounds: int = 0

    @classmethod
    def of(cls, exposure: Exposure, values: Mapping[str, Any] | None) -> "Extended":
        """Return what `values` had kept, that nothing was found where there is nothing kept."""
        return cls.nothing(exposure) if values is None else cls(exposure, **values)

    @property
    def values(self) -> dict[str, Any]:
        """All but the image, by name: arrays and numbers."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "exposure"}

    @property
    def left(self) -> Exposure:
        """The image that the stars are fitted to."""
        if not self.rounds:
            return self.exposure
        good = ~self.masked
        return replace(
            self.exposure,
            data=np.where(good, self.exposure.data, np.float32(0)),
            ivar=np.where(good, self.exposure.ivar, np.float32(0)),
            saturated=self.exposure.saturated & good,
        )

    @classmethod
    def nothing(cls, exposure: Exposure) -> "Extended":
        """Return that nothing has been found yet."""
        none = np.zeros(exposure.shape, bool)
        return cls(exposure, none, none, none)

    def look(self, config: Config, state: State) -> "Extended | None":
        """Return what there is now, None where a finished fit has nothing new or was made often enough."""
        stage = config.segments
        if not isinstance(stage, SepSegments) or self.rounds >= stage.rounds:
            return None
        found = stage(state.frames, state.sources)
        n = len(found.objects)
        if not n:
            return None
        masked = stage.mask(found, state.frames[0].psf.fwhm)
        log.info("%s: %d extended sources; the fit is made anew without their pixels", self.exposure.name, n)
        in_front = self.in_front if found.in_front is None else self.in_front | found.in_front
        return replace(
            self,
            cores=self.cores | (found.outline > 0),
            masked=(self.masked | masked) & ~in_front,
            in_front=in_front,
            rounds=self.rounds + 1,
        )

    def first_frame(self, before: Frame, config: Config) -> Frame:
        """Return the frame from which the fit is made anew; its PSF is that of the fit before."""
        frame = Frame.start(self.left, before.psf, config.stamps, before.seen_fwhm, before.tiles)
        return frame.with_(first_fwhm=before.first_fwhm, given_psf=before.given_psf)

    def measured(self, config: Config, frame: Frame) -> Segments | None:
        """Return the catalogue of what was found, None where extended sources were not looked for."""
        if not isinstance(config.segments, SepSegments):
            return None
        return measure_segments(config.segments, frame, self.exposure, self.cores, self.masked)

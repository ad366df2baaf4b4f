"""How much the light of undetected stars scatters: a part of the noise that no error image knows of."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit.counts import Counts
from crowdfit.frame import Frame, Frames
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT

F64 = NDArray[np.float64]

CELL = 16.0
"""Side of the cells in which neighbours are counted (FWHM)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CountedConfusion:
    """The luminosity function of the list, continued below its faint end.

    With N(>f) ~ f^-a and n stars per pixel and unit of ln f at the depth d of the list, the fainter ones have
    ``C = sum f^2 per pixel = n d^2 / (2 - a)``. The density is the one that the stars of the list live in, so
    that the core of a cluster counts and the empty corners do not.
    """

    kind: Literal["counts"] = "counts"
    depth: float = Field(
        default=0.1, gt=0, lt=1, description="the list is complete down to this quantile of its fluxes"
    )
    least_stars: int = Field(default=100, ge=10, description="with fewer stars no confusion is assumed")

    def __call__(self, frames: Frames, sources: Sources) -> Frames:
        """Return the frames with the variance of their undetected light."""
        return tuple(frame.with_(confusion=self.variance(frame, sources)) for frame in frames)

    def variance(self, frame: Frame, sources: Sources) -> float:
        """Return C, the sum of squared fluxes of undetected stars per pixel (image unit^2)."""
        seen = sources.flux > 2 * frame.faint_error
        n = np.count_nonzero(seen)
        if n < self.least_stars:
            return 0.0
        even = n / np.count_nonzero(frame.exposure.good)
        crowded = crowding(sources.x[seen], sources.y[seen], CELL * frame.psf.fwhm) / even
        return crowded * Counts.of(frame, sources, self.depth).variance_below()


def crowding(x: F64, y: F64, cell: float) -> float:
    """Return the mean number of other stars per pixel that a star has around it, counted in square cells."""
    number = np.floor(x / cell).astype(np.int64) * 1_000_003 + np.floor(y / cell).astype(np.int64)
    counts = np.unique(number, return_counts=True)[1]
    return float(np.sum(counts * (counts - 1.0)) / np.sum(counts) / cell**2)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoConfusion:
    """Noise is what the error image says; right for fields where every star that matters is found."""

    kind: Literal["none"] = "none"

    def __call__(self, frames: Frames, sources: Sources) -> Frames:
        """Return the frames without confusion."""
        return tuple(frame.with_(confusion=0.0) for frame in frames)

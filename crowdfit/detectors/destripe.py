"""Stripes taken out of an image whose sources are masked, for fields with enough empty sky.

Where stars fill the image there is no sky to look at; then the fit itself finds the stripes
(`crowdfit.stages.stripes`).
"""

from dataclasses import dataclass as plain
from typing import Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit.detectors.one_over_f import Stripes, find_stripes, smooth_part
from crowdfit.detectors.source_mask import Segments, SourceMask
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure, Image
from crowdfit.stages.base import STRICT

__all__ = ["Destripe", "Destriped", "lines_of"]


def lines_of(exposure: Exposure) -> Literal["rows", "columns"]:
    """Return along what the detector is read, by FASTAXIS of the header (2, -2: columns); rows where it is silent."""
    return "columns" if abs(int(exposure.meta.get("FASTAXIS", 1))) == 2 else "rows"


@plain(frozen=True, eq=False)
class Destriped:
    """An image without stripes.

    Parameters
    ----------
    stripes, stripes_error : ndarray (ny, nx) float32
        What was taken out of the image, and its error (image unit).
    found : tuple of Stripes
        One for each direction.
    segments : Segments
        The sources that were masked.
    usable : float
        Share of the good pixels that are free of sources.
    """

    stripes: Image
    stripes_error: Image
    found: tuple[Stripes, ...]
    segments: Segments
    usable: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LineSearch:
    """Which lines, and how often the sources are looked for."""

    along: Literal["rows", "columns", "both"] | None = Field(
        default=None, description="which lines; null: by FASTAXIS of the header (2: columns), else rows"
    )
    amplifiers: int = Field(
        default=1, ge=1, le=64, description="pieces of equal length that drift apart, side by side in a line"
    )
    rounds: int = Field(
        default=2,
        ge=1,
        le=10,
        description="the sources are looked for again so often, on the corrected image",
    )
    least_usable: float = Field(
        default=0.1, ge=0, lt=1, description="refuse images of which less than this share is free of sources"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Destripe:
    """Clipped means of lines between masked sources, subtracted (R012, R013, R016)."""

    lines: LineSearch = LineSearch()
    mask: SourceMask = SourceMask()

    def __call__(self, exposure: Exposure) -> Destriped:
        """Return the stripes of an exposure.

        Raises
        ------
        InputError
            If the sources leave too few pixels, or cannot be told apart.
        """
        chosen = self.lines.along or lines_of(exposure)
        directions = (True, False) if chosen == "both" else (chosen == "rows",)
        image = np.zeros_like(exposure.data)
        for _ in range(self.lines.rounds):
            segments = self.mask.segments(exposure, exposure.data - image)
            usable = exposure.good & ~self.mask.grown(segments)
            share = np.count_nonzero(usable) / np.count_nonzero(exposure.good)
            if share < self.lines.least_usable:
                raise InputError(
                    f"{exposure.name}: only {share:.1%} of the pixels are free of sources, "
                    f"{self.lines.least_usable:.1%} are needed; fit the stars instead: crowdfit fit --set "
                    "stripes.kind=lines"
                )
            found: list[Stripes] = []
            image, error = np.zeros_like(exposure.data), np.zeros_like(exposure.data)
            for along_rows in directions:
                sky = smooth_part(
                    segments.background, along_rows=along_rows, amplifiers=self.lines.amplifiers
                )
                found.append(
                    find_stripes(
                        exposure.data - sky - image, exposure.ivar, usable,
                        along_rows=along_rows, amplifiers=self.lines.amplifiers,
                    )
                )  # fmt: skip
                image = image + found[-1].image
                error = np.hypot(error, found[-1].error_image)
        return Destriped(image, error, tuple(found), segments, share)

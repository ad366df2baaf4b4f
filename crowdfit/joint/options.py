"""How several exposures are fitted as one: what they share, and how they are brought onto each other."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit.stages.base import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Joint:
    """What the exposures of a joint fit share; a fit of one image takes no notice of it."""

    flux: Literal["band", "exposure"] = Field(
        default="band",
        description="what a star has a flux of its own in: each band, or each exposure (stars that vary)",
    )
    grid: Literal["sky", "pixels"] = Field(
        default="sky",
        description="what ties the exposures: their WCS, or pixel grids that are the same but for a shift",
    )
    align: Literal["none", "shift", "affine", "quadratic"] = Field(
        default="quadratic",
        description="highest correction of an exposure's place that the stars may ask for, as far as they are many",
    )
    search: float = Field(
        default=10.0,
        ge=0,
        description="shifts between exposures are looked for up to this far before the first pass, in pixels of the "
        "first; 0: none",
    )
    scales: bool = Field(
        default=True,
        description="let the stars tell how exposures of a band compare in flux; false: as the headers say",
    )

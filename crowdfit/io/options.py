"""How an image is read: which extensions, which noise, which pixels; `input` in the configuration."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt
from pydantic.dataclasses import dataclass

from crowdfit.io.dq import good_bits
from crowdfit.stages.base import STRICT

__all__ = ["Box", "InputOptions"]

Extension = str | Annotated[StrictInt, Field(ge=0)] | None
"""EXTNAME or number of an extension; None looks for the usual names."""

Positive = Annotated[float, Field(gt=0, lt=1e100)]

PixelNumber = Annotated[StrictInt, Field(ge=0)]


def _check_box(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Refuse a box without pixels."""
    x0, x1, y0, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"the box {list(box)} is empty; give x0, x1, y0, y1 with x1 > x0 and y1 > y0")
    return box


def _check_policy(policy: str | int | None) -> str | int | None:
    """Refuse a data-quality policy that cannot be read."""
    if policy != "auto":
        good_bits(policy)
    return policy


Policy = Annotated[str | Annotated[StrictInt, Field(ge=0, lt=2**32)] | None, AfterValidator(_check_policy)]
"""Which data-quality bits leave a pixel usable, in the grammar of `crowdfit.io.dq`."""

Box = Annotated[tuple[PixelNumber, PixelNumber, PixelNumber, PixelNumber], AfterValidator(_check_box)]
"""Columns x0 to x1 - 1 and rows y0 to y1 - 1."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InputOptions:
    """Which extensions hold what, the noise model, and which pixels are not used.

    With an error plane the noise comes from it; without, from sky level, gain and read noise; without those,
    from the image itself. `Exposure.notes` says which it was. What is set here wins over the header, and
    the notes say that too (P005).
    """

    kind: Literal["fits"] = Field(
        default="fits", description="the reader: FITS, plain or compressed, and arrays"
    )
    sci_ext: Extension = Field(
        default=None, description="name or number of the image extension; unset: SCI, else the first image"
    )
    err_ext: Extension = Field(
        default=None, description="name or number of the error extension; unset: ERR if there"
    )
    wht_ext: Extension = Field(
        default=None,
        description="name or number of the inverse-variance extension; unset: IVAR or WHT if there",
    )
    wht_file: Path | None = Field(
        default=None,
        description="FITS file with the weights; beside errors only their pattern counts, on the scale of the errors",
    )
    dq_ext: Extension = Field(
        default=None, description="name or number of the quality extension; unset: DQ if there"
    )
    err_kind: Literal["auto", "error", "variance", "ivar"] = Field(
        default="auto",
        description="what the error plane holds; auto: by the name of its extension, else 1-sigma errors",
    )
    err_holds: Literal["auto", "total", "sky"] = Field(
        default="auto",
        description="whether the error plane includes the photon noise of the stars (total) or only sky and "
        "detector noise (sky); auto: measured from how it grows with brightness",
    )
    wht_scale_on: Literal["sky", "all"] = Field(
        default="sky",
        description="pixels on which weights are scaled to errors when both are there: the faint ones (sky), "
        "or all usable ones, which is biased high in crowded fields",
    )
    gain: Positive | None = Field(
        default=None,
        description="electrons per image unit; unset: from the header where it fits the image unit",
    )
    rdnoise: Annotated[float, Field(ge=0, lt=1e100)] | None = Field(
        default=None, description="read noise in electrons; unset: from the header"
    )
    saturate: Annotated[float, Field(gt=0, lt=1e18)] | None = Field(
        default=None,
        description="pixels at or above this many image units are saturated; unset: from the header",
    )
    saturate_grow: Annotated[StrictInt, Field(ge=0, le=50)] = Field(
        default=1, description="pixels by which saturated areas are grown"
    )
    bad_below: Annotated[float, Field(gt=-1e18, lt=1e18)] | None = Field(
        default=None, description="pixels below this many image units are not used; unset: no limit"
    )
    mask_regions: tuple[Box, ...] = Field(
        default=(),
        description="boxes of pixels that are not used, each x0, x1, y0, y1 with x1 and y1 left out",
    )
    dq: Literal["bits", "codes", "none"] = Field(
        default="bits",
        description="how the data-quality plane is read: as bits, as integer codes, or not at all; any "
        "value that is not ignored makes a pixel unusable",
    )
    dq_good: Policy = Field(
        default="auto",
        description="data-quality bits that leave a pixel usable, as the JWST pipeline writes them: 4+8, "
        "SATURATED+JUMP_DET, ~DO_NOT_USE+HOT (these are the bad ones), 0 (any flag is bad), null (ignore the plane), "
        "or strict, notebook, photometry; auto: photometry for JWST files unless dq_ignore is set, else 0",
    )
    dq_ignore: tuple[Annotated[StrictInt, Field(ge=0, lt=2**32)], ...] = Field(
        default=(), description="data-quality bits (or sums of bits), or codes, that leave a pixel usable"
    )
    dq_grow: tuple[
        tuple[Annotated[StrictInt, Field(ge=1, lt=2**32)], Annotated[StrictInt, Field(ge=1, le=50)]], ...
    ] = Field(
        default=(),
        description="data-quality bits, or codes, whose pixels are grown, each with the number of pixels: [[4, 2]]",
    )
    dq_saturated: tuple[Annotated[StrictInt, Field(ge=0, lt=2**32)], ...] = Field(
        default=(), description="data-quality bits, or codes, that mean saturated"
    )
    area: Literal["auto", "none"] = Field(
        default="auto",
        description="the pixel-area map of JWST files: auto multiplies image and errors by it, so that stars have "
        "the same flux everywhere, unless the image is resampled; none leaves it out",
    )
    wcs: Literal["auto", "header", "gwcs"] = Field(
        default="auto",
        description="where sky positions come from: the header, or the gwcs object in the ASDF extension of a JWST "
        "file; auto: gwcs where the packages asdf and gwcs are installed and it agrees with the header",
    )
    verify: bool = Field(
        default=True, description="refuse a file whose extensions contradict the DATASUM written in them"
    )

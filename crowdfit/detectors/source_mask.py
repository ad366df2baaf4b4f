"""Which pixels of an image hold sources, before anything is fitted: SEP's segmentation over its background mesh."""

from typing import NamedTuple

import numpy as np
import sep
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.ndimage import binary_dilation

from crowdfit.exposure import Exposure, Image, Mask
from crowdfit.extraction import extract
from crowdfit.stages.base import STRICT

__all__ = ["Segments", "SourceMask"]


class Segments(NamedTuple):
    """What `SourceMask` finds on an image.

    labels : (ny, nx) int32, number of the source of each pixel, counted from 1; 0 where there is none
    background, noise : (ny, nx) float32, background mesh and its rms (image unit)
    """

    labels: NDArray[np.int32]
    background: Image
    noise: Image


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SourceMask:
    """Pixels above a background mesh, smoothed, connected and deblended (R005-R009)."""

    mesh_px: int = Field(default=50, ge=4, description="side of the cells of the background mesh, in pixels")
    filter_cells: int = Field(default=3, ge=1, le=15, description="side of the median filter over cells")
    nsigma: float = Field(default=2.0, gt=0, description="threshold above the background, in its rms")
    smooth_px: float = Field(
        default=3.0, ge=0, le=20, description="FWHM of the Gaussian the image is smoothed with; 0: not at all"
    )
    kernel_px: int = Field(
        default=3,
        ge=1,
        le=99,
        description="side of that Gaussian's kernel; 3 cuts its wings, as has been usual",
    )
    min_pixels: int = Field(default=5, ge=1, description="least number of connected pixels of a source")
    deblend_levels: int = Field(default=32, ge=1, le=64, description="levels of the deblending")
    deblend_contrast: float = Field(
        default=0.001, ge=0, le=1, description="least share of the light of a deblended part"
    )
    grow_px: int = Field(default=2, ge=0, le=50, description="grow the mask of the sources by so many pixels")

    def segments(self, exposure: Exposure, data: Image) -> Segments:
        """Return the sources on `data` (ny, nx), the image of `exposure` or a corrected one.

        Raises
        ------
        InputError
            If there are more sources on top of each other than SEP can deblend.
        """
        size = min(self.mesh_px, *exposure.shape)
        bad = ~exposure.good
        mesh = sep.Background(
            np.ascontiguousarray(data), mask=bad, bw=size, bh=size, fw=self.filter_cells, fh=self.filter_cells
        )
        background, noise = mesh.back(), mesh.rms()
        _, labels = extract(
            exposure.name,
            f"raise mask.nsigma ({self.nsigma:g}), or fit the stars: crowdfit fit --set stripes.kind=lines",
            data - background, self.nsigma, err=np.maximum(noise, np.float32(1e-30)), mask=bad,
            minarea=self.min_pixels, filter_kernel=self._kernel(), filter_type="conv",
            deblend_nthresh=self.deblend_levels, deblend_cont=self.deblend_contrast, clean=False,
            segmentation_map=True,
        )  # fmt: skip
        return Segments(np.asarray(labels, np.int32), background, noise)

    def grown(self, segments: Segments) -> Mask:
        """Return which pixels hold light of sources."""
        held: Mask = segments.labels > 0
        if self.grow_px and held.any():
            reach = np.arange(-self.grow_px, self.grow_px + 1)
            disc = np.hypot(reach[:, None], reach) <= self.grow_px + 0.5
            held = np.asarray(binary_dilation(held, disc), bool)
        return held

    def _kernel(self) -> NDArray[np.float32] | None:
        if self.smooth_px == 0:
            return None
        at = np.arange(self.kernel_px) - (self.kernel_px - 1) / 2
        line = np.exp(-4 * np.log(2) * (at / self.smooth_px) ** 2)
        return np.outer(line, line).astype(np.float32)

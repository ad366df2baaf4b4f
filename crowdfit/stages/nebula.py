"""A sky that follows nebulosity, and the noise of what it cannot follow.

Nebulae have structure at all scales, with less power at smaller ones. What is broader than a few FWHM can be
followed; what is as narrow as the PSF cannot be told from stars and is noise to every star on it. Both are
measured on the image with all known stars removed:

1. Beneath lies the mesh of `crowdfit.stages.sky.MeshSky`.
2. Surfaces of B-splines (`crowdfit.surface`), each with half the spacing of the one before, follow what is left.
   Each is as free as its surroundings are rough, so none appears where the sky is plain. Their knots stay where
   the first PSF puts them: if they moved with the PSF, so would what is sky and what is structure noise.
3. Pixels on which something like a star stands out take no part, so that stars not yet found stay in the
   residual; neither do, more and more, those that known stars outshine.
4. The light of unresolved stars is rough too, but equally at all scales. The two finest surfaces may have at most
   a quarter of the power of the next coarser one, which nebulae respect and stars do not.
5. The *structure noise* is what has to be added to the noise of each pixel so that the PSF-matched significance
   of the residual scatters by 1 (P023). It enters every weight, threshold and error.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.ndimage import gaussian_filter

from crowdfit.exposure import Image, Mask
from crowdfit.frame import Frame, Frames
from crowdfit.robust import MAD
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT
from crowdfit.stages.matched import Filter, field_filter, filter_kernel, matched_filter
from crowdfit.stages.sky import (
    LEAST_PIXELS,
    MeshSky,
    block_medians,
    fill_holes,
    interpolate_blocks,
    usable_for_sky,
)
from crowdfit.surface import Surface, star_share, trust

F64 = NDArray[np.float64]

REPEATS = 3
"""Fits of the surfaces in a pass, each with a better idea of which pixels hold stars."""
BRIGHT = 3.0
"""Pixels on which the model exceeds this many sigma say nothing about the structure of the sky."""
LIMITED = 2
"""How many of the finest surfaces have to be weaker than the next coarser one."""
STEEPNESS = 4.0
"""How much weaker, in power per spline: a spectrum of k^-2. Nebulae have k^-3 to k^-4, unresolved stars k^0."""


class Fitted(NamedTuple):
    """What the surfaces are on an image, (ny, nx) float32.

    total, finest : the sum of all, and the finest (image unit)
    excess : power of the finest over that of noise
    taken : share of the light of a star, and of the noise that looks like one, that they take
    """

    total: Image
    finest: Image
    excess: Image
    taken: Image

    @classmethod
    def none(cls, shape: tuple[int, int]) -> "Fitted":
        """Return surfaces that are 0."""
        return cls(*(np.zeros(shape, np.float32) for _ in range(4)))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NebulaSky:
    """A mesh, refined by ever finer splines where the sky has structure, and the noise of the structure left."""

    kind: Literal["nebula"] = "nebula"
    mesh_fwhm: float = Field(default=30.0, gt=0, description="size of the wide mesh beneath, in FWHM")
    spacing: float = Field(
        default=2.0,
        ge=1.8,
        description="distance of the knots of the finest surface, in FWHM of the first PSF",
    )
    clip: float = Field(
        default=3.5,
        gt=1,
        description="leave out pixels where a star would stand out by this many times the local scatter",
    )
    cell: float = Field(
        default=8.0,
        ge=4,
        description="side of the cells in which that scatter is measured, in FWHM of the first PSF",
    )
    doubt: float = Field(
        default=0.3,
        ge=0,
        description="share of the light of known stars that counts as noise while the sky is fitted",
    )

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> Frames:
        """Return the frames with a new sky and structure noise."""
        mesh = MeshSky(mesh_fwhm=self.mesh_fwhm, flat_passes=0)
        return tuple(
            self._refined(wide, self._start(wide) if pass_no == 0 else old)
            for wide, old in zip(mesh(frames, sources, pass_no=pass_no), frames, strict=True)
        )

    def error(self, frame: Frame, sources: Sources) -> F64:
        """Return the 1-sigma error of the wide mesh in cells over the image (image unit), (cy, cx).

        What the surfaces above it cannot follow is in the noise of the pixels already.
        """
        return MeshSky(mesh_fwhm=self.mesh_fwhm).error(frame, sources)

    def _refined(self, wide: Frame, guess: Frame) -> Frame:
        """Return the frame with the wide sky plus surfaces, beginning with the residual of a guess."""
        fitted = Fitted.none(wide.exposure.shape)
        for _ in range(REPEATS):
            weight = np.where(self._starless(guess, fitted), self._weight(guess, fitted), np.float32(0))
            fitted = self._fit(wide, weight)
            guess = wide.with_(sky=wide.sky + fitted.total)
        scatter = self._scatter(guess, fitted, field_filter(guess))
        least = np.minimum(scatter, np.sqrt(1 + fitted.excess)) / (1 - fitted.taken)
        return guess.with_(structure=np.sqrt(variance_for(guess, np.asarray(least, np.float32))))

    def _start(self, frame: Frame) -> Frame:
        """Return the frame with medians of small blocks as its sky: what stands out of them is narrow."""
        values = np.where(frame.exposure.good, frame.exposure.data - frame.model, np.float32(np.nan))
        size = max(int(round(2 * self.spacing * frame.first_fwhm)), 5)
        medians = fill_holes(block_medians(values, size, LEAST_PIXELS))
        return frame.with_(sky=interpolate_blocks(medians, frame.exposure.shape))

    def _weight(self, frame: Frame, fitted: Fitted) -> Image:
        """Return the inverse variance, less where doubtful starlight outshines noise and structure.

        Structure does not enter by itself: it is large where the surface is still wrong, and the fit would
        look away from where it is needed.
        """
        ivar = frame.exposure.fit_ivar(frame.model)
        structure = variance_for(frame, self._scatter(frame, fitted, field_filter(frame)))
        doubt = np.square(self.doubt * frame.model) * ivar
        return np.asarray(ivar / (1 + doubt / (1 + ivar * structure)), np.float32)

    def _starless(self, frame: Frame, fitted: Fitted) -> Mask:
        """Return usable pixels on which nothing like a star stands out of the residual.

        A constant below the star is free (the PSF is taken less its mean): what is broader is no star. The PSF is
        that of the middle of the image, which costs stars where it is 10 % wider 0.5 % of what they stand out by.
        """
        kernel = filter_kernel(frame)
        kernel = kernel - kernel.mean()
        ivar = frame.exposure.fit_ivar(frame.model)
        ivar = ivar / (1 + ivar * np.square(self.doubt * frame.model))
        signif = matched_filter(frame.resid, ivar, kernel)
        scatter = np.maximum(self._scatter(frame, fitted, kernel), 1)
        return np.asarray(frame.exposure.good & (signif < self.clip * scatter))

    def _scatter(self, frame: Frame, fitted: Fitted, kernel: Filter) -> Image:
        """Return the local scatter of the significance of the residual for stars of the shape of `kernel`.

        Its level is measured in cells; within a cell it follows the power of the finest surface, since
        structure falls towards smaller scales in the same proportion everywhere.
        """
        size = max(int(round(self.cell * frame.first_fwhm)), 8)
        signif = matched_filter(frame.resid, frame.exposure.fit_ivar(frame.model), kernel)
        power = gaussian_filter(np.square(fitted.finest, dtype=np.float64), self.spacing * frame.first_fwhm)
        shape = np.sqrt(1 + frame.exposure.ivar * power).astype(np.float32)
        return shape * local_scatter(signif / shape, usable_for_sky(frame, BRIGHT), size)

    def _fit(self, frame: Frame, weight: Image) -> Fitted:
        """Return the surfaces fitted to the residual with weights (ny, nx), coarse ones first."""
        resid, weights = frame.resid.astype(np.float64), weight.astype(np.float64)
        shape, psf = frame.exposure.shape, filter_kernel(frame)
        total, finest, taken = (np.zeros_like(resid) for _ in range(3))
        excess, before = np.zeros((1, 1)), 0.0
        levels = int(np.log2(max(self.mesh_fwhm / self.spacing, 1.0)))
        for level in range(levels, -1, -1):
            spacing = self.spacing * frame.first_fwhm * 2**level
            surface = Surface.of(shape, spacing)
            coarser, excess = excess, surface.excess(resid - total, weights)
            if level < min(LIMITED, levels):
                excess = np.minimum(excess, interpolate_blocks(coarser, excess.shape) / STEEPNESS)
            finest = surface.fitted(resid - total, weights, excess)
            total += finest
            share = star_share(psf, spacing)
            taken += (share - before) * interpolate_blocks(trust(excess), shape)
            before = share
        planes = (total, finest, interpolate_blocks(excess, shape), taken)
        return Fitted(*(np.asarray(plane, np.float32) for plane in planes))


def local_scatter(signif: Image, usable: Mask, size: int) -> Image:
    """Return the scatter of a significance map in cells of `size` pixels, joined linearly."""
    values = np.where(usable, np.abs(signif), np.float32(np.nan))
    return interpolate_blocks(MAD * fill_holes(block_medians(values, size, size)), signif.shape)


def variance_for(frame: Frame, scatter: Image) -> Image:
    """Return the variance that pixels lack if the significance of the residual scatters by `scatter` (image unit^2)."""
    ivar = frame.exposure.ivar
    noise = np.where(ivar > 0, 1 / np.where(ivar > 0, ivar, 1), 0)
    return np.asarray(np.maximum(scatter**2 - 1, 0) * noise, np.float32)

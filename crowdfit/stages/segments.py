"""Extended sources in a field of stars: what a fit has shredded into stars, found by how closely they are packed.

Light that is smooth on the scale of the PSF can be explained by stars, but only by many of about the same flux at about
the resolution of the image. Stars on the sky do not look so, however dense the field is: of those closer to each other
than a FWHM a fit finds few. In a field as dense as a fit can resolve, one star in a thousand has five others of at
least a tenth of its flux within 1.5 FWHM; of the stars that stand for a galaxy two in three have.

The light of the packed stars is put back into the residual, where SEP finds, deblends (watershed) and outlines the
sources. A fit in which there are some is made anew with them masked; one without stands as it is.
"""

from dataclasses import dataclass as plain
from dataclasses import replace
from typing import Literal

import numpy as np
import scipy  # its submodules are imported when they are first used
import sep
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit.exposure import Image, Mask
from crowdfit.frame import Frame, Frames
from crowdfit.render import render
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

AROUND, STANDS_OUT = 3.0, 3.0
"""A star before an extended source has so many times the flux of all that was shredded within so many FWHM."""
OBJECTS = 100_000
"""Most sources that one outline may fall into; SEP's own limit is for pictures of few galaxies."""


@plain(frozen=True, eq=False)
class Outlines:
    """Sources that SEP has outlined.

    Parameters
    ----------
    objects : structured ndarray (n,)
        What SEP says of each.
    outline : ndarray (ny, nx) int32
        Number of the source that a pixel belongs to, counted from 1; 0 where there is none.
    in_front : ndarray (ny, nx) bool or None
        The cores of bright stars that stand before a source; None: there are none.
    """

    objects: NDArray[np.void]
    outline: NDArray[np.int32]
    in_front: Mask | None = None

    def chosen(self, keep: Mask) -> "Outlines":
        """Return some of the sources, numbered anew."""
        number = np.zeros(len(keep) + 1, np.int32)
        number[1:][keep] = np.arange(1, np.count_nonzero(keep) + 1)
        return Outlines(self.objects[keep], number[self.outline])


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoSegments:
    """Everything is a star."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SepSegments:
    """Extended sources are outlined by SEP, catalogued with Kron fluxes, and masked from the fit of the stars."""

    kind: Literal["sep"] = "sep"
    rounds: int = Field(
        default=3, ge=1, le=5, description="most times that the fit is made anew with what was found masked"
    )
    packing: int = Field(
        default=5, ge=1, description="least comparable stars around one that stands for something extended"
    )
    packing_radius: float = Field(default=1.5, gt=0, description="how far around, in FWHM")
    comparable: float = Field(default=0.1, gt=0, le=1, description="least flux of those, over the star's own")
    members: int = Field(default=4, ge=1, description="least number of packed stars in one source")
    share: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="least share of packed stars and their neighbours in the light inside an outline, its brightest "
        "other star left aside: an unresolved cluster has other stars too",
    )
    halo: float = Field(
        default=0.1,
        ge=0,
        description="least flux over that of the brightest star in or next to it: fainter is an error of the PSF",
    )
    nsigma: float = Field(
        default=1.5, gt=0, description="isophote of the outline, in sigma of the filtered image"
    )
    deblend_levels: int = Field(default=32, ge=1, description="thresholds of the deblending")
    deblend_contrast: float = Field(
        default=0.005, ge=0, le=1, description="least share of flux of a branch; 1 turns deblending off"
    )
    grow: float = Field(default=1.0, ge=0, description="the mask reaches so much beyond the outline, in FWHM")

    def __call__(self, frames: Frames, sources: Sources) -> Outlines:
        """Return the extended sources that were fitted as stars."""
        (frame,) = frames
        fwhm = frame.psf.fwhm
        n_near = packed_neighbours(sources, self.packing_radius * fwhm, self.comparable)
        seeds = n_near >= self.packing
        if np.count_nonzero(seeds) < self.members:
            return no_outlines(frame.exposure.shape)
        # their neighbours stand for the same light, at its rim
        shreds = seeds | _beside(sources, seeds, self.packing_radius * fwhm, self.comparable)
        some = sources.take(shreds)
        exposure = frame.exposure
        light = frame.resid + render(
            frame.psf, some.x, some.y, some.flux, exposure.shape, radius=frame.half_sizes(some.flux)
        )
        found = self.outlined(frame, np.where(exposure.good, light, np.float32(0)), exposure.ivar)
        number = found.outline[frame.nearest_pixel(sources)]
        count = np.bincount(number[seeds], minlength=len(found.objects) + 1)[1:]
        keep = (count >= self.members) & (
            _packed_share(sources, shreds, number, len(found.objects)) >= self.share
        )
        keep &= ~self._is_halo(frame, sources, shreds, found)
        found = found.chosen(keep)
        return replace(found, in_front=self._stars_in_front(frame, sources, shreds, found))

    def outlined(self, frame: Frame, light: Image, ivar: Image) -> Outlines:
        """Return all sources in an image without stars, of this inverse variance (image unit, image unit^-2)."""
        psf = frame.psf
        half = psf.window(1.5)
        good = ivar > 0
        noise = 1 / np.sqrt(np.where(good, ivar, np.median(ivar[good])))
        sep.set_extract_pixstack(max(light.size, 300_000))
        sep.set_sub_object_limit(OBJECTS)
        objects, outline = sep.extract(
            np.ascontiguousarray(light, np.float32),
            self.nsigma,
            err=noise.astype(np.float32),
            mask=~good,
            minarea=max(int(psf.n_eff), 1),
            filter_kernel=psf.native(2 * half + 1).astype(np.float64),
            deblend_nthresh=self.deblend_levels,
            deblend_cont=self.deblend_contrast,
            clean=False,
            segmentation_map=True,
        )
        return Outlines(objects, np.asarray(outline, np.int32))

    def _stars_in_front(self, frame: Frame, sources: Sources, shreds: Mask, found: Outlines) -> Mask:
        """Return the pixels within a FWHM of stars that stand out of an extended source, (ny, nx).

        Without them their wings would be taken for light of the source, and by the fit for new stars around it. A
        star by the peak of a source is its nucleus.
        """
        fwhm = frame.psf.fwhm
        pixels = np.zeros(frame.exposure.shape, bool)
        if not len(found.objects):
            return pixels
        row, col = frame.nearest_pixel(sources)
        which = np.flatnonzero(~shreds & self.mask(found, fwhm)[row, col])
        peaks = scipy.spatial.cKDTree(np.column_stack([found.objects["xcpeak"], found.objects["ycpeak"]]))
        which = which[peaks.query(np.column_stack([sources.x, sources.y])[which])[0] > fwhm]
        around = scipy.spatial.cKDTree(np.column_stack([sources.x, sources.y])[shreds])
        for star in which:
            near = around.query_ball_point([sources.x[star], sources.y[star]], AROUND * fwhm)
            if sources.flux[star] > STANDS_OUT * np.max(sources.flux[shreds][near], initial=0.0):
                pixels[row[star], col[star]] = True
        return np.asarray(scipy.ndimage.distance_transform_edt(~pixels) <= fwhm) if pixels.any() else pixels

    def mask(self, found: Outlines, fwhm: float) -> Mask:
        """Return the pixels of extended sources with a margin around them, (ny, nx)."""
        inside = found.outline > 0
        if not inside.any():
            return inside
        distance = scipy.ndimage.distance_transform_edt(~inside)
        return np.asarray(distance <= self.grow * fwhm)

    def _is_halo(self, frame: Frame, sources: Sources, shreds: Mask, found: Outlines) -> Mask:
        """Return which outlines hold little light beside a bright star, (n,)."""
        n = len(found.objects)
        number = found.outline[frame.nearest_pixel(sources)]
        total = np.bincount(number[shreds], np.maximum(sources.flux[shreds], 0), minlength=n + 1)
        # a star may stand a FWHM or two off the outline of its own halo
        distance, nearest = scipy.ndimage.distance_transform_edt(found.outline == 0, return_indices=True)
        row, col = frame.nearest_pixel(sources)
        close = ~shreds & (distance[row, col] <= 2 * frame.psf.fwhm)
        beside = found.outline[nearest[0][row, col], nearest[1][row, col]]
        brightest = np.zeros(n + 1)
        np.maximum.at(brightest, beside[close], sources.flux[close])
        return np.asarray(total[1:] < self.halo * brightest[1:])


def _packed_share(sources: Sources, shreds: Mask, number: NDArray[np.int32], n: int) -> F64:
    """Return the share of the shreds in the light of each of n outlines, its brightest other star left aside, (n,).

    `number` is that of the outline in which a star lies.
    """
    flux = np.maximum(sources.flux, 0)
    total = np.bincount(number, flux, minlength=n + 1)
    packed = np.bincount(number[shreds], flux[shreds], minlength=n + 1)
    brightest = np.zeros(n + 1)
    np.maximum.at(brightest, number[~shreds], flux[~shreds])
    return np.asarray((packed / np.maximum(total - brightest, 1e-300))[1:])


def no_outlines(shape: tuple[int, int]) -> Outlines:
    """Return that nothing was found on an image of `shape` (ny, nx)."""
    return Outlines(np.zeros(0, [("x", "f8"), ("y", "f8")]), np.zeros(shape, np.int32))


def packed_neighbours(sources: Sources, radius: float, share: float) -> I64:
    """Return for each star how many of at least `share` of its flux lie within `radius` (pix), (n,)."""
    first, second, comparable = _pairs(sources, radius, share)
    return np.bincount(first[comparable], minlength=len(sources)) + np.bincount(
        second[_comparable(sources, second, first, share)], minlength=len(sources)
    )


def _beside(sources: Sources, seeds: Mask, radius: float, share: float) -> Mask:
    """Return the stars within `radius` (pix) of a seed that are not brighter than it by more than 1 / `share`, (n,)."""
    first, second, _ = _pairs(sources, radius, share)
    beside = np.zeros(len(sources), bool)
    for star, other in ((first, second), (second, first)):
        beside[other[seeds[star] & _comparable(sources, other, star, share)]] = True
    return beside


def _pairs(sources: Sources, radius: float, share: float) -> tuple[I64, I64, Mask]:
    """Return pairs of stars within `radius` (pix), and whether the second is comparable to the first."""
    tree = scipy.spatial.cKDTree(np.column_stack([sources.x, sources.y]))
    first, second = tree.query_pairs(radius, output_type="ndarray").T
    return first, second, _comparable(sources, first, second, share)


def _comparable(sources: Sources, star: I64, other: I64, share: float) -> Mask:
    """Return whether each other star has at least `share` of the flux of a star."""
    return np.asarray(sources.flux[other] >= share * sources.flux[star])

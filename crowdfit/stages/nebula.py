"""A sky that follows nebulosity: a wide mesh, finer smooth surfaces where the image asks for them, and the noise of what is left.

Nebulae have structure at all scales, with less power at smaller ones. What is broader than a few FWHM is sky
and can be followed; what is as narrow as the PSF cannot be told from stars, and is noise to every star on
it. Both are measured here, from the image with all known stars removed:

1. The mesh of `crowdfit.stages.sky.MeshSky`.
2. Surfaces of quadratic B-splines, each with half the spacing of the one before, fitted to what is left. Their
   coefficients have a Gaussian prior about 0 whose width is measured nearby, from how much more the
   projections on the splines scatter than noise does; so the surfaces vanish where the sky is plain (a
   Wiener filter, scale by scale).
3. Pixels where something like a star stands out take no part, so that stars not yet found stay in the residual.
4. The *structure noise*: the scatter of the PSF-matched significance of the residual beyond 1, in cells, as an
   addition to the noise of each pixel that brings it back to 1 (P023). It enters every weight and error.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter, median_filter
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import cg

from crowdfit.exposure import Image, Mask
from crowdfit.frame import Frame, Frames
from crowdfit.stages.base import STRICT
from crowdfit.stages.detect import filter_kernel, matched_filter
from crowdfit.stages.sky import LEAST_PIXELS, MeshSky, block_medians, fill_holes, interpolate_blocks, usable_for_sky

F64 = NDArray[np.float64]

DEGREE = 2
"""Of the splines: smooth slopes, and better conditioned than cubic ones."""
MAD = 1.4826
"""Standard deviation over median absolute value, for a Gaussian."""
OVERLAP = 1.72
"""Variance of the projection on one spline over that of its coefficient, for equal independent coefficients: the
sum of squares of the normalised overlaps of a quadratic B-spline with its neighbours, in two dimensions."""
NEARBY = 5
"""Side of the window in which the power of a surface is measured (splines)."""
LIMITED = 2
"""How many of the finest surfaces have to be weaker than the next coarser one."""
STEEPNESS = 4.0
"""By how much, in power: nebulae fall at least as k^-2, the light of unresolved stars not at all."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NebulaSky:
    """The mesh, refined by ever finer splines where the image has structure, and the noise of what is left."""

    kind: Literal["nebula"] = "nebula"
    mesh_fwhm: float = Field(default=30.0, gt=0, description="size of the wide mesh, in FWHM")
    spacing: float = Field(
        default=2.0, ge=1.5, description="distance of the knots of the finest surface, in FWHM"
    )
    clip: float = Field(
        default=3.5,
        gt=1,
        description="leave out pixels that stand out by this many times the local scatter of the significance",
    )
    cell: float = Field(
        default=8.0, ge=4, description="side of the cells in which that scatter is measured, in FWHM"
    )
    doubt: float = Field(
        default=0.3, ge=0, description="share of the light of known stars that is taken for its error"
    )
    repeats: int = Field(default=3, ge=1, description="fits of the surfaces, each with better known pixels")

    def __call__(self, frames: Frames, *, pass_no: int) -> Frames:
        """Return the frames with a new sky and structure noise."""
        mesh = MeshSky(mesh_fwhm=self.mesh_fwhm, flat_passes=0)
        return tuple(
            self._refined(frame, wide, pass_no)
            for frame, wide in zip(frames, mesh(frames, pass_no=pass_no), strict=True)
        )

    def _refined(self, frame: Frame, wide: Frame, pass_no: int) -> Frame:
        """Return the frame with the surfaces added to its wide mesh, and the noise of what they leave."""
        new = frame if pass_no else self._start(frame)
        parts = Surfaces.none(frame.exposure.shape)
        for _ in range(self.repeats):
            weight = np.where(self._starless(new, parts), self._weight(new, parts), np.float32(0))
            parts = self._surfaces(wide, weight)
            new = wide.with_(sky=wide.sky + parts.total)
        scatter = self._scatter(new, parts, filter_kernel(frame))
        # the surfaces take a share of whatever looks like a star, noise included
        scatter = np.minimum(scatter, np.sqrt(1 + parts.excess)) / (1 - parts.taken)
        return new.with_(structure=np.sqrt(self._excess(frame, scatter)))

    def _start(self, frame: Frame) -> Frame:
        """Return the frame with medians of small blocks as its sky: what stands out of them is narrow."""
        values = np.where(frame.exposure.good, frame.exposure.data - frame.model, np.nan)
        size = max(int(round(2 * self.spacing * frame.psf.fwhm)), 5)
        medians = fill_holes(block_medians(values, size, LEAST_PIXELS))
        return frame.with_(sky=interpolate_blocks(medians, frame.exposure.shape))

    def _weight(self, frame: Frame, parts: "Surfaces") -> Image:
        """Return the weight of pixels: inverse variance of the noise, less where starlight outshines noise and structure.

        Structure does not enter by itself: where the surface is still wrong it is large, and the fit would
        look away from where it is needed.
        """
        ivar = frame.exposure.fit_ivar(frame.model)
        structure = self._excess(frame, self._scatter(frame, parts, filter_kernel(frame)))
        doubt = np.square(self.doubt * frame.model) * ivar
        return np.asarray(ivar / (1 + doubt / (1 + ivar * structure)), np.float32)

    def _starless(self, frame: Frame, parts: "Surfaces") -> Mask:
        """Return usable pixels on which nothing like a star stands out of the residual.

        A constant below the star is free (its PSF is taken less its mean): what is broader is no star.
        """
        kernel = filter_kernel(frame)
        kernel = kernel - kernel.mean()
        ivar = frame.exposure.fit_ivar(frame.model)
        ivar = ivar / (1 + ivar * np.square(self.doubt * frame.model))
        signif = matched_filter(frame.resid, ivar, kernel)
        scatter = np.maximum(self._scatter(frame, parts, kernel), 1)
        return np.asarray(frame.exposure.good & (signif < self.clip * scatter))

    def _scatter(self, frame: Frame, parts: "Surfaces", kernel: F64) -> Image:
        """Return the local scatter of the significance of the residual, for a star of the shape of `kernel`.

        Its level is measured in cells; within a cell it follows the power of the finest surface, since
        structure has less power at smaller scales in the same proportion everywhere.
        """
        size = max(int(round(self.cell * frame.psf.fwhm)), 8)
        signif = matched_filter(frame.resid, frame.exposure.fit_ivar(frame.model), kernel)
        power = gaussian_filter(parts.finest.astype(np.float64) ** 2, self.spacing * frame.psf.fwhm)
        shape = np.sqrt(1 + frame.exposure.ivar * power).astype(np.float32)
        return shape * local_scatter(signif / shape, usable_for_sky(frame, 3.0), size)

    def _excess(self, frame: Frame, scatter: Image) -> Image:
        """Return the variance that a pixel lacks, if the significance of the residual scatters by `scatter`."""
        ivar = frame.exposure.ivar
        noise = np.where(ivar > 0, 1 / np.where(ivar > 0, ivar, 1), 0)
        return np.asarray(np.maximum(scatter**2 - 1, 0) * noise, np.float32)

    def _surfaces(self, frame: Frame, weight: Image) -> "Surfaces":
        """Return the surfaces fitted to the residual, coarse ones first."""
        resid, finest = frame.resid.astype(np.float64), self.spacing * frame.psf.fwhm
        weight64 = weight.astype(np.float64)
        total, part, taken = (np.zeros_like(resid) for _ in range(3))
        excess, before = np.zeros((1, 1)), 0.0
        levels = int(np.floor(np.log2(max(self.mesh_fwhm / self.spacing, 1.0))))
        for level in range(levels, -1, -1):
            spacing = finest * 2**level
            surface = Surface.of(resid.shape, spacing)
            coarser, excess = excess, surface.excess(resid - total, weight64)
            if level < min(LIMITED, levels):
                excess = np.minimum(excess, interpolate_blocks(coarser, excess.shape) / STEEPNESS)
            part = surface.fitted(resid - total, weight64, excess)
            total += part
            leverage = star_share(filter_kernel(frame), spacing)
            share = interpolate_blocks(excess / (OVERLAP + excess), resid.shape)
            taken, before = taken + (leverage - before) * share, leverage
        power = interpolate_blocks(excess, resid.shape)
        return Surfaces(*(np.asarray(plane, np.float32) for plane in (total, part, power, taken)))


class Surfaces(NamedTuple):
    """What `NebulaSky` fits, (ny, nx) float32.

    total, finest : sum of all surfaces, and the finest of them (image unit)
    excess : power of the finest in units of noise
    taken : share of a star's light that they take
    """

    total: Image
    finest: Image
    excess: Image
    taken: Image

    @classmethod
    def none(cls, shape: tuple[int, int]) -> "Surfaces":
        """Return surfaces that are 0."""
        return cls(*(np.zeros(shape, np.float32) for _ in range(4)))


def local_scatter(signif: Image, usable: Mask, size: int) -> Image:
    """Return the scatter of a significance map in cells of `size` pixels, joined linearly."""
    values = np.where(usable, np.abs(signif), np.float32(np.nan))
    cells = MAD * fill_holes(block_medians(values, size, size))
    return interpolate_blocks(cells, signif.shape)


class Surface(NamedTuple):
    """Quadratic B-splines on both axes, (ny, ky) and (nx, kx): the value of each spline at each pixel."""

    rows: csr_array
    cols: csr_array

    @classmethod
    def of(cls, shape: tuple[int, int], spacing: float) -> "Surface":
        """Return splines with knots about `spacing` pixels apart on an image of `shape`."""
        return cls(*(_splines(n, spacing) for n in shape))

    def projection(self, image: F64, weight: F64) -> tuple[F64, F64]:
        """Return ``sum w r B`` of each spline, and its variance if there is only noise, ``sum w B^2``, (ky, kx)."""
        own = products(self.rows, 0).T @ weight @ products(self.cols, 0)
        return np.asarray(self.rows.T @ (weight * image) @ self.cols), np.asarray(own)

    def excess(self, image: F64, weight: F64) -> F64:
        """Return by how much the projections on the splines vary more than noise does nearby, in its units, (ky, kx).

        Parameters
        ----------
        image : ndarray (ny, nx) float64
            What is to be fitted.
        weight : ndarray (ny, nx) float64
            Its inverse variance; 0 = not used.
        """
        target, own = self.projection(image, weight)
        seen = own >= max(0.1 * np.median(own), 1e-300)
        signif = fill_holes(np.where(seen, np.abs(target) / np.sqrt(np.where(seen, own, 1)), np.nan))
        return np.maximum((MAD * median_filter(signif, NEARBY, mode="nearest")) ** 2 - 1, 0)

    def fitted(self, image: F64, weight: F64, excess: F64) -> F64:
        """Return the surface that the image asks for, (ny, nx).

        The prior on the coefficients has mean 0 and the variance that `excess` (ky, kx) stands for.
        """
        free = (excess > 0).ravel()
        if not free.any():
            return np.zeros_like(image)
        target, own = self.projection(image, weight)
        # where hardly a pixel is seen the prior is that of pixels which are
        typical = np.maximum(own, 0.1 * np.median(own)).ravel()
        # a coefficient without prior width is 0; the unit diagonal keeps the system regular
        prior = np.where(free, OVERLAP * typical / np.where(free, excess.ravel(), 1), 1.0)
        keep = diags_array(free.astype(float))
        system = keep @ self.normal(weight) @ keep + diags_array(prior)
        scale = diags_array(1 / system.diagonal())
        answer, _ = cg(system.tocsr(), np.where(free, target.ravel(), 0.0), rtol=1e-3, maxiter=300, M=scale)
        return np.asarray(self.rows @ answer.reshape(own.shape) @ self.cols.T)

    def normal(self, weight: F64) -> coo_array:
        """Return the normal matrix of the splines (ky kx, ky kx), coefficients row by row."""
        ky, kx = self.rows.shape[1], self.cols.shape[1]
        number = np.arange(ky * kx).reshape(ky, kx)
        rows, cols, values = [], [], []
        for i in range(DEGREE + 1):
            along = products(self.rows, i).T @ weight
            for j in range(-DEGREE if i else 0, DEGREE + 1):
                block = along @ products(self.cols, abs(j))
                one = number[: ky - i, max(-j, 0) : kx - max(j, 0)].ravel()
                other = number[i:, max(j, 0) : kx - max(-j, 0)].ravel()
                rows.append(one)
                cols.append(other)
                values.append(np.asarray(block).ravel())
                if i or j:
                    rows.append(other)
                    cols.append(one)
                    values.append(values[-1])
        where = (np.concatenate(rows), np.concatenate(cols))
        return coo_array((np.concatenate(values), where), shape=(ky * kx, ky * kx))


def products(splines: csr_array, step: int) -> csr_array:
    """Return the products of each spline with the one `step` further on, (n, k - step)."""
    n = splines.shape[1]
    return csr_array(splines[:, : n - step].multiply(splines[:, step:]))


def star_share(psf: F64, spacing: float) -> float:
    """Return the share of the light of a star that an unconstrained surface takes, weighted by the PSF.

    ``P^T H P / P^T P`` with the projector H on the splines; a star half way between knots and one on a knot
    differ little.
    """
    side = psf.shape[0] + 2 * int(np.ceil(2 * spacing))
    surface = Surface.of((side, side), spacing)
    image = np.pad(psf, (side - psf.shape[0]) // 2)
    normal = surface.normal(np.ones((side, side))).toarray()
    target = (surface.rows.T @ image @ surface.cols).ravel()
    return float(target @ np.linalg.solve(normal, target) / np.sum(psf**2))


def _splines(n: int, spacing: float) -> csr_array:
    """Return quadratic B-splines on `n` pixels, (n, k), with knots about `spacing` pixels apart."""
    spans = max(int(np.ceil((n - 1) / spacing)), 1)
    step = (n - 1) / spans
    knots = step * np.arange(-DEGREE, spans + DEGREE + 1)
    inside = np.minimum(np.arange(n), (n - 1) * (1 - 1e-12))
    return csr_array(BSpline.design_matrix(inside, knots, DEGREE))

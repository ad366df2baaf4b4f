"""The smooth background, estimated on the image with all known stars removed.

C003, C005-C007: one median while most light is still unexplained, a mesh afterwards. A fine mesh takes
faint stars for sky; the default mesh is wide because measurement says so (benchmarks/README.md).
"""

from typing import Literal

import numpy as np
import sep
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.ndimage import gaussian_filter, map_coordinates

from crowdfit.exposure import Image, Mask
from crowdfit.frame import Frame, Frames
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT
from crowdfit.stages.hidden_sky import hidden_cells, solved_sky

BLOCK = 2.0
"""Side of the blocks whose scatter tells the error of the sky (FWHM): one PSF hardly makes two of them alike."""
MEDIAN_LOSS = np.pi / 2
"""Variance of a median over that of a mean, for Gaussian noise."""
MODE_LOSS = 2.5**2 * MEDIAN_LOSS + 1.5**2 - 2 * 2.5 * 1.5
"""The same of SEP's mode, 2.5 median - 1.5 mean; the covariance of median and mean is the variance of the mean."""
SURE = 2.0
"""What is left of the sky in a cell counts when it is above this many errors."""
LEAST_PIXELS = 20
"""Cells with fewer usable pixels than this are filled from their neighbours."""
FULL = 0.6
"""Cells with a larger usable share than this are SEP's own business; it refuses them below one half."""


def global_median(frame: Frame) -> Image:
    """Return a constant sky: the median of data - model over usable pixels (C005)."""
    level = np.median((frame.exposure.data - frame.model)[frame.exposure.good])
    return np.full(frame.exposure.shape, level, np.float32)


def without_faint(frame: Frame, sources: Sources, nsigma: float) -> Frame:
    """Return the frame whose model lacks the stars below `nsigma`, errors without confusion.

    Left in, they belong to the sky wherever they are not told apart from its fluctuations. Taken out, every
    fluctuation that is called a star would lower the sky, and a lower sky makes more stars.
    """
    faint = sources.flux < nsigma * frame.plain_error(sources)
    return frame.adding(sources.take(faint).changed(flux=-sources.flux[faint])) if faint.any() else frame


def scatter_error(frame: Frame, bright: float, size: int, loss: float) -> NDArray[np.float64]:
    """Return the error of a sky that is one value per cell, from how much it scatters within cells, (cy, cx).

    Means of small blocks scatter by everything that makes the sky uncertain: noise, shared between pixels or not,
    and stars that are not in the model. Where their median is not 0 the sky is wrong by that; a cell without usable
    pixels has the largest error of all.

    Parameters
    ----------
    frame : Frame
        What the sky is taken from.
    bright : float
        Pixels with a brighter model take no part (sigma).
    size : int
        Side of a cell (pix).
    loss : float
        Variance of the sky at a place over that of the mean of the pixels of one cell.
    """
    block = max(int(round(BLOCK * frame.psf.fwhm)), 2)
    values = np.where(usable_for_sky(frame, bright), frame.resid, np.float32(np.nan))
    ny, nx = values.shape
    cells = tuple(max(int(round(n / size)), 1) for n in (ny, nx))
    means, share = _block_means(values, block)
    rows, cols = (
        np.minimum((np.arange(n) + 0.5) * block / length * count, count - 1).astype(int)
        for n, length, count in zip(means.shape, (ny, nx), cells, strict=True)
    )
    error = np.full(cells, np.nan)
    for r in range(cells[0]):
        for c in range(cells[1]):
            part = np.ix_(rows == r, cols == c)
            known = share[part] > 0
            # a block with few pixels says less
            weight, mean = share[part][known], means[part][known]
            if weight.sum() >= 3 and len(mean) >= 4:
                middle = np.sum(weight * mean) / weight.sum()
                variance = np.sum(weight * (mean - middle) ** 2) / (len(mean) - 1)
                random = loss * variance / weight.sum()
                # what a sky too stiff leaves behind, where it is more than chance leaves
                error[r, c] = np.sqrt(random + max(np.median(mean) ** 2 - SURE**2 * random, 0.0))
    if np.isfinite(error).any():
        return np.where(np.isfinite(error), error, np.nanmax(error))
    return np.full(cells, frame.noise)


def _block_means(values: Image, block: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means of block x block pixels without NaN, and the share of pixels in them; 0 for under a tenth."""
    ny, nx = (n // block * block for n in values.shape)
    tiles = values[:ny, :nx].reshape(ny // block, block, nx // block, block)
    number = np.sum(np.isfinite(tiles), axis=(1, 3))
    means = np.nansum(tiles, axis=(1, 3), dtype=np.float64) / np.maximum(number, 1)
    share = number / block**2
    return means, np.where(share >= 0.1, share, 0.0)


def usable_for_sky(frame: Frame, bright: float) -> Mask:
    """Return pixels that may tell the sky: usable, and model below `bright` sigma."""
    good = frame.exposure.good & (frame.model <= bright * frame.noise)
    return good if np.count_nonzero(good) > 0.02 * good.size else frame.exposure.good


def mesh_pixels(frame: Frame, mesh_fwhm: float, mesh_px: float | None) -> int:
    """Return the mesh size in whole pixels, at most the smaller side of the image."""
    size = mesh_px if mesh_px is not None else mesh_fwhm * frame.psf.fwhm
    return int(np.clip(round(size), 4, min(frame.exposure.shape)))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MeshSky:
    """SEP's background mesh on data - model, with bright model pixels masked.

    Each cell is clipped and its mode estimated (Bertin & Arnouts 1996); cells without usable pixels are
    filled from their neighbours; cells are joined by a bicubic spline. What crowds hide is then fitted
    together with the stars (`crowdfit.stages.hidden_sky`).
    """

    kind: Literal["mesh"] = "mesh"
    flat_passes: int = Field(
        default=2, ge=0, description="passes at the start that use one median for the whole image"
    )
    mesh_fwhm: float = Field(default=15.0, gt=0, description="mesh size, in FWHM")
    mesh_px: float | None = Field(default=None, ge=4, description="mesh size in pixels; overrides mesh_fwhm")
    filter_cells: int = Field(default=3, ge=1, le=15, description="side of the median filter over cells")
    bright: float = Field(
        default=3.0, gt=0, description="mask pixels where the model exceeds this many sigma"
    )

    least_snr: float = Field(
        default=8.0, ge=0, description="leave fainter stars in the image whose sky is taken, in sigma"
    )
    hidden: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="fit the sky together with the stars in cells of which crowds leave less than this share; 0: fill "
        "them from their neighbours",
    )

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> Frames:
        """Return the frames with a new sky."""
        if pass_no < self.flat_passes:
            return tuple(f.with_(sky=global_median(f)) for f in frames)
        return tuple(self._with_sky(frame, sources) for frame in frames)

    def _with_sky(self, frame: Frame, sources: Sources) -> Frame:
        """Return the frame with its mesh, and with the sky of hidden cells fitted."""
        bright = without_faint(frame, sources, self.least_snr)
        meshed = frame.with_(sky=self._mesh(bright))
        size = mesh_pixels(frame, self.mesh_fwhm, self.mesh_px)
        crowd = sources.take(sources.flux >= self.least_snr * frame.plain_error(sources))
        cells = hidden_cells(frame, crowd, bright.model <= self.bright * frame.noise, size, self.hidden)
        return meshed.with_(sky=solved_sky(meshed, sources, cells, size)) if cells.any() else meshed

    def error(self, frame: Frame, sources: Sources) -> NDArray[np.float64]:
        """Return the 1-sigma error of the sky in cells over the image (image unit), (cy, cx)."""
        size = mesh_pixels(frame, self.mesh_fwhm, self.mesh_px)
        frame = without_faint(frame, sources, self.least_snr)
        # a median over cells is worth fewer cells than a mean
        return scatter_error(
            frame, self.bright, size, MODE_LOSS / max(self.filter_cells**2 / MEDIAN_LOSS, 1.0)
        )

    def _mesh(self, frame: Frame) -> Image:
        size = mesh_pixels(frame, self.mesh_fwhm, self.mesh_px)
        image, usable = fill_sparse_cells(
            frame.exposure.data - frame.model, usable_for_sky(frame, self.bright), size
        )
        if not usable.any():
            return global_median(frame)
        mesh = sep.Background(
            image, mask=~usable, bw=size, bh=size, fw=self.filter_cells, fh=self.filter_cells
        )
        sky = np.asarray(mesh.back(), np.float32)
        return sky if np.isfinite(sky).all() else global_median(frame)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BlockSky:
    """crowdsource's sky: plain medians of blocks, holes filled by smoothing, joined linearly."""

    kind: Literal["blocks"] = "blocks"
    flat_passes: int = Field(
        default=2, ge=0, description="passes at the start that use one median for the whole image"
    )
    mesh_fwhm: float = Field(default=30.0, gt=0, description="block size, in FWHM")
    mesh_px: float | None = Field(
        default=None, ge=4, description="block size in pixels (crowdsource: 20); overrides mesh_fwhm"
    )
    min_pixels: int = Field(
        default=20, ge=1, description="blocks with fewer usable pixels are filled from their neighbours"
    )

    least_snr: float = Field(
        default=8.0, ge=0, description="leave fainter stars in the image whose sky is taken, in sigma"
    )

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> Frames:
        """Return the frames with a new sky."""
        if pass_no < self.flat_passes:
            return tuple(f.with_(sky=global_median(f)) for f in frames)
        return tuple(f.with_(sky=self._blocks(without_faint(f, sources, self.least_snr))) for f in frames)

    def error(self, frame: Frame, sources: Sources) -> NDArray[np.float64]:
        """Return the 1-sigma error of the sky in cells over the image (image unit), (cy, cx)."""
        size = mesh_pixels(frame, self.mesh_fwhm, self.mesh_px)
        return scatter_error(without_faint(frame, sources, self.least_snr), np.inf, size, MEDIAN_LOSS)

    def _blocks(self, frame: Frame) -> Image:
        size = mesh_pixels(frame, self.mesh_fwhm, self.mesh_px)
        values = np.where(frame.exposure.good, frame.exposure.data - frame.model, np.nan)
        medians = block_medians(values, size, self.min_pixels)
        return interpolate_blocks(fill_holes(medians), frame.exposure.shape)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FixedSky:
    """A constant sky given by the user, for images whose background is already removed."""

    kind: Literal["fixed"] = "fixed"
    level: float = Field(default=0.0, description="sky level, in image units")

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> Frames:
        """Return the frames with the fixed sky."""
        return tuple(f.with_(sky=np.full(f.exposure.shape, self.level, np.float32)) for f in frames)

    def error(self, frame: Frame, sources: Sources) -> NDArray[np.float64]:  # noqa: ARG002 - as other skies have it
        """Return 0: a sky that is given is not uncertain, (1, 1)."""
        return np.zeros((1, 1))


def fill_sparse_cells(image: Image, usable: Mask, size: int) -> tuple[Image, Mask]:
    """Return the image with the usable pixels of sparse cells repeated over the others, and what is usable then.

    SEP ignores a cell of its mesh when less than half of it is usable, and returns a sky of 0 when all are so,
    as in a field full of bright stars. Repeated, the pixels have the same statistics.

    Parameters
    ----------
    image : ndarray (ny, nx) float32
        Data - model (image unit).
    usable : ndarray (ny, nx) bool
        Pixels that may tell the sky.
    size : int
        Side of the cells (pix), which begin at the first pixel as SEP's do.

    Returns
    -------
    image, usable
        New arrays; cells with fewer than `LEAST_PIXELS` usable pixels have none any more.
    """
    image, usable = np.array(image, np.float32), usable.copy()
    for top in range(0, image.shape[0], size):
        for left in range(0, image.shape[1], size):
            cell = np.s_[top : top + size, left : left + size]
            good = usable[cell]
            n = np.count_nonzero(good)
            if n < min(LEAST_PIXELS, good.size / 2):
                usable[cell] = False
            elif n < FULL * good.size:
                image[cell][~good] = np.resize(image[cell][good], good.size - n)
                usable[cell] = True
    return image, usable


def block_medians(values: NDArray[np.float32], size: int, min_pixels: int) -> NDArray[np.float64]:
    """Return the medians of about size x size blocks of `values` (NaN = unusable); NaN where too few pixels."""
    ny, nx = values.shape
    rows = np.linspace(0, ny, -(-ny // size) + 1).astype(int)
    cols = np.linspace(0, nx, -(-nx // size) + 1).astype(int)
    out = np.full((len(rows) - 1, len(cols) - 1), np.nan)
    for i in range(len(rows) - 1):
        for j in range(len(cols) - 1):
            block = values[rows[i] : rows[i + 1], cols[j] : cols[j + 1]]
            block = block[np.isfinite(block)]
            if block.size >= min(min_pixels, size * size // 2):
                out[i, j] = np.median(block)
    return out


def fill_holes(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `grid` with NaN cells filled by normalised Gaussian smoothing of ever larger width."""
    known = np.isfinite(grid)
    if known.all() or not known.any():
        return np.nan_to_num(grid)
    out, sigma = grid.copy(), 0.7
    while not np.isfinite(out).all():
        weight = gaussian_filter(known.astype(float), sigma, mode="nearest")
        value = gaussian_filter(np.where(known, grid, 0.0), sigma, mode="nearest")
        fill = ~np.isfinite(out) & (weight > 1e-3)
        out[fill] = value[fill] / weight[fill]
        sigma *= 1.5
    return out


def interpolate_blocks(grid: NDArray[np.float64], shape: tuple[int, int]) -> Image:
    """Return `grid` interpolated linearly between block centres, constant beyond the outermost."""
    axes = [(np.arange(n) + 0.5) / n * m - 0.5 for n, m in zip(shape, grid.shape, strict=True)]
    yy, xx = np.meshgrid(*axes, indexing="ij")
    return np.asarray(map_coordinates(grid, [yy, xx], order=1, mode="nearest"), np.float32)

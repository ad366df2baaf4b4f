"""The linear system of all stars of a frame: its columns, its normal equations, and how they are assembled.

    resid = sum_i [ d_flux_i P_i + (flux_i step_x_i) dP_i/dx + (flux_i step_y_i) dP_i/dy ] + noise

The unknowns are corrections to the current model. Shifts carry a Gaussian prior (algorithm.md, section 7).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit._kernels import marginal, normal
from crowdfit._kernels.stamps import blend_stamps, fill_stamps, mask_stamps
from crowdfit.frame import Frame
from crowdfit.neighbours import build_grid
from crowdfit.sources import Sources
from crowdfit.tiles import Tile

if TYPE_CHECKING:
    from scipy.sparse import csc_array

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

VECTORS = 13
"""The solver holds as much beside the system as so many vectors of unknowns: its own, and twice the diagonal blocks."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Whitened stamps of all stars: the design matrix, star by star.

    Parameters
    ----------
    x, y : ndarray (n,) float64
        Positions (pix).
    half, offset : ndarray (n,) int64
        Half widths (pix) and the start of each stamp in `stamps`.
    stamps : ndarray (3, total) float32
        sqrt(ivar) times P, dP/dx, dP/dy of the PSF behind the whitening filter; 0 outside the image.
    """

    x: F64
    y: F64
    half: I64
    offset: I64
    stamps: F32

    @classmethod
    def of(cls, frame: Frame, sources: Sources, root_ivar: F32, half: I64 | None = None) -> "Columns":
        """Return the columns of `sources` on a frame, whitened by `root_ivar` (ny, nx).

        `half` (n,) are the half widths of the stamps (pix); None: as far out as the stars are rendered.
        """
        x, y = np.ascontiguousarray(sources.x), np.ascontiguousarray(sources.y)
        psf, kernel = frame.whitening.psf, frame.whitening.kernel
        half = frame.half_sizes(sources.flux) if half is None else half
        ends = np.cumsum((2 * half + 1) ** 2)
        offset = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        stamps = np.empty((3, int(ends[-1])), np.float32)
        fill_stamps(psf.coef, psf.basis(x, y), x, y, half, offset, stamps)
        if kernel is not None:
            coef, basis, good = frame.psf.coef, frame.psf.basis(x, y), frame.exposure.good
            box = int(round(frame.psf.fwhm / 2))
            mask_stamps(coef, basis, x, y, half, offset, good, box, kernel, stamps)
            blend_stamps(coef, basis, x, y, half, offset, frame.whitened.share, stamps)
        normal.whiten_stamps(x, y, half, offset, root_ivar, stamps)
        return cls(x, y, half, offset, stamps)

    def project(self, resid: F32) -> F64:
        """Return the dot products of all columns with a whitened image (ny, nx), shape (n, 3)."""
        out = np.empty((len(self.x), 3))
        normal.project_residual(self.x, self.y, self.half, self.offset, self.stamps, resid, out)
        return out

    def matrix(self, shape: tuple[int, int], n_terms: int) -> "csc_array":
        """Return the design matrix, pixels x (n_terms n) float32, columns star by star."""
        ny, nx = shape
        n = n_terms * len(self.x)
        indptr = np.zeros(n + 1, np.int64)
        normal.count_entries(self.x, self.y, self.half, ny, nx, n_terms, indptr)
        indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        normal.fill_design(
            self.x, self.y, self.half, self.offset, self.stamps, shape, n_terms, indptr, indices, values
        )
        return scipy.sparse.csc_array((values, indices, indptr), shape=(ny * nx, n))


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal equations in 3 x 3 blocks: `own` (n, 9), and `cross` (m, 9) at the links (i, links[k])."""

    own: F64
    first: I64
    links: NDArray[np.int32]
    cross: F32

    @classmethod
    def of(cls, columns: Columns, shape: tuple[int, int]) -> "Normal":
        """Assemble the normal matrix of `columns` on an image of `shape`."""
        blocks = cls.empty(columns.x, columns.y, columns.half, shape)
        c, every = columns, np.arange(len(columns.x))
        blocks.fill(every, c.x, c.y, c.half, c.offset, c.stamps, find_twins(blocks))
        return blocks

    @classmethod
    def empty(cls, x: F64, y: F64, half: I64, shape: tuple[int, int]) -> "Normal":
        """Return the normal matrix of stars whose stamps overlap, its blocks not yet filled."""
        n, grid = len(x), build_grid(x, y, shape)
        first = np.zeros(n + 1, np.int64)
        normal.link_pairs(x, y, half, grid.cell, grid.start, grid.members, first, np.empty(0, np.int32))
        np.cumsum(first, out=first)
        links = np.empty(first[-1], np.int32)
        normal.link_pairs(x, y, half, grid.cell, grid.start, grid.members, first, links)
        return cls(np.empty((n, 9)), first, links, np.empty((len(links), 9), np.float32))

    def fill(  # noqa: PLR0913, PLR0917 - the arguments of the kernel
        self, core: I64, x: F64, y: F64, half: I64, offset: I64, stamps: F32, twins: I64
    ) -> None:
        """Fill the blocks of the stars numbered `core` (m,); the arguments are those of the kernel."""
        normal.fill_blocks(
            core, x, y, half, offset, stamps, self.first, self.links, twins, self.own, self.cross
        )


def find_twins(eq: Normal) -> I64:
    """Return the place of the link (j, i) for every link (i, j) of a normal matrix."""
    twins = np.empty(len(eq.links), np.int64)
    normal.find_twins(eq.first, eq.links, twins)
    return twins


def shift_prior(frame: Frame, flux: F64, sigma_shift: float) -> F64:
    """Return what the prior adds to the diagonal of both shift unknowns, 1 / (flux sigma_shift)^2, (n,).

    The flux is not taken below one sigma, so that a star fitted to nothing does not run either.
    """
    size = np.maximum(np.abs(flux), frame.isolated_error(np.zeros(1)))
    return np.asarray(1 / (size * sigma_shift) ** 2)


def marginal_variance(
    columns: Columns | Sources, eq: Normal, prior: F64, reach: float, neighbours: int
) -> F64:
    """Return the variances of all unknowns (n, 3) when the nearest neighbours may vary too.

    Parameters
    ----------
    columns, eq
        The stars, of which only the places matter here, and their normal equations.
    prior : ndarray (n,) float64
        Added to both shift diagonals.
    reach : float
        Neighbours up to this distance vary (pix).
    neighbours : int
        Most neighbours that vary.
    """
    x, y = np.ascontiguousarray(columns.x), np.ascontiguousarray(columns.y)
    variance = np.empty((len(x), 3))
    marginal.invert_around(x, y, reach, neighbours, prior, eq.own, eq.first, eq.links, eq.cross, variance)
    return variance


@dataclass(frozen=True, eq=False)
class System:
    """The linear system of all stars of a frame, assembled tile by tile (`crowdfit.tiles`).

    Parameters
    ----------
    frame : Frame
        Image, PSF and noise.
    sources : Sources
        The stars.
    half : ndarray (n,) int64
        Half widths of their stamps (pix).
    prior : ndarray (n,) float64 or None
        Of `shift_prior`, not part of `blocks`; None: fluxes only, and `blocks` couples no shift to anything.
    blocks : Normal
        The normal equations.
    rhs : ndarray (n, 3) float64
        Dot products of the columns with the whitened residual.
    """

    frame: Frame
    sources: Sources
    half: I64
    prior: F64 | None
    blocks: Normal
    rhs: F64

    @classmethod
    def of(
        cls, frame: Frame, sources: Sources, half: I64 | None = None, *, prior: F64 | None = None
    ) -> "System":
        """Return the system; `half` None: stamps as far out as the stars are rendered."""
        half = frame.half_sizes(sources.flux) if half is None else half
        root, resid = whitened_planes(frame)
        blocks, rhs = assembled(frame, sources, half, root, resid)
        if prior is None:
            # nothing is solved for, and a unit diagonal keeps the blocks from being singular
            blocks.own[:, [1, 2, 3, 5, 6, 7]] = 0.0
            blocks.own[:, [4, 8]] = 1.0
            blocks.cross[:, 1:] = 0.0
            rhs[:, 1:] = 0.0
        return cls(frame, sources, half, prior, blocks, rhs)


def whitened_planes(frame: Frame) -> tuple[F32, F32]:
    """Return the factor that whitens pixels, sqrt(ivar), and the whitened residual, (ny, nx)."""
    root = np.sqrt(frame.fit_ivar)
    return root, frame.whitened.resid * root


def normal_matrix(frame: Frame, sources: Sources, half: I64) -> Normal:
    """Return the normal matrix of stars whose stamps have the half widths `half` (n,) (pix)."""
    # of a copy of the frame: what it keeps of its filtered image is not needed afterwards
    frame = frame.with_()
    root = np.sqrt(frame.fit_ivar)
    return assembled(frame, sources, half, root, root)[0]


def assembled(frame: Frame, sources: Sources, half: I64, root: F32, resid: F32) -> tuple[Normal, F64]:
    """Return the normal matrix and the dot products of the columns with a whitened image, (n, 3).

    Parameters
    ----------
    frame, sources
        The stars and where they are.
    half : ndarray (n,) int64
        Half widths of the stamps (pix).
    root, resid : ndarray (ny, nx) float32
        Of `whitened_planes`.
    """
    x, y = np.ascontiguousarray(sources.x), np.ascontiguousarray(sources.y)
    blocks, rhs = Normal.empty(x, y, half, frame.exposure.shape), np.empty((len(x), 3))
    twins, offset = find_twins(blocks), np.zeros(len(x), np.int64)

    def fill(tile: Tile) -> None:
        some = np.concatenate(tile)
        columns = Columns.of(frame, sources.take(some), root, half[some])
        offset[some] = columns.offset
        rhs[tile.core] = columns.project(resid)[: len(tile.core)]
        blocks.fill(tile.core, x, y, half, offset, columns.stamps, twins)

    coming = blocks.own.nbytes + blocks.cross.nbytes + VECTORS * rhs.nbytes
    for tile in frame.tiles.visit(x, y, half, frame.exposure.shape, blocks.first, blocks.links, coming):
        fill(tile)  # in a function, so that its stamps are given back before the next tile's are made
    return blocks, rhs

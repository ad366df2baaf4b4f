"""The sky where stars leave no pixel free, as in the core of a cluster: fitted together with the stars.

There the light of stars that nobody has found goes to those that are in the list, and what is left of the image says
next to nothing about the sky: one that is too low makes all stars bright, and the residual stays at zero. Least
squares tells both apart all the same, since the sum of many PSFs is not smooth. With the columns A of the stars and
B of the sky, a pyramid over each hidden cell that ends at the centres of the cells around it,

    [ A^T A   A^T B ] [ d_flux ]   [ A^T r ]
    [ B^T A   B^T B ] [ height ] = [ B^T r ].

Only the heights are kept: the solve that follows finds the fluxes. Cells with free pixels are left alone, for
faint stars in the list that are none would draw such a sky down everywhere.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit.exposure import Image, Mask
from crowdfit.frame import Frame
from crowdfit.sources import Sources
from crowdfit.stages.system import Columns, whitened_planes
from crowdfit.whitening import convolve

if TYPE_CHECKING:
    from scipy.sparse import csc_array

F64 = NDArray[np.float64]

CROWD = 0.25
"""So many stars per square FWHM hide the sky, about as many as are told apart. The wings of fewer, brighter ones do
too, but nothing tells those from sky. Cores of clusters have 0.3 to 0.7, bright stars in nebulosity 0.08 to 0.16."""
PATCH = 4
"""Cells are solved for in patches of so many rows and columns, each on what those before have left."""
REACH = 2.0
"""Stars up to this far outside the pyramids vary too (FWHM)."""
TWINS = 1e-6
"""By this share of itself the information of a star is raised, so that two stars at one place do not matter."""


def hidden_cells(frame: Frame, sources: Sources, usable: Mask, size: int, share: float) -> Mask:
    """Return which cells are hidden by a crowd, (cy, cx).

    Parameters
    ----------
    frame : Frame
        The field.
    sources : Sources
        Stars that count as a crowd.
    usable : ndarray (ny, nx) bool
        Pixels that tell the sky by themselves.
    size : int
        Side of the cells (pix), which begin at the first pixel.
    share : float
        A cell is hidden when less than this share of its good pixels is usable.
    """
    good = frame.exposure.good
    free, total = (_sums(plane, size) for plane in (usable & good, good))
    row, col = (at // size for at in frame.nearest_pixel(sources))
    crowd = np.zeros(total.shape, np.int64)
    np.add.at(crowd, (row, col), 1)
    return np.asarray((free < share * total) & (crowd >= CROWD * total / frame.psf.fwhm**2))


def _sums(plane: Mask, size: int) -> NDArray[np.int64]:
    """Return how many pixels of each cell are set, the last ones smaller, (cy, cx)."""
    rows, cols = (np.arange(0, n, size) for n in plane.shape)
    counts = np.add.reduceat(plane.astype(np.int64), rows, axis=0)
    return np.asarray(np.add.reduceat(counts, cols, axis=1))


def solved_sky(frame: Frame, sources: Sources, cells: Mask, size: int) -> Image:
    """Return the sky of a frame with that of some cells fitted together with the stars, (ny, nx) float32.

    Parameters
    ----------
    frame : Frame
        With its sky, and with the model of `sources`.
    sources : Sources
        The stars; fluxes may vary, places do not.
    cells : ndarray (cy, cx) bool
        Of `hidden_cells`.
    size : int
        Side of the cells (pix).
    """
    if not cells.any():
        return frame.sky
    root, resid = whitened_planes(frame)
    sky, left = frame.sky.copy(), resid.astype(np.float64)
    half = frame.fit_half_sizes(sources.flux)
    for top in range(0, cells.shape[0], PATCH):
        for first in range(0, cells.shape[1], PATCH):
            patch = np.zeros_like(cells)
            patch[top : top + PATCH, first : first + PATCH] = cells[top : top + PATCH, first : first + PATCH]
            if patch.any():
                some = near(frame, sources, patch, size)
                _solve_patch(
                    frame,
                    sources.take(some),
                    half[some],
                    root,
                    list(pyramids(patch, size, sky.shape)),
                    sky,
                    left,
                )
    return sky


class Pyramid(NamedTuple):
    """A sky of height 1 in the middle of a cell, 0 at the centres of those around it, constant beyond the outermost."""

    rows: slice
    cols: slice
    values: F64


def pyramids(cells: Mask, size: int, shape: tuple[int, int]) -> Iterator[Pyramid]:
    """Yield the pyramids of cells (cy, cx) on an image of `shape`, row by row."""
    along = [_slopes(n, size) for n in shape]
    for r, c in zip(*np.nonzero(cells), strict=True):
        (rows, y), (cols, x) = along[0][r], along[1][c]
        yield Pyramid(rows, cols, np.outer(y, x))


def _slopes(n: int, size: int) -> list[tuple[slice, F64]]:
    """Return for each cell along an axis of n pixels where its pyramid is, and the values there."""
    centres = (np.arange(-(-n // size)) + 0.5) * size - 0.5
    at = np.clip(np.arange(n), centres[0], centres[-1])
    found = []
    for centre in centres:
        values = np.maximum(0.0, 1 - np.abs(at - centre) / size)
        inside = np.flatnonzero(values)
        part = slice(int(inside[0]), int(inside[-1]) + 1)
        found.append((part, values[part]))
    return found


def near(frame: Frame, sources: Sources, cells: Mask, size: int) -> NDArray[np.int64]:
    """Return the numbers of the stars on the pyramids of cells, or up to `REACH` outside them."""
    reach = size + REACH * frame.psf.fwhm
    inside = np.zeros(len(sources), bool)
    for r, c in zip(*np.nonzero(cells), strict=True):
        low, left = r * size - 0.5 * size - 0.5, c * size - 0.5 * size - 0.5
        far = reach + 0.5 * size
        inside |= (np.abs(sources.y - (low + size)) < far) & (np.abs(sources.x - (left + size)) < far)
    return np.flatnonzero(inside)


def _solve_patch(  # noqa: PLR0913, PLR0917 - the stars, the sky, and the planes that are filled
    frame: Frame,
    sources: Sources,
    half: NDArray[np.int64],
    root: Image,
    parts: list[Pyramid],
    sky: Image,
    left: F64,
) -> None:
    """Add the fitted pyramids to `sky` (ny, nx), and take them and their stars from the whitened residual `left`."""
    shape = frame.exposure.shape
    stars = Columns.of(frame, sources, root, half).matrix(shape, 1).astype(np.float64)
    sheets = scipy.sparse.hstack([_column(frame, root, part) for part in parts], format="csc")
    matrix = (stars.T @ stars).tocsc()
    own = matrix.diagonal()
    # a star that no pixel shows has no information
    matrix += scipy.sparse.diags_array(np.where(own > 0, TWINS * own, 1.0)).tocsc()
    factor = scipy.sparse.linalg.splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    shared = (stars.T @ sheets).toarray()
    taken = factor.solve(shared)
    resid = left.ravel()
    flux = factor.solve(stars.T @ resid)
    light = np.array([np.mean(np.abs(frame.model[part.rows, part.cols])) for part in parts])
    # the sky has no more light than there is
    prior = np.diag(1 / np.maximum(light, frame.noise) ** 2)
    height = np.linalg.solve(
        (sheets.T @ sheets).toarray() - shared.T @ taken + prior, sheets.T @ resid - shared.T @ flux
    )
    resid -= sheets @ height + stars @ (flux - taken @ height)
    for part, value in zip(parts, height, strict=True):
        sky[part.rows, part.cols] += np.float32(value) * part.values.astype(np.float32)


def _column(frame: Frame, root: Image, part: Pyramid) -> "csc_array":
    """Return a pyramid as the fit sees it, filtered and whitened: one sparse column of all pixels."""
    (ny, nx), kernel = frame.exposure.shape, frame.whitening.kernel
    margin = 0 if kernel is None else kernel.shape[0] // 2
    rows = slice(max(part.rows.start - margin, 0), min(part.rows.stop + margin, ny))
    cols = slice(max(part.cols.start - margin, 0), min(part.cols.stop + margin, nx))
    plane = np.zeros((rows.stop - rows.start, cols.stop - cols.start))
    inside = np.s_[
        part.rows.start - rows.start : part.rows.stop - rows.start,
        part.cols.start - cols.start : part.cols.stop - cols.start,
    ]
    plane[inside] = part.values * frame.exposure.good[part.rows, part.cols]
    if kernel is not None:
        filtered = convolve(plane, kernel)
        plane = filtered + frame.whitened.share[rows, cols] * (plane - filtered)
    pixel = np.arange(rows.start, rows.stop)[:, None] * nx + np.arange(cols.start, cols.stop)
    values = (plane * root[rows, cols]).ravel()
    some = np.flatnonzero(values)
    return scipy.sparse.csc_array(
        (values[some], (pixel.ravel()[some], np.zeros(len(some), np.int64))), shape=(ny * nx, 1)
    )

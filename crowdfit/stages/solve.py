"""Fluxes and small shifts of all stars in one weighted linear system.

    resid = sum_i [ d_flux_i P_i + (flux_i step_x_i) dP_i/dx + (flux_i step_y_i) dP_i/dy ] + noise

The unknowns are corrections to the current model, so every solve is warm. Shifts carry a Gaussian prior
of width sigma_shift, which keeps close pairs from exploding (algorithm.md, section 7).
"""

from dataclasses import dataclass as plain
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit._kernels import normal
from crowdfit._kernels.stamps import fill_stamps
from crowdfit.frame import Frame, Frames
from crowdfit.neighbours import build_grid
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT

if TYPE_CHECKING:
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import LinearOperator

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@plain(frozen=True, eq=False)
class Fit:
    """The answer of a solve.

    Parameters
    ----------
    sources : Sources
        The stars with their new fluxes and errors, not yet moved.
    step_x, step_y : ndarray (n,) float64
        Shifts that the derivative terms ask for (pix); 0 in a flux-only solve.
    shift_err : ndarray (n,) float64
        Isolated-star position error (pix).
    iterations : int
        Iterations of the solver.
    converged : bool
        Whether the tolerance was met.
    """

    sources: Sources
    step_x: F64
    step_y: F64
    shift_err: F64
    iterations: int
    converged: bool


@plain(frozen=True, eq=False)
class Columns:
    """Whitened stamps of all stars: the design matrix, star by star.

    Parameters
    ----------
    x, y : ndarray (n,) float64
        Positions (pix).
    half, offset : ndarray (n,) int64
        Half widths (pix) and the start of each stamp in `stamps`.
    stamps : ndarray (3, total) float32
        sqrt(ivar) times P, dP/dx, dP/dy; 0 outside the image.
    """

    x: F64
    y: F64
    half: I64
    offset: I64
    stamps: F32

    @classmethod
    def of(cls, frame: Frame, sources: Sources, root_ivar: F32) -> "Columns":
        """Return the columns of `sources` on a frame, whitened by `root_ivar` (ny, nx)."""
        x, y = np.ascontiguousarray(sources.x), np.ascontiguousarray(sources.y)
        half = frame.half_sizes(sources.flux)
        ends = np.cumsum((2 * half + 1) ** 2)
        offset = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        stamps = np.empty((3, int(ends[-1])), np.float32)
        fill_stamps(frame.psf.coef, frame.psf.basis(x, y), x, y, half, offset, stamps)
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


@plain(frozen=True, eq=False)
class Normal:
    """Normal equations in 3 x 3 blocks: `own` (n, 9), and `cross` (m, 9) at the links (i, links[k])."""

    own: F64
    first: I64
    links: NDArray[np.int32]
    cross: F32

    @classmethod
    def of(cls, columns: Columns, shape: tuple[int, int]) -> "Normal":
        """Assemble the normal matrix of `columns` on an image of `shape`."""
        c, n = columns, len(columns.x)
        grid = build_grid(c.x, c.y, shape)
        first = np.zeros(n + 1, np.int64)
        normal.link_pairs(c.x, c.y, c.half, grid.cell, grid.start, grid.members, first, np.empty(0, np.int32))
        links = np.empty(first[-1], np.int32)
        normal.link_pairs(c.x, c.y, c.half, grid.cell, grid.start, grid.members, first, links)
        twins = np.empty(len(links), np.int64)
        normal.find_twins(first, links, twins)
        own, cross = np.empty((n, 9)), np.empty((len(links), 9), np.float32)
        normal.fill_blocks(c.x, c.y, c.half, c.offset, c.stamps, first, links, twins, own, cross)
        return cls(own, first, links, cross)


def shift_prior(frame: Frame, flux: F64, sigma_shift: float) -> F64:
    """Return what the prior adds to the diagonal of both shift unknowns, 1 / (flux sigma_shift)^2, (n,).

    The flux is not taken below one sigma, so that a star fitted to nothing does not run either.
    """
    size = np.maximum(np.abs(flux), frame.isolated_error(np.zeros(1)))
    return np.asarray(1 / (size * sigma_shift) ** 2)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PcgSolve:
    """Block-preconditioned conjugate gradients on normal equations from overlapping pairs."""

    kind: Literal["pcg"] = "pcg"
    tolerance: float = Field(
        default=0.02, gt=0, description="stop when no unknown would move by more than this, in sigma"
    )
    final_tolerance: float = Field(default=0.002, gt=0, description="the same for the last, flux-only pass")
    max_iter: int = Field(
        default=300, ge=1, description="most iterations; reaching it sets the flag not_converged"
    )
    shift_sigma: float = Field(
        default=0.15, gt=0, description="prior on the shift of one pass, in FWHM/3 (about sigma of the PSF)"
    )

    def __call__(self, frames: Frames, sources: Sources, *, shifts: bool) -> Fit:
        """Return new fluxes and, with `shifts`, the steps that the positions should make."""
        (frame,) = frames
        if not len(sources):
            return _no_fit(sources)
        root = np.sqrt(frame.fit_ivar)
        columns = Columns.of(frame, sources, root)
        normal_eq = Normal.of(columns, frame.exposure.shape)
        rhs = columns.project(frame.resid * root)
        own = normal_eq.own.copy()
        prior = shift_prior(frame, sources.flux, self.shift_sigma * frame.psf.fwhm / 3)
        if shifts:
            own[:, 4] += prior
            own[:, 8] += prior
        else:
            _freeze_shifts(own, rhs)
        answer, iterations = self._run(own, normal_eq, rhs, shifts)
        return _as_fit(frame, sources, answer, normal_eq.own, abs(iterations), iterations >= 0)

    def _run(self, own: F64, eq: Normal, rhs: F64, shifts: bool) -> tuple[F64, int]:
        inverse, answer = np.empty_like(own), np.zeros_like(rhs)
        normal.invert_blocks(own, inverse)
        cross = eq.cross
        if not shifts:
            cross = np.zeros_like(eq.cross)
            cross[:, 0] = eq.cross[:, 0]
        tol = self.tolerance if shifts else self.final_tolerance
        iterations = normal.solve_pcg(
            own, inverse, eq.first, eq.links, cross, rhs, tol, self.max_iter, answer
        )
        return answer, int(iterations)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LsqrSolve:
    """LSQR (Paige & Saunders 1982) on the assembled sparse matrix, with column scaling and prior rows.

    C016, C019, C020: crowdsource's solver, warm-started because the unknowns are corrections. Slower than
    `pcg`; kept as the reference that the default must agree with.
    """

    kind: Literal["lsqr"] = "lsqr"
    tolerance: float = Field(default=1e-6, gt=0, description="LSQR's atol and btol")
    max_iter: int = Field(
        default=2000, ge=1, description="most iterations; reaching it sets the flag not_converged"
    )
    shift_sigma: float = Field(
        default=0.15, gt=0, description="prior on the shift of one pass, in FWHM/3 (about sigma of the PSF)"
    )

    def __call__(self, frames: Frames, sources: Sources, *, shifts: bool) -> Fit:
        """Return new fluxes and, with `shifts`, the steps that the positions should make."""
        (frame,) = frames
        if not len(sources):
            return _no_fit(sources)
        n_terms = 3 if shifts else 1
        root = np.sqrt(frame.fit_ivar)
        design = Columns.of(frame, sources, root).matrix(frame.exposure.shape, n_terms)
        own = column_norms(design).reshape(len(sources), n_terms)
        prior = np.zeros_like(own)
        if shifts:
            sigma = self.shift_sigma * frame.psf.fwhm / 3
            prior[:, 1:] = shift_prior(frame, sources.flux, sigma)[:, None]
        scale = 1 / np.sqrt(np.where(own + prior > 0, own + prior, 1.0)).ravel()
        system = with_prior_rows(design, np.sqrt(prior).ravel(), scale)
        target = np.concatenate([(frame.resid * root).ravel().astype(np.float64), np.zeros(prior.size)])
        found = scipy.sparse.linalg.lsqr(
            system, target, atol=self.tolerance, btol=self.tolerance, iter_lim=self.max_iter
        )
        answer = np.zeros((len(sources), 3))
        answer[:, :n_terms] = (found[0] * scale).reshape(len(sources), n_terms)
        diagonal = np.zeros((len(sources), 9))
        diagonal[:, [0, 4, 8][:n_terms]] = own
        return _as_fit(frame, sources, answer, diagonal, int(found[2]), found[1] != 7)


def column_norms(design: "csc_array") -> F64:
    """Return the squared lengths of the columns, float64."""
    squares = np.concatenate([[0.0], np.cumsum(design.data.astype(np.float64) ** 2)])
    return np.diff(squares[design.indptr])


def with_prior_rows(design: "csc_array", prior: F64, scale: F64) -> "LinearOperator":
    """Return the operator of the design matrix with one row per prior below it, its columns scaled."""
    pixels, n = design.shape
    rows = design.T

    def forward(v: F64) -> F64:
        v = v.ravel() * scale
        return np.concatenate([design @ v, prior * v])

    def backward(v: F64) -> F64:
        return np.asarray(scale * (rows @ v[:pixels] + prior * v[pixels:]))

    return scipy.sparse.linalg.LinearOperator(
        (pixels + n, n), matvec=forward, rmatvec=backward, dtype=np.float64
    )


def _freeze_shifts(own: F64, rhs: F64) -> None:
    """Take the shifts out of the system: unit diagonal, no coupling, nothing to solve for."""
    own[:, [1, 2, 3, 5, 6, 7]] = 0.0
    own[:, [4, 8]] = 1.0
    rhs[:, 1:] = 0.0


def _no_fit(sources: Sources) -> Fit:
    return Fit(sources, np.zeros(0), np.zeros(0), np.zeros(0), 0, True)


def _as_fit(frame: Frame, sources: Sources, answer: F64, own: F64, iterations: int, converged: bool) -> Fit:
    """Turn unknowns into fluxes, errors and steps."""
    flux = sources.flux + answer[:, 0]
    seen = own[:, 0] > 0
    flux_err = np.where(seen, 1 / np.sqrt(np.where(seen, own[:, 0], 1.0)), np.inf)
    size = np.maximum(np.abs(flux), frame.isolated_error(np.zeros(1)))
    bend = own[:, 4] + own[:, 8]
    shift_err = np.sqrt(2 / np.where(bend > 0, bend, np.inf)) / size
    sources = sources.changed(flux=flux, flux_err=flux_err).flagged(
        "not_converged", np.full(len(flux), not converged)
    )
    return Fit(sources, answer[:, 1] / size, answer[:, 2] / size, shift_err, iterations, converged)

"""Fluxes and small shifts of all stars in one weighted linear system.

    resid = sum_i [ d_flux_i P_i + (flux_i step_x_i) dP_i/dx + (flux_i step_y_i) dP_i/dy ] + noise

The unknowns are corrections to the current model, so every solve is warm. Shifts carry a Gaussian prior
of width sigma_shift, which keeps close pairs from exploding (algorithm.md, section 7).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass as plain
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit._kernels import normal
from crowdfit.frame import Frame, Frames
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT
from crowdfit.stages.blobs import with_doubts
from crowdfit.stages.system import Columns, System, marginal_variance, shift_prior, whitened_planes

if TYPE_CHECKING:
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import LinearOperator

F64 = NDArray[np.float64]

NEAR, NEIGHBOURS = 1.5, 6
"""Neighbours within this many FWHM, and at most so many, take part in a marginal error during the passes."""


@plain(frozen=True, eq=False)
class Fit:
    """The answer of a solve.

    Parameters
    ----------
    sources : Sources
        The stars with their new fluxes and errors, not yet moved.
    step_x, step_y : ndarray (n,) float64
        Shifts that the derivative terms ask for (pix); 0 in a flux-only solve and for stars without positive flux.
    shift_err : ndarray (n,) float64
        Isolated-star position error (pix); NaN in a flux-only solve, infinite where nothing of the star is seen.
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


class Answer(NamedTuple):
    """What a solver found: unknowns (n, 3) and the diagonal of the normal matrix without priors (n, 3)."""

    unknowns: F64
    own: F64
    iterations: int
    converged: bool


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Solver(ABC):
    """What all solvers share: the linear system of a frame, and how its answer is read."""

    shift_sigma: float = Field(
        default=0.8, gt=0, description="prior on the shift of one pass, in FWHM/3 (about sigma of the PSF)"
    )

    def __call__(self, frames: Frames, sources: Sources, *, shifts: bool) -> Fit:
        """Return new fluxes and, with `shifts`, the steps that the positions should make."""
        (frame,) = frames
        if not len(sources):
            return Fit(sources, np.zeros(0), np.zeros(0), np.zeros(0), 0, True)
        frame = with_doubts(frame)
        fwhm = frame.psf.fwhm
        # the next pass goes on from here, so that stamps may end where the filtered PSF is noise
        half = frame.fit_half_sizes(sources.flux) if shifts else None
        prior = shift_prior(frame, sources.flux, self.shift_sigma * fwhm / 3) if shifts else None
        system = System.of(frame, sources, half, prior=prior)
        if shifts:
            free = shift_prior(frame, sources.flux, fwhm / 2.3548)
            variance = marginal_variance(sources, system.blocks, free, NEAR * fwhm, NEIGHBOURS)
            sources = sources.changed(flux_err_marginal=np.sqrt(variance[:, 0]))
        return _as_fit(frame, sources, self.solve(system), shifts=shifts)

    @abstractmethod
    def solve(self, system: System) -> Answer:
        """Return the answer of a linear system."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PcgSolve(Solver):
    """Block-preconditioned conjugate gradients on normal equations from overlapping pairs."""

    kind: Literal["pcg"] = "pcg"
    tolerance: float = Field(
        default=0.1, gt=0, description="stop when no unknown would move by more than this, in sigma"
    )
    final_tolerance: float = Field(default=0.002, gt=0, description="the same for the last, flux-only pass")
    max_iter: int = Field(
        default=300, ge=1, description="most iterations; reaching it sets the flag not_converged"
    )

    def solve(self, system: System) -> Answer:
        """Return the answer of the normal equations."""
        eq, own = system.blocks, system.blocks.own
        if system.prior is not None:
            own = own.copy()
            own[:, [4, 8]] += system.prior[:, None]
        inverse, unknowns = np.empty_like(own), np.zeros_like(system.rhs)
        normal.invert_blocks(own, inverse)
        tol = self.final_tolerance if system.prior is None else self.tolerance
        iterations = normal.solve_pcg(
            own, inverse, eq.first, eq.links, eq.cross, system.rhs, tol, self.max_iter, unknowns
        )
        return Answer(unknowns, eq.own[:, [0, 4, 8]], abs(int(iterations)), iterations >= 0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LsqrSolve(Solver):
    """LSQR (Paige & Saunders 1982) on the assembled sparse matrix, with column scaling and prior rows.

    C016, C019, C020: crowdsource's solver, warm-started because the unknowns are corrections. Slower than
    `pcg`, and it holds the stamps of all stars at once, whatever `tiles` says; kept as the reference that the
    default must agree with.
    """

    kind: Literal["lsqr"] = "lsqr"
    tolerance: float = Field(default=1e-6, gt=0, description="LSQR's atol and btol")
    max_iter: int = Field(
        default=2000, ge=1, description="most iterations; reaching it sets the flag not_converged"
    )

    def solve(self, system: System) -> Answer:
        """Return the answer of the least-squares problem."""
        root, resid = whitened_planes(system.frame)
        columns, prior = Columns.of(system.frame, system.sources, root, system.half), system.prior
        n, n_terms = len(columns.x), 1 if prior is None else 3
        design = columns.matrix(resid.shape, n_terms)
        own, extra = np.zeros((n, 3)), np.zeros((n, n_terms))
        own[:, :n_terms] = column_norms(design).reshape(n, n_terms)
        if prior is not None:
            extra[:, 1:] = prior[:, None]
        norms = own[:, :n_terms] + extra
        scale = 1 / np.sqrt(np.where(norms > 0, norms, 1.0)).ravel()
        operator = with_prior_rows(design, np.sqrt(extra).ravel(), scale)
        target = np.concatenate([resid.ravel().astype(np.float64), np.zeros(extra.size)])
        found = scipy.sparse.linalg.lsqr(
            operator, target, atol=self.tolerance, btol=self.tolerance, iter_lim=self.max_iter
        )
        unknowns = np.zeros((n, 3))
        unknowns[:, :n_terms] = (found[0] * scale).reshape(n, n_terms)
        return Answer(unknowns, own, int(found[2]), found[1] != 7)


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


def _as_fit(frame: Frame, sources: Sources, answer: Answer, *, shifts: bool) -> Fit:
    """Turn unknowns into fluxes, errors and steps."""
    flux = sources.flux + answer.unknowns[:, 0]
    # a hole is no star to be moved, and where there is next to no light the step is not that of noise over nothing
    size = np.maximum(flux, frame.isolated_error(np.zeros(1)))
    steps = np.where(flux > 0, answer.unknowns[:, 1:].T, 0.0) / size
    with np.errstate(divide="ignore"):
        flux_err = 1 / np.sqrt(answer.own[:, 0])
        shift_err = (
            np.sqrt(2 / (answer.own[:, 1] + answer.own[:, 2])) / size
            if shifts
            else np.full(len(flux), np.nan)
        )
    sources = sources.changed(flux=flux, flux_err=flux_err).flagged(
        "not_converged", np.full(len(flux), not answer.converged)
    )
    return Fit(sources, steps[0], steps[1], shift_err, answer.iterations, answer.converged)

"""The linear system of all stars over all exposures.

Unknowns of a star are its fluxes by column and one step on the reference grid. Exposure k knows a star by its own
flux and steps, whose normal equations N_k are those of a fit of that exposure alone (`crowdfit.stages.system`);
T_k takes the unknowns of the star to what exposure k sees of them, so that the whole is

    (sum_k T_k^T N_k T_k + prior) u = sum_k T_k^T rhs_k.

N_k is applied by the kernel of a single image and nothing larger is ever made: memory grows linearly with exposures.
The solver is that of a single image too: conjugate gradients with the inverted blocks of the stars as preconditioner.
A block is an arrow, fluxes coupling with the step only, and is inverted by its Schur complement.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crowdfit._kernels import normal
from crowdfit.frame import Frame, Frames
from crowdfit.sources import Sources
from crowdfit.stages.blobs import with_doubts
from crowdfit.stages.solve import NEAR, NEIGHBOURS
from crowdfit.stages.system import System, marginal_variance, shift_prior
from crowdfit.view import JointSources

__all__ = ["Blocks", "JointSystem", "Part", "Unknowns", "Wishes"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Unknowns:
    """Corrections of fluxes (n, n_columns), and steps on the reference grid (n, 2) (pix)."""

    flux: F64
    step: F64

    @classmethod
    def zeros(cls, n: int, n_columns: int) -> "Unknowns":
        """Return unknowns that change nothing."""
        return cls(np.zeros((n, n_columns)), np.zeros((n, 2)))

    def plus(self, factor: float, other: "Unknowns") -> "Unknowns":
        """Return the sum with a multiple of others."""
        return Unknowns(self.flux + factor * other.flux, self.step + factor * other.step)

    def dot(self, other: "Unknowns") -> float:
        """Return the scalar product."""
        return float(np.sum(self.flux * other.flux) + np.sum(self.step * other.step))


@dataclass(frozen=True, eq=False)
class Part:
    """What one exposure adds to the system.

    Parameters
    ----------
    frame : Frame
        The exposure.
    index : ndarray (m,) int64
        Numbers of the stars it sees.
    system : System
        Its own normal equations, of those stars.
    column : int
        Of the fluxes.
    scale : float
        Flux in its own unit of a star of flux 1 in the column.
    lever : ndarray (m, 2, 2) float64
        Flux times step on its pixels, for a step of 1 on the reference grid.
    """

    frame: Frame
    index: I64
    system: System
    column: int
    scale: float
    lever: F64

    @classmethod
    def of(cls, frame: Frame, sources: JointSources, shift_sigma: float | None) -> "Part":
        """Return the part of an exposure; `shift_sigma` None: positions stay."""
        view = frame.view
        assert view is not None
        frame = with_doubts(frame)
        local, index = frame.local(sources)
        half = None if shift_sigma is None else frame.fit_half_sizes(local.flux)
        prior = None
        if shift_sigma is not None:
            prior = shift_prior(frame, local.flux, shift_sigma * frame.psf.fwhm / 3)
        system = System.of(frame, local, half, prior=prior)
        # an exposure that does not show a star does not tell where it is; one that no exposure shows may still move
        size = np.maximum(local.flux, 0)
        size[sources.flux[index] <= 0] = frame.isolated_error(np.zeros(1))
        lever = size[:, None, None] * view.mapping.jacobian(sources.x[index], sources.y[index])
        return cls(frame, index, system, view.column, view.scale, lever)

    def seen(self, unknowns: Unknowns) -> F64:
        """Return what the exposure sees of the unknowns, in its own, (m, 3)."""
        own = np.empty((len(self.index), 3))
        own[:, 0] = self.scale * unknowns.flux[self.index, self.column]
        own[:, 1:] = np.einsum("nij,nj->ni", self.lever, unknowns.step[self.index])
        return own

    def add_back(self, own: F64, out: Unknowns) -> None:
        """Add to `out` what (m, 3) of the exposure is worth in the unknowns of all, the transpose of `seen`."""
        out.flux[self.index, self.column] += self.scale * own[:, 0]
        out.step[self.index] += np.einsum("nij,ni->nj", self.lever, own[:, 1:])

    def applied(self, unknowns: Unknowns) -> F64:
        """Return the normal matrix of the exposure times what it sees of the unknowns, (m, 3)."""
        eq, own = self.system.blocks, self.seen(unknowns)
        out = np.empty_like(own)
        normal.apply_normal(eq.own, eq.first, eq.links, eq.cross, own, out)
        return out


@dataclass(frozen=True, eq=False)
class Blocks:
    """The diagonal blocks of all stars: fluxes (n, c), flux with step (n, c, 2), and step with step (n, 2, 2)."""

    flux: F64
    mixed: F64
    step: F64

    @classmethod
    def of(cls, parts: tuple[Part, ...], n: int, n_columns: int) -> "Blocks":
        """Return the sum of the blocks of all exposures, without priors."""
        flux, mixed, step = np.zeros((n, n_columns)), np.zeros((n, n_columns, 2)), np.zeros((n, 2, 2))
        for part in parts:
            own, index = part.system.blocks.own.reshape(-1, 3, 3), part.index
            flux[index, part.column] += part.scale**2 * own[:, 0, 0]
            mixed[index, part.column] += part.scale * np.einsum("ni,nij->nj", own[:, 0, 1:], part.lever)
            step[index] += np.einsum("nki,nkl,nlj->nij", part.lever, own[:, 1:, 1:], part.lever)
        return cls(flux, mixed, step)

    def with_prior(self, prior: F64) -> "Blocks":
        """Return the blocks with `prior` (n,) added to both diagonals of the step."""
        return Blocks(self.flux, self.mixed, self.step + prior[:, None, None] * np.eye(2))

    def inverse(self) -> "Inverse":
        """Return what solves for each star by itself; a star without information keeps what it has."""
        with np.errstate(divide="ignore"):
            free = np.where(self.flux > 0, 1 / self.flux, 0.0)
        left = self.step - np.einsum("nci,nc,ncj->nij", self.mixed, free, self.mixed)
        a, b, c = left[:, 0, 0], left[:, 0, 1], left[:, 1, 1]
        det = a * c - b * b
        sure = det > 1e-12 * self.step[:, 0, 0] * self.step[:, 1, 1]
        schur = np.zeros_like(left)
        with np.errstate(divide="ignore", invalid="ignore"):
            schur[:, 0, 0], schur[:, 1, 1] = np.where(sure, c / det, 0), np.where(sure, a / det, 0)
            schur[:, 0, 1] = schur[:, 1, 0] = np.where(sure, -b / det, 0)
        return Inverse(free, self.mixed, schur)


@dataclass(frozen=True, eq=False)
class Inverse:
    """The inverse of `Blocks`: 1 / flux, the mixed part, and the inverse of the Schur complement of the step."""

    free: F64
    mixed: F64
    schur: F64

    def applied(self, v: Unknowns) -> Unknowns:
        """Return the inverse times unknowns."""
        step = v.step - np.einsum("nci,nc->ni", self.mixed, self.free * v.flux)
        step = np.einsum("nij,nj->ni", self.schur, step)
        return Unknowns(self.free * (v.flux - np.einsum("nci,ni->nc", self.mixed, step)), step)


@dataclass(frozen=True, eq=False)
class Wishes:
    """What an exposure would change about each star if the others stood still.

    Parameters
    ----------
    index : ndarray (m,) int64
        Numbers of the stars.
    snr : ndarray (m,) float64
        Their flux over its error in this exposure.
    others : ndarray (m,) float64
        Share of what is known of their places that other exposures tell.
    gain : ndarray (m,) float64
        Share of its flux by which a star is too faint there.
    step_x, step_y : ndarray (m,) float64
        Step on the pixels of the exposure (pix).
    error : ndarray (m,) float64
        Error of that step along an axis (pix).
    """

    index: I64
    snr: F64
    others: F64
    gain: F64
    step_x: F64
    step_y: F64
    error: F64


@dataclass(frozen=True, eq=False)
class JointSystem:
    """The system of all exposures.

    Parameters
    ----------
    parts : tuple of Part
        One for each exposure.
    blocks : Blocks
        Diagonal blocks without the prior.
    prior : ndarray (n,) float64
        Added to both diagonals of the steps; 1 for stars that may not move.
    moves : bool
        Whether positions are solved for.
    """

    parts: tuple[Part, ...]
    blocks: Blocks
    prior: F64
    moves: bool

    @classmethod
    def of(
        cls, frames: Frames, sources: JointSources, *, shift_sigma: float | None, fwhm: float
    ) -> "JointSystem":
        """Return the system; positions stay where `shift_sigma` (FWHM / 3) is None. `fwhm` in reference pixels."""
        parts = tuple(Part.of(frame, sources, shift_sigma) for frame in frames)
        n, n_columns = sources.fluxes.shape
        blocks, moves = Blocks.of(parts, n, n_columns), shift_sigma is not None
        if shift_sigma is None:
            blocks = Blocks(blocks.flux, np.zeros_like(blocks.mixed), np.zeros_like(blocks.step))
        prior = np.full(n, 1.0 if shift_sigma is None else 1 / (shift_sigma * fwhm / 3) ** 2)
        return cls(parts, blocks, prior, moves)

    def rhs(self) -> Unknowns:
        """Return the right-hand side."""
        out = Unknowns.zeros(*self.blocks.flux.shape)
        for part in self.parts:
            part.add_back(part.system.rhs, out)
        return self._held(out)

    def applied(self, unknowns: Unknowns) -> Unknowns:
        """Return the matrix, with the prior, times unknowns."""
        out = Unknowns(np.zeros_like(unknowns.flux), self.prior[:, None] * unknowns.step)
        for part in self.parts:
            part.add_back(part.applied(unknowns), out)
        return self._held(out)

    def _held(self, unknowns: Unknowns) -> Unknowns:
        """Return the unknowns without steps where positions stay."""
        return unknowns if self.moves else Unknowns(unknowns.flux, np.zeros_like(unknowns.step))

    def solved(self, tolerance: float, most: int) -> tuple[Unknowns, int, bool]:
        """Return the solution, the number of iterations, and whether no unknown would move by `tolerance` sigma more.

        The rules are those of `crowdfit._kernels.normal.solve_pcg`.
        """
        blocks = self.blocks.with_prior(self.prior)
        inverse, diagonal = blocks.inverse(), np.einsum("nii->ni", blocks.step)
        solution, resid = Unknowns.zeros(*blocks.flux.shape), self.rhs()
        z = inverse.applied(resid)
        p, rz = z, resid.dot(z)
        for iteration in range(most):
            worst = max(
                float(np.max(z.flux**2 * blocks.flux, initial=0.0)),
                float(np.max(z.step**2 * diagonal, initial=0.0)),
            )
            if worst <= tolerance**2:
                return solution, iteration, True
            work = self.applied(p)
            curve = p.dot(work)
            if not curve > 0:
                return solution, iteration + 1, False
            alpha = rz / curve
            solution, resid = solution.plus(alpha, p), resid.plus(-alpha, work)
            z = inverse.applied(resid)
            rz, before = resid.dot(z), rz
            p = z.plus(rz / before, p)
        return solution, most, False

    def marginal_flux_errors(self, sources: JointSources) -> F64:
        """Return errors of the fluxes by column with neighbours and positions free, (n, n_columns).

        From the neighbourhood of each star in each exposure, as if only the fluxes were shared: a little too large
        where an exposure by itself could not tell where the star is.
        """
        info = np.zeros_like(sources.fluxes)
        for part in self.parts:
            local, fwhm = part.system.sources, part.frame.psf.fwhm
            free = shift_prior(part.frame, local.flux, fwhm / 2.3548)
            variance = marginal_variance(local, part.system.blocks, free, NEAR * fwhm, NEIGHBOURS)
            info[part.index, part.column] += part.scale**2 / variance[:, 0]
        with np.errstate(divide="ignore"):
            return np.asarray(1 / np.sqrt(info))

    def wishes(self, solution: Unknowns) -> tuple[Wishes, ...]:
        """Return what each exposure would change beyond the solution."""
        found = []
        total = np.einsum("nii->n", self.blocks.step)
        for part in self.parts:
            left = part.system.rhs - part.applied(solution)
            own, local = part.system.blocks.own, part.system.sources
            inverse, step = np.empty_like(own), np.empty_like(left)
            normal.invert_blocks(own, inverse)
            normal.apply_inverse(inverse, left, step)
            flux = np.maximum(local.flux + part.seen(solution)[:, 0], 1e-300)
            with np.errstate(divide="ignore", invalid="ignore"):
                snr = flux * np.sqrt(own[:, 0])
                error = np.sqrt((inverse[:, 4] + inverse[:, 8]) / 2) / flux
                mine = np.einsum("nki,nkl,nli->n", part.lever, own.reshape(-1, 3, 3)[:, 1:, 1:], part.lever)
                others = 1 - mine / total[part.index]
            found.append(
                Wishes(
                    part.index, snr, others, step[:, 0] / flux, step[:, 1] / flux, step[:, 2] / flux, error
                )
            )
        return tuple(found)


def as_joint(sources: Sources) -> JointSources:
    """Return a list of a joint fit as what it is."""
    assert isinstance(sources, JointSources)
    return sources

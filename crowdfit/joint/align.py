"""The exposures brought onto each other, by the stars themselves.

Each exposure would move the stars that it shows well by a little once the joint fit has settled where they are. What
these wishes have in common over the field is an error of its mapping: a shift, an affine map or a quadratic one, as
many stars as there are. The reference exposure keeps its pixels: what it wishes moves the stars, and the mappings of
all others the other way. Fluxes of exposures that share them have wishes too, and their scales follow.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crowdfit.frame import Frame, Frames
from crowdfit.joint.system import Wishes
from crowdfit.mapping import TERMS, Mapping, polynomial
from crowdfit.robust import MAD
from crowdfit.view import JointSources

__all__ = ["Alignment", "Tie", "aligned", "moved_together"]

F64 = NDArray[np.float64]

LEAST_SNR = 20.0
"""Stars above this S/N in the exposure take part."""
LEAST_OTHERS = 0.1
"""A star that is placed by this exposure alone agrees with it wherever it lies; others must have this share in it."""
STARS_A_TERM = 10
"""So many stars are needed for each term of a correction."""
LEAST = 3
"""With fewer stars an exposure stays where it is."""
FLOOR = 0.01
"""Error of a position that is added to all (pix), so that no star rules alone."""
ROUNDS, CLIP = 6, 3.5
"""Stars farther off than so many robust deviations do not take part, found in at most so many rounds."""
FARTHEST = 1.0
"""Nor do stars that would step farther than this (FWHM)."""


@dataclass(frozen=True)
class Tie:
    """How well an exposure is tied to the others.

    Parameters
    ----------
    n : int
        Stars that took part.
    terms : int
        Terms of the correction along each axis: 1 a shift, 3 affine, 6 quadratic; 0 none.
    shift : float
        Size of the last correction in the middle of the exposure (pix).
    rms : float
        Robust scatter along an axis of what is left (pix); NaN without stars.
    noise : float
        What the errors of the positions make of it (pix); NaN without stars.
    scale : float
        Flux in its own unit of a star of flux 1 in the unit of its band.
    """

    n: int
    terms: int
    shift: float
    rms: float
    noise: float
    scale: float

    @property
    def text(self) -> str:
        """A few words about it."""
        if not self.n:
            return "held"
        return (
            f"{self.n} stars, {self.terms} terms, moved by {self.shift:.4f} pix, rms {self.rms:.4f} (noise "
            f"{self.noise:.4f}) pix, scale {self.scale:.4f}"
        )


@dataclass(frozen=True, eq=False)
class Alignment:
    """Frames with new mappings and scales, the stars that go with them, and how well each exposure is tied."""

    frames: Frames
    sources: JointSources
    ties: tuple[Tie, ...]


def aligned(
    frames: Frames,
    sources: JointSources,
    wishes: tuple[Wishes, ...],
    *,
    degree: str,
    scales: bool,
    nominal: tuple[float, ...],
) -> Alignment:
    """Return the exposures as their wishes ask for.

    Parameters
    ----------
    frames, sources
        The exposures and the stars of the last solve.
    wishes : tuple of Wishes
        One for each exposure.
    degree : str
        Highest correction, a key of `TERMS`.
    scales : bool
        Whether scales of exposures follow the stars; the mean over a band stays.
    nominal : tuple of float
        Scales that the exposures began with.
    """
    fits = [_fitted(frame, sources, wish, TERMS[degree]) for frame, wish in zip(frames, wishes, strict=True)]
    frames, sources = moved_together(frames, sources, [fit.terms for fit in fits])
    if scales:
        gains = [
            np.median(w.gain[fit.used]) if fit.used.any() else 0.0
            for w, fit in zip(wishes, fits, strict=True)
        ]
        frames = rescaled(frames, [1 + float(gain) for gain in gains], nominal)
    ties = tuple(
        replace(fit.tie, scale=float(frame.view.band_scale)) if frame.view else fit.tie
        for fit, frame in zip(fits, frames, strict=True)
    )
    return Alignment(frames, sources, ties)


def moved_together(frames: Frames, sources: JointSources, terms: list[F64]) -> tuple[Frames, JointSources]:
    """Return exposures and stars after each exposure has moved by a correction (6, 2) of its mapping.

    The stars move by that of the first exposure, which stays, and all other mappings give way.
    """
    first = frames[0].view
    assert first is not None
    step = polynomial(*first.mapping.unit(sources.x, sources.y)) @ terms[0]
    moved = sources.changed(x=sources.x + step[:, 0], y=sources.y + step[:, 1])
    new = [frames[0]]
    for frame, own in zip(frames[1:], terms[1:], strict=True):
        assert frame.view is not None
        mapping = frame.view.mapping.corrected(own - _carried(first.mapping, frame.view.mapping, terms[0]))
        new.append(frame.with_(view=frame.view.with_(mapping=mapping)))
    return tuple(new), moved


def rescaled(frames: Frames, factors: list[float], nominal: tuple[float, ...]) -> Frames:
    """Return exposures with their scales multiplied, so that in each band they keep to `nominal` in the mean."""
    views = [frame.view for frame in frames]
    new = {}
    for view, factor in zip(views, factors, strict=True):
        assert view is not None
        new[view.number] = view.band_scale * factor
    out = []
    for frame, view in zip(frames, views, strict=True):
        assert view is not None
        band = [other.number for other in views if other is not None and other.band == view.band]
        drift = np.exp(np.mean([np.log(new[k] / nominal[k]) for k in band]))
        out.append(frame.with_(view=view.with_(band_scale=float(new[view.number] / drift))))
    return tuple(out)


@dataclass(frozen=True, eq=False)
class _Fitted:
    terms: F64
    used: NDArray[np.bool_]
    tie: Tie


def _fitted(frame: Frame, sources: JointSources, wish: Wishes, most: int) -> _Fitted:
    """Return the correction (6, 2) that the wishes of an exposure ask for, of at most so many terms."""
    view, fwhm = frame.view, frame.psf.fwhm
    assert view is not None
    steps = np.column_stack([wish.step_x, wish.step_y])
    used = (wish.snr > LEAST_SNR) & np.isfinite(steps).all(axis=1) & np.isfinite(wish.error)
    used &= wish.others > LEAST_OTHERS
    used &= np.hypot(*np.nan_to_num(steps, nan=np.inf).T) < FARTHEST * fwhm
    terms, none = np.zeros((6, 2)), Tie(0, 0, 0.0, np.nan, np.nan, view.band_scale)
    if np.count_nonzero(used) < LEAST:
        return _Fitted(terms, np.zeros_like(used), none)
    design = polynomial(*view.mapping.unit(sources.x[wish.index], sources.y[wish.index]))
    weight = 1 / np.sqrt(np.where(used, wish.error, 1.0) ** 2 + FLOOR**2)
    number = 0
    for _ in range(ROUNDS):
        enough = np.count_nonzero(used) // STARS_A_TERM
        number = max(n for n in TERMS.values() if n <= most and n <= max(int(enough), 1))
        terms = np.zeros((6, 2))
        if number:
            a, b = design[used, :number] * weight[used, None], steps[used] * weight[used, None]
            terms[:number] = np.linalg.lstsq(a, b, rcond=None)[0]
        left = steps - design @ terms
        pull = np.hypot(*np.where(used[:, None], left * weight[:, None], 0.0).T)
        limit = CLIP * max(float(np.median(pull[used])) / 1.1774, 1e-9)
        kept = used & (pull < limit)
        if np.count_nonzero(kept) < LEAST or np.array_equal(kept, used):
            break
        used = kept
    (cx, cy), left = view.mapping.centre, left[used]
    middle = polynomial(*view.mapping.unit(np.array([cx]), np.array([cy]))) @ terms
    tie = Tie(
        n=int(np.count_nonzero(used)),
        terms=number,
        shift=float(np.hypot(*middle[0])),
        rms=float(MAD * np.median(np.abs(left))),
        noise=float(np.median(wish.error[used])),
        scale=view.band_scale,
    )
    return _Fitted(terms, used, tie)


def _carried(first: Mapping, other: Mapping, terms: F64) -> F64:
    """Return by which correction of `other` (6, 2) the same stars move when the first moves by `terms` (6, 2)."""
    if not np.any(terms):
        return np.zeros((6, 2))
    # a polynomial stays one under an affine map, which mappings nearly are
    box = other.box
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(box.x0, box.x1, 5), np.linspace(box.y0, box.y1, 5)))
    step = polynomial(*first.unit(x, y)) @ terms
    there = np.einsum("nij,nj->ni", other.jacobian(x, y), step)
    return np.asarray(np.linalg.lstsq(polynomial(*other.unit(x, y)), there, rcond=None)[0], np.float64)

"""Taking out what should not be in the list: the insignificant, the negative, and doubles of one star."""

from typing import Literal, NamedTuple, TypeVar

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit import flags
from crowdfit.counts import least_snr
from crowdfit.exposure import Mask
from crowdfit.frame import Frames
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT
from crowdfit.stages.blobs import blob_at, gathered

F64 = NDArray[np.float64]
S = TypeVar("S", bound=Sources)

NEAR = 1.5
"""Sources within this many FWHM may share the light of one star."""


class Pruned(NamedTuple):
    """What is left, and how many were removed for which reason."""

    sources: Sources
    removed: dict[str, int]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Prune:
    """Drop faint sources, merge those closer than the merge radius and those of one saturated blob into the brightest.

    Sources from a list (flag `forced`) are exempt. One on a saturated blob may be as faint as its wings show it (C012).
    """

    kind: Literal["significance"] = "significance"
    nsigma: float = Field(
        default=2.7, ge=0, description="drop sources whose flux is below this many errors without confusion"
    )
    purity: float = Field(
        default=0.4,
        ge=0,
        lt=1,
        description="drop more until this share of the sources at the limit are stars, by the counts, not noise",
    )
    marginal: float = Field(
        default=1.3,
        ge=0,
        description="drop sources beside a brighter one with flux / marginal error below this: undecided splits",
    )
    merge: float = Field(default=0.3, ge=0, description="merge sources closer than this, in FWHM")

    def __call__(self, frames: Frames, sources: Sources) -> Pruned:
        """Return the remaining sources; fluxes of merged ones are added up."""
        (frame,) = frames
        exempt = flags.has(sources.flags, "forced")
        kept = exempt | (blob_at(frame.exposure, sources.x, sources.y) > 0)
        keep, removed = weighed(
            sources,
            least_snr(frame, sources, self.nsigma, self.purity) * frame.plain_error(sources),
            self.marginal * frame.noise_factors.flux * sources.flux_err_marginal,
            NEAR * frame.psf.fwhm,
            kept,
            exempt,
        )
        left, n_blob = gathered(frame.exposure, sources.take(keep))
        merged, n_merged = merge_close(left, self.merge * frame.psf.fwhm)
        return Pruned(merged, removed | {"merged": n_merged, "same_blob": n_blob})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoPrune:
    """Keep every source (forced photometry)."""

    kind: Literal["none"] = "none"

    def __call__(self, frames: Frames, sources: Sources) -> Pruned:
        """Return all sources."""
        return Pruned(sources, {})


def weighed(  # noqa: PLR0913, PLR0917 - the stars, the limits, and who is left alone
    sources: Sources, least: F64, undecided_below: F64, near: float, kept: Mask, exempt: Mask
) -> tuple[Mask, dict[str, int]]:
    """Return which sources are bright enough to stay, (n,), and how many are not, by reason.

    Parameters
    ----------
    sources : Sources
        The list.
    least, undecided_below : ndarray (n,) float64
        Fluxes below which a source is noise, or an undecided split if a brighter one is near.
    near : float
        How near that is (pix).
    kept, exempt : ndarray (n,) bool
        Sources that stay however faint they are; of these, those that stay whatever they are.
    """
    faint = (sources.flux < least) & ~kept
    undecided = (sources.flux < undecided_below) & ~kept & ~faint
    faint |= outshone(sources, undecided, faint, near)
    negative = (sources.flux <= 0) & ~exempt
    unseen = ~np.isfinite(sources.flux_err) & ~exempt
    removed = {
        "faint": int(np.sum(faint & ~negative & ~unseen)),
        "negative": int(np.sum(negative & ~unseen)),
        "unseen": int(np.sum(unseen)),
    }
    return ~(faint | negative | unseen), removed


def outshone(sources: Sources, undecided: Mask, removed: Mask, radius: float) -> Mask:
    """Return which undecided sources have a brighter one that stays within `radius` pixels.

    Of two that share the light of one star neither is decided; without both there would be no star.
    """
    out = np.zeros(len(sources), bool)
    which = np.flatnonzero(undecided)
    if not len(which):
        return out
    places = np.column_stack([sources.x, sources.y])
    near = scipy.spatial.cKDTree(places).query_ball_point(places[which], radius)
    for k in np.argsort(-sources.flux[which], kind="stable"):
        i, others = which[k], np.asarray(near[k])
        brighter = others[
            (sources.flux[others] > sources.flux[i])
            | ((sources.flux[others] == sources.flux[i]) & (others < i))
        ]
        out[i] = np.any(~removed[brighter] & ~out[brighter])
    return out


def merge_close(sources: S, radius: float) -> tuple[S, int]:
    """Return the sources with pairs closer than `radius` (pix) merged, and the number taken away.

    The brighter of a pair stays, gets the other's flux and the flag `merged`; pairs are taken closest first
    and nothing is merged twice in one call.
    """
    if len(sources) < 2 or radius <= 0:
        return sources, 0
    pairs = scipy.spatial.cKDTree(np.column_stack([sources.x, sources.y])).query_pairs(
        radius, output_type="ndarray"
    )
    if not len(pairs):
        return sources, 0
    a, b = pairs[:, 0], pairs[:, 1]
    gap = np.hypot(sources.x[a] - sources.x[b], sources.y[a] - sources.y[b])
    flux, keep = sources.flux.copy(), np.ones(len(sources), bool)
    merged = np.zeros(len(sources), bool)
    for k in np.lexsort((b, a, gap)):
        i, j = (a[k], b[k]) if flux[a[k]] >= flux[b[k]] else (b[k], a[k])
        if keep[i] and keep[j] and not (merged[i] or merged[j]):
            keep[j], merged[i] = False, True
            flux[i] += max(flux[j], 0.0)
    out = sources.changed(flux=flux, flags=_with_bit(sources.flags, merged))
    return out.take(keep), int(np.sum(~keep))


def _with_bit(values: NDArray[np.uint32], where: NDArray[np.bool_]) -> NDArray[np.uint32]:
    return np.where(where, values | flags.bit("merged"), values).astype(np.uint32)

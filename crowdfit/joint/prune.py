"""Taking stars out of a joint list: the rules of `crowdfit.stages.prune` on all exposures together."""

import numpy as np
from numpy.typing import NDArray

from crowdfit import flags
from crowdfit.counts import Counts
from crowdfit.frame import Frames
from crowdfit.stages.blobs import blob_at
from crowdfit.stages.prune import NEAR, Prune, Pruned, merge_close, weighed
from crowdfit.view import JointSources

__all__ = ["in_blob", "least_joint_snr", "prune"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def least_joint_snr(frames: Frames, sources: JointSources, nsigma: float, purity: float) -> float:
    """Return `nsigma`, or the S/N of all exposures above which a share `purity` of the peaks are stars if more.

    By the counts of the exposure that has most of them.
    """
    limits = []
    for frame in frames:
        local = frame.local(sources).sources
        counts = Counts.of(frame, local)
        limits.append(
            (np.count_nonzero(local.flux > 2 * counts.sigma), counts.pure_above(purity, frame.psf.fwhm))
        )
    return max(nsigma, max(limits)[1])


def in_blob(frames: Frames, sources: JointSources) -> I64:
    """Return a number for stars that lie in a saturated blob in every exposure that shows them, 0 for others, (n,).

    Stars of one blob of one exposure have the same number.
    """
    number, shown, covered = (np.zeros(len(sources), np.int64) for _ in range(3))
    offset = 0
    for frame in frames:
        local, index = frame.local(sources)
        blob = blob_at(frame.exposure, local.x, local.y)
        shown[index] += 1
        covered[index] += blob > 0
        first = index[(blob > 0) & (number[index] == 0)]
        number[first] = offset + blob[(blob > 0) & (number[index] == 0)]
        offset += int(frame.exposure.blobs.max(initial=0))
    return np.where(covered == shown, number, 0)


def prune(stage: Prune, frames: Frames, sources: JointSources, fwhm: float) -> Pruned:
    """Return what is left of a joint list; `fwhm` in reference pixels."""
    exempt = flags.has(sources.flags, "forced")
    blob = in_blob(frames, sources)
    kept = exempt | (blob > 0)
    least = least_joint_snr(frames, sources, stage.nsigma, stage.purity)
    ratio = np.mean([frame.whitening.error_ratio for frame in frames])
    keep, removed = weighed(
        sources,
        least * sources.flux_err / ratio,
        stage.marginal * sources.flux_err_marginal,
        NEAR * fwhm,
        kept,
        exempt,
    )
    twice = second_of_blob(np.where(exempt | ~keep, 0, blob), sources.flux)
    left = sources.take(keep & ~twice)
    merged, n_merged = merge_close(left, stage.merge * fwhm)
    counts = removed | {"merged": n_merged, "same_blob": int(np.sum(twice & keep))}
    return Pruned(with_columns_of(left, merged), counts)


def second_of_blob(blob: I64, flux: F64) -> NDArray[np.bool_]:
    """Return which stars of a blob are not its brightest, (n,)."""
    inside = np.flatnonzero(blob)
    inside = inside[np.argsort(-flux[inside], kind="stable")]
    out = np.zeros(len(blob), bool)
    out[np.setdiff1d(inside, inside[np.unique(blob[inside], return_index=True)[1]])] = True
    return out


def with_columns_of(before: JointSources, merged: JointSources) -> JointSources:
    """Return merged stars whose fluxes by column have grown as their light has."""
    flux = dict(zip(before.id.tolist(), before.flux.tolist(), strict=True))
    old = np.array([flux[i] for i in merged.id.tolist()])
    grown = np.where(old > 0, merged.flux / np.where(old > 0, old, 1.0), 1.0)
    return merged.changed(fluxes=merged.fluxes * grown[:, None]) if np.any(grown != 1) else merged

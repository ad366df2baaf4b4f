"""One star for every saturated blob.

What lies under a blob cannot be told apart: its wings hold the flux and the position of one star. Left to the search,
the misfit around a core that is not seen becomes a swarm of stars inside it, which share the wings among them (C012,
P018).
"""

import numpy as np
from numpy.typing import NDArray

from crowdfit import flags
from crowdfit.exposure import Exposure, Mask
from crowdfit.sources import Sources

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def blob_at(exposure: Exposure, x: F64, y: F64) -> I64:
    """Return the number of the saturated blob, with its rim, in which each place (x, y) lies; 0 where there is none."""
    return np.asarray(exposure.blobs[exposure.nearest_pixel(x, y)])


def only_one(exposure: Exposure, known: Sources, x: F64, y: F64, strength: F64) -> Mask:
    """Return which new stars may stay: outside of blobs all, in a blob without a known star the strongest."""
    blob = blob_at(exposure, x, y)
    taken = np.unique(blob_at(exposure, known.x, known.y))
    keep = np.asarray((blob == 0) | ~np.isin(blob, taken))
    order = np.argsort(-strength, kind="stable")
    inside = order[keep[order] & (blob[order] > 0)]
    first = inside[np.unique(blob[inside], return_index=True)[1]]
    keep[np.setdiff1d(inside, first)] = False
    return keep


def gathered(exposure: Exposure, sources: Sources) -> tuple[Sources, int]:
    """Return the sources with all of a blob put into its brightest, and how many went; given positions stay."""
    blob = blob_at(exposure, sources.x, sources.y)
    blob[flags.has(sources.flags, "forced")] = 0
    inside = np.flatnonzero(blob)
    if len(np.unique(blob[inside])) == len(inside):
        return sources, 0
    inside = inside[np.argsort(-sources.flux[inside], kind="stable")]
    number, first, member = np.unique(blob[inside], return_index=True, return_inverse=True)
    flux, keep = sources.flux.copy(), np.ones(len(sources), bool)
    flux[inside[first]] = np.bincount(member, np.maximum(flux[inside], 0), len(number))
    keep[np.setdiff1d(inside, inside[first])] = False
    return sources.changed(flux=flux).take(keep), int(np.sum(~keep))

"""One star for every saturated blob.

What lies under a blob cannot be told apart: its wings hold the flux and the position of one star. Left to the search,
the misfit around a core that is not seen becomes a swarm of stars inside it, which share the wings among them (C012,
P018).
"""

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit import flags
from crowdfit.exposure import Exposure, Image, Mask
from crowdfit.frame import Frame
from crowdfit.robust import MAD
from crowdfit.sources import Sources

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

RIM = 3.0
"""So far beyond its blob the light of a saturated star is weighed (FWHM)."""
WING_ERROR = 0.003
"""By so much of its light a wing may depart from the PSF without being something else."""
CLIP = 3.0
"""Pixels that depart by so many sigma keep half their weight; by so many times the scatter round the blob if more."""


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


def with_doubts(frame: Frame) -> Frame:
    """Return the frame with less trust in the pixels round saturated blobs that depart from the model.

    A second star under a blob shows on one side of it, and a fit that takes all pixels for wings of the first makes
    that too bright, by several times the light of the second, and moves it. The weight is that of Cauchy's
    distribution; where all depart, as before a star has found its place, none is told from the others.
    """
    exposure = frame.exposure
    if not exposure.blob_boxes:
        return frame
    trust, (ny, nx) = np.ones(exposure.shape, np.float32), exposure.shape
    pad = int(np.ceil(RIM * frame.psf.fwhm))
    for number, (rows, cols) in enumerate(exposure.blob_boxes, 1):
        box = (
            slice(max(rows.start - pad, 0), min(rows.stop + pad, ny)),
            slice(max(cols.start - pad, 0), min(cols.stop + pad, nx)),
        )
        # a trail across the image is no reason to doubt all that its box holds
        near = scipy.ndimage.distance_transform_edt(exposure.blobs[box] != number) <= pad
        trust[box][near] = np.minimum(trust[box], doubt(frame, box, near))[near]
    return frame.with_(trust=trust)


def doubt(frame: Frame, box: tuple[slice, slice], near: Mask) -> Image:
    """Return the share of their weight that the pixels of a box keep, by those `near` a blob, (ny, nx) of the box."""
    model, resid, ivar = frame.model[box], frame.resid[box], frame.fit_ivar[box]
    softened = 1 / (1 + ivar * np.square(np.float32(WING_ERROR) * model))
    pull = np.abs(resid) * np.sqrt(ivar * softened)
    seen = pull[near & (ivar > 0)]
    scatter = max(MAD * float(np.median(seen)), 1.0) if len(seen) else 1.0
    return np.asarray(softened / (1 + np.square(pull / np.float32(CLIP * scatter))), np.float32)

"""Which pixels are not used, and which of those hide a saturated star."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray
from scipy import ndimage

from crowdfit.io.headers import Facts
from crowdfit.io.options import InputOptions

__all__ = ["PixelMask", "as_dq", "dq_is_bad", "mask_pixels"]

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
Mask = NDArray[np.bool_]

ABSURD: Final = 1e18
"""Values beyond this (image unit) are no measurement, and sums of their squares overflow single precision."""
HEADROOM: Final = 1.2
"""Real saturation scatters by flat field and bias; pixels above this times the level contradict it."""
CONTRADICTIONS: Final = 10
"""So many pixels above the level it takes to disbelieve a header."""
BRIGHT: Final = 0.1
"""A lost pixel may be a lost core when its surroundings exceed this fraction of the brightest pixels: next
to the core of a saturated star the PSF has not yet fallen further, even after growing a mask by 1-2 pix."""
LEAST_CORE: Final = 3
"""Smaller groups of lost pixels leave enough of the core to find the star by (pix)."""

REACH: Final = 3
"""So far from a lost pixel a star that is seen would explain the brightness (pix)."""

_EIGHT: Final = np.ones((3, 3), bool)


@dataclass(frozen=True, eq=False)
class PixelMask:
    """Planes (ny, nx) bool: `usable` pixels, and unusable ones that are `saturated`."""

    usable: Mask
    saturated: Mask


def mask_pixels(
    data: F32, dq: U32 | None, without_noise: Mask, facts: Facts, options: InputOptions
) -> PixelMask:
    """Decide which pixels to use; what was decided is appended to `facts.notes`.

    Parameters
    ----------
    data : ndarray (ny, nx) float32
        Image as read.
    dq : ndarray (ny, nx) uint32 or None
        Data-quality plane.
    without_noise : ndarray (ny, nx) bool
        Pixels that have no error or weight.
    facts : Facts
        Holds the saturation level; its notes are extended, and a level the image contradicts is removed.
    options : InputOptions
        The rules.
    """
    absurd = ~(np.abs(data) < ABSURD)  # NaN too
    flagged = np.zeros(data.shape, bool) if dq is None else dq_is_bad(dq, options)
    lost = absurd | flagged | without_noise
    full = _full_wells(data, dq, lost, facts, options)
    boxed = _in_boxes(data.shape, options)
    with np.errstate(invalid="ignore"):
        low = np.zeros(data.shape, bool) if options.bad_below is None else data < options.bad_below
    saturated = full | _lost_cores(data, lost, full, ~(lost | full | boxed | low))
    saturated &= ~boxed
    usable = ~(lost | full | boxed | low)
    for text, plane in (
        ("NaN, infinite or absurd", absurd),
        ("flagged in DQ", flagged),
        ("without a positive error or weight", without_noise & ~absurd & ~flagged),
        ("saturated", saturated),
        ("in input.mask_regions", boxed),
        ("below input.bad_below", low),
    ):
        if n := int(np.count_nonzero(plane)):
            facts.notes.append(f"{n} pixels not used ({100 * n / data.size:.2g} %): {text}")
    return PixelMask(usable, saturated)


def as_dq(plane: NDArray[Any]) -> U32:
    """Return a data-quality plane of any type as uint32; what is NaN in it, or no whole number, becomes 1.

    Signed planes whose bit 31 made them negative get their bit back.
    """
    if plane.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            plane = np.where(np.abs(plane) < 2.0**53, plane, 1)
    return (plane.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)


def dq_is_bad(dq: U32, options: InputOptions) -> Mask:
    """Return the pixels that the data-quality policy makes unusable; the values travel on (C034)."""
    if options.dq == "none":
        return np.zeros(dq.shape, bool)
    bad = np.asarray((dq != 0) & ~_holds_only(dq, options.dq_ignore, options))
    for value, pixels in options.dq_grow:
        # what is ignored is no seed: a bit may be harmless and its neighbour lost only when the user says both
        seed = _holds_any(dq, (value,), options) & bad
        bad |= ndimage.binary_dilation(seed, _EIGHT, iterations=pixels)
    return bad


def _holds_only(dq: U32, values: tuple[int, ...], options: InputOptions) -> Mask:
    """Return where the quality is one of the codes, or has no bit but those, in `values`."""
    listed = np.asarray(values, np.uint32)
    if options.dq == "codes":
        return np.asarray(np.isin(dq, listed))
    return np.asarray((dq & ~np.bitwise_or.reduce(listed)) == 0)


def _holds_any(dq: U32, values: tuple[int, ...], options: InputOptions) -> Mask:
    """Return where the quality is one of the codes, or has one of the bits, in `values`."""
    listed = np.asarray(values, np.uint32)
    if options.dq == "codes":
        return np.asarray(np.isin(dq, listed))
    return np.asarray((dq & np.bitwise_or.reduce(listed)) != 0)


def _full_wells(data: F32, dq: U32 | None, lost: Mask, facts: Facts, options: InputOptions) -> Mask:
    """Return saturated pixels, by level or by DQ, grown by `saturate_grow`."""
    level = _saturation_level(data, lost, facts)
    full = np.zeros(data.shape, bool)
    if level is not None and level < ABSURD:
        with np.errstate(invalid="ignore"):
            # what is flagged and far above the level is a hot pixel or garbage
            full = (data >= level) & (data < ABSURD) & ~(lost & (data > HEADROOM * level))
    if dq is not None and options.dq_saturated:
        full |= _holds_any(dq, options.dq_saturated, options) & lost
    if options.saturate_grow and full.any():
        full = ndimage.binary_dilation(full, _EIGHT, iterations=options.saturate_grow)
    return full


def _saturation_level(data: F32, lost: Mask, facts: Facts) -> float | None:
    """Return the level; a header's is dropped when the image clearly goes on above it.

    Then it is in other units than the image: a raw converter limit beside an image in electrons, say.
    """
    level = facts.saturate
    if not level or facts.saturate_given or level >= ABSURD:
        return level
    seen = data[~lost]
    above = int(np.count_nonzero(seen > HEADROOM * level))
    at = int(np.count_nonzero(seen >= level)) - above
    if above > max(at, CONTRADICTIONS):
        facts.notes.append(
            f"header saturation level {level:g} ignored: {above} pixels are well above it, so it is not in "
            "the unit of the image; set input.saturate"
        )
        facts.saturate = None
        facts.meta.pop("SATURATE", None)
    return facts.saturate


def _lost_cores(data: F32, lost: Mask, full: Mask, usable: Mask) -> Mask:
    """Return lost pixels that continue a saturated area, or sit where the core of a bright star should be.

    Many pipelines blank saturated cores (NaN or a flag) instead of leaving them above a level.
    """
    bright = _bright_losses(data, lost, usable)
    found = ndimage.binary_propagation(full, _EIGHT, mask=bright | full) & lost
    blobs, _ = ndimage.label(bright & ~found, _EIGHT)
    for number, box in enumerate(ndimage.find_objects(blobs), start=1):
        around = tuple(slice(max(0, side.start - REACH), side.stop + REACH) for side in box)
        blob = blobs[around] == number
        if _is_core(blob, np.where(usable[around], data[around], -np.inf)):
            found[around] |= blob
    return np.asarray(found)


def _bright_losses(data: F32, lost: Mask, usable: Mask) -> Mask:
    """Return lost pixels whose nearest usable pixel is among the brightest of the image."""
    bright = np.zeros(lost.shape, bool)
    shore = np.argwhere(ndimage.binary_dilation(lost, _EIGHT) & usable)
    if len(shore):
        sky, top = np.percentile(data[usable], (50, 99.99))
        places = np.argwhere(lost)
        _, nearest = scipy.spatial.cKDTree(shore).query(places)
        values = data[tuple(shore[nearest].T)]
        bright[tuple(places[values - sky > BRIGHT * (top - sky)].T)] = True
    return bright


def _is_core(blob: Mask, shown: F32) -> bool:
    """Return whether a blob in a cutout hides a core: large, and nothing near is brighter than its rim.

    Otherwise it is a piece of the wing of a star that is seen.
    """
    rim = shown[ndimage.binary_dilation(blob, _EIGHT)].max()
    near = shown[ndimage.binary_dilation(blob, _EIGHT, iterations=REACH)].max()
    return bool(np.count_nonzero(blob) >= LEAST_CORE and rim >= near)


def _in_boxes(shape: tuple[int, ...], options: InputOptions) -> Mask:
    boxed = np.zeros(shape, bool)
    for x0, x1, y0, y1 in options.mask_regions:
        boxed[y0:y1, x0:x1] = True
    return boxed

"""What a joint fit begins with: where each exposure lies, how fluxes compare, and a first shift from bright peaks."""

import logging
from typing import Any

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit.calibration.zeropoints import facts_of, header_zero_point
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, Frames
from crowdfit.joint.align import rescaled
from crowdfit.joint.options import Joint
from crowdfit.mapping import Box, Mapping, between
from crowdfit.match import voted_shift
from crowdfit.stages.detect import peaks_above, refined, significance
from crowdfit.stages.sky import global_median
from crowdfit.view import View

__all__ = ["bands_of", "header_scales", "mappings_of", "tied", "views_of", "whole_box"]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

BRIGHT = 20.0
"""Peaks above this significance are compared."""
MOST = 500
"""So many peaks of an exposure, the brightest."""
AGREE = 5
"""Fewer pairs say nothing about a shift."""
COUNTS = ("electron", "electrons", "e-", "adu", "dn", "count", "counts", "ct")
"""Units that grow with the exposure time."""


def mappings_of(exposures: tuple[Exposure, ...], options: Joint) -> tuple[Mapping, ...]:
    """Return the mappings of exposures from the pixels of the first.

    Raises
    ------
    InputError
        An exposure has no WCS, or does not touch the others.
    """
    first = exposures[0]
    found = [Mapping.identity(first.shape)]
    for exposure in exposures[1:]:
        if options.grid == "pixels":
            if exposure.shape != first.shape:
                raise InputError(
                    f"{exposure.name}: has {exposure.shape} pixels, {first.name} {first.shape}; joint.grid=pixels is "
                    "for exposures on one grid of pixels, others need a WCS and joint.grid=sky"
                )
            found.append(Mapping.identity(exposure.shape))
            continue
        for one in (first, exposure):
            if one.wcs is None:
                raise InputError(
                    f"{one.name}: has no WCS, so that nothing tells where it lies among the exposures; give images "
                    "with a WCS, or set joint.grid=pixels where they share one grid of pixels"
                )
        found.append(between(first.wcs, exposure.wcs, exposure.shape, exposure.name))
    _check_touching(exposures, found)
    return tuple(found)


def _check_touching(exposures: tuple[Exposure, ...], mappings: list[Mapping]) -> None:
    """Refuse exposures that do not hang together."""
    held, waiting = [mappings[0].box], list(range(1, len(mappings)))
    while waiting:
        near = [k for k in waiting if any(mappings[k].box.overlaps(box) for box in held)]
        if not near:
            names = ", ".join(exposures[k].name for k in waiting)
            raise InputError(
                f"{names}: shows no part of the sky that {exposures[0].name} or its neighbours show; fit it on its own"
            )
        held += [mappings[k].box for k in near]
        waiting = [k for k in waiting if k not in near]


def bands_of(exposures: tuple[Exposure, ...]) -> tuple[str, ...]:
    """Return the filters of exposures, each once, that of the first exposure first."""
    return tuple(dict.fromkeys(exposure.band for exposure in exposures))


def header_scales(exposures: tuple[Exposure, ...]) -> tuple[float, ...]:
    """Return the flux of a star in the unit of each exposure, for a flux of 1 in that of the first of its band.

    By zero points where all exposures of a band have one; else by exposure times where the unit counts photons.

    Raises
    ------
    InputError
        Exposures of one band are in different units, and nothing tells how they compare.
    """
    scales = []
    for exposure in exposures:
        first = next(one for one in exposures if one.band == exposure.band)
        zero = [_zero_point(one) for one in (first, exposure)]
        if zero[0] is not None and zero[1] is not None:
            scales.append(float(10 ** (0.4 * (zero[1] - zero[0]))))
            continue
        if first.unit != exposure.unit:
            raise InputError(
                f"{exposure.name}: is in {exposure.unit or 'a unit that is not named'}, {first.name} in "
                f"{first.unit or 'one that is not named'}, and their headers have no zero points (PHOTFLAM, PIXAR_SR, "
                "MAGZERO, ...) to compare them by; convert them to one unit, or fit them one by one"
            )
        times = [_number(one.meta.get("EXPTIME")) for one in (first, exposure)]
        counts = exposure.unit.lower() in COUNTS
        scales.append(times[1] / times[0] if counts and min(times) > 0 else 1.0)
    return tuple(scales)


def _zero_point(exposure: Exposure) -> float | None:
    """Return the AB zero point of the header, None where it tells none."""
    facts: dict[str, Any] = {"unit": exposure.unit, **exposure.meta}
    found = header_zero_point(facts_of(facts))
    return None if found is None else found.value


def _number(value: object) -> float:
    """Return a number from a header, 0 where there is none."""
    try:
        return float(str(value))
    except ValueError:
        return 0.0


def views_of(exposures: tuple[Exposure, ...], options: Joint) -> tuple[View, ...]:
    """Return how exposures see the common list before any star has a say.

    Raises
    ------
    InputError
        As `mappings_of` and `header_scales`.
    """
    mappings, scales, bands = mappings_of(exposures, options), header_scales(exposures), bands_of(exposures)
    return tuple(
        View(
            number=k,
            band=bands.index(exposure.band),
            shape=exposure.shape,
            mapping=mapping,
            band_scale=scale,
            by_exposure=options.flux == "exposure",
        )
        for k, (exposure, mapping, scale) in enumerate(zip(exposures, mappings, scales, strict=True))
    )


def tied(frames: Frames, options: Joint) -> Frames:
    """Return the frames shifted onto each other by their bright peaks, and with scales by those of the same band."""
    if options.search == 0:
        return frames
    nominal = tuple(frame.view.band_scale for frame in frames if frame.view)
    first = frames[0].view
    assert first is not None
    peaks = [bright_peaks(frame) for frame in frames]
    known, fluxes, bands = peaks[0][:, :2], peaks[0][:, 2], np.full(len(peaks[0]), first.band)
    new, factors = [frames[0]], [1.0]
    for frame, own in zip(frames[1:], peaks[1:], strict=True):
        view = frame.view
        assert view is not None
        mapping = shifted(view.mapping, known, own[:, :2], frame, options.search)
        x, y = mapping.inverse(own[:, 0], own[:, 1])
        there, fwhm = np.column_stack([x, y]), frame.psf.fwhm
        factor = 1.0
        if len(known) and len(own):
            far, match = (np.asarray(part) for part in scipy.spatial.cKDTree(known).query(there))
            pair = (far < fwhm) & (bands[match] == view.band)
            if np.count_nonzero(pair) >= AGREE and options.scales:
                factor = float(np.median(own[pair, 2] / (fluxes[match[pair]] * view.band_scale)))
        factors.append(factor)
        new.append(frame.with_(view=view.with_(mapping=mapping)))
        known = np.concatenate([known, there])
        fluxes = np.concatenate([fluxes, own[:, 2] / (view.band_scale * factor)])
        bands = np.concatenate([bands, np.full(len(own), view.band)])
    return rescaled(tuple(new), factors, nominal)


def bright_peaks(frame: Frame) -> F64:
    """Return x, y (pix) and flux of the bright peaks of an exposure, (n, 3), the brightest first."""
    frame = frame.with_(sky=global_median(frame))
    signif = significance(frame)
    rows, cols = peaks_above(signif, frame.exposure.good, BRIGHT)
    order = np.argsort(-signif[rows, cols], kind="stable")[:MOST]
    rows, cols = rows[order], cols[order]
    x, y = refined(signif, rows, cols)
    return np.column_stack([x, y, signif[rows, cols] * frame.isolated_error(np.zeros(1))])


def shifted(mapping: Mapping, known: F64, own: F64, frame: Frame, search: float) -> Mapping:
    """Return a mapping moved so that peaks `own` (n, 2) of an exposure lie on peaks `known` (m, 2) of others.

    As it is where fewer than `AGREE` pairs agree; the message says so.
    """
    name, fwhm = frame.exposure.name, frame.psf.fwhm
    there = np.column_stack(mapping(known[:, 0], known[:, 1])) if len(known) else known
    if not (len(there) and len(own)):
        return mapping
    step = voted_shift(there, own, fwhm, search)
    terms = np.zeros((6, 2))
    terms[0] = step
    far, match = (np.asarray(part) for part in scipy.spatial.cKDTree(own).query(there + step))
    pair = far < fwhm / 2
    if np.count_nonzero(pair) < AGREE:
        log.warning(
            "%s: only %d bright stars lie where other exposures have them, so it stays where its WCS puts it; if "
            "stars come out double, correct the WCS or raise joint.search (%g pix)",
            name, np.count_nonzero(pair), search,
        )  # fmt: skip
        return mapping
    terms[0] = step + np.median(own[match[pair]] - there[pair] - step, axis=0)
    log.info(
        "%s: shifted by %.2f, %.2f pix, as %d bright stars agree", name, *terms[0], np.count_nonzero(pair)
    )
    return mapping.corrected(terms)


def whole_box(frames: Frames) -> Box:
    """Return the box on the reference grid that holds all exposures."""
    boxes = [frame.view.mapping.box for frame in frames if frame.view]
    box = boxes[0]
    for other in boxes[1:]:
        box = box.joined(other)
    return box

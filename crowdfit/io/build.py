"""From the planes of a file or of arrays to a checked exposure: facts, usable pixels, noise, coordinates.

Every assumption becomes a note, which is logged and kept in `Exposure.notes`.
"""

import dataclasses
import logging
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.exposure import Exposure, check_image
from crowdfit.io.gwcs import ExactWCS, with_gwcs
from crowdfit.io.hdus import Layers
from crowdfit.io.headers import Facts, read_facts
from crowdfit.io.jwst import doubt_about_area, doubt_about_sip, prepare
from crowdfit.io.masking import as_dq, mask_pixels
from crowdfit.io.noise import (
    Noise,
    Parts,
    noise_from_errors,
    noise_from_image,
    noise_from_parts,
    noise_from_weights,
)
from crowdfit.io.options import InputOptions
from crowdfit.world import CheckedWCS, read_wcs

__all__ = ["build_exposure"]

log = logging.getLogger(__name__)

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Array = NDArray[Any]

ERROR_RANGE: Final = (1e-15, 1e15)
"""Typical errors (image unit) whose squares and inverse squares single precision holds with room to spare."""
SINGLE: Final = (1e-36, 1e36)
"""Values that single precision holds together with their inverses."""
SAMPLE: Final = 1000
"""Rows looked at to learn the unit of a plane; a median needs no more."""
REMEDY: Final = {
    "err": "input.err_ext or --err",
    "weight": "input.wht_ext or --err",
    "dq": "input.dq_ext or --dq",
}
"""How another plane is chosen."""


@dataclasses.dataclass(frozen=True, eq=False)
class Planes:
    """The planes of an exposure (ny, nx), of one shape; `err` and `weight` are float32, positive or NaN.

    `parts` says what the square of `err` is made of, where the file does.
    """

    data: F32
    err: F32 | None
    weight: F32 | None
    dq: NDArray[np.uint32] | None
    parts: Parts | None = None


def build_exposure(layers: Layers, options: InputOptions, name: str, wcs: Any = None) -> Exposure:
    """Check the planes of an exposure and put it together.

    Parameters
    ----------
    layers : Layers
        Planes and headers as they were read or given.
    options : InputOptions
        What to make of them.
    name : str
        Name of the exposure.
    wcs : astropy.wcs.WCS, optional
        Wins over that of the header.

    Raises
    ------
    InputError
        Planes that are no image, have other shapes, or leave nothing to fit.
    """
    options = prepare(layers, options)
    check_image(layers.data, layers.label)
    facts = read_facts((layers.header, layers.primary), options)
    facts.notes[:0] = layers.notes
    planes = _checked_planes(layers, options)
    mask = mask_pixels(planes.data, planes.dq, _without_noise(planes, layers), facts, options)
    _check_content(planes.data, mask.usable, layers.label)
    noise = _noise_of(planes, mask.usable, facts, options, layers.label)
    facts.notes += noise.notes
    world = CheckedWCS(wcs, "") if wcs is not None else _world(layers, options)
    facts.notes += [world.note] if world.note else []
    if world.wcs is not None and not isinstance(world.wcs, ExactWCS) and (doubt := doubt_about_sip(layers)):
        facts.notes.append(doubt)
        layers.alarms.add(doubt)
    area = None if world.wcs is None else _pixel_area(world)
    if area is not None and facts.unit.endswith("/sr") and "PIXAR_SR" not in facts.meta:
        facts.meta["PIXEL_SR"] = area
    if doubt := doubt_about_area(layers, area):
        facts.notes.append(doubt)
        layers.alarms.add(doubt)
    for note in facts.notes:
        log.log(logging.WARNING if note in layers.alarms else logging.INFO, "%s: %s", layers.label, note)
    exposure = Exposure.of(
        planes.data,
        np.where(mask.usable, 1 / noise.variance, np.float32(0)),
        planes.dq,
        saturated=mask.saturated,
        gain=noise.gain,
        wcs=world.wcs,
        band=facts.band,
        unit=facts.unit,
        name=layers.label,
        meta=layers.meta | facts.meta,
        notes=tuple(facts.notes),
    )
    lost = int(np.count_nonzero(mask.usable)) - int(np.count_nonzero(exposure.good))
    if lost:
        note = f"{lost} pixels not used ({100 * lost / mask.usable.size:.2g} %): value or error out of all proportion"
        log.info("%s: %s", layers.label, note)
        exposure = dataclasses.replace(exposure, notes=(*exposure.notes, note))
    return dataclasses.replace(exposure, name=name)


def _pixel_area(world: CheckedWCS) -> float | None:
    """Return the area of a pixel (sr) at the reference point of a WCS, None where it is not one of FITS."""
    if not hasattr(world.wcs, "celestial"):
        return None
    from astropy.wcs.utils import proj_plane_pixel_area  # noqa: PLC0415 - slow to import

    return float(proj_plane_pixel_area(world.wcs.celestial)) * float(np.radians(1)) ** 2


def _checked_planes(layers: Layers, options: InputOptions) -> Planes:
    """Return the planes in single precision, of one shape, with the error plane understood."""
    for what, plane in (("err", layers.err), ("weight", layers.weight), ("dq", layers.dq)):
        if plane is not None and plane.shape != layers.data.shape:
            raise InputError(
                f"{layers.place(what)}: {what} has shape {plane.shape} but the image {layers.label} has "
                f"{layers.data.shape}; give planes of one shape, or choose others with {REMEDY[what]}"
            )
    kind = layers.err_kind if options.err_kind == "auto" else options.err_kind
    noise, weights = (
        (None, layers.err) if kind == "ivar" and layers.err is not None else (layers.err, layers.weight)
    )
    power = 2 if kind == "variance" else 1
    _check_units(layers, noise, weights, power)
    err, weight = _positive(noise, power / 2), _positive(weights, 1)
    if kind == "variance" and err is not None:
        err = np.sqrt(err)
    with np.errstate(over="ignore", invalid="ignore"):
        data = layers.data.astype(np.float32)
    dq = None if layers.dq is None else as_dq(layers.dq)
    return Planes(data, err, weight, dq, _parts(layers) if weight is None and err is not None else None)


def _parts(layers: Layers) -> Parts | None:
    """Return what the variance is made of, where the file has at least photons and read noise."""
    photons, detector, flat = (layers.companions.get(f"VAR_{name}") for name in ("POISSON", "RNOISE", "FLAT"))
    if photons is None or detector is None:
        return None
    for name, plane in layers.companions.items():
        if plane.shape != layers.data.shape:
            raise InputError(
                f"{layers.place(name)}: has shape {plane.shape} but the image {layers.label} has {layers.data.shape}; "
                "cut all planes alike, or remove it"
            )
    flat = np.zeros(photons.shape, np.float32) if flat is None else flat
    with np.errstate(invalid="ignore"):
        return Parts(
            *(np.where(plane > 0, plane, 0).astype(np.float32) for plane in (photons, detector, flat))
        )


def _world(layers: Layers, options: InputOptions) -> CheckedWCS:
    """Return the WCS of the header, with the conversions of the gwcs object in the file where it has one."""
    world = read_wcs(layers.header, layers.data.shape)
    if options.wcs == "gwcs" or (options.wcs == "auto" and layers.asdf):
        world = with_gwcs(world, layers.asdf, layers.data.shape, options.wcs, layers.label)
    return world


def _check_units(layers: Layers, err: Array | None, weight: Array | None, power: int) -> None:
    """Refuse an image whose errors single precision cannot hold, before they become 0 or infinite in it.

    The typical error is that of the error plane, which holds errors to a `power`, else it is taken from the
    differences of neighbouring pixels.
    """
    if err is not None:
        _check_range(_typical(_sampled(err)) ** (1 / power), layers.place("err"))
    else:
        with np.errstate(invalid="ignore"):
            steps = np.abs(np.diff(_sampled(layers.data), axis=1))
        _check_range(_typical(steps), layers.label)
    typical = 1.0 if weight is None else _typical(_sampled(weight))
    if not SINGLE[0] < typical < SINGLE[1]:
        raise InputError(
            f"{layers.place(_source(layers))}: weights of {typical:.2g} are out of range; multiply them by a "
            "constant that brings them near 1, for their scale is taken from the image"
        )


def _source(layers: Layers) -> str:
    """Return which plane the weights come from: an error plane may hold inverse variances."""
    return "err" if layers.weight is None else "weight"


def _sampled(plane: Array) -> NDArray[np.float64]:
    """Return some rows of a plane, enough to learn its unit."""
    with np.errstate(invalid="ignore"):  # NaN of a kind that damaged files hold
        return plane[:: len(plane) // SAMPLE + 1].astype(np.float64)


def _typical(values: NDArray[np.float64]) -> float:
    """Return the median of what is finite and positive, 1 where nothing is."""
    values = values[np.isfinite(values) & (values > 0)]
    return float(np.median(values)) if values.size else 1.0


def _check_range(typical: float, place: str) -> None:
    """Refuse errors (image unit) out of the range in which the fit has digits enough."""
    low, high = ERROR_RANGE
    if not low < typical < high:
        raise InputError(
            f"{place}: errors of {typical:.2g} per pixel are out of range; multiply image and errors by a "
            f"constant that brings them between {low:g} and {high:g}"
        )


def _positive(plane: Array | None, power: float) -> F32 | None:
    """Return a plane of errors or weights with NaN where it is not finite and positive (N004).

    It is the given power of a variance or weight, and NaN as well where single precision cannot hold that.
    """
    if plane is None:
        return None
    low, high = (limit**power for limit in SINGLE)
    with np.errstate(over="ignore"):
        values = plane.astype(np.float32)
    values[~((values > low) & (values < high))] = np.nan
    return values


def _without_noise(planes: Planes, layers: Layers) -> Mask:
    """Return the pixels without a usable error or weight, and refuse a plane that has none at all."""
    missing = np.zeros(planes.data.shape, bool)
    for what, name, plane in (("err", "error", planes.err), (_source(layers), "weight", planes.weight)):
        if plane is None:
            continue
        bad = np.isnan(plane)
        if bad.all():
            raise InputError(
                f"{layers.place(what)}: no pixel has a positive {name}; give another {name} plane "
                f"({REMEDY[what]}) or none"
            )
        missing |= bad
    return missing


def _check_content(data: F32, good: Mask, label: str) -> None:
    """Refuse an image without usable pixels, or with nothing in them, before its noise is looked for."""
    if not good.any():
        raise InputError(
            f"{label}: no usable pixel (all are NaN, flagged in DQ, saturated, or without an error); check "
            "the error and DQ planes, or change input.dq, input.dq_ignore, input.saturate"
        )
    first = data[good][0]
    if np.all(data[good] == first):
        raise InputError(
            f"{label}: every usable pixel is {first:g}; there is nothing to fit: is this the right extension?"
        )


def _noise_of(planes: Planes, good: Mask, facts: Facts, options: InputOptions, label: str) -> Noise:
    """Return the noise from the best source there is; an absurd gain may have put it out of range."""
    data = np.where(good, planes.data, np.float32(0))
    if planes.weight is not None:
        noise = noise_from_weights(data, planes.weight, planes.err, good, facts, options)
    elif planes.err is not None:
        known = None
        if planes.parts is not None and options.err_holds != "sky":
            known = noise_from_parts(data, planes.parts, good, facts, options)
        noise = known or noise_from_errors(data, planes.err, good, facts, options)
    else:
        noise = noise_from_image(data, good, facts)
    _check_range(float(np.sqrt(np.median(noise.variance[good]))), label)
    return noise

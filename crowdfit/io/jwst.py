"""What JWST imaging files (`_cal`, `_crf`, `_i2d`) need beyond the rules for all: quality bits, pixel areas, checks.

Their planes are found by EXTNAME like those of any other file. Here the data-quality policy becomes a list of bits,
image and errors are multiplied by the pixel-area map where stars need it, and what the headers say about the
product is put into notes. What is said of a file without TELESCOP = JWST is left alone, policies apart.
"""

import dataclasses
import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.io.dq import DQ_BITS, decode_dq, good_bits
from crowdfit.io.hdus import Layers
from crowdfit.io.headers import header_value
from crowdfit.io.options import InputOptions

__all__ = ["doubt_about_area", "doubt_about_sip", "is_jwst", "is_resampled", "prepare"]

Array = NDArray[Any]

AREA_RANGE: Final = (0.8, 1.25)
"""Medians between which an AREA plane is a relative pixel area; in steradian or arcsec^2 it is not."""
SAME_AREA: Final = 0.05
"""Largest relative difference of two pixel areas that distortion explains."""
ACCURATE_SIP: Final = 0.05
"""Largest error of the SIP polynomials (pix) that is not worth a word."""
ACCURATE_SINCE: Final = (1, 12)
"""Versions of the calibration pipeline before this one may have SIP polynomials wrong by up to 0.25 pix."""
VARIANCES: Final = {"err": {"error": 1, "variance": 2, "ivar": -2}, "weight": {"ivar": -2}}
"""The power of the area by which the planes scale."""


def is_jwst(layers: Layers) -> bool:
    """Return whether an exposure comes from a JWST file."""
    return bool(header_value((layers.header, layers.primary), "TELESCOP") == "JWST")


def is_resampled(layers: Layers) -> bool:
    """Return whether a JWST image is a mosaic of resampled ones, whose pixels all have one area (`_i2d`)."""
    state = header_value((layers.primary, layers.header), "S_RESAMP")
    return state == "COMPLETE" or (state is None and layers.weight is not None and layers.dq is None)


def prepare(layers: Layers, options: InputOptions) -> InputOptions:
    """Bring the planes of an exposure to one scale, and return the options that hold for it.

    Parameters
    ----------
    layers : Layers
        As read; image, errors and variances of a JWST file are multiplied by AREA, and notes are added.
    options : InputOptions
        As configured.

    Returns
    -------
    InputOptions
        With the data-quality policy resolved into `dq_ignore` and `dq_saturated`.

    Raises
    ------
    InputError
        One image an integration (`_calints`), or an AREA plane that is no relative pixel area.
    """
    from_jwst = is_jwst(layers)
    if from_jwst:
        _check_product(layers)
        _apply_area(layers, options)
        _note_headers(layers)
    return _with_policy(layers, options, from_jwst)


def _check_product(layers: Layers) -> None:
    """Refuse a cube of integrations by its name."""
    if layers.data.ndim == 3:
        raise InputError(
            f"{layers.label}: has one image for each of {layers.data.shape[0]} integrations, shape "
            f"{layers.data.shape}; give the _cal file of the exposure, which holds their mean"
        )


def _with_policy(layers: Layers, options: InputOptions, from_jwst: bool) -> InputOptions:
    """Return the options with `dq_good` resolved; codes and planes that are ignored have no bits."""
    policy = options.dq_good
    if policy == "auto":
        wanted = from_jwst and layers.own_dq and options.dq == "bits" and not options.dq_ignore
        policy = "photometry" if wanted else 0
    elif options.dq == "codes":
        raise InputError(
            f"{layers.label}: input.dq_good = {policy!r} speaks of bits, but input.dq says that the plane holds "
            "codes; list the harmless ones in input.dq_ignore instead"
        )
    if layers.dq is None or policy == 0:
        return options
    good = good_bits(policy)
    if good is None:
        layers.notes.append("data quality is ignored, as input.dq_good says")
        return dataclasses.replace(options, dq="none")
    bad = [name for name, bit in DQ_BITS.items() if not good & bit]
    named = ", ".join(bad) if len(bad) <= len(DQ_BITS) / 2 else "all but " + ", ".join(decode_dq(good))
    layers.notes.append(f"data quality: bad are {named or 'no bits'} (input.dq_good: {policy})")
    # a pixel that was saturated in all its groups is also lost; a star hides there
    saturated = options.dq_saturated or ((DQ_BITS["SATURATED"],) if from_jwst else ())
    return dataclasses.replace(options, dq_ignore=(*options.dq_ignore, good), dq_saturated=saturated)


def _apply_area(layers: Layers, options: InputOptions) -> None:
    """Multiply image, errors and variances by the relative pixel area: sums over pixels become fluxes (P053)."""
    area = layers.companions.pop("AREA", None)
    if is_resampled(layers):
        if area is not None:
            layers.notes.append("AREA left out: the pixels of a resampled image all have the same area")
        return
    if options.area == "none":
        layers.notes.append(
            "AREA left out, as input.area says: fluxes vary over the field with the pixel area"
        )
        return
    if area is None:
        layers.warn(
            "no AREA extension: all pixels count as of average area, which makes fluxes wrong by up to some percent"
        )
        return
    relative = _relative_area(area, layers)
    layers.data = layers.data.astype(np.float32) * relative
    for what, powers in VARIANCES.items():
        plane = getattr(layers, what)
        if plane is not None:
            kind = options.err_kind if what == "err" and options.err_kind != "auto" else layers.err_kind
            setattr(layers, what, plane.astype(np.float32) * relative ** powers.get(kind, -2))
    layers.companions = {
        name: plane.astype(np.float32) * relative**2 for name, plane in layers.companions.items()
    }
    low, high = np.nanpercentile(relative, (0, 100))
    layers.notes.append(f"image and errors multiplied by the pixel area (AREA {low:.4f} to {high:.4f})")


def _relative_area(area: Array, layers: Layers) -> NDArray[np.float32]:
    """Return the relative pixel area (ny, nx), NaN where there is none."""
    place = layers.place("AREA")
    if area.shape != layers.data.shape:
        raise InputError(
            f"{place}: has shape {area.shape} but the image {layers.label} has {layers.data.shape}; cut both alike, or "
            "set input.area to none"
        )
    relative = np.where(np.isfinite(area) & (area > 0), area, np.nan).astype(np.float32)
    median = float(np.nanmedian(relative)) if np.isfinite(relative).any() else np.nan
    low, high = AREA_RANGE
    if not low < median < high:
        raise InputError(
            f"{place}: its median is {median:.3g}, but relative pixel areas lie between {low} and {high}; "
            "mend the file, or set input.area to none"
        )
    return relative


def _note_headers(layers: Layers) -> None:
    """Say what the headers tell about the product that a user should know."""
    headers = (layers.header, layers.primary)
    if header_value(headers, "S_PHOTOM") == "SKIPPED":
        layers.warn(
            "S_PHOTOM = SKIPPED: the image is in DN/s and has no zero point of its own; run the photom step, or set "
            "calibration.zero_point"
        )
    sizes = tuple(header_value(headers, f"SUBSIZE{axis}") for axis in (2, 1))
    if is_resampled(layers) or None in sizes:
        return
    if sizes == layers.data.shape:
        starts = {key: header_value(headers, key) for key in ("SUBSTRT1", "SUBSTRT2")}
        layers.meta |= {key: value for key, value in starts.items() if value is not None}
    else:
        layers.notes.append(
            f"the image is {layers.data.shape[1]} x {layers.data.shape[0]}, cut from {sizes[1]} x {sizes[0]}: S_REGION "
            "and the gwcs object still speak of the whole"
        )


def doubt_about_area(layers: Layers, area: float | None) -> str:
    """Return a warning when the pixel area of the WCS (sr) is not PIXAR_SR, or nothing (P008)."""
    told = header_value((layers.header, layers.primary), "PIXAR_SR")
    if area is None or not is_jwst(layers) or not isinstance(told, int | float) or not told > 0:
        return ""
    if abs(area / told - 1) < SAME_AREA:
        return ""
    return (
        f"PIXAR_SR = {told:.4g} sr, but pixels of the WCS have {area:.4g} sr: magnitudes rest on PIXAR_SR and are off "
        f"by {2.5 * np.log10(area / told):+.3f} mag if it is the wrong one; give calibration.zero_point"
    )


def doubt_about_sip(layers: Layers) -> str:
    """Return a warning about SIP polynomials of early versions of the JWST pipeline, or nothing (M025)."""
    headers = (layers.header, layers.primary)
    if not is_jwst(layers) or "SIP" not in str(header_value(headers, "CTYPE1") or ""):
        return ""
    error, version = header_value(headers, "SIPMXERR"), str(header_value(headers, "CAL_VER") or "")
    remedy = (
        "so are ra and dec; install asdf, asdf-astropy and gwcs and fit the uncut file, or calibrate it anew"
    )
    if isinstance(error, int | float):
        if error > ACCURATE_SIP:
            return f"SIP distortion is off by up to {error:.2g} pix (SIPMXERR, CAL_VER {version}), {remedy}"
        return ""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < ACCURATE_SINCE:
        return f"SIP distortion of CAL_VER {version} may be off by up to 0.25 pix, {remedy}"
    return ""

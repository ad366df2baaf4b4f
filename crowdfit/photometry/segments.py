"""The catalogue of extended sources: Kron fluxes and shapes on the image without stars."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray

from crowdfit.exposure import Exposure, Image, Mask
from crowdfit.frame import Frame
from crowdfit.photometry.kron import REACH
from crowdfit.stages.segments import Outlines, SepSegments

F64 = NDArray[np.float64]

KRON_FACTOR = 2.5
KRON_LEAST = 1.0
"""Least radius of a Kron aperture, in FWHM."""
HALF = 0.5

EDGE, SHARED, KRON_AT_LEAST = 1, 2, 4
"""Bits of the column `seg_flags`."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Extended sources.

    Parameters
    ----------
    columns : dict of str to ndarray (n,)
        What was measured, by the names of `crowdfit.catalog.SEGMENT_COLUMNS`.
    outline : ndarray (ny, nx) int32
        Number of the source that a pixel belongs to, its `id`; 0 where there is none.
    masked : ndarray (ny, nx) bool
        Pixels that the fit of the stars leaves out.
    """

    columns: dict[str, NDArray[Any]]
    outline: NDArray[np.int32]
    masked: Mask


def measure_segments(
    stage: SepSegments, frame: Frame, exposure: Exposure, cores: Mask, masked: Mask
) -> Segments:
    """Return the catalogue of extended sources.

    Parameters
    ----------
    stage : SepSegments
        How sources are outlined.
    frame : Frame
        The last fit of the stars, with the extended sources masked.
    exposure : Exposure
        The image as it was before they were masked.
    cores : ndarray (ny, nx) bool
        Where extended sources were found: outlines elsewhere are none.
    masked : ndarray (ny, nx) bool
        What was masked.
    """
    light = np.where(exposure.good, exposure.data - frame.sky - frame.model, np.float32(0))
    found = stage.outlined(frame, light, exposure.ivar)
    if len(found.objects):
        found = found.chosen(cores[found.objects["ycpeak"], found.objects["xcpeak"]])
    return Segments(_columns(found, frame, exposure, light), found.outline, masked)


def _columns(found: Outlines, frame: Frame, exposure: Exposure, light: Image) -> dict[str, NDArray[Any]]:
    """Return the columns of the sources."""
    objects, n = found.objects, len(found.objects)
    number = np.arange(1, n + 1, dtype=np.int32)
    ivar = exposure.fit_ivar(np.maximum(light, np.float32(0)) + frame.model)
    image = {"mask": ~exposure.good, "segmap": found.outline, "seg_id": number}
    at: dict[str, F64] = {name: np.array(objects[name], np.float64) for name in ("x", "y")} if n else {}
    if not n:
        return {}
    a, b = (np.maximum(np.array(objects[name], np.float64), 0.3) for name in ("a", "b"))
    theta = np.clip(np.array(objects["theta"], np.float64), -np.pi / 2 + 1e-9, np.pi / 2 - 1e-9)
    radius, _ = sep.kron_radius(light, at["x"], at["y"], a, b, theta, REACH, **image)
    radius = np.where(np.isfinite(radius), radius, 0.0)
    least = KRON_LEAST * frame.psf.fwhm
    scale = KRON_FACTOR * radius
    is_least = scale * np.sqrt(a * b) < least
    axes = np.where(is_least, least, scale * a), np.where(is_least, least, scale * b)
    angle = np.where(is_least, 0.0, theta)
    variance = np.where(ivar > 0, 1 / np.where(ivar > 0, ivar, np.float32(1)), np.float32(0))
    flux, error, _ = sep.sum_ellipse(
        light, at["x"], at["y"], *axes, angle, 1.0, var=variance, subpix=0, **image
    )
    half, _ = sep.flux_radius(
        light, at["x"], at["y"], REACH * a, HALF, normflux=np.where(flux > 0, flux, 1.0), subpix=5, **image
    )
    ny, nx = exposure.shape
    at_edge = (
        (objects["xmin"] == 0)
        | (objects["ymin"] == 0)
        | (objects["xmax"] == nx - 1)
        | (objects["ymax"] == ny - 1)
    )
    shared = (objects["flag"] & sep.OBJ_MERGED) != 0
    bits = EDGE * at_edge + SHARED * shared + KRON_AT_LEAST * is_least
    return {
        "id": number,
        **at,
        "area": np.array(objects["npix"], np.int32),
        "flux_iso_area": np.array(objects["flux"], np.float64),
        "kron_flux": flux,
        "kron_flux_err": error,
        "kron_radius": radius,
        "a": a,
        "b": b,
        "theta": np.degrees(theta),
        "r50": np.where(flux > 0, half, np.nan),
        "peak": np.array(objects["peak"], np.float64),
        "seg_flags": bits.astype(np.uint32),
    }

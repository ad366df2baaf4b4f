"""What exposures say of the stars of a joint fit, each by itself and all together.

Each exposure is measured as a single image is, with the stars of the joint list at their places and nothing moved.
Its forced flux is that of a last linear fit of this exposure alone. Errors of exposures add up by their kind: noise
goes down with every exposure, errors of sky and PSF are each exposure's own, and the light of undetected stars is the
same in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crowdfit import flags
from crowdfit.counts import Limits, limits_of
from crowdfit.frame import Frame, Frames
from crowdfit.photometry.psf_stats import Measure, Measured
from crowdfit.view import JointSources

__all__ = ["Seen", "Together", "see", "together"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

ALL_OF = (
    "core_masked",
    "saturated",
    "edge",
    "near_mask",
    "truncated",
    "measure_failed",
    "misfit",
    "undecided",
)
"""Flags that a star has when it has them in every exposure that shows it."""
ANY_OF = ("close_pair", "new")
"""Flags that a star has when it has them in some exposure."""
SHAPES = ("qf", "rchi2", "fracflux", "sharpness", "spread_model", "fwhm")
"""Columns that are means over exposures, weighted with the square of the S/N."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What one exposure says of the m stars on its footprint.

    Parameters
    ----------
    index : ndarray (m,) int64
        Their numbers in the joint list.
    x, y : ndarray (m,) float64
        Places on the exposure (pix).
    flux, flux_err : ndarray (m,) float64
        Forced flux and its error, in the unit of the exposure.
    flags : ndarray (m,) uint32
        Flags in this exposure.
    measured : Measured
        The columns of a single image.
    """

    index: I64
    x: F64
    y: F64
    flux: F64
    flux_err: F64
    flags: NDArray[np.uint32]
    measured: Measured

    def spread(self, values: NDArray[Any], n: int) -> F64:
        """Return values (m,) by star of the joint list, NaN off the footprint, (n,)."""
        out = np.full(n, np.nan)
        out[self.index] = values
        return out

    def column(self, name: str, n: int) -> F64:
        """Return a measured column by star of the joint list, NaN off the footprint, (n,)."""
        return self.spread(np.asarray(self.measured.columns[name], np.float64), n)


@dataclass(frozen=True, eq=False)
class Together:
    """What all exposures say together.

    Parameters
    ----------
    columns : dict of str to ndarray (n,)
        Flux, errors and shapes; fluxes of the band of the first exposure.
    band_flux, band_err : tuple of ndarray (n,) float64
        By band, in the unit of its first exposure; NaN where no exposure of it shows the star.
    flags : ndarray (n,) uint32
        Those of the list, and those that the star has wherever it is seen.
    n_exposures : ndarray (n,) int64
        Exposures that show it.
    """

    columns: dict[str, F64]
    band_flux: tuple[F64, ...]
    band_err: tuple[F64, ...]
    flags: NDArray[np.uint32]
    n_exposures: I64


def see(config: Any, frame: Frame, sources: JointSources) -> Seen:
    """Return what an exposure says of the stars, with the stages of its configuration."""
    assert frame.view is not None
    local, index = frame.local(sources)
    forced = config.solve((frame.with_(),), local, shifts=False).sources
    stage, limits = config.measure, None
    if isinstance(stage, Measure):
        # the list goes as deep as all exposures together
        depth = frame.view.depth
        alone, beside = getattr(config.detect, "limits", limits_of)(frame, local)
        limits = Limits(alone * depth, beside * depth)
    own = local.changed(flux_err=forced.flux_err)
    measured = stage((frame,), own, limits)
    return Seen(
        index=index,
        x=local.x,
        y=local.y,
        flux=forced.flux,
        flux_err=np.asarray(measured.columns["flux_err"], np.float64),
        flags=measured.sources.flags,
        measured=measured,
    )


def together(frames: Frames, sources: JointSources, seen: Sequence[Seen]) -> Together:
    """Return what all exposures say together."""
    n = len(sources)
    views = [frame.view for frame in frames if frame.view is not None]
    number = np.sum([np.isfinite(one.spread(one.x, n)) for one in seen], axis=0)
    fluxes, errors = [], []
    for band in range(1 + max(view.band for view in views)):
        members = [(view, one) for view, one in zip(views, seen, strict=True) if view.band == band]
        parts = {
            name: np.array([one.column(name, n) / view.band_scale for view, one in members])
            for name in ("flux_err_marginal", "flux_err_sky", "flux_err_psf", "flux_err_confusion")
        }
        parts = _combined(parts)
        if views[0].by_exposure:
            flux = _mean(
                np.array([one.spread(one.flux, n) / view.band_scale for view, one in members]),
                1
                / np.array([one.column("flux_err_marginal", n) / view.band_scale for view, one in members])
                ** 2,
            )
        else:
            flux = np.where(np.isfinite(parts["flux_err_marginal"]), sources.fluxes[:, band], np.nan)
        fluxes.append(flux)
        errors.append(parts)
    totals = tuple(np.sqrt(sum(part**2 for part in parts.values())) for parts in errors)
    weight = np.array(
        [(one.spread(one.flux, n) / one.column("flux_err_marginal", n)) ** 2 + 1 for one in seen]
    )
    columns = {
        "flux": fluxes[0],
        "flux_err": totals[0],
        **errors[0],
        **_position_errors(views, sources, seen),
    }
    columns |= {name: _mean(np.array([one.column(name, n) for one in seen]), weight) for name in SHAPES}
    return Together(columns, tuple(fluxes), totals, _flags(sources, seen), number)


def _combined(parts: dict[str, F64]) -> dict[str, F64]:
    """Return the errors of a mean of exposures from those of each, (k, n) to (n,), all NaN where none sees the star."""
    noise = parts["flux_err_marginal"]
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(np.isfinite(noise) & (noise > 0), 1 / noise**2, 0.0)
        total = weight.sum(axis=0)
        share = np.where(total > 0, weight / total, np.nan)
        own = {
            name: np.sqrt(np.sum((share * np.where(weight > 0, parts[name], 0)) ** 2, axis=0))
            for name in ("flux_err_sky", "flux_err_psf")
        }
        shared = np.sum(share * np.where(weight > 0, parts["flux_err_confusion"], 0), axis=0)
        return {
            "flux_err_marginal": np.where(total > 0, 1 / np.sqrt(total), np.nan),
            **own,
            "flux_err_confusion": shared,
        }


def _mean(values: F64, weight: F64) -> F64:
    """Return weighted means over the first axis without NaN; NaN where there is nothing."""
    known = np.isfinite(values) & np.isfinite(weight) & (weight > 0)
    total = np.sum(np.where(known, weight, 0), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sum(np.where(known, weight * values, 0), axis=0) / total)


def _position_errors(views: Sequence[Any], sources: JointSources, seen: Sequence[Seen]) -> dict[str, F64]:
    """Return the errors of x and y on the reference grid.

    Noise and PSF of each exposure are its own; what undetected stars shift by is the same in all.
    """
    n = len(sources)
    info, shared, total = np.zeros((n, 2, 2)), np.zeros(n), np.zeros(n)
    for view, one in zip(views, seen, strict=True):
        jacobian = view.mapping.jacobian(sources.x[one.index], sources.y[one.index])
        columns = one.measured.columns
        confusion = np.asarray(columns["shift_err_confusion"], np.float64)
        psf = np.asarray(columns["shift_err_psf"], np.float64)
        own = [np.asarray(columns[name], np.float64) for name in ("x_err_marginal", "y_err_marginal")]
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.column_stack([1 / (err**2 + psf**2) for err in own])
        weight = np.where(np.isfinite(weight), weight, 0.0)
        info[one.index] += np.einsum("nki,nk,nkj->nij", jacobian, weight, jacobian)
        size = np.sqrt(np.abs(np.linalg.det(jacobian)))
        mean = weight.mean(axis=1) * size**2
        shared[one.index] += mean * np.nan_to_num(confusion) / size
        total[one.index] += mean
    det = info[:, 0, 0] * info[:, 1, 1] - info[:, 0, 1] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        confused = shared / total
        x, y = (np.sqrt(info[:, k, k] / det + confused**2) for k in (1, 0))
        return {"x_err": np.where(det > 0, x, np.inf), "y_err": np.where(det > 0, y, np.inf)}


def _flags(sources: JointSources, seen: Sequence[Seen]) -> NDArray[np.uint32]:
    """Return the flags of the list, of `ALL_OF` those that all exposures of a star give it, and `ANY_OF`."""
    every = np.bitwise_or.reduce([flags.bit(name) for name in ALL_OF])
    any_of = np.bitwise_or.reduce([flags.bit(name) for name in ANY_OF])
    common = np.full(len(sources), every, np.uint32)
    shown = np.zeros(len(sources), bool)
    some = np.zeros(len(sources), np.uint32)
    for one in seen:
        common[one.index] &= one.flags
        some[one.index] |= one.flags & any_of
        shown[one.index] = True
    return np.asarray((sources.flags & ~every) | some | np.where(shown, common, np.uint32(0)), np.uint32)

"""Moving the stars.

`derivative` takes the step of the joint solve, the maximum-likelihood step given all neighbours, masks and
weights. `weighted` is crowdsource's PSF-weighted centroid on the image cleaned of all other stars (C022-C027),
`peak` the top of that image convolved with the PSF (C028).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit._kernels.moments import peak_steps, weighted_steps
from crowdfit.frame import BEYOND, Frame, Frames
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT
from crowdfit.stages.solve import Fit

F64 = NDArray[np.float64]


def move(frame: Frame, sources: Sources, step_x: F64, step_y: F64, limit: float) -> Sources:
    """Return the stars moved by at most `limit` pixels, kept within `BEYOND` of the image.

    A step longer than the limit is shortened to it along its own direction and flagged `step_limit`.
    """
    length = np.hypot(step_x, step_y)
    step_x, step_y = np.nan_to_num(step_x), np.nan_to_num(step_y)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(length > limit, limit / length, 1.0)
    ny, nx = frame.exposure.shape
    beyond = 0.499 + BEYOND * frame.psf.fwhm
    x = np.clip(sources.x + step_x * scale, -beyond, nx - 1 + beyond)
    y = np.clip(sources.y + step_y * scale, -beyond, ny - 1 + beyond)
    return sources.changed(x=x, y=y).flagged("step_limit", length > limit)


def _move_usable(frame: Frame, fit: Fit, step: F64, limit: float) -> Sources:
    """Return the stars moved by `step` (n, 3) where its third column, the usable share of the PSF, is above a half.

    The others take the step of the joint solve.
    """
    usable = step[:, 2] > 0.5
    step_x = np.where(usable, step[:, 0], fit.step_x)
    step_y = np.where(usable, step[:, 1], fit.step_y)
    return move(frame, fit.sources, step_x, step_y, limit)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DerivativeStep:
    """The step that the derivative terms of the joint solve ask for."""

    kind: Literal["derivative"] = "derivative"
    max_step: float = Field(default=0.5, gt=0, description="longest step of one pass, in FWHM")

    def __call__(self, frames: Frames, fit: Fit, *, pass_no: int) -> Sources:
        """Return the moved stars."""
        (frame,) = frames
        return move(frame, fit.sources, fit.step_x, fit.step_y, self.max_step * frame.psf.fwhm)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WeightedStep:
    """Barycentre of each star's cleaned stamp, weighted with the PSF and the inverse variance.

    A PSF-weighted barycentre returns only part of an offset, half of it for a Gaussian (C024), and is pulled
    by masks and weights (C025, C026). Both are measured on the true PSF at each position through the actual
    weights: the response to a small shift, and the centroid at zero shift; so both biases cancel.
    """

    kind: Literal["weighted"] = "weighted"
    max_step: float = Field(default=0.5, gt=0, description="longest step of one pass, in FWHM")
    window: float = Field(default=2.0, gt=0, description="half width of the stamp, in FWHM")
    open_passes: int = Field(
        default=1, ge=0, description="passes at the start without PSF weight, while the PSF is poor (C027)"
    )
    open_window: float = Field(default=0.75, gt=0, description="half width of the unweighted stamp, in FWHM")

    def __call__(self, frames: Frames, fit: Fit, *, pass_no: int) -> Sources:
        """Return the moved stars; where less than half of the PSF is usable, the derivative step is taken."""
        (frame,) = frames
        is_open = pass_no < self.open_passes
        half = max(int(round((self.open_window if is_open else self.window) * frame.psf.fwhm)), 1)
        half = min(half, frame.psf.support)
        frame = frame.rendered(fit.sources)
        step = np.zeros((len(fit.sources), 3))
        s = fit.sources
        weighted_steps(
            frame.psf.coef, frame.psf.basis(s.x, s.y), s.x, s.y, s.flux, half, not is_open,
            frame.resid, frame.fit_ivar, step,
        )  # fmt: skip
        return _move_usable(frame, fit, step, self.max_step * frame.psf.fwhm)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PeakStep:
    """Peak of each star's cleaned stamp after convolution with the PSF, weighted with the inverse variance.

    Each star climbs to its peak at once, with its neighbours where they are, so large offsets take one pass; but
    neighbours whose own offsets are as large leave light that leads it astray (C028). The weights enter the
    significance itself, so a mask does not move the peak of a perfect star.
    """

    kind: Literal["peak"] = "peak"
    max_step: float = Field(default=0.5, gt=0, description="longest step of one pass, in FWHM")
    window: float = Field(default=2.0, gt=0, description="half width of the stamp, in FWHM")

    def __call__(self, frames: Frames, fit: Fit, *, pass_no: int) -> Sources:
        """Return the moved stars; where less than half of the PSF is usable, the derivative step is taken."""
        (frame,) = frames
        psf, s = frame.psf, fit.sources
        limit = self.max_step * psf.fwhm
        # a little beyond the limit, so that who would go on is told from who has arrived
        reach = 1.1 * limit
        half = min(psf.window(self.window), max(psf.support - int(np.ceil(reach)) - 1, 1))
        frame, step = frame.rendered(s), np.zeros((len(s), 3))
        peak_steps(
            psf.coef, psf.basis(s.x, s.y), s.x, s.y, s.flux, half, reach, frame.resid, frame.fit_ivar, step
        )
        return _move_usable(frame, fit, step, limit)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoStep:
    """Positions stay where they are (forced photometry)."""

    kind: Literal["none"] = "none"

    def __call__(self, frames: Frames, fit: Fit, *, pass_no: int) -> Sources:
        """Return the stars with their new fluxes, unmoved."""
        return fit.sources.flagged("not_moved", np.ones(len(fit.sources), bool))

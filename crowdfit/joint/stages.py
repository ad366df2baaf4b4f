"""The stages of a fit, made for many exposures: the loop of `crowdfit.loop` calls these as it calls those of one image.

What concerns one exposure, its sky, its stripes, its confusion and its PSF, is the stage of a single image, called for
one exposure after the other with the stars as that exposure sees them. What concerns the list, the search, the linear
system, the steps and the pruning, is made here for all exposures at once, with the settings of the same stages.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crowdfit import flags
from crowdfit.frame import Frame, Frames
from crowdfit.joint.align import Tie, aligned, moved_together, rescaled
from crowdfit.joint.detect import Grid, Thresholds, find
from crowdfit.joint.light import Light
from crowdfit.joint.options import Joint
from crowdfit.joint.prune import least_joint_snr, prune
from crowdfit.joint.system import JointSystem, Wishes, as_joint
from crowdfit.mapping import Box
from crowdfit.sources import Sources
from crowdfit.stages.base import by_pass
from crowdfit.stages.centroid import DerivativeStep
from crowdfit.stages.detect import ScoreDetect
from crowdfit.stages.prune import Prune, Pruned
from crowdfit.stages.solve import Fit
from crowdfit.view import JointSources

__all__ = ["JointSky", "JointStages", "reference_fwhm"]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]


def reference_fwhm(frame: Frame) -> float:
    """Return the FWHM of an exposure in pixels of the reference."""
    assert frame.view is not None
    mapping = frame.view.mapping
    return float(frame.psf.fwhm / np.sqrt(abs(np.linalg.det(mapping.affine[1:]))))


def sharpest(frames: Frames) -> float:
    """Return the smallest FWHM of all exposures (reference pixels)."""
    return min(reference_fwhm(frame) for frame in frames)


def with_depth(frames: Frames) -> Frames:
    """Return the frames with the depth of all exposures of their band, where all of them overlap."""
    info: dict[int, float] = {}
    for frame in frames:
        assert frame.view is not None
        own = frame.view.band_scale / float(frame.isolated_error(np.zeros(1))[0])
        info[frame.view.band] = info.get(frame.view.band, 0.0) + own**2
    out = []
    for frame in frames:
        assert frame.view is not None
        own = frame.view.band_scale / float(frame.isolated_error(np.zeros(1))[0])
        out.append(frame.with_(view=frame.view.with_(depth=own / np.sqrt(info[frame.view.band]))))
    return tuple(out)


def one_by_one(
    stages: Sequence[Callable[..., Frames]], frames: Frames, sources: Sources, **options: Any
) -> Frames:
    """Return the frames after stages of single images, one for each, with the stars that each sees."""
    return tuple(
        stage((frame,), frame.local(sources).sources, **options)[0]
        for stage, frame in zip(stages, frames, strict=True)
    )


@dataclass(frozen=True, eq=False)
class JointSky:
    """The sky of each exposure by itself.

    A sky may take stars that are hardly significant for fluctuations of its own. Those that all exposures together
    show well are none, however faint they are in one of them.
    """

    stages: tuple[Any, ...]

    def __call__(self, frames: Frames, sources: Sources, *, pass_no: int) -> Frames:
        """Return the frames with a new sky, and with what all of them together see."""
        frames, known = with_depth(frames), as_joint(sources)
        return tuple(
            stage((frame,), doubtful(stage, frame, known), pass_no=pass_no)[0]
            for stage, frame in zip(self.stages, frames, strict=True)
        )

    def error(self, frame: Frame, sources: Sources) -> F64 | None:
        """Return the error of the sky of a frame in cells; None where the stage does not know it."""
        assert frame.view is not None
        stage = self.stages[frame.view.number]
        error = getattr(stage, "error", None)
        return None if error is None else error(frame, doubtful(stage, frame, as_joint(sources)))


def doubtful(stage: Any, frame: Frame, sources: JointSources) -> Sources:
    """Return the stars, as an exposure sees them, that a sky may take for its own: all, or those below its limit."""
    least = getattr(stage, "least_snr", None)
    if least is None:
        return frame.local(sources).sources
    with np.errstate(invalid="ignore"):
        faint = sources.flux < least * sources.flux_err / frame.whitening.error_ratio
    return frame.local(sources.take(faint)).sources


@dataclass(eq=False)
class JointStages:
    """The stages of a configuration for many exposures.

    Parameters
    ----------
    configs : tuple of Config
        The stages of each exposure by itself; those of the first for the common list.
    options : Joint
        What the exposures share.
    box : Box
        Where on the reference grid any exposure lies.
    nominal : tuple of float
        Scales of the exposures by their headers.
    ties : list of tuple of Tie
        How well the exposures were tied after each pass; filled as the fit goes.
    """

    configs: tuple[Any, ...]
    options: Joint
    box: Box
    nominal: tuple[float, ...]
    ties: list[tuple[Tie, ...]] = field(default_factory=list)
    _wishes: tuple[Wishes, ...] = ()

    @property
    def config(self) -> Any:
        """The stages for the common list."""
        return self.configs[0]

    @property
    def sky(self) -> JointSky:
        """The sky of each exposure."""
        return JointSky(tuple(config.sky for config in self.configs))

    def stripes(self, frames: Frames) -> Frames:
        """Return the frames without the stripes of their readout."""
        return tuple(config.stripes((frame,))[0] for config, frame in zip(self.configs, frames, strict=True))

    def shared_noise(self, frames: Frames, sources: Sources) -> Frames:
        """Return the frames with what noise that their pixels share does to errors."""
        return one_by_one([config.shared_noise for config in self.configs], frames, sources)

    def confusion(self, frames: Frames, sources: Sources) -> Frames:
        """Return the frames with the variance of their undetected light."""
        return one_by_one([config.confusion for config in self.configs], frames, sources)

    def detect(self, frames: Frames, sources: Sources, *, pass_no: int) -> Sources:
        """Return the new stars of all exposures together."""
        stage, known = self.config.detect, as_joint(sources)
        if not isinstance(stage, ScoreDetect):
            return known.take(np.zeros(0, np.int64))
        fwhm = sharpest(frames)
        nsigma = least_joint_snr(frames, known, by_pass(stage.nsigma, pass_no), stage.purity)
        beside = by_pass(stage.companion_nsigma, pass_no)
        grid = Grid.over(self.box, fwhm)
        return find(stage, frames, known, grid, Thresholds(nsigma, beside, fwhm), pass_no)

    def solve(self, frames: Frames, sources: Sources, *, shifts: bool) -> Fit:
        """Return the stars with new fluxes in all columns and, with `shifts`, the steps they should make."""
        known, stage = as_joint(sources), self.config.solve
        if not len(known):
            self._wishes = ()
            return Fit(known, np.zeros(0), np.zeros(0), np.zeros(0), 0, True)
        system = JointSystem.of(
            frames, known, shift_sigma=stage.shift_sigma if shifts else None, fwhm=sharpest(frames)
        )
        found, iterations, converged = system.solved(
            stage.tolerance if shifts else stage.final_tolerance, stage.max_iter
        )
        if shifts:
            self._wishes = system.wishes(found)
        views = tuple(frame.view for frame in frames if frame.view is not None)
        with np.errstate(divide="ignore"):
            errs = 1 / np.sqrt(system.blocks.flux)
        fluxes = known.fluxes + found.flux
        light = Light.of(views, fluxes, errs)
        marginal = known.flux_err_marginal
        if shifts:
            free = Light.of(views, fluxes, system.marginal_flux_errors(known))
            # in the unit of the light: what the significance falls by when all is free
            with np.errstate(divide="ignore", invalid="ignore"):
                marginal = np.where(free.snr > 0, light.flux / free.snr, np.inf)
        new = known.changed(
            fluxes=fluxes,
            flux_errs=errs,
            flux=light.flux,
            flux_err=light.flux_err,
            flux_err_marginal=marginal,
        ).flagged("not_converged", np.full(len(known), not converged))
        step = np.where(light.flux[:, None] > 0, found.step, 0.0)
        curve = system.blocks.step
        with np.errstate(divide="ignore"):
            shift_err = np.sqrt(2 / (curve[:, 0, 0] + curve[:, 1, 1]))
        if not shifts:
            shift_err = np.full(len(known), np.nan)
        return Fit(new, step[:, 0], step[:, 1], shift_err, iterations, converged)

    def centroid(self, frames: Frames, fit: Fit, *, pass_no: int) -> Sources:
        """Return the stars moved by the step of the joint system, at most the longest step of the stage."""
        stage, stars = self.config.centroid, fit.sources
        if not isinstance(stage, DerivativeStep):
            moved: Sources = stage(frames, fit, pass_no=pass_no)
            return moved
        limit = stage.max_step * sharpest(frames)
        length = np.hypot(fit.step_x, fit.step_y)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(length > limit, limit / length, 1.0)
        x = np.clip(stars.x + np.nan_to_num(fit.step_x * share), self.box.x0 - limit, self.box.x1 + limit)
        y = np.clip(stars.y + np.nan_to_num(fit.step_y * share), self.box.y0 - limit, self.box.y1 + limit)
        return stars.changed(x=x, y=y).flagged("step_limit", length > limit)

    def psf_update(self, frames: Frames, sources: Sources, *, pass_no: int) -> tuple[Frames, Sources]:
        """Return the frames brought onto each other and with their new PSFs, and the stars that go with them."""
        frames, stars = self._aligned(frames, as_joint(sources))
        frames = tuple(frame.rendered(stars) for frame in frames)
        new, factors, terms = [], [], []
        used = np.zeros(len(stars), bool)
        for config, frame in zip(self.configs, frames, strict=True):
            local, index = frame.local(stars)
            (after,), moved = config.psf_update((frame,), local, pass_no=pass_no)
            used[index] |= flags.has(moved.flags, "psf_star")
            shift = np.zeros((6, 2))
            factor = 1.0
            if len(local):
                i = int(np.argmax(np.abs(local.flux)))
                shift[0] = moved.x[i] - local.x[i], moved.y[i] - local.y[i]
                factor = float(moved.flux[i] / local.flux[i]) if local.flux[i] else 1.0
            new.append(after)
            factors.append(factor)
            terms.append(shift)
        frames, stars = moved_together(tuple(new), stars, terms)
        if self.options.flux == "exposure":
            stars = stars.changed(fluxes=stars.fluxes * np.array(factors))
            frames = rescaled(frames, factors, self.nominal)
        else:
            frames, stars = self._scaled(frames, stars, factors)
        return frames, stars.flagged("psf_star", used)

    def _scaled(
        self, frames: Frames, stars: JointSources, factors: list[float]
    ) -> tuple[Frames, JointSources]:
        """Return scales and fluxes that keep all models when PSFs have changed what a flux means by `factors`.

        What the exposures of a band have in common goes into its fluxes, the rest into their scales.
        """
        before = [frame.view.band_scale for frame in frames if frame.view]
        frames = rescaled(frames, factors, self.nominal)
        common = np.ones(stars.fluxes.shape[1])
        for frame, old, factor in zip(frames, before, factors, strict=True):
            assert frame.view is not None
            common[frame.view.band] = factor * old / frame.view.band_scale
        return frames, stars.changed(fluxes=stars.fluxes * common)

    def _aligned(self, frames: Frames, stars: JointSources) -> tuple[Frames, JointSources]:
        """Return frames and stars after the alignment of this pass; what was found goes into `ties`."""
        wishes, self._wishes = self._wishes, ()
        if not wishes:
            return frames, stars
        found = aligned(
            frames, stars, wishes, degree=self.options.align,
            scales=self.options.scales and self.options.flux == "band", nominal=self.nominal,
        )  # fmt: skip
        self.ties.append(found.ties)
        for frame, tie in zip(frames, found.ties, strict=True):
            log.info("%s: %s", frame.exposure.name, tie.text)
        return found.frames, found.sources

    def prune(self, frames: Frames, sources: Sources) -> Pruned:
        """Return the remaining stars."""
        if not isinstance(self.config.prune, Prune):
            kept: Pruned = self.config.prune(frames, sources)
            return kept
        return prune(self.config.prune, frames, as_joint(sources), sharpest(frames))

    def stop(self, state: Any) -> str | None:
        """Return the reason to stop, or None."""
        reason: str | None = self.config.stop(state)
        return reason

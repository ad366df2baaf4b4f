"""The whole algorithm at reading height: sky, find, solve, move, refine the PSF, prune, render; repeat."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from crowdfit import flags
from crowdfit.frame import Frame, Frames, PsfQuality
from crowdfit.memory import highest_mb, peak_mb
from crowdfit.sources import Sources
from crowdfit.stages.solve import Fit

if TYPE_CHECKING:
    from crowdfit.config import Config

__all__ = ["Frame", "Frames", "PassStats", "State", "finish", "iterate", "render"]

MOST_LAST = 3
"""Most solves of the last pass. Only weights differ from one to the next: each changes a tenth of what the one before
did, so that after a change of less than one sigma the fluxes stand."""


@dataclass(frozen=True)
class PassStats:
    """The numbers of one pass.

    Parameters
    ----------
    pass_no, n_sources, n_new : int
        Pass, sources at its end, and sources it found.
    n_removed : dict of str to int
        Sources taken out, by reason.
    chi : float
        Robust rms of the residual over its noise.
    fwhm : float
        Of the PSF (pix).
    max_step : float
        99th percentile of the position steps (pix).
    psf_stars : int
        Stars in the last PSF estimate.
    solver_iterations : int
        Iterations of the linear solver.
    seconds : float
        Wall time of the pass.
    stage_seconds : dict of str to float
        Wall time by stage.
    stage_memory_mb : dict of str to float
        Largest resident size of the process during each stage, where the stage made it the largest so far; else the
        size after it.
    memory_mb : float
        Largest resident size of the process so far.
    psf_quality : PsfQuality or None
        How the PSF was made, and whether it can be trusted; None while the PSF is as given.
    fwhm_change : float
        By which share the FWHM of the PSF changed in this pass.
    """

    pass_no: int
    n_sources: int
    n_new: int
    n_removed: dict[str, int]
    chi: float
    fwhm: float
    max_step: float
    psf_stars: int
    solver_iterations: int
    seconds: float
    stage_seconds: dict[str, float]
    stage_memory_mb: dict[str, float]
    memory_mb: float
    psf_quality: PsfQuality | None = None
    fwhm_change: float = 0.0


@dataclass(frozen=True, eq=False)
class State:
    """The fit after a pass: `frames[k].model` is the rendering of `sources` with `frames[k].psf`."""

    pass_no: int
    sources: Sources
    frames: Frames
    stats: PassStats


class Stopwatch:
    """The stages of a configuration under their own names; wall time and memory of each call are noted (P016)."""

    def __init__(self, stages: Any) -> None:
        self._stages = stages
        self.seconds: dict[str, float] = {}
        self.memory_mb: dict[str, float] = {}
        self.begin = time.perf_counter()

    def __getattr__(self, name: str) -> Any:
        """Return the stage called `name`, wrapped so that its wall time is added up."""
        return self.timed(name, getattr(self._stages, name))

    def timed(self, name: str, work: Any) -> Any:
        """Return `work` wrapped so that its wall time is added to `seconds[name]`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            begin, peak = time.perf_counter(), peak_mb()
            result = work(*args, **kwargs)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
            self.memory_mb[name] = max(highest_mb(peak), self.memory_mb.get(name, 0.0))
            return result

        return call

    def total(self) -> float:
        """Return the wall time since the watch was started."""
        return time.perf_counter() - self.begin


def iterate(frames: Frames, config: "Config", sources: Sources, *, first_pass: int = 0) -> Iterator[State]:
    """Yield the fit after each pass.

    Parameters
    ----------
    frames : tuple of Frame
        Exposures with their first PSF, or as an earlier pass left them.
    config : Config
        The stages.
    sources : Sources
        Stars known beforehand; may be empty. Those of the earlier pass, if there was one.
    first_pass : int
        Number of the first pass that is made; `k + 1` goes on after the `State` of pass `k`.

    Yields
    ------
    State
        After every pass; whoever drains the generator shows progress, keeps records and may stop early.
    """
    for pass_no in count(first_pass):
        do = Stopwatch(config)
        draw = do.timed("render", render)
        fwhm = [frame.psf.fwhm for frame in frames]
        frames = do.sky(frames, sources, pass_no=pass_no)
        frames = do.stripes(frames)
        frames = do.shared_noise(frames, sources)
        found = do.detect(frames, sources, pass_no=pass_no)
        sources = sources.append(found)
        frames = draw(frames, found, onto_model=True)
        frames = do.confusion(frames, sources)
        fit = do.solve(frames, sources, shifts=True)
        sources = do.centroid(frames, fit, pass_no=pass_no)
        frames = draw(frames, sources)
        frames, sources = do.psf_update(frames, sources, pass_no=pass_no)
        sources, removed = do.prune(frames, sources)
        frames = draw(frames, sources)
        stats = summarize(pass_no, frames, sources, fit, removed, do, fwhm)
        state = State(pass_no, sources, frames, stats)
        yield state
        if config.stop(state):
            return


def finish(frames: Frames, config: "Config", sources: Sources) -> tuple[Frames, Sources]:
    """Return the last, flux-only pass at fixed positions, repeated until fluxes and photon noise agree (C018).

    The frames then know the error of their sky and the noise that their pixels share.
    """
    # of copies: what a solve keeps of the image on a frame of the last pass would be held as long as that pass
    frames = tuple(frame.with_() for frame in frames)
    for _ in range(MOST_LAST):
        before = sources.flux
        sources = config.solve(frames, sources, shifts=False).sources
        frames = render(frames, sources)
        if not np.any(np.abs(sources.flux - before) > sources.flux_err):
            break
    frames = config.shared_noise(frames, sources)
    # a sky of the user's own need not know its error
    error = getattr(config.sky, "error", None)
    if error is not None:
        frames = tuple(frame.with_(sky_error=error(frame, sources)) for frame in frames)
    return frames, sources.flagged("negative", ~(sources.flux > 0))


def render(frames: Frames, sources: Sources, *, onto_model: bool = False) -> Frames:
    """Return the frames with `sources` as their model, or added to it."""
    if onto_model:
        return tuple(frame.adding(sources) for frame in frames)
    return tuple(frame.rendered(sources) for frame in frames)


def summarize(  # noqa: PLR0913, PLR0917 - what a pass leaves behind
    pass_no: int,
    frames: Frames,
    sources: Sources,
    fit: Fit,
    removed: dict[str, int],
    watch: Stopwatch,
    fwhm_before: list[float],
) -> PassStats:
    """Return the numbers of a pass that began with PSFs of FWHM `fwhm_before` (pix).

    Of several exposures the first is told of, unless another holds the fit up.
    """
    change = max(abs(frame.psf.fwhm / before - 1) for frame, before in zip(frames, fwhm_before, strict=True))
    moving = [frame for frame in frames if frame.psf_quality and not frame.psf_quality.wings_are_still]
    steps = np.hypot(fit.step_x, fit.step_y)
    return PassStats(
        pass_no=pass_no,
        n_sources=len(sources),
        n_new=int(np.sum(fit.sources.pass_no == pass_no)),
        n_removed=removed,
        chi=frames[0].chi,
        fwhm=frames[0].psf.fwhm,
        max_step=float(np.percentile(steps, 99)) if len(steps) else 0.0,
        psf_stars=int(np.sum(flags.has(sources.flags, "psf_star"))),
        solver_iterations=fit.iterations,
        seconds=watch.total(),
        stage_seconds=dict(watch.seconds),
        stage_memory_mb=dict(watch.memory_mb),
        memory_mb=peak_mb(),
        psf_quality=(moving or frames)[0].psf_quality,
        fwhm_change=change,
    )

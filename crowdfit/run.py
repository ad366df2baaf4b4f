"""One fit from its first pass to its catalogue: what surrounds the loop of `crowdfit.loop`.

The loop knows nothing of records, clocks and calibrations; here they are kept.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crowdfit.calibration.calibrate import prepare as prepare_calibration
from crowdfit.catalog import build_catalog
from crowdfit.config import Config, dump
from crowdfit.counts import limits_of
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.extended import Extended
from crowdfit.frame import Frames
from crowdfit.io.atomic import clear_leftovers
from crowdfit.io.run_record import RunRecord, read_extended, read_last
from crowdfit.loop import PassStats, State, finish, iterate
from crowdfit.memory import highest_mb, peak_mb, resident_mb
from crowdfit.photometry.psf_map import measure_psf_map, missing_variation
from crowdfit.provenance import checksums, find_record, metadata_of, other_packages
from crowdfit.result import FitResult
from crowdfit.sources import Sources
from crowdfit.start import PsfLike, first_frame, first_psf, is_given

if TYPE_CHECKING:
    from astropy.table import QTable

log = logging.getLogger(__name__)


class Run:
    """A fit in the making.

    Parameters
    ----------
    exposure : Exposure
        The image.
    psf : EPSF, array, path or None
        First PSF, as `crowdfit.fit_image` takes it.
    config : Config
        The stages.
    sources : Sources
        Stars known beforehand.
    progress : callable or None
        Called with the `State` of every pass.
    record : str, path or None
        Where to keep the run record.

    Raises
    ------
    ConfigError
        The image needs more memory than the ceiling allows.
    InputError
        The calibration asks for what the image does not have.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what `fit_image` was given, validated
        self,
        exposure: Exposure,
        psf: PsfLike | None,
        config: Config,
        sources: Sources,
        progress: Callable[[State], object] | None,
        record: str | Path | None,
    ) -> None:
        self.began = time.perf_counter()
        warn_without_memory(config)
        self.exposure, self.psf, self.config, self.sources = exposure, psf, config, sources
        self.progress = progress
        self.tiles = config.tiles.with_ceiling(exposure.data.size)
        self.metadata = metadata_of(exposure, config, psf)
        self.calibrator = prepare_calibration(self.metadata, config.calibration, exposure.name)
        self.record = None if record is None else RunRecord(record)
        self.inputs = {} if record is None else checksums(exposure, config, psf, sources)
        self.history: list[PassStats] = []
        self.seconds: dict[str, float] = {}
        self.memory_mb: dict[str, float] = {}
        self.earlier = 0.0

    def fit(self, *, resume: bool) -> FitResult:
        """Make the passes that are missing, the last one, and the catalogue."""
        known = self.recorded() if resume else None
        self.earlier = sum(stats.seconds for stats in self.history)
        if known is None:
            extended = Extended.nothing(self.exposure)
            frames = self.first_frames()  # may refuse the PSF, before there is a record
            self.start_record(extended)
            state = self.passes_from(frames)
        else:
            last, extended = known
            state = self.passes_after(last)
        while more := extended.look(self.config, state):
            extended = more
            state = self.passes_anew(state, extended)
        return self.concluded(state, extended)

    def first_frames(self) -> Frames:
        """Return the frames before the first pass."""
        return (first_frame(self.psf, self.exposure, self.config, self.tiles),)

    def passes_from(self, frames: Frames) -> State:
        """Make all passes, beginning with the first, and return the last state."""
        return self.drained(iterate(frames, self.config, self.sources), None)

    def passes_anew(self, before: State, extended: Extended) -> State:
        """Make all passes once more, without the pixels of extended sources, and return the last state."""

        def recorded_anew() -> Iterator[State]:
            for state in iterate(frames, self.config, self.sources):
                # until then the passes before are what a run that is killed goes on from
                if state.pass_no == 0:
                    self.start_record(extended)
                yield state

        frames = (extended.first_frame(before.frames[0], self.config),)
        self.history.clear()
        return self.drained(recorded_anew(), None)

    def start_record(self, extended: Extended) -> None:
        """Begin the run record, if there shall be one."""
        if self.record is not None:
            masks = extended.values if extended.rounds else None
            self.record.start(self.metadata, dump(self.config), self.inputs, masks)

    def passes_after(self, last: State) -> State:
        """Make the passes that follow a recorded one, none where the fit stops after it; return the last state."""
        if self.config.stop(last):
            return self.drained(iter(()), last)
        return self.drained(
            iterate(last.frames, self.config, last.sources, first_pass=last.pass_no + 1), last
        )

    def drained(self, passes: Iterator[State], last: State | None) -> State:
        """Make the passes that follow `last`, tell of each and keep it; return the last state."""
        if "start" not in self.seconds:
            self.seconds["start"], self.memory_mb["start"] = time.perf_counter() - self.began, resident_mb()
            log.debug("%s: first pass begins", self.exposure.name, extra={"done": "start"})
        for state in passes:
            stats = state.stats
            self.history.append(stats)
            log.info(
                "pass %d: %d sources, %d new, chi %.3f, FWHM %.2f px, %.1f s", state.pass_no, stats.n_sources,
                stats.n_new, stats.chi, stats.fwhm, stats.seconds, extra={"done": "pass"},
            )  # fmt: skip
            if self.record is not None:
                self.record.add(state)
            if self.progress is not None:
                self.progress(state)
            last = state
        assert last is not None  # the loop makes at least one pass
        return last

    def recorded(self) -> tuple[State, Extended] | None:
        """Return the last recorded state of this fit, and what was masked then; None where there is none.

        Its passes go into the history.
        """
        assert self.record is not None  # the door has asked for one
        name, path = self.exposure.name, self.record.path
        clear_leftovers(path)
        head = find_record(path, self.exposure, self.config, self.inputs)
        if head is None:
            log.info("%s: no pass in %s yet; the fit starts from the beginning", name, path)
            return None
        log.info("%s: goes on after the %d passes in %s", name, head.n_passes, path)
        if changed := other_packages(head, self.metadata):
            log.warning(
                "%s: the run was begun with other packages (%s); its last bits may differ from those of an unbroken "
                "run", name, ", ".join(changed),
            )  # fmt: skip
        extended = Extended.of(self.exposure, read_extended(path, self.exposure.shape))
        last, self.history = read_last(path, extended.left, self.config.stamps, self.tiles)
        given = first_psf(self.psf, self.exposure, self.config) if is_given(self.psf, self.config) else None
        return replace(last, frames=tuple(frame.with_(given_psf=given) for frame in last.frames)), extended

    def concluded(self, state: State, extended: Extended) -> FitResult:
        """Make the last pass, measure the stars, and return the result."""
        config, reason = self.config, str(self.config.stop(state))
        frames, stars = self.timed("last pass", finish, state.frames, config, state.sources)
        # a search of the user's own need not know what it finds
        limits = getattr(config.detect, "limits", limits_of)(frames[0], stars)
        measured = self.timed("measure", config.measure, frames, stars, limits)
        apertures = self.timed("apertures", config.aperture, frames, measured.sources, measured.columns)
        psf_map = self.timed("PSF map", measure_psf_map, frames[0], measured.sources)
        if problem := missing_variation(frames[0].psf, psf_map):
            log.warning("%s: %s", self.exposure.name, problem)
        self.add_passes()
        self.metadata |= {
            "stop_reason": reason,
            "n_passes": str(len(self.history)),
            "psf_fwhm": f"{frames[0].psf.fwhm:.4f}",
            "noise_factor_flux": f"{frames[0].noise_factors.flux:.4f}",
            "noise_factor_position": f"{frames[0].noise_factors.shift:.4f}",
        }
        if apertures.corrections is not None:
            self.metadata["apertures"] = apertures.corrections.text
        catalog = self.calibrated(
            build_catalog(measured.columns | apertures.columns, self.exposure, self.metadata)
        )
        if self.record is not None:
            self.record.finish(catalog, reason, psf_map)
        return FitResult(
            catalog=catalog,
            sources=measured.sources,
            frame=frames[0],
            history=tuple(self.history),
            config=config,
            stop_reason=reason,
            seconds=time.perf_counter() - self.began + self.earlier,
            stage_seconds=self.seconds,
            peak_memory_mb=peak_mb(),
            metadata=self.metadata,
            psf_map=psf_map,
            corrections=apertures.corrections,
            segments=extended.measured(config, frames[0]),
            stage_memory_mb=self.memory_mb,
        )

    def calibrated(self, catalog: "QTable") -> "QTable":
        """Return the catalogue with calibrated columns; a fit is not thrown away for a column or map that it lacks."""
        if self.calibrator is None:
            return catalog
        try:
            return self.calibrator.apply(catalog)
        except InputError as problem:
            log.warning(
                "%s: magnitudes stay instrumental: %s; `crowdfit calibrate` can be run later",
                self.exposure.name, problem,
            )  # fmt: skip
            return catalog

    def timed(self, name: str, work: Any, *args: Any) -> Any:
        """Return the result of `work`, its wall time and the memory held noted under `name`."""
        began, peak = time.perf_counter(), peak_mb()
        result = work(*args)
        self.seconds[name], self.memory_mb[name] = time.perf_counter() - began, highest_mb(peak)
        return result

    def add_passes(self) -> None:
        """Add the times of the stages in all passes to those noted here, and the most memory that each held."""
        for stats in self.history:
            for stage, seconds in stats.stage_seconds.items():
                self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
                held = stats.stage_memory_mb.get(stage, np.nan)
                self.memory_mb[stage] = max(held, self.memory_mb.get(stage, 0.0))


def warn_without_memory(config: Config) -> None:
    """Say that a ceiling on memory does nothing where the system does not tell how much is used."""
    ceiling = config.tiles.memory_mb
    if ceiling is not None and np.isnan(peak_mb()):
        log.warning(
            "tiles.memory_mb: %g does nothing, because this system does not tell how much memory is used; "
            "fit smaller images instead", ceiling
        )  # fmt: skip

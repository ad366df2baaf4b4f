"""One joint fit from its first pass to its catalogue."""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from crowdfit.catalog import build_catalog
from crowdfit.config import Config
from crowdfit.errors import ConfigError, InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, Frames
from crowdfit.joint.begin import bands_of, tied, views_of, whole_box
from crowdfit.joint.columns import build_joint_catalog
from crowdfit.joint.measure import Seen, see, together
from crowdfit.joint.result import JointResult
from crowdfit.joint.stages import JointStages
from crowdfit.loop import PassStats, State, finish, iterate
from crowdfit.memory import peak_mb
from crowdfit.photometry.aperture import NoApertures
from crowdfit.photometry.psf_map import measure_psf_map
from crowdfit.provenance import metadata_of
from crowdfit.result import FitResult
from crowdfit.run import warn_without_memory
from crowdfit.sources import Sources
from crowdfit.stages.centroid import DerivativeStep, NoStep
from crowdfit.stages.detect import NoDetect, ScoreDetect
from crowdfit.stages.prune import NoPrune, Prune
from crowdfit.stages.segments import NoSegments
from crowdfit.stages.solve import PcgSolve
from crowdfit.start import PsfLike, first_frame
from crowdfit.view import JointSources

__all__ = ["JointRun", "check_joint"]

log = logging.getLogger(__name__)

SUPPORTED = {
    "detect": (ScoreDetect, NoDetect),
    "solve": (PcgSolve,),
    "centroid": (DerivativeStep, NoStep),
    "prune": (Prune, NoPrune),
    "segments": (NoSegments,),
    "aperture": (NoApertures,),
}
"""Stages of the common list that there are for several exposures."""


def check_joint(exposures: Sequence[Exposure], config: Config) -> None:
    """Refuse what a joint fit cannot do.

    Raises
    ------
    InputError
        Fewer than two exposures, or two of one name.
    ConfigError
        Stages that there are for a single image only, one line for each.
    """
    if len(exposures) < 2:
        raise InputError(
            f"a joint fit takes two exposures or more, not {len(exposures)}; fit one with fit_image"
        )
    names = [exposure.name for exposure in exposures]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise InputError(
            f"{twins[0]}: two exposures have this name; give each its own, files are named by it"
        )
    refused = []
    for stage, kinds in SUPPORTED.items():
        chosen = getattr(config, stage)
        if not isinstance(chosen, kinds):
            known = ", ".join(repr(kind().kind) for kind in kinds)
            refused.append(
                f"{stage}.kind: {getattr(chosen, 'kind', chosen)!r} is for a single image; a joint fit takes {known}"
            )
    if refused:
        raise ConfigError("\n".join(refused))


class JointRun:
    """A joint fit in the making.

    Parameters
    ----------
    exposures : tuple of Exposure
        The images; the first gives the reference grid.
    psfs : tuple
        First PSF of each, as `crowdfit.fit_image` takes it.
    configs : tuple of Config
        The stages of each; those of the first for the common list.
    positions : Sources
        Stars known beforehand, on the pixels and in the unit of the first exposure.
    progress : callable or None
        Called with the `State` of every pass.

    Raises
    ------
    ConfigError, InputError
        See `check_joint` and `crowdfit.joint.begin.views_of`.
    """

    def __init__(
        self,
        exposures: tuple[Exposure, ...],
        psfs: tuple[PsfLike | None, ...],
        configs: tuple[Config, ...],
        positions: Sources,
        progress: Callable[[State], object] | None,
    ) -> None:
        self.began = time.perf_counter()
        check_joint(exposures, configs[0])
        warn_without_memory(configs[0])
        self.exposures, self.configs, self.progress = exposures, configs, progress
        self.psfs, self.options = psfs, configs[0].joint
        self.tiles = configs[0].tiles.with_ceiling(sum(exposure.data.size for exposure in exposures))
        self.views = views_of(exposures, self.options)
        self.bands = bands_of(exposures)
        self.sources = self.known(positions)
        self.history: list[PassStats] = []

    def known(self, positions: Sources) -> JointSources:
        """Return known stars as the list to begin with; their fluxes are taken for those of all bands.

        Raises
        ------
        InputError
            Some lie on no exposure.
        """
        n_columns = len(self.views) if self.views[0].by_exposure else len(self.bands)
        scale = (
            np.array([view.band_scale for view in self.views])
            if self.views[0].by_exposure
            else np.ones(n_columns)
        )
        shown = np.zeros(len(positions), bool)
        for view in self.views:
            ny, nx = view.shape
            x, y = view.mapping(positions.x, positions.y)
            shown |= (np.abs(x - (nx - 1) / 2) <= nx / 2) & (np.abs(y - (ny - 1) / 2) <= ny / 2)
        if not shown.all():
            row = int(np.argmin(shown))
            raise InputError(
                f"positions: {np.sum(~shown)} of {len(shown)} lie on no exposure (row {row + 1} at x "
                f"{positions.x[row]:.1f}, y {positions.y[row]:.1f} of {self.exposures[0].name}); x, y count from "
                "0 on the first exposure, so check the list and the WCS, or remove these rows"
            )
        errs = np.full((len(positions), n_columns), np.inf)
        return JointSources.of(positions, positions.flux[:, None] * scale, errs)

    def first_frames(self) -> Frames:
        """Return the frames before the first pass, shifted onto each other by their bright peaks."""
        frames = tuple(
            first_frame(psf, exposure, config, self.tiles).with_(view=view)
            for psf, exposure, config, view in zip(
                self.psfs, self.exposures, self.configs, self.views, strict=True
            )
        )
        return tied(frames, self.options)

    def fit(self) -> JointResult:
        """Make all passes, the last one, and the catalogue."""
        frames = self.first_frames()
        nominal = tuple(view.band_scale for view in self.views)
        stages = JointStages(self.configs, self.options, whole_box(frames), nominal)
        last: State | None = None
        for state in iterate(frames, stages, self.sources):  # type: ignore[arg-type]
            stats = state.stats
            self.history.append(stats)
            log.info(
                "pass %d: %d sources, %d new, chi %s, FWHM %s px, %.1f s", state.pass_no, stats.n_sources, stats.n_new,
                " ".join(f"{frame.chi:.3f}" for frame in state.frames),
                " ".join(f"{frame.psf.fwhm:.2f}" for frame in state.frames), stats.seconds, extra={"done": "pass"},
            )  # fmt: skip
            if self.progress is not None:
                self.progress(state)
            last = state
        assert last is not None  # the loop makes at least one pass
        return self.concluded(last, stages)

    def concluded(self, state: State, stages: JointStages) -> JointResult:
        """Make the last pass, measure the stars, and return the result."""
        reason = str(stages.stop(state))
        frames, stars = finish(state.frames, stages, state.sources)  # type: ignore[arg-type]
        assert isinstance(stars, JointSources)
        seen = tuple(see(config, frame, stars) for config, frame in zip(self.configs, frames, strict=True))
        whole = together(frames, stars, seen)
        stars = stars.changed(flags=whole.flags)
        metadata = self.metadata(frames, stages, reason)
        catalog = build_joint_catalog(frames, stars, seen, whole, self.bands, metadata)
        seconds = time.perf_counter() - self.began
        return JointResult(
            catalog=catalog,
            sources=stars,
            exposures=tuple(
                self.of_exposure(frame, one, config, reason, seconds)
                for frame, one, config in zip(frames, seen, self.configs, strict=True)
            ),
            ties=tuple(stages.ties),
            bands=self.bands,
            history=tuple(self.history),
            config=self.configs[0],
            stop_reason=reason,
            seconds=seconds,
            peak_memory_mb=peak_mb(),
            metadata=metadata,
        )

    def of_exposure(self, frame: Frame, seen: Seen, config: Config, reason: str, seconds: float) -> FitResult:
        """Return what explains one exposure, with the catalogue of the stars on its footprint."""
        metadata = metadata_of(frame.exposure, config) | {
            "stop_reason": reason,
            "n_passes": str(len(self.history)),
            "psf_fwhm": f"{frame.psf.fwhm:.4f}",
            "joint": f"with {len(self.exposures) - 1} other exposures",
        }
        measured = seen.measured
        return FitResult(
            catalog=build_catalog(measured.columns, frame.exposure, metadata),
            sources=measured.sources,
            frame=frame,
            history=tuple(self.history),
            config=config,
            stop_reason=reason,
            seconds=seconds,
            stage_seconds=self.stage_seconds(),
            peak_memory_mb=peak_mb(),
            metadata=metadata,
            psf_map=measure_psf_map(frame, measured.sources),
        )

    def stage_seconds(self) -> dict[str, float]:
        """Return the wall time of the passes by stage, all exposures together."""
        total: dict[str, float] = {}
        for stats in self.history:
            for stage, seconds in stats.stage_seconds.items():
                total[stage] = total.get(stage, 0.0) + seconds
        return total

    def metadata(self, frames: Frames, stages: JointStages, reason: str) -> dict[str, str]:
        """Return what has to be known to repeat the fit, and how the exposures were tied."""
        facts = metadata_of(self.exposures[0], self.configs[0], self.psfs[0])
        facts |= {"stop_reason": reason, "n_passes": str(len(self.history)), "n_exposures": str(len(frames))}
        ties = stages.ties[-1] if stages.ties else ()
        for number, frame in enumerate(frames, start=1):
            exposure = frame.exposure
            facts |= {
                f"exp{number}_image": exposure.name,
                f"exp{number}_band": exposure.band,
                f"exp{number}_sha256": str(exposure.meta.get("SHA256", "")),
                f"exp{number}_psf_fwhm": f"{frame.psf.fwhm:.4f}",
            }
            if ties:
                facts[f"exp{number}_tie"] = ties[number - 1].text
        return {key: value for key, value in facts.items() if value}

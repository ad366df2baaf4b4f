"""What scripts call: an image goes in, a catalogue with everything that explains the image comes out."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from crowdfit.calibration.calibrate import Calibrator
from crowdfit.calibration.calibrate import prepare as prepare_calibration
from crowdfit.catalog import build_catalog
from crowdfit.config import Config, dump, load_config, override
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure, Image
from crowdfit.extended import Extended
from crowdfit.frame import Frame
from crowdfit.io.atomic import clear_leftovers
from crowdfit.io.fits import exposure_from_arrays, exposure_from_nddata, read_exposure
from crowdfit.io.positions import Positions, check_positions
from crowdfit.io.products import write_products
from crowdfit.io.run_record import Head, RunRecord, read_last
from crowdfit.loop import PassStats, State, finish, iterate
from crowdfit.memory import highest_mb, peak_mb, resident_mb
from crowdfit.photometry.corrections import Corrections
from crowdfit.photometry.psf_map import PsfMap, measure_psf_map, missing_variation
from crowdfit.photometry.segments import Segments
from crowdfit.provenance import checksums, find_record, metadata_of, other_packages
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.initial import BlindPsf, GivenPsf, agreed_fwhm, check_fits_image
from crowdfit.psf.readers import psf_from_array
from crowdfit.sources import Sources
from crowdfit.stages.psf_update import FixedPsf
from crowdfit.stages.segments import SepSegments
from crowdfit.tiles import Tiles

if TYPE_CHECKING:
    from astropy.nddata import NDData
    from astropy.table import QTable

log = logging.getLogger(__name__)

DISAGREE = 1.3
"""A given width that differs from the seen one by more than this factor is worth a warning."""

ImageLike: TypeAlias = "ArrayLike | Exposure | NDData | str | Path"


@dataclass(frozen=True, eq=False)
class FitResult:
    """A finished fit.

    Parameters
    ----------
    catalog : QTable
        One row a star; columns in `crowdfit.catalog.COLUMNS`, and where there is a zero point those of
        `crowdfit.calibration.columns.CALIBRATED_COLUMNS`.
    sources : Sources
        The same stars as plain arrays.
    frame : Frame
        Exposure with its PSF, sky and model.
    history : tuple of PassStats
        The numbers of every pass.
    config : Config
        The configuration that was used.
    stop_reason : str
        Why the loop ended; a key of `crowdfit.stages.stop.STOP_REASONS`.
    seconds : float
        Wall time of the fit; of one that was resumed with that of its recorded passes.
    stage_seconds : dict of str to float
        Wall time by stage, all passes together.
    stage_memory_mb : dict of str to float
        Largest resident size of the process (MB) by stage, as in `PassStats`; all passes together.
    peak_memory_mb : float
        Largest resident size of the process.
    metadata : dict of str to str
        Versions, settings and input checksum, as written to every file.
    psf_map : PsfMap or None
        Width and shape of the stars over the field; None when it was not measured.
    corrections : Corrections or None
        Aperture corrections; None when no apertures were measured.
    segments : Segments or None
        Extended sources, which were masked from the fit; None where they were not looked for.
    """

    catalog: "QTable"
    sources: Sources
    frame: Frame
    history: tuple[PassStats, ...]
    config: Config
    stop_reason: str
    seconds: float
    stage_seconds: dict[str, float]
    peak_memory_mb: float
    metadata: dict[str, str]
    psf_map: PsfMap | None = None
    corrections: Corrections | None = None
    segments: Segments | None = None
    stage_memory_mb: dict[str, float] = field(default_factory=dict)

    @property
    def exposure(self) -> Exposure:
        """The image that was fitted."""
        return self.frame.exposure

    @property
    def psf(self) -> EPSF:
        """The PSF of the last pass."""
        return self.frame.psf

    @property
    def sky(self) -> Image:
        """Smooth background, (ny, nx), image unit."""
        return self.frame.sky

    @property
    def structure(self) -> Image | None:
        """Noise per pixel that stands for structure of the sky, (ny, nx), image unit; None when not measured."""
        return self.frame.structure

    @property
    def model(self) -> Image:
        """Sum of all stars without sky, (ny, nx), image unit."""
        return self.frame.model

    @property
    def residual(self) -> Image:
        """Data - sky - model, (ny, nx), image unit; 0 where not usable."""
        return self.frame.resid

    def write(self, directory: str | Path, formats: Sequence[str] = ("fits",)) -> list[Path]:
        """Write the catalogue (`formats`: fits, ecsv, csv, vot, parquet) and the fit image; return the files."""
        return write_products(self, directory, formats)

    def report(self, path: str | Path) -> Path:
        """Write the HTML report and return its path."""
        from crowdfit.report.page import write_report  # noqa: PLC0415 - matplotlib is slow to import

        return write_report(self, path)


def fit_image(  # noqa: PLR0913 - the names are the public interface
    image: ImageLike,
    err: ArrayLike | None = None,
    dq: ArrayLike | None = None,
    psf: EPSF | ArrayLike | str | Path | None = None,
    config: Config | str | Path | None = None,
    *,
    positions: Positions | Sources | tuple[ArrayLike, ...] | None = None,
    progress: Callable[[State], object] | None = None,
    record: str | Path | None = None,
    resume: bool = False,
    **overrides: object,
) -> FitResult:
    """Explain an image of a crowded star field as sky plus stars, and measure every star.

    Parameters
    ----------
    image : array (ny, nx), Exposure, NDData or path of a FITS file
        The image; `[y, x]`, x is the column.
    err, dq : array (ny, nx), optional
        Total 1-sigma noise, and data quality (non-zero is bad unless the configuration says otherwise).
    psf : EPSF, array, or path of a PSF file, optional
        Starting PSF: an array at detector sampling, an EPSF with its own. A path stands for
        ``psf__kind="file", psf__path=...`` (formats in `crowdfit.read_psf`), so ``psf__oversample`` may say how finely
        the file is sampled. It is refined unless ``psf_update__kind="none"``: one that varies over the field is kept
        and corrected, another replaced (``psf_update__given``). None: measured from the image.
    config : Config, name of a shipped configuration, or path of a YAML file, optional
        Departures from the defaults.
    positions : (x, y), (x, y, flux), Positions or Sources, optional
        Known stars, 0-based pixels; with ``config="forced"`` the only ones.
    progress : callable, optional
        Called with the `State` after every pass.
    record : path, optional
        HDF5 run record, written after every pass.
    resume : bool
        Go on after the last pass in `record`, and end with the numbers of an unbroken fit; from the beginning where
        it is not there or holds no pass. What went in has to be the same, and every setting that has a say in the
        numbers; stages that are callables of your own are compared by name.
    **overrides
        Single settings, dots written as two underscores: ``detect__nsigma=(10, 4)``.

    Returns
    -------
    FitResult

    Raises
    ------
    InputError, ConfigError
        Input or settings that cannot be used, or that are not those of the record that is resumed; the message says
        what and how to mend it.

    Examples
    --------
    >>> result = fit_image("field.fits", config="nircam_sw")  # doctest: +SKIP
    >>> result.catalog["x", "y", "flux"]  # doctest: +SKIP
    """
    if resume and record is None:
        raise InputError("resume: there is nothing to go on from; give record=PATH too")
    # numba brings the threads; BLAS with threads of its own would fight for the cores and change the last bits
    with threadpool_limits(1, "blas"):
        overrides = {**_psf_settings(psf), **overrides}
        exposure = _exposure(image, err, dq, _config(config, overrides))
        chosen = _config(config, overrides, exposure.band)
        if resume and isinstance(chosen.segments, SepSegments):
            raise InputError(
                "resume: a run record does not hold what segments.kind=sep has masked; fit from the beginning"
            )
        return _fit(exposure, psf, chosen, _sources(positions, exposure), progress, record, resume)


def recorded(
    record: str | Path,
    exposure: Exposure,
    config: Config,
    *,
    psf: EPSF | ArrayLike | str | Path | None = None,
    positions: Positions | Sources | tuple[ArrayLike, ...] | None = None,
) -> Head | None:
    """Return what a run record says of this very fit; None where there is none, or none with a pass.

    Raises
    ------
    InputError, ConfigError
        The record cannot be read, or is that of another fit; the message names what differs.
    """
    return find_record(
        record, exposure, config, checksums(exposure, config, psf, _sources(positions, exposure))
    )


def _fit(  # noqa: C901, PLR0913, PLR0917 - what `fit_image` was given, validated
    exposure: Exposure,
    psf: EPSF | ArrayLike | str | Path | None,
    chosen: Config,
    sources: Sources,
    progress: Callable[[State], object] | None,
    record: str | Path | None,
    resume: bool,
) -> FitResult:
    """Run the loop on a validated exposure, make the last pass, measure, and build the catalogue."""
    began = time.perf_counter()
    _warn_without_memory(chosen)
    tiles = chosen.tiles.with_ceiling(exposure.data.size)
    metadata = metadata_of(exposure, chosen, psf)
    calibrator = prepare_calibration(metadata, chosen.calibration, exposure.name)
    keep = None if record is None else RunRecord(record)
    inputs = {} if keep is None else checksums(exposure, chosen, psf, sources)
    last, history = (
        _resumed(record, exposure, psf, chosen, tiles, inputs, metadata)
        if resume and record is not None
        else (None, [])
    )
    earlier = sum(stats.seconds for stats in history)
    if last is None:
        passes = iterate((_first_frame(psf, exposure, chosen, tiles),), chosen, sources)
        if keep is not None:
            keep.start(metadata, dump(chosen), inputs)
    else:
        passes = _further(last, chosen)
    times, held = {"start": time.perf_counter() - began}, {"start": resident_mb()}
    log.debug("%s: first pass begins", exposure.name, extra={"done": "start"})
    state, reason = _drain(passes, last, chosen, history, progress, keep)
    extended = Extended.nothing(exposure)
    while more := extended.look(chosen, state):
        extended = more
        history.clear()
        if keep is not None:
            keep.start(metadata, dump(chosen), inputs)
        passes = iterate((extended.first_frame(state.frames[0], chosen),), chosen, sources)
        state, reason = _drain(passes, None, chosen, history, progress, keep)
    frames, stars = _timed(times, held, "last pass", finish, state.frames, chosen, state.sources)
    measured = _timed(times, held, "measure", chosen.measure, frames, stars)
    apertures = _timed(times, held, "apertures", chosen.aperture, frames, measured.sources, measured.columns)
    psf_map = _timed(times, held, "PSF map", measure_psf_map, frames[0], measured.sources)
    problem = missing_variation(frames[0].psf, psf_map)
    if problem:
        log.warning("%s: %s", exposure.name, problem)
    for stats in history:
        for stage, seconds in stats.stage_seconds.items():
            times[stage] = times.get(stage, 0.0) + seconds
            held[stage] = max(stats.stage_memory_mb.get(stage, np.nan), held.get(stage, 0.0))
    metadata |= {
        "stop_reason": reason,
        "n_passes": str(len(history)),
        "psf_fwhm": f"{frames[0].psf.fwhm:.4f}",
        "noise_factor_flux": f"{measured.noise_factors.flux:.4f}",
        "noise_factor_position": f"{measured.noise_factors.shift:.4f}",
    }
    if apertures.corrections is not None:
        metadata["apertures"] = apertures.corrections.text
    catalog = build_catalog(measured.columns | apertures.columns, exposure, metadata)
    if calibrator is not None:
        catalog = _calibrated(catalog, calibrator, exposure.name)
    if keep is not None:
        keep.finish(catalog, reason, psf_map)
    return FitResult(
        catalog=catalog,
        sources=measured.sources,
        frame=frames[0],
        history=tuple(history),
        config=chosen,
        stop_reason=reason,
        seconds=time.perf_counter() - began + earlier,
        stage_seconds=times,
        peak_memory_mb=peak_mb(),
        metadata=metadata,
        psf_map=psf_map,
        corrections=apertures.corrections,
        segments=extended.measured(chosen, frames[0]),
        stage_memory_mb=held,
    )


def _calibrated(catalog: "QTable", calibrator: Calibrator, name: str) -> "QTable":
    """Return the catalogue with calibrated columns; a fit is not thrown away for a column or map that it lacks."""
    try:
        return calibrator.apply(catalog)
    except InputError as problem:
        log.warning(
            "%s: magnitudes stay instrumental: %s; `crowdfit calibrate` can be run later", name, problem
        )
        return catalog


def _warn_without_memory(config: Config) -> None:
    """Say that a ceiling on memory does nothing where the system does not tell how much is used."""
    ceiling = config.tiles.memory_mb
    if ceiling is not None and np.isnan(peak_mb()):
        log.warning(
            "tiles.memory_mb: %g does nothing, because this system does not tell how much memory is used; "
            "fit smaller images instead", ceiling
        )  # fmt: skip


def _config(config: Config | str | Path | None, overrides: Mapping[str, object], band: str = "") -> Config:
    """Return the configuration for images of a filter, with keyword overrides, `a__b` for `a.b`."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    if isinstance(config, Config):
        return override(config, dotted) if dotted else config
    return load_config(config, dotted, band)


def _psf_settings(psf: object) -> dict[str, object]:
    """Return what a path given as the PSF means as keyword overrides."""
    return {"psf__kind": "file", "psf__path": str(psf)} if isinstance(psf, str | Path) else {}


def _exposure(image: ImageLike, err: ArrayLike | None, dq: ArrayLike | None, config: Config) -> Exposure:
    """Return the image as an exposure, whatever it came as."""
    if isinstance(image, Exposure):
        return image
    if isinstance(image, str | Path):
        return read_exposure(image, config.input, err=err, dq=dq)
    from astropy.nddata import NDData  # noqa: PLC0415 - slow to import, and a file does not need it

    if isinstance(image, NDData):
        return exposure_from_nddata(image, config.input)
    return exposure_from_arrays(image, err, dq, options=config.input)


def _first_psf(psf: EPSF | ArrayLike | str | Path | None, exposure: Exposure, config: Config) -> EPSF:
    """Return the PSF that the first pass starts from."""
    if psf is None or isinstance(psf, str | Path):
        first = config.psf(exposure)
    else:
        first = psf if isinstance(psf, EPSF) else psf_from_array(psf)
        check_fits_image(first, exposure)
    return first


def _is_given(psf: object, config: Config) -> bool:
    """Return whether the first PSF was given, as an argument or a file, and not made from the image."""
    return psf is not None or isinstance(config.psf, GivenPsf)


def _seen_fwhm(psf: object, first_psf: EPSF, exposure: Exposure, config: Config) -> float | None:
    """Return the width of the bright peaks where the first PSF was given; warn when the two disagree."""
    if psf is None and isinstance(config.psf, BlindPsf) and config.psf.fwhm is None:
        return None
    seen = agreed_fwhm(exposure)
    if seen is not None and abs(np.log(first_psf.fwhm / seen)) > np.log(DISAGREE):
        held = isinstance(config.psf_update, FixedPsf)
        log.warning(
            "%s: the PSF that was given has a FWHM of %.2f px on the pixels, but the bright peaks of the image agree "
            "on %.2f px. %s; if they are stars, correct psf.fwhm or the PSF, or leave it out",
            exposure.name, first_psf.fwhm, seen,
            "It is held fixed as given" if held else "The fit starts from what was given and may go to either",
        )  # fmt: skip
    return seen


def _sources(positions: Positions | Sources | tuple[ArrayLike, ...] | None, exposure: Exposure) -> Sources:
    """Return the known stars, flagged as coming from the user."""
    if positions is None:
        return Sources.empty()
    given = (positions.x, positions.y, positions.flux) if isinstance(positions, Sources) else positions
    x, y, *rest = (np.atleast_1d(np.asarray(part, np.float64)) for part in given if part is not None)
    flux = np.nan_to_num(rest[0]) if rest else None
    check_positions(Positions(x, y, flux), exposure.shape, "positions")
    stars = Sources.at(x, y, flux)
    return stars.flagged("forced", np.ones(len(stars), bool))


def _first_frame(
    psf: EPSF | ArrayLike | str | Path | None, exposure: Exposure, config: Config, tiles: Tiles
) -> Frame:
    """Return the frame before the first pass."""
    first_psf = _first_psf(psf, exposure, config)
    log.debug("%s: first PSF ready", exposure.name, extra={"done": "first PSF"})
    seen = _seen_fwhm(psf, first_psf, exposure, config)
    return Frame.start(exposure, first_psf, config.stamps, seen, tiles, is_given=_is_given(psf, config))


def _resumed(  # noqa: PLR0913, PLR0917 - the record, and all that the fit was given
    record: str | Path,
    exposure: Exposure,
    psf: EPSF | ArrayLike | str | Path | None,
    config: Config,
    tiles: Tiles,
    inputs: dict[str, str],
    metadata: dict[str, str],
) -> tuple[State | None, list[PassStats]]:
    """Return the last recorded state of this fit, None where there is none, and the numbers of the passes so far."""
    clear_leftovers(record)
    head = find_record(record, exposure, config, inputs)
    if head is None:
        log.info("%s: no pass in %s yet; the fit starts from the beginning", exposure.name, record)
        return None, []
    log.info("%s: goes on after the %d passes in %s", exposure.name, head.n_passes, record)
    if changed := other_packages(head, metadata):
        log.warning(
            "%s: the run was begun with other packages (%s); its last bits may differ from those of an unbroken run",
            exposure.name, ", ".join(changed),
        )  # fmt: skip
    last, history = read_last(record, exposure, config.stamps, tiles)
    given = _first_psf(psf, exposure, config) if _is_given(psf, config) else None
    return replace(last, frames=tuple(frame.with_(given_psf=given) for frame in last.frames)), history


def _further(last: State, config: Config) -> Iterator[State]:
    """Return the passes that follow a recorded one; none where the fit stops after it."""
    if config.stop(last):
        return iter(())
    return iterate(last.frames, config, last.sources, first_pass=last.pass_no + 1)


def _drain(  # noqa: PLR0913, PLR0917 - what is done with each pass
    passes: Iterator[State],
    last: State | None,
    config: Config,
    history: list[PassStats],
    progress: Callable[[State], object] | None,
    record: RunRecord | None,
) -> tuple[State, str]:
    """Make the passes that follow `last`; return the last state and why it ended."""
    for state in passes:
        history.append(state.stats)
        log.info(
            "pass %d: %d sources, %d new, chi %.3f, FWHM %.2f px, %.1f s", state.pass_no, state.stats.n_sources,
            state.stats.n_new, state.stats.chi, state.stats.fwhm, state.stats.seconds, extra={"done": "pass"},
        )  # fmt: skip
        if record is not None:
            record.add(state)
        if progress is not None:
            progress(state)
        last = state
    assert last is not None  # the loop makes at least one pass
    return last, str(config.stop(last))


def _timed(times: dict[str, float], held: dict[str, float], name: str, work: Any, *args: Any) -> Any:
    """Return the result of `work`, its wall time and the memory held noted under `name`."""
    began, peak = time.perf_counter(), peak_mb()
    result = work(*args)
    times[name], held[name] = time.perf_counter() - began, highest_mb(peak)
    return result

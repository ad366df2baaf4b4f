"""What scripts call: an image goes in, a catalogue with everything that explains the image comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from crowdfit.config import Config, load_config, override
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.fits import exposure_from_arrays, exposure_from_nddata, read_exposure
from crowdfit.io.positions import Positions, check_fluxes, check_positions
from crowdfit.io.run_record import Head
from crowdfit.loop import State
from crowdfit.provenance import checksums, find_record
from crowdfit.result import FitResult
from crowdfit.run import Run
from crowdfit.sources import Sources
from crowdfit.start import PsfLike

if TYPE_CHECKING:
    from astropy.nddata import NDData

    from crowdfit.joint.result import JointResult

__all__ = ["FitResult", "fit_exposures", "fit_image", "recorded"]

ImageLike: TypeAlias = "ArrayLike | Exposure | NDData | str | Path"


def fit_image(  # noqa: PLR0913 - the names are the public interface
    image: ImageLike,
    err: ArrayLike | None = None,
    dq: ArrayLike | None = None,
    psf: PsfLike | None = None,
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
        run = Run(exposure, psf, chosen, _sources(positions, exposure), progress, record)
        return run.fit(resume=resume)


def fit_exposures(
    images: Sequence[ImageLike],
    psf: PsfLike | Sequence[PsfLike | None] | None = None,
    config: Config | str | Path | Sequence[Config] | None = None,
    *,
    positions: Positions | Sources | tuple[ArrayLike, ...] | None = None,
    progress: Callable[[State], object] | None = None,
    **overrides: object,
) -> "JointResult":
    """Explain several exposures of one star field by one list of stars.

    Positions are shared by all exposures and fluxes by those of a band (``joint__flux="exposure"``: by none); each
    exposure has its own PSF, sky, noise, pixel grid and footprint. Stars are looked for on the sum of all. Where the
    exposures lie is read from their WCS and refined by the stars.

    Parameters
    ----------
    images : sequence of path, Exposure, NDData or array
        Two exposures or more, of one or several filters. The pixels and the unit of the first are those of the
        catalogue. Arrays have no WCS and need ``joint__grid="pixels"``.
    psf : EPSF, array, path, or a list of these, optional
        Starting PSF as in `fit_image`, of all exposures or of each. None: measured from each image.
    config : Config, name of a shipped configuration, path of a YAML file, or a list of `Config`, optional
        Departures from the defaults; what a file says by filter holds for the exposures of that filter. A list has one
        for each exposure, of which the first holds for what they share.
    positions : (x, y), (x, y, flux), Positions or Sources, optional
        Known stars, on the 0-based pixels of the first exposure; with ``config="forced"`` the only ones.
    progress : callable, optional
        Called with the `State` after every pass.
    **overrides
        Single settings, dots written as two underscores: ``joint__align="affine"``.

    Returns
    -------
    JointResult

    Raises
    ------
    InputError, ConfigError
        Exposures that do not hang together or cannot be compared, and settings for single images; the message says
        what and how to mend it.

    Examples
    --------
    >>> result = fit_exposures(["a.fits", "b.fits"])  # doctest: +SKIP
    >>> result.catalog["ra", "dec", "flux", "exp1_flux", "exp2_flux"]  # doctest: +SKIP
    """
    from crowdfit.joint.run import JointRun  # noqa: PLC0415 - slow to import, and one image does not need it

    with threadpool_limits(1, "blas"):
        psfs = _one_for_each(psf, len(images), "psf")
        given = _one_for_each(config, len(images), "config")
        exposures, configs = [], []
        for number, (image, own, chosen) in enumerate(zip(images, psfs, given, strict=True), start=1):
            changes = {**_psf_settings(own), **overrides}
            exposure = _exposure(image, None, None, _config(chosen, changes))
            if not isinstance(image, Exposure | str | Path):
                exposure = replace(exposure, name=f"{exposure.name}{number}")
            exposures.append(exposure)
            configs.append(_config(chosen, changes, exposure.band))
        known = Sources.empty()
        if exposures:
            known = _sources(positions, exposures[0], anywhere=True)
        return JointRun(tuple(exposures), psfs, tuple(configs), known, progress).fit()


def _one_for_each(value: Any, n: int, name: str) -> tuple[Any, ...]:
    """Return what was given for each of n exposures, or for all of them, as a tuple."""
    if not isinstance(value, list | tuple):
        return (value,) * n
    if len(value) != n:
        raise InputError(f"{name}: {len(value)} are given for {n} exposures; give one, or one for each")
    return tuple(value)


def recorded(
    record: str | Path,
    exposure: Exposure,
    config: Config,
    *,
    psf: PsfLike | None = None,
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


def _sources(
    positions: Positions | Sources | tuple[ArrayLike, ...] | None,
    exposure: Exposure,
    *,
    anywhere: bool = False,
) -> Sources:
    """Return the known stars, flagged as coming from the user; off the image only if they may lie `anywhere`."""
    if positions is None:
        return Sources.empty()
    given = (positions.x, positions.y, positions.flux) if isinstance(positions, Sources) else positions
    x, y, *rest = (np.atleast_1d(np.asarray(part, np.float64)) for part in given if part is not None)
    flux = np.where(np.isnan(rest[0]), 0.0, rest[0]) if rest else None
    if not anywhere:
        check_positions(Positions(x, y, flux), exposure.shape, "positions")
    if flux is not None:
        check_fluxes(flux, exposure.noise, "positions")
    stars = Sources.at(x, y, flux)
    return stars.flagged("forced", np.ones(len(stars), bool))

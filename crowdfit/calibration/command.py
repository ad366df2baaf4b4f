"""What `crowdfit calibrate` does: a catalogue file becomes a calibrated one."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable

from crowdfit.calibration.calibrate import calibrate, colour_of
from crowdfit.calibration.fitted import (
    DEFAULT_RADIUS,
    FittedZeroPoint,
    fit_zero_point,
    read_reference,
    write_plot,
)
from crowdfit.calibration.options import Calibration
from crowdfit.calibration.references import read_table
from crowdfit.config import load_config
from crowdfit.errors import ConfigError, InputError
from crowdfit.io.atomic import check_writable
from crowdfit.io.formats import check_formats
from crowdfit.io.tables import read_catalog, write_catalog

__all__ = ["ReferenceOptions", "calibrate_file"]


@dataclass(frozen=True)
class ReferenceOptions:
    """A reference catalogue and how it is used: file, column, match radius, least S/N, and where the plot goes."""

    path: Path
    mag: str | None = None
    radius: str | None = None
    min_snr: float = 20.0
    plot: Path | None = None


def calibrate_file(
    path: Path,
    out: Path,
    config: str | None,
    settings: Iterable[str],
    reference: ReferenceOptions | None = None,
) -> str:
    """Calibrate a catalogue file; return what to say about it.

    Parameters
    ----------
    path, out : Path
        Catalogue as crowdfit wrote it, and the file to write; its suffix is the format.
    config, settings
        As for a fit; only `calibration` is used, and settings of anything else are refused.
    reference : ReferenceOptions, optional
        Fit the zero point against this catalogue.

    Raises
    ------
    InputError, ConfigError
        Files or settings that cannot be used.
    """
    settings = list(settings)
    for setting in settings:
        if not setting.strip().startswith("calibration."):
            raise ConfigError(f"--set {setting}: only settings of `calibration` have a meaning here")
    check_formats((out.suffix.lstrip("."),))
    if out.resolve() == path.resolve():
        raise InputError(f"{out}: is the catalogue itself; choose another name for the result")
    check_writable(out.parent)
    options = load_config(config, settings).calibration
    catalog = read_catalog(path)
    said = ""
    if reference is not None:
        fitted = _fit(catalog, options, reference)
        options = _with_fit(options, fitted, _has_colour(catalog, options))
        plot = reference.plot or out.with_name(f"{out.stem}_zero_point.png")
        write_plot(fitted, plot, f"{path.name} against {reference.path.name}")
        said = f"\n{plot}: {fitted.text}"
        catalog.meta["zero_point_reference"] = f"{reference.path.name}, {fitted.text}"
    table = calibrate(catalog, options, path.name)
    if reference is not None:
        table.meta["zero_point_from"] = f"fitted against {reference.path.name}"
    write_catalog(table, out)
    facts = {key.lower(): value for key, value in table.meta.items()}
    n = int(np.count_nonzero(np.isfinite(table["mag_cal"].value)))
    return (
        f"{out}: {n:,} of {len(table):,} stars with {facts['mag_system']} magnitudes, zero point "
        f"{float(facts['zero_point']):.4f} ({facts['zero_point_from']}){said}"
    )


def _fit(catalog: QTable, options: Calibration, reference: ReferenceOptions) -> FittedZeroPoint:
    """Fit the zero point, and a colour term where a colour is named and no term is given."""
    if options.apcorr is not None or options.aperture_correction:
        raise ConfigError(
            "calibration.aperture_correction: magnitudes of a reference catalogue are total, so the zero "
            "point fitted against "
            "them holds the correction already; leave it and apcorr out"
        )
    stars = read_reference(read_table(reference.path), reference.path.name, reference.mag, options.colour)
    return fit_zero_point(
        catalog,
        stars,
        flux=options.flux,
        radius=DEFAULT_RADIUS if reference.radius is None else reference.radius,
        min_snr=reference.min_snr,
        colour_term=options.colour is not None and options.colour_term == 0,
    )


def _has_colour(catalog: QTable, options: Calibration) -> bool:
    """Return whether the stars of the catalogue have the colour that is named."""
    if options.colour is None:
        return False
    try:
        colour_of(catalog, options.colour)
    except InputError:
        return False
    return True


def _with_fit(options: Calibration, fitted: FittedZeroPoint, has_colour: bool) -> Calibration:
    """Return the options with what was fitted; what was given about errors stays.

    The fitted zero point is total and holds at the pivot colour, so stars without a colour are calibrated there.
    """
    error = fitted.error if options.zero_point_err is None else options.zero_point_err
    changes: dict[str, Any] = {"zero_point": fitted.value, "zero_point_err": error, "zero_points": None}
    if fitted.colour_term_err:
        changes |= {
            "colour_term": fitted.colour_term, "colour_term_err": fitted.colour_term_err,
            "colour_pivot": fitted.colour_pivot,
        }  # fmt: skip
    if not has_colour:
        changes["colour"] = None
    return dataclasses.replace(options, **changes)

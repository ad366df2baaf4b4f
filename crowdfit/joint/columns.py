"""The catalogue of a joint fit: what all exposures say of a star together, and what each says by itself.

Names follow those of a single image (`crowdfit.catalog`). `band_..._<b>` stands for each band, `exp<k>_...` for each
exposure, counted from 1 in the order in which they were given.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from crowdfit import flags
from crowdfit.catalog import IMAGE, Column, brightness, column, make_table
from crowdfit.frame import Frames
from crowdfit.joint.measure import Seen, Together
from crowdfit.view import JointSources
from crowdfit.world import pixel_to_sky, without_jump

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ["BAND_COLUMNS", "EXPOSURE_COLUMNS", "JOINT_COLUMNS", "OWN_COLUMNS", "build_joint_catalog"]

F64 = NDArray[np.float64]

FROM_SINGLE: Final = (
    "id", "x", "y", "x_err", "y_err", "ra", "dec", "flux", "flux_err", "flux_err_marginal", "flux_err_sky",
    "flux_err_psf", "flux_err_confusion", "mag", "mag_err", "snr", "flags", "pass_no", "qf", "rchi2", "fracflux",
    "crowding", "sharpness", "spread_model", "fwhm",
)  # fmt: skip
"""Columns that mean what they mean for a single image, on the pixels and in the unit of the first exposure."""

OWN_COLUMNS: Final = (
    Column("n_exposures", "", "i4", "meta.number;obs", "", "exposures on whose footprint the star lies"),
    Column(
        "snr_all", "", "f8", "stat.snr", "", "significance of all exposures and bands together, noise only"
    ),
)
BAND_COLUMNS: Final = (
    Column(
        "band_flux_<b>",
        IMAGE,
        "f8",
        "phot.flux",
        "",
        "flux in band b; NaN where no exposure of it covers the star",
    ),
    Column("band_flux_err_<b>", IMAGE, "f8", "stat.error;phot.flux", "", "its 1-sigma error"),
)
EXPOSURE_COLUMNS: Final = (
    Column("exp<k>_x", "pix", "f8", "pos.cartesian.x;instr.det", "", "column on exposure k; NaN off its footprint"),
    Column("exp<k>_y", "pix", "f8", "pos.cartesian.y;instr.det", "", "row on exposure k"),
    Column(
        "exp<k>_flux", IMAGE, "f8", "phot.flux", "",
        "forced flux in exposure k alone, at the position of all; NaN off its footprint",
    ),
    Column("exp<k>_flux_err", IMAGE, "f8", "stat.error;phot.flux", "", "its 1-sigma error"),
    Column(
        "exp<k>_limit", IMAGE, "f8", "phot.flux;stat.max", "",
        "3-sigma upper limit where the forced flux is below three errors; NaN elsewhere",
    ),
    Column("exp<k>_flags", "", "u4", "meta.code", "", "flags in exposure k; `outside` off its footprint"),
)  # fmt: skip

JOINT_COLUMNS: Final = (
    *(column(name) for name in FROM_SINGLE),
    *OWN_COLUMNS,
    *BAND_COLUMNS,
    *EXPOSURE_COLUMNS,
)
"""All columns of a joint catalogue, those of bands and exposures once."""

LIMIT = 3.0
"""Upper limits are so many errors above the forced flux, or above 0 where that is below 0."""


def build_joint_catalog(
    frames: Frames,
    sources: JointSources,
    seen: tuple[Seen, ...],
    together: Together,
    bands: tuple[str, ...],
    metadata: Mapping[str, Any],
) -> "QTable":
    """Return the catalogue of a joint fit, one row a star.

    Parameters
    ----------
    frames : tuple of Frame
        The exposures after the last pass.
    sources : JointSources
        The stars.
    seen : tuple of Seen
        What each exposure says.
    together : Together
        What they say together.
    bands : tuple of str
        Names of the bands, that of the first exposure first.
    metadata : mapping
        Goes into `meta` of the table.
    """
    first = frames[0].exposure
    values: dict[str, Any] = {"id": sources.id, "pass_no": sources.pass_no, "flags": together.flags}
    values |= {"x": sources.x, "y": sources.y, **together.columns}
    values |= brightness(values["flux"], values["flux_err"])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = values["fracflux"]
        values["crowding"] = np.where(share > 0, -2.5 * np.log10(share), np.nan)
        values["snr_all"] = sources.flux / sources.flux_err
    values["n_exposures"] = together.n_exposures
    definitions = [column(name) for name in FROM_SINGLE]
    if first.wcs is not None:
        ra, values["dec"] = pixel_to_sky(first.wcs, sources.x, sources.y)
        values["ra"] = without_jump(ra)
    definitions += OWN_COLUMNS
    for number, band in enumerate(bands):
        names = _renamed(BAND_COLUMNS, "<b>", _word(band, number))
        units = next(f.exposure.unit for f in frames if f.view and f.view.band == number)
        definitions += [_with_unit(entry, units) for entry in names]
        values |= dict(
            zip((e.name for e in names), (together.band_flux[number], together.band_err[number]), strict=True)
        )
    for number, (frame, one) in enumerate(zip(frames, seen, strict=True), start=1):
        names = _renamed(EXPOSURE_COLUMNS, "<k>", str(number))
        definitions += [_with_unit(entry, frame.exposure.unit) for entry in names]
        values |= dict(zip((e.name for e in names), _exposure_values(one, len(sources)), strict=True))
    return make_table(definitions, values, first.unit, metadata)


def _exposure_values(one: Seen, n: int) -> tuple[NDArray[Any], ...]:
    """Return the columns of one exposure, in the order of `EXPOSURE_COLUMNS`."""
    x, y, flux, err = (one.spread(values, n) for values in (one.x, one.y, one.flux, one.flux_err))
    with np.errstate(invalid="ignore"):
        limit = np.where(flux < LIMIT * err, np.maximum(flux, 0) + LIMIT * err, np.nan)
    own = np.full(n, flags.bit("outside"), np.uint32)
    own[one.index] = one.flags
    return x, y, flux, err, limit, own


def _renamed(entries: tuple[Column, ...], placeholder: str, word: str) -> list[Column]:
    return [replace(entry, name=entry.name.replace(placeholder, word)) for entry in entries]


def _with_unit(entry: Column, unit: str) -> Column:
    return replace(entry, unit=unit) if entry.unit == IMAGE else entry


def _word(band: str, number: int) -> str:
    """Return the name of a band as part of a column name; its number from 1 where it has none."""
    return re.sub(r"[^0-9A-Za-z]+", "_", band).strip("_") or str(number + 1)

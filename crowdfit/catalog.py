"""Every column of the catalogue as data, and the table built from it.

`COLUMNS` is the only place where a column is defined: name, unit, type, UCD, the name crowdsource gives it,
and what it means. Tables, files, `crowdfit columns` and the documentation are made from it (C042, P076).

All fluxes refer to a PSF of unit sum over its full extent. Which sources to trust is for the reader to say:
`qf` above about 0.7 for reliable fluxes and near 1 for PSF stars, then `flags`, `rchi2` and `fracflux`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from crowdfit.exposure import Exposure
from crowdfit.photometry.aperture_columns import APERTURE_ROWS, SEGMENT_ROWS
from crowdfit.world import pixel_to_sky, without_jump

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = [
    "AVERAGE_COLUMNS",
    "COLUMNS",
    "SEGMENT_COLUMNS",
    "Column",
    "brightness",
    "build_catalog",
    "build_segments",
    "column",
    "columns_table",
    "make_table",
    "unit_of",
]

Array = NDArray[Any]

CORE_RADIUS: Final = 0.5
"""Radius of the core whose data quality is collected, in FWHM: the half-light radius of a Gaussian PSF."""
MAG_PER_LN: Final = 2.5 / np.log(10)

IMAGE: Final = "image"
"""Stands for the unit of the image."""


@dataclass(frozen=True)
class Column:
    """One column: name, unit ("image" is the unit of the image), type, UCD1+, crowdsource's name, meaning."""

    name: str
    unit: str
    dtype: str
    ucd: str
    alias: str
    text: str


COLUMNS: Final = (
    Column("id", "", "i8", "meta.id;meta.main", "", "number of the source, stable through the run"),
    Column(
        "x",
        "pix",
        "f8",
        "pos.cartesian.x;instr.det",
        "y",
        "column, 0-based: the centre of the first pixel is 0",
    ),
    Column("y", "pix", "f8", "pos.cartesian.y;instr.det", "x", "row, 0-based"),
    Column(
        "x_err",
        "pix",
        "f8",
        "stat.error;pos.cartesian.x;instr.det",
        "dy",
        "1-sigma error of x; its parts are x_err_marginal, shift_err_psf and shift_err_confusion",
    ),
    Column(
        "y_err", "pix", "f8", "stat.error;pos.cartesian.y;instr.det", "dx", "1-sigma error of y, likewise"
    ),
    Column(
        "ra",
        "deg",
        "f8",
        "pos.eq.ra;meta.main",
        "ra",
        "right ascension (ICRS), by the WCS of the image; below 0 west of 0h",
    ),
    Column("dec", "deg", "f8", "pos.eq.dec;meta.main", "dec", "declination (ICRS), by the WCS of the image"),
    Column(
        "flux",
        IMAGE,
        "f8",
        "phot.flux;meta.main",
        "flux",
        "amplitude of the unit-sum PSF in the last, flux-only fit",
    ),
    Column(
        "flux_err",
        IMAGE,
        "f8",
        "stat.error;phot.flux;meta.main",
        "",
        "1-sigma error of flux; its parts, which add in quadrature, are flux_err_marginal, flux_err_sky, "
        "flux_err_psf and flux_err_confusion",
    ),
    Column(
        "flux_err_isolated",
        IMAGE,
        "f8",
        "stat.error;phot.flux",
        "dflux",
        "what flux_err_marginal would be without neighbours, (sum P^2 W)^-1/2; crowdsource's lacks the share "
        "of the PSF outside its 19 px stamp",
    ),
    Column(
        "flux_err_marginal",
        IMAGE,
        "f8",
        "stat.error;phot.flux",
        "",
        "part of flux_err: noise of the pixels with fluxes and positions of the neighbours free as well, from "
        "the inverse of the normal matrix",
    ),
    Column("flux_err_sky", IMAGE, "f8", "stat.error;phot.flux", "", "part of flux_err: error of the sky"),
    Column("flux_err_psf", IMAGE, "f8", "stat.error;phot.flux", "", "part of flux_err: error of the PSF"),
    Column(
        "flux_err_confusion",
        IMAGE,
        "f8",
        "stat.error;phot.flux",
        "",
        "part of flux_err: stars that are not in the list, below its limit or too close to this one",
    ),
    Column(
        "x_err_marginal",
        "pix",
        "f8",
        "stat.error;pos.cartesian.x;instr.det",
        "",
        "part of x_err: noise of the pixels, neighbours free as well",
    ),
    Column("y_err_marginal", "pix", "f8", "stat.error;pos.cartesian.y;instr.det", "", "the same of y_err"),
    Column(
        "shift_err_psf",
        "pix",
        "f8",
        "stat.error;pos.cartesian;instr.det",
        "",
        "part of x_err and of y_err: error of the PSF",
    ),
    Column(
        "shift_err_confusion",
        "pix",
        "f8",
        "stat.error;pos.cartesian;instr.det",
        "",
        "part of x_err and of y_err: stars that are not in the list",
    ),
    Column(
        "mag", "mag", "f8", "phot.mag", "", "instrumental magnitude, -2.5 log10(flux); NaN where flux <= 0"
    ),
    Column("mag_err", "mag", "f8", "stat.error;phot.mag", "", "1-sigma error of mag, 1.0857 flux_err / flux"),
    Column("snr", "", "f8", "stat.snr;phot.flux", "flux/dflux", "flux / flux_err"),
    Column(
        "flags", "", "u4", "meta.code;meta.main", "", "bits set by the fitter, explained by `crowdfit flags`"
    ),
    Column(
        "pass_no",
        "",
        "i4",
        "meta.number",
        "passno",
        "pass in which the source was found; -1 if given by the user",
    ),
    Column(
        "qf", "", "f8", "stat.fit.goodness;instr.det.psf", "qf", "share of the PSF on usable pixels, 0 to 1"
    ),
    Column(
        "rchi2", "", "f8", "stat.fit.chi2", "rchi2", "chi^2 per pixel of the residual, weighted with the PSF"
    ),
    Column(
        "fracflux",
        "",
        "f8",
        "phot.flux;arith.ratio",
        "fracflux",
        "own share of the light in the PSF window: 1 for an isolated star, small where neighbours dominate",
    ),
    Column(
        "crowding",
        "mag",
        "f8",
        "phot.mag;arith.diff",
        "",
        "how much brighter the source would be with its neighbours' light left in, -2.5 log10(fracflux)",
    ),
    Column(
        "sharpness",
        "",
        "f8",
        "src.morph.param",
        "",
        "contrast of core and ring, star over PSF, less 1: > 0 sharper (cosmic ray), < 0 broader",
    ),
    Column(
        "spread_model",
        "",
        "f8",
        "src.morph.param",
        "spread_model",
        "PSF against PSF convolved with a small exponential disc: > 0 extended, < 0 sharper than the PSF",
    ),
    Column(
        "spread_model_err",
        "",
        "f8",
        "stat.error;src.morph.param",
        "dspread_model",
        "1-sigma error of spread_model",
    ),
    Column("flux_lbs", IMAGE, "f8", "phot.flux", "fluxlbs", "flux with a free constant under the star"),
    Column("flux_lbs_err", IMAGE, "f8", "stat.error;phot.flux", "dfluxlbs", "1-sigma error of flux_lbs"),
    Column(
        "flux_iso",
        IMAGE,
        "f8",
        "phot.flux",
        "fluxiso",
        "flux with free position on the image cleaned of neighbours; crowdsource's lacks the share "
        "of the PSF outside its stamp",
    ),
    Column("x_iso", "pix", "f8", "pos.cartesian.x;arith.diff", "yiso", "step in x that goes with flux_iso"),
    Column("y_iso", "pix", "f8", "pos.cartesian.y;arith.diff", "xiso", "step in y that goes with flux_iso"),
    Column(
        "fwhm",
        "pix",
        "f8",
        "instr.det.psf;phys.angSize",
        "fwhm",
        "of the PSF model at the source, 1.18 (n_eff / pi)^1/2",
    ),
    Column("sky", IMAGE, "f8", "instr.skyLevel", "sky", "sky per pixel under the source"),
    Column(
        "dq", "", "u4", "meta.code.qual", "flags", "data quality at the rounded position; 0 off the image"
    ),
    Column(
        "dq_core",
        "",
        "u4",
        "meta.code.qual",
        "",
        "data-quality bits of all pixels within half an FWHM, combined with OR",
    ),
    *(Column(name, unit, dtype, ucd, "", text) for name, unit, dtype, ucd, text in APERTURE_ROWS),
)
"""Every column there can be, in the order in which it is written. `<r>` and `<p>` stand for what is configured."""

SEGMENT_COLUMNS: Final = tuple(
    Column(name, unit, dtype, ucd, "", text) for name, unit, dtype, ucd, text in SEGMENT_ROWS
)
"""Columns of the catalogue of extended sources."""

_BY_NAME: Final = {entry.name: entry for entry in COLUMNS}
_FAMILIES: Final = {
    entry.name: re.compile(re.sub("<[rp]>", r"\\d[0-9a-z]*", entry.name))
    for entry in COLUMNS
    if "<" in entry.name
}

AVERAGE_COLUMNS: Final = (
    Column("id", "", "i8", "meta.id;meta.main", "", "number of the star, the brightest first"),
    Column("ra", "deg", "f8", "pos.eq.ra;meta.main", "", "mean right ascension (ICRS); below 0 west of 0h"),
    Column("dec", "deg", "f8", "pos.eq.dec;meta.main", "", "mean declination (ICRS)"),
    Column("x", "pix", "f8", "pos.cartesian.x;instr.det", "", "mean column, 0-based"),
    Column("y", "pix", "f8", "pos.cartesian.y;instr.det", "", "mean row, 0-based"),
    Column(
        "sky_scatter",
        "arcsec",
        "f8",
        "stat.stdev;pos.angDistance",
        "",
        "scatter of the exposures about the mean position, both coordinates together",
    ),
    Column(
        "pixel_scatter",
        "pix",
        "f8",
        "stat.stdev;pos.cartesian",
        "",
        "scatter of the exposures about the mean position, both coordinates together",
    ),
    Column(
        "flux", IMAGE, "f8", "phot.flux;meta.main", "", "mean of the exposures, weighted with 1/flux_err^2"
    ),
    Column(
        "flux_err",
        IMAGE,
        "f8",
        "stat.error;phot.flux;meta.main",
        "",
        "1-sigma error of flux, from the errors of the exposures",
    ),
    Column(
        "flux_scatter",
        IMAGE,
        "f8",
        "stat.stdev;phot.flux",
        "",
        "standard deviation of the exposures; NaN for fewer than two",
    ),
    *(_BY_NAME[name] for name in ("mag", "mag_err", "snr")),
    Column("n_detections", "", "i4", "meta.number;obs", "", "detections inside the match radius"),
    Column("n_averaged", "", "i4", "meta.number;obs", "", "exposures in the mean"),
    Column(
        "n_several",
        "",
        "i4",
        "meta.number;obs",
        "",
        "exposures with several detections inside the match radius: summed, or left out of the mean",
    ),
    Column(
        "flags",
        "",
        "u4",
        "meta.code;meta.main",
        "",
        "bits of all detections, combined with OR, and `several`",
    ),
)
"""Columns of a catalogue averaged over exposures (C036, C037): sky positions, or pixels without a WCS."""


def column(name: str) -> Column:
    """Return the definition of the column called `name`; KeyError if there is none."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    for family, pattern in _FAMILIES.items():
        if pattern.fullmatch(name):
            return replace(_BY_NAME[family], name=name)
    raise KeyError(name)


def _expanded(names: Iterable[str]) -> Iterator[Column]:
    """Yield all columns, families as those of `names` that belong to them."""
    names = list(names)
    for entry in COLUMNS:
        if entry.name in _FAMILIES:
            yield from (column(name) for name in names if _FAMILIES[entry.name].fullmatch(name))
        else:
            yield entry


def build_catalog(
    columns: Mapping[str, Array], exposure: Exposure, metadata: Mapping[str, Any] | None = None
) -> "QTable":
    """Build the catalogue from measured columns.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        Measured columns by name; `id`, `x`, `y`, `flux`, `flux_err` at least. `ra`, `dec` (with a WCS),
        `mag`, `mag_err`, `snr`, `dq` and `dq_core` (with `fwhm`) are derived, and `crowding` from `fracflux`.
    exposure : Exposure
        For unit, WCS and data quality.
    metadata : mapping, optional
        Goes into `meta` of the table and from there into every file.

    Returns
    -------
    QTable (n rows)
        Columns of `COLUMNS` in that order, with unit, description and UCD (``table["x"].info.meta["ucd"]``).

    Raises
    ------
    KeyError
        For a column that is not in `COLUMNS`, or a missing one.
    """
    values = _derived(columns, exposure) | dict(columns)
    definitions = list(_expanded(values))
    if unknown := sorted(set(values) - {entry.name for entry in definitions}):
        raise KeyError(f"columns not defined in crowdfit.catalog.COLUMNS: {', '.join(unknown)}")
    return make_table(definitions, values, exposure.unit, metadata)


def build_segments(
    columns: Mapping[str, Array], exposure: Exposure, metadata: Mapping[str, Any] | None = None
) -> "QTable":
    """Build the catalogue of extended sources from measured columns, as `build_catalog` does that of the stars."""
    if not columns:
        empty = {entry.name: np.zeros(0) for entry in SEGMENT_COLUMNS if entry.name not in ("ra", "dec")}
        columns = empty
    values = brightness(columns["kron_flux"], columns["kron_flux_err"]) | dict(columns)
    if exposure.wcs is not None:
        values["ra"], values["dec"] = pixel_to_sky(exposure.wcs, columns["x"], columns["y"])
    return make_table(SEGMENT_COLUMNS, values, exposure.unit, metadata)


def make_table(
    definitions: Iterable[Column],
    values: Mapping[str, Array],
    image_unit: str,
    metadata: Mapping[str, Any] | None = None,
) -> "QTable":
    """Put columns into a table with the units, descriptions and UCDs of their definitions.

    Parameters
    ----------
    definitions : iterable of Column
        In the order of the table; those without values are passed over.
    values : mapping of str to ndarray (n,)
        Columns by name.
    image_unit : str
        Unit of columns that are in the unit of the image; may be empty.
    metadata : mapping, optional
        Goes into `meta` of the table.
    """
    from astropy.table import Column as TableColumn  # noqa: PLC0415 - slow to import, and needed at the end only
    from astropy.table import QTable  # noqa: PLC0415

    table = QTable(meta=dict(metadata or {}))
    for entry in definitions:
        if entry.name not in values:
            continue
        data = np.asarray(values[entry.name], entry.dtype)
        unit = image_unit if entry.unit == IMAGE else entry.unit
        table[entry.name] = u.Quantity(data, _unit(unit)) if unit else TableColumn(data)
        table[entry.name].info.description = entry.text
        table[entry.name].info.meta = {"ucd": entry.ucd}
    return table


def columns_table(definitions: Iterable[Column] = COLUMNS) -> str:
    """Return a column table as text, one column a paragraph, for people."""
    lines = []
    for entry in definitions:
        unit = {"": "", IMAGE: "image unit"}.get(entry.unit, entry.unit)
        facts = [unit, entry.dtype, entry.ucd, f"crowdsource: {entry.alias}" if entry.alias else ""]
        lines.append(f"{entry.name:<21}{entry.text}")
        lines.append(f"{'':<21}[{', '.join(fact for fact in facts if fact)}]")
    return "\n".join(lines)


def unit_of(values: Any) -> str:
    """Return the unit of a table column as text; empty when it has none."""
    unit = getattr(values, "unit", None)
    return "" if unit is None else str(unit.to_string())


def brightness(flux: Array, flux_err: Array) -> dict[str, Array]:
    """Return magnitude, its error and the signal to noise (n,) of fluxes and their errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "mag": np.where(flux > 0, -2.5 * np.log10(flux), np.nan),
            "mag_err": np.where(flux > 0, MAG_PER_LN * flux_err / flux, np.nan),
            "snr": flux / flux_err,
        }


def _unit(text: str) -> u.UnitBase:
    """Return an astropy unit; one that astropy does not know keeps its name."""
    return u.Unit(text, parse_strict="silent")


def _derived(columns: Mapping[str, Array], exposure: Exposure) -> dict[str, Array]:
    """Return the columns that follow from others and from the exposure."""
    x, y, flux, flux_err = (np.asarray(columns[name], np.float64) for name in ("x", "y", "flux", "flux_err"))
    derived = brightness(flux, flux_err)
    if "fracflux" in columns:
        share = np.asarray(columns["fracflux"], np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            derived["crowding"] = np.where(share > 0, -2.5 * np.log10(share), np.nan)
    if exposure.wcs is not None:
        ra, derived["dec"] = pixel_to_sky(exposure.wcs, x, y)
        derived["ra"] = without_jump(ra)
    derived["dq"] = _core_dq(exposure.dq, x, y, np.zeros_like(x))
    if "fwhm" in columns:
        derived["dq_core"] = _core_dq(
            exposure.dq, x, y, CORE_RADIUS * np.asarray(columns["fwhm"], np.float64)
        )
    return derived


def _core_dq(dq: NDArray[np.uint32], x: Array, y: Array, radius: Array) -> NDArray[np.uint32]:
    """Return the OR of the data quality within `radius` (n,) pix of each position, its own pixel included."""
    ny, nx = dq.shape
    column_0, row_0 = np.round(x).astype(np.int64), np.round(y).astype(np.int64)
    reach = int(np.ceil(np.nanmax(radius, initial=0)))
    found = np.zeros(len(x), np.uint32)
    for step_y in range(-reach, reach + 1):
        for step_x in range(-reach, reach + 1):
            column, row = column_0 + step_x, row_0 + step_y
            is_own = step_x == 0 and step_y == 0
            inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
            inside &= is_own | (np.hypot(column - x, row - y) <= radius)
            found[inside] |= dq[row[inside], column[inside]]
    return found

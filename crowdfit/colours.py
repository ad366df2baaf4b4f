"""Catalogues of several bands matched star by star: magnitudes, colours and their errors in one table (P064, P067).

Stars of two bands go together that are each other's nearest, inside a radius. In a crowd that alone is not enough. Two
stars that one band tells apart may be one in the other: a detection inside the radius that has no partner of its own
is such a case, and is added to the star or spoils its colour, as one likes (C037). And the nearest star may be there
by chance: how likely that is follows from the distance and from how dense the stars lie around.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table
from numpy.typing import NDArray
from scipy.spatial import KDTree

from crowdfit import __version__, flags
from crowdfit.catalog import IMAGE, MAG_PER_LN, Column, make_table, unit_of
from crowdfit.detections import fact, flag_bits, plain_column, reach_for
from crowdfit.errors import InputError
from crowdfit.io.atomic import atomic_path
from crowdfit.match import mutual, voted_shift
from crowdfit.reach import Radius, Reach

__all__ = ["COLOUR_COLUMNS", "match_bands", "write_eazy"]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MOST: Final = 3
"""So many bands at once: two colours."""
BRIGHT: Final = 500
"""So many of the brightest stars of each band tell how the positions of two bands are shifted."""
LEAST: Final = 10
"""A shift is taken from no fewer pairs."""
SEARCH: Final = 5
"""A shift is looked for up to so many match radii."""
NEIGHBOURS: Final = 8
"""The density of stars at a place is that inside the circle to its eighth neighbour."""
EAZY_UNIT: Final = u.uJy
EAZY_MISSING: Final = -99.0


def _of_each(*definitions: Column, first: int = 1) -> tuple[Column, ...]:
    """Return columns once for each band, with its number in place of N."""
    return tuple(
        Column(
            *(str(value).replace("_N", f"_{n}").replace("band N", f"band {n}") for value in vars(c).values())
        )
        for n in range(first, MOST + 1)
        for c in definitions
    )


COLOUR_COLUMNS: Final = (
    Column("id", "", "i8", "meta.id;meta.main", "", "number of the star, the brightest in band 1 first"),
    Column("ra", "deg", "f8", "pos.eq.ra;meta.main", "", "right ascension (ICRS) in band 1"),
    Column("dec", "deg", "f8", "pos.eq.dec;meta.main", "", "declination (ICRS) in band 1"),
    Column("x", "pix", "f8", "pos.cartesian.x;instr.det", "", "column in band 1, 0-based"),
    Column("y", "pix", "f8", "pos.cartesian.y;instr.det", "", "row in band 1, 0-based"),
    *_of_each(
        Column("row_N", "", "i8", "meta.id", "", "row in the catalogue of band N, from 0; -1 where there is none"),
        Column("mag_N", "mag", "f8", "phot.mag", "", "magnitude in band N"),
        Column(
            "mag_err_N", "mag", "f8", "stat.error;phot.mag", "", "its error without what all stars of band N share"
        ),
        Column(
            "mag_err_sys_N", "mag", "f8", "stat.error.sys;phot.mag", "", "its error that all stars of band N share"
        ),
        Column("flux_N", IMAGE, "f8", "phot.flux", "", "flux in band N"),
        Column("flux_err_N", IMAGE, "f8", "stat.error;phot.flux", "", "error of flux_N, likewise"),
        Column("n_N", "", "i4", "meta.number", "", "detections of band N inside the radius that belong to the star"),
    ),
    *_of_each(
        Column(
            "sky_separation_N", "arcsec", "f8", "pos.angDistance", "", "distance of band N from band 1, shift removed"
        ),
        Column(
            "pixel_separation_N", "pix", "f8", "pos.distance", "", "distance of band N from band 1, shift removed"
        ),
        Column(
            "chance_N", "", "f8", "stat.probability", "",
            "probability that any star of band N lies so near by chance, at the density of its stars around",
        ),
        first=2,
    ),
    Column("colour_12", "mag", "f8", "phot.color", "", "mag_1 - mag_2"),
    Column("colour_err_12", "mag", "f8", "stat.error;phot.color", "", "mag_err_1 and mag_err_2 in quadrature"),
    Column(
        "colour_err_sys_12", "mag", "f8", "stat.error.sys;phot.color", "", "the same of mag_err_sys_1, mag_err_sys_2"
    ),
    Column("colour_23", "mag", "f8", "phot.color", "", "mag_2 - mag_3"),
    Column("colour_err_23", "mag", "f8", "stat.error;phot.color", "", "mag_err_2 and mag_err_3 in quadrature"),
    Column(
        "colour_err_sys_23", "mag", "f8", "stat.error.sys;phot.color", "", "the same of mag_err_sys_2, mag_err_sys_3"
    ),
    Column("flags", "", "u4", "meta.code.qual", "", "flags of all bands; `several` where n_N is more than 1"),
)  # fmt: skip
"""The columns of matched bands, in order."""


class _Band(NamedTuple):
    """What is needed of a catalogue; arrays (n,), points (n, 2 or 3)."""

    points: F64
    flux: F64
    flux_err: F64
    mag: F64
    mag_err: F64
    mag_err_sys: F64
    flags: NDArray[np.uint32]


class _Partners(NamedTuple):
    """For each star of a list (n,): row of its partner or -1, straight distance, probability of chance."""

    row: I64
    length: F64
    chance: F64


def match_bands(
    catalogs: Mapping[str, Table],
    radius: Radius | None = None,
    several: Literal["sum", "flag"] = "sum",
) -> QTable:
    """Match the catalogues of two or three bands: one row for each star of the first two, with its colour.

    Parameters
    ----------
    catalogs : mapping of Table
        By name; with `flux`, `flux_err`, `mag`, `mag_err`, and either `ra`, `dec` (deg) or, when none of them has a
        WCS, `x`, `y` (pix) on one common grid. Where all of them have `mag_cal` and `flux_cal`, these are taken, else
        instrumental magnitudes, which is logged.
    radius : Quantity, str or float, optional
        Match radius: an angle, or pixels to match on `x`, `y`. A plain number is in arcsec on the sky, else in pixels.
        Default: 0.375 arcsec or 1.5 pixels, but no more than half of the median distance between neighbours.
    several : {"sum", "flag"}
        What happens to a star with further detections inside the radius that are no star's partner: "sum" adds
        their fluxes, errors in quadrature; "flag" leaves its colours NaN. Either way it gets the flag `several`.

    Returns
    -------
    QTable
        Columns of `COLOUR_COLUMNS`, brightest star in band 1 first. Before stars are matched, the median shift of
        the brightest is taken out; it is in the metadata.

    Raises
    ------
    InputError
        Fewer than two or more than three catalogues, missing columns, magnitudes of different systems, fluxes that do
        not go together, or a bad radius.
    """
    if several not in ("sum", "flag"):
        raise InputError(f"several: {several!r} is not one of 'sum', 'flag'")
    if not 2 <= len(catalogs) <= MOST:
        raise InputError(f"{len(catalogs)} catalogues are refused; give those of two or three bands")
    named = dict(catalogs)
    for name, table in named.items():
        if missing := [c for c in ("flux", "flux_err", "mag", "mag_err") if c not in table.colnames]:
            raise InputError(f"{name}: has no column {', '.join(missing)}; give catalogues made by crowdfit")
    is_calibrated = _are_calibrated(named)
    flux = "flux_cal" if all("flux_cal" in table.colnames for table in named.values()) else "flux"
    unit = _flux_unit(named, flux)
    reach = reach_for(named, radius)
    bands = [_band(table, reach, flux, unit, is_calibrated=is_calibrated) for table in named.values()]
    if radius is None:
        reach = _tightened(reach, bands)
    shifts = [np.zeros(bands[0].points.shape[1]), *(_shift(bands[0], band, reach) for band in bands[1:])]
    bands = [band._replace(points=band.points - shift) for band, shift in zip(bands, shifts, strict=True)]
    partners = _find_partners(bands, reach)
    values = _columns(bands, partners, reach, left_out=several == "flag")
    order = np.argsort(np.where(np.isfinite(values["flux_1"]), -values["flux_1"], np.inf), kind="stable")
    values = {name: column[order] for name, column in values.items()}
    values["id"] = np.arange(len(order))
    first = next(iter(named.values()))
    for name in ("ra", "dec") if reach.on_sky else ("x", "y"):
        values[name] = plain_column(first, name, "deg" if reach.on_sky else "pix")[values["row_1"]]
    metadata = _metadata(named, reach, several, shifts, is_calibrated=is_calibrated)
    return make_table(COLOUR_COLUMNS, values, unit, metadata)


def write_eazy(table: Table, path: str | Path, filters: tuple[int, ...]) -> Path:
    """Write fluxes for EAZY: id, then F and E with the number of each filter, in uJy (zero point 23.9); -99 is missing.

    Parameters
    ----------
    table : Table
        As `match_bands` makes it, from calibrated catalogues.
    path : str or Path
        File to write.
    filters : tuple of int
        Number of each band in EAZY's FILTER.RES file.

    Raises
    ------
    InputError
        Not one number for each band, or fluxes that are not calibrated.
    """
    n = sum(f"flux_{number}" in table.colnames for number in range(1, MOST + 1))
    if len(filters) != n or len(set(filters)) != n or min(filters, default=0) < 1:
        raise InputError(
            f"filters: {filters} is refused; give {n} different numbers of EAZY's filter file, from 1 on"
        )
    unit = u.Unit(unit_of(table["flux_1"]) or "1", parse_strict="silent")
    if not unit.is_equivalent(EAZY_UNIT):
        raise InputError(
            f"fluxes in {unit or 'no unit'} are not calibrated; run `crowdfit calibrate` on the catalogues first"
        )
    factor = float(unit.to(EAZY_UNIT))
    head, columns = ["id"], []
    for number, name in enumerate(filters, start=1):
        head += [f"F{name}", f"E{name}"]
        flux, err = (
            plain_column(table, f"{kind}_{number}", str(unit)) * factor for kind in ("flux", "flux_err")
        )
        known = np.isfinite(flux) & np.isfinite(err) & (err > 0)
        columns += [np.where(known, flux, EAZY_MISSING), np.where(known, err, EAZY_MISSING)]
    rows = np.column_stack(columns)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(f"# {' '.join(head)}\n")
        for number, row in zip(np.asarray(table["id"]).tolist(), rows.tolist(), strict=True):
            stream.write(" ".join([str(number), *(f"{value:.6g}" for value in row)]) + "\n")
    return Path(path)


def _are_calibrated(named: Mapping[str, Table]) -> bool:
    """Return whether all catalogues have calibrated magnitudes, of one system."""
    having = [name for name, table in named.items() if {"mag_cal", "mag_cal_err"} <= set(table.colnames)]
    if len(having) < len(named):
        lacking = ", ".join(name for name in named if name not in having)
        log.warning("%s: no calibrated magnitudes, so all magnitudes and colours are instrumental", lacking)
        return False
    systems = {fact(table, "mag_system") for table in named.values()}
    if len(systems) > 1:
        raise InputError(
            f"{', '.join(named)}: magnitudes of different systems ({', '.join(sorted(systems))}); run `crowdfit "
            "calibrate` with one calibration.system"
        )
    return True


def _flux_unit(named: Mapping[str, Table], flux: str) -> str:
    """Return the unit of all fluxes; of instrumental ones, none where they differ."""
    units = sorted({unit_of(table[flux]) for table in named.values()})
    if flux == "flux":
        return units[0] if len(units) == 1 else ""
    for text in units[1:]:
        if not u.Unit(text, parse_strict="silent").is_equivalent(u.Unit(units[0], parse_strict="silent")):
            raise InputError(
                f"flux_cal in {text} and in {units[0]} do not go together; calibrate to one unit"
            )
    return units[0]


def _band(table: Table, reach: Reach, name: str, unit: str, *, is_calibrated: bool) -> _Band:
    """Return what is needed of a catalogue; `name` is the column of fluxes."""
    places, position = (("ra", "dec"), "deg") if reach.on_sky else (("x", "y"), "pix")
    points = reach.points(*(plain_column(table, place, position) for place in places))
    # instrumental fluxes stay in the unit that their magnitudes are of
    own = unit if name == "flux_cal" else unit_of(table[name])
    flux, flux_err = plain_column(table, name, own), plain_column(table, f"{name}_err", own)
    shared = _known(table, "mag_err_sys") if is_calibrated else np.full(len(table), np.nan)
    if is_calibrated:
        mag = plain_column(table, "mag_cal", "mag")
        parts = [_known(table, part) for part in ("mag_cal_err", "mag_err_blend", "mag_err_sky")]
        mag_err = np.where(np.isfinite(parts[0]), np.sqrt(np.nansum(np.square(parts), axis=0)), np.nan)
        # fluxes below zero have no magnitude, but an error
        flux_err = np.where(np.isfinite(mag_err) & (flux > 0), mag_err * flux / MAG_PER_LN, flux_err)
    else:
        mag, mag_err = plain_column(table, "mag", "mag"), plain_column(table, "mag_err", "mag")
    return _Band(points, flux, flux_err, mag, mag_err, shared, flag_bits(table))


def _known(table: Table, name: str) -> F64:
    """Return a column of errors (mag), NaN where there is none."""
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return plain_column(table, name, "mag")


def _finite(points: F64) -> I64:
    return np.flatnonzero(np.isfinite(points).all(axis=1))


def _nearest(points: F64, others: F64, k: int = 1) -> tuple[F64, I64]:
    """Return distances (n, k) of each of `points` to its nearest `others`, the nearest first, and which these are."""
    far, which = KDTree(others).query(points, k=list(range(1, k + 1)))
    return np.asarray(far, np.float64), np.asarray(which, np.int64)


def _tightened(reach: Reach, bands: list[_Band]) -> Reach:
    """Return a radius of no more than half of the median distance between neighbours of any band."""
    half = [reach.length]
    for band in bands:
        points = band.points[_finite(band.points)]
        if len(points) > 1:
            half.append(float(np.median(_nearest(points, points, 2)[0][:, -1])) / 2)
    length = min(half)
    if not 0 < length < reach.length:
        return reach
    radius = float(f"{reach.distances(np.array([length]))[0]:.4g}") * (u.arcsec if reach.on_sky else u.pix)
    log.info("match radius %.3g, half of the distance between neighbours", radius)
    return Reach(radius)


def _shift(first: _Band, second: _Band, reach: Reach) -> F64:
    """Return the median step (2 or 3,) from the brightest stars of a band to those of another; 0 from too few pairs."""
    shift = np.zeros(first.points.shape[1])
    lists = [
        band.points[np.argsort(-np.nan_to_num(band.flux), kind="stable")[:BRIGHT]] for band in (first, second)
    ]
    finite = [points[_finite(points)] for points in lists]
    if not (len(finite[0]) and len(finite[1])):
        return shift
    # a vote: in a crowd the nearest star is often another one, but those agree on nothing
    shift = voted_shift(finite[0], finite[1], reach.length, SEARCH * reach.length)
    one, two, _ = mutual(lists[0], lists[1] - shift, reach.length)
    if len(one) < LEAST:
        return np.zeros_like(shift)
    shift = np.median(lists[1][two] - lists[0][one], axis=0)
    if np.linalg.norm(shift) > reach.length / 2:
        log.warning(
            "positions of two bands are shifted by %.3g %s, which is taken out; the WCS of one is off",
            reach.distances(np.array([np.linalg.norm(shift)]))[0], reach.radius.unit,
        )  # fmt: skip
    return shift


def _find_partners(bands: list[_Band], reach: Reach) -> list[_Partners]:
    """Return for the stars that the first two bands share their rows in every band."""
    one, two, far = mutual(bands[0].points, bands[1].points, reach.length)
    rows = [_Partners(one, np.zeros(len(one)), np.zeros(len(one))), _partners(bands[1], two, far)]
    for band in bands[2:]:
        star, row, length = mutual(bands[0].points[one], band.points, reach.length)
        row_of, length_of = np.full(len(one), -1), np.full(len(one), np.nan)
        row_of[star], length_of[star] = row, length
        rows.append(_partners(band, row_of, length_of))
    return rows


def _partners(band: _Band, row: I64, length: F64) -> _Partners:
    """Return partners with the probability that one would be as near at the density of the stars around it."""
    chance = np.full(len(row), np.nan)
    points = band.points[_finite(band.points)]
    found, k = row >= 0, min(NEIGHBOURS, len(points) - 1)
    if k > 0 and found.any():
        reach = _nearest(band.points[row[found]], points, k + 1)[0][:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            chance[found] = -np.expm1(-k * (length[found] / reach) ** 2)
    return _Partners(row, length, chance)


def _columns(
    bands: list[_Band], partners: list[_Partners], reach: Reach, *, left_out: bool
) -> dict[str, Any]:
    """Return the columns of the stars, colours NaN for those with several detections if these are left out."""
    n = len(partners[0].row)
    values: dict[str, Any] = {"flags": np.zeros(n, np.uint32)}
    is_several = np.zeros(n, bool)
    where = bands[0].points[partners[0].row]
    for number, (band, partner) in enumerate(zip(bands, partners, strict=True), start=1):
        measured = _measured(band, partner.row, where, reach.length, summed=not left_out)
        values["flags"] |= measured.pop("flags")
        is_several |= measured["n"] > 1
        values |= {f"{name}_{number}": column for name, column in measured.items()} | {
            f"row_{number}": partner.row
        }
        if number > 1:
            kind = "sky" if reach.on_sky else "pixel"
            values[f"{kind}_separation_{number}"] = reach.distances(partner.length)
            values[f"chance_{number}"] = partner.chance
    values["flags"][is_several] |= flags.bit("several")
    for one, other in ((1, 2), (2, 3))[: len(bands) - 1]:
        colour = values[f"mag_{one}"] - values[f"mag_{other}"]
        spoilt = is_several & left_out
        values[f"colour_{one}{other}"] = np.where(spoilt, np.nan, colour)
        for kind in ("err", "err_sys"):
            error = np.hypot(values[f"mag_{kind}_{one}"], values[f"mag_{kind}_{other}"])
            values[f"colour_{kind}_{one}{other}"] = np.where(spoilt, np.nan, error)
    return values


def _measured(band: _Band, row: I64, where: F64, length: float, *, summed: bool) -> dict[str, Any]:
    """Return brightness of the stars at `where`; detections near them that are no star's are added if `summed`."""
    found = row >= 0
    n = len(row)
    alone: I64 = np.setdiff1d(_finite(band.points), row[found])
    star: I64 = np.zeros(0, np.int64)
    if n and len(alone):
        far, nearest = (values[:, 0] for values in _nearest(band.points[alone], where))
        near = np.flatnonzero((far <= length) & found[nearest])
        star, alone = np.asarray(nearest[near], np.int64), np.asarray(alone[near])
    own = {name: np.where(found, getattr(band, name)[row], np.nan) for name in band._fields[1:-1]}
    bits = np.where(found, band.flags[row], 0).astype(np.uint32)
    np.bitwise_or.at(bits, star, band.flags[alone])
    count = found.astype(np.int64) + np.bincount(star, minlength=n)
    if summed and len(star):
        flux = own["flux"] + np.bincount(star, np.nan_to_num(band.flux[alone]), minlength=n)
        err = np.sqrt(
            own["flux_err"] ** 2 + np.bincount(star, np.nan_to_num(band.flux_err[alone]) ** 2, minlength=n)
        )
        more = count > 1
        with np.errstate(divide="ignore", invalid="ignore"):
            mag = np.where(
                (flux > 0) & (own["flux"] > 0), own["mag"] - 2.5 * np.log10(flux / own["flux"]), np.nan
            )
            own["mag"] = np.where(more, mag, own["mag"])
            own["mag_err"] = np.where(
                more, np.where(flux > 0, MAG_PER_LN * err / flux, np.nan), own["mag_err"]
            )
        own["flux"], own["flux_err"] = flux, err
    return own | {"n": count, "flags": bits}


def _metadata(
    named: Mapping[str, Table], reach: Reach, several: str, shifts: list[F64], *, is_calibrated: bool
) -> dict[str, str]:
    """Return what has to be known to repeat the match, and which bands these are."""
    known = {
        "crowdfit": __version__,
        "match_radius": str(reach.radius),
        "several": several,
        "catalogs": "\n".join(named),
        "mag_system": fact(next(iter(named.values())), "mag_system") if is_calibrated else "instrumental",
    }
    for number, (name, table) in enumerate(named.items(), start=1):
        known[f"band_{number}"] = fact(table, "band") or Path(name).stem.removesuffix("_catalog")
    for number, shift in enumerate(shifts[1:], start=2):
        far = reach.distances(np.array([np.linalg.norm(shift)]))[0]
        known[f"shift_{number}"] = f"{far:.6g} {reach.radius.unit}"
    return known

"""Detections of several catalogues as one set of arrays, in one unit, ready to be matched."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import NDArray

from crowdfit.catalog import unit_of
from crowdfit.errors import InputError
from crowdfit.reach import Radius, Reach, read_reach

__all__ = [
    "PIXEL_RADIUS",
    "SKY_RADIUS",
    "Detections",
    "common_facts",
    "common_unit",
    "fact",
    "flag_bits",
    "name_catalogs",
    "plain_column",
    "pool",
    "reach_for",
]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SKY_RADIUS: Final = 0.375 * u.arcsec
"""Default match radius: 0.25 arcsec at a seeing of 5 pixels, scaled to the worst seeing of 7.5 pixels."""
PIXEL_RADIUS: Final = 1.5 * u.pix
"""The same on pixels of 0.25 arcsec, for catalogues without sky positions."""

_FACTS: Final = (
    "band", "TELESCOP", "INSTRUME", "PIXAR_SR", "PIXEL_SR", "PHOTMJSR", "PHOTFLAM", "PHOTPLAM", "EXPTIME"
)  # fmt: skip
"""What calibrates fluxes, where it is the same for all catalogues."""
APART: Final = 1e-3
"""Zero points that differ by more (mag) do not go together."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of all exposures, or one measurement for each star and exposure; arrays of length n.

    Parameters
    ----------
    points : ndarray (n, 2 or 3) float64
    flux, err : ndarray (n,) float64
        In the common unit.
    exposure, star : ndarray (n,) int64
        Number of the catalogue, and of the star it belongs to.
    flags : ndarray (n,) uint32
    count : ndarray (n,) int64
        How many detections are in it.
    """

    points: F64
    flux: F64
    err: F64
    exposure: I64
    star: I64
    flags: NDArray[np.uint32]
    count: I64

    def take(self, index: NDArray[Any]) -> "Detections":
        """Return those selected by an index or boolean array."""
        return replace(self, **{name: values[index] for name, values in vars(self).items()})

    def sorted(self) -> "Detections":
        """Return them by star, then brightest first; the numbers of the exposures play no part."""
        rank = np.where(np.isfinite(self.flux), -self.flux, np.inf)
        return self.take(np.lexsort((self.flags, self.err, *self.points.T, rank, self.star)))


def name_catalogs(catalogs: Sequence[Table] | Mapping[str, Table], flux: str = "flux") -> dict[str, Table]:
    """Return the catalogues by name, `flux` and `flux_err` those to average; refuse what cannot be averaged."""
    if isinstance(catalogs, Mapping):
        named = dict(catalogs)
    else:
        named = {f"catalogue {number}": table for number, table in enumerate(catalogs, start=1)}
    if not named:
        raise InputError("there is no catalogue to average; give at least one")
    for name, table in named.items():
        if missing := [column for column in (flux, f"{flux}_err") if column not in table.colnames]:
            raise InputError(f"{name}: has no column {', '.join(missing)}; give catalogues made by crowdfit")
    bands = sorted(
        {str(table.meta.get("band", table.meta.get("BAND", ""))) for table in named.values()} - {""}
    )
    if len(bands) > 1:
        log.warning("the catalogues are of different bands (%s): their mean has no meaning", ", ".join(bands))
    if flux != "flux":
        return {name: _renamed(table, flux) for name, table in named.items()}
    zero_points = [float(text) for table in named.values() if (text := fact(table, "zero_point"))]
    if zero_points and max(zero_points) - min(zero_points) > APART:
        log.warning(
            "the zero points of the catalogues go from %.4f to %.4f: average calibrated fluxes, with --flux flux_cal",
            min(zero_points), max(zero_points),
        )  # fmt: skip
    return named


def common_facts(named: Mapping[str, Table]) -> dict[str, str]:
    """Return what calibrates the fluxes and is the same for all catalogues."""
    found = {key: {fact(table, key) for table in named.values()} for key in _FACTS}
    return {key: values.pop() for key, values in found.items() if len(values) == 1 and "" not in values}


def fact(table: Table, key: str) -> str:
    """Return a metadatum as text, whatever a file format has made of the case of its key; "" where there is none."""
    return str(table.meta.get(key, table.meta.get(key.upper(), "")))


def _renamed(table: Table, flux: str) -> Table:
    """Return a catalogue whose column `flux` is another one of it."""
    chosen = table.copy(copy_data=False)
    chosen["flux"], chosen["flux_err"] = table[flux], table[f"{flux}_err"]
    return chosen


def reach_for(named: Mapping[str, Table], radius: Radius | None) -> Reach:
    """Return the match radius on the sky where all catalogues have sky positions, else in pixels."""
    lacking = [name for name, table in named.items() if not {"ra", "dec"} <= set(table.colnames)]
    on_sky = not lacking
    if radius is None:
        radius = SKY_RADIUS if on_sky else PIXEL_RADIUS
    reach = read_reach(radius, u.arcsec if on_sky else u.pix)
    if lacking and (reach.on_sky or len(lacking) < len(named)):
        raise InputError(
            f"{lacking[0]}: has no columns ra, dec; leave it out, or match on pixels with a radius such as "
            "'1.5 pix' if all images share one pixel grid"
        )
    for name, table in named.items():
        if not reach.on_sky and not {"x", "y"} <= set(table.colnames):
            raise InputError(
                f"{name}: has no columns x, y to match on pixels; give catalogues made by crowdfit"
            )
    return reach


def common_unit(named: Mapping[str, Table]) -> str:
    """Return the unit for all fluxes, and refuse units that do not go together."""
    units = {name: unit_of(table["flux"]) for name, table in named.items()}
    chosen = min(units.values())
    first, *others = units
    for name in others:
        one, other = (u.Unit(units[key], parse_strict="silent") for key in (first, name))
        if not other.is_equivalent(one):
            raise InputError(
                f"{name}: fluxes in {units[name] or 'no unit'} do not go with those of {first} in "
                f"{units[first] or 'no unit'}; average catalogues of one unit"
            )
    return chosen


def pool(named: Mapping[str, Table], reach: Reach, unit: str) -> Detections:
    """Return the detections of all catalogues, brightest first; positions that are not finite are left out."""
    names = ("ra", "dec") if reach.on_sky else ("x", "y")
    position_unit = "deg" if reach.on_sky else "pix"
    points, fluxes, errors, bits = [], [], [], []
    for table in named.values():
        points.append(reach.points(*(plain_column(table, name, position_unit) for name in names)))
        fluxes.append(plain_column(table, "flux", unit))
        errors.append(plain_column(table, "flux_err", unit))
        bits.append(flag_bits(table))
    where = np.concatenate(points)
    detections = Detections(
        points=where,
        flux=np.concatenate(fluxes),
        err=np.concatenate(errors),
        exposure=np.repeat(np.arange(len(named)), [len(flux) for flux in fluxes]),
        star=np.zeros(len(where), np.int64),
        flags=np.concatenate(bits),
        count=np.ones(len(where), np.int64),
    )
    good = np.asarray(np.isfinite(where).all(axis=1))
    if not good.all():
        log.warning("%d detections without a finite position are left out", np.count_nonzero(~good))
    return detections.take(good).sorted()


def plain_column(table: Table, name: str, unit: str) -> F64:
    """Return a column as float64 in `unit`, masked entries NaN; a column without unit is taken to be in it."""
    column = table[name]
    values = np.ma.filled(np.ma.asarray(getattr(column, "value", column), np.float64), np.nan)
    own = unit_of(column)
    factor = 1.0
    if own not in ("", unit):
        factor = u.Unit(own, parse_strict="silent").to(u.Unit(unit, parse_strict="silent"))
    return np.asarray(values, np.float64) * factor


def flag_bits(table: Table) -> NDArray[np.uint32]:
    """Return the flags of a catalogue, 0 where it has none."""
    if "flags" not in table.colnames:
        return np.zeros(len(table), np.uint32)
    return np.asarray(np.ma.filled(np.ma.asarray(table["flags"]), 0), np.uint32)

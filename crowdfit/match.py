"""Which detections of several exposures are one star, and the average over them (C036, C037).

Detections of all exposures are taken together. The brightest one that no brighter one has claimed claims
everything inside the match radius and stands for a star; in the end each detection belongs to the nearest of
these. So the order of the catalogues plays no part, and chains of stars in a dense field do not grow together
as they do when friends of friends are linked.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from crowdfit import __version__, flags
from crowdfit.catalog import AVERAGE_COLUMNS, brightness, make_table
from crowdfit.detections import (
    PIXEL_RADIUS,
    SKY_RADIUS,
    Detections,
    common_facts,
    common_unit,
    name_catalogs,
    pool,
    reach_for,
)
from crowdfit.errors import InputError
from crowdfit.io.formats import check_formats
from crowdfit.io.hdus import sha256_of
from crowdfit.io.tables import read_catalog, write_catalog
from crowdfit.reach import Radius, Reach, read_reach
from crowdfit.world import without_jump

__all__ = [
    "PIXEL_RADIUS",
    "SKY_RADIUS",
    "Matches",
    "average_catalogs",
    "average_files",
    "match_positions",
]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

CROWDED: Final = 0.1
"""Share of stars with several detections of one exposure above which the radius is called too large."""


class Matches(NamedTuple):
    """Pairs of mutual nearest neighbours.

    first, second : (n,) int64, indices into the two lists, in the order of the first. distance : (n,) float64
    (arcsec for a radius that is an angle, else pix).
    """

    first: I64
    second: I64
    distance: F64


def match_positions(
    first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike], radius: Radius
) -> Matches:
    """Find the pairs that are each other's nearest neighbour, no farther apart than `radius`.

    Parameters
    ----------
    first, second : pair of ndarray (n,), (m,)
        x, y (pix); with a radius that is an angle RA, Dec (deg), over the wrap at 360 deg and at the poles too.
        Positions that are not finite match nothing.
    radius : Quantity, str or float
        Angle or pixels, such as ``0.3 * u.arcsec`` or ``"2 pix"``; a plain number is in pixels.

    Returns
    -------
    Matches

    Raises
    ------
    InputError
        If the radius is not a positive angle or number of pixels.
    """
    reach = read_reach(radius, u.pix)
    one, two, length = mutual(reach.points(*first), reach.points(*second), reach.length)
    return Matches(one, two, reach.distances(length))


def mutual(first: F64, second: F64, longest: float) -> tuple[I64, I64, F64]:
    """Return rows of two lists of points (n, d), (m, d) that are each other's nearest, and their distance.

    At most `longest` apart, in the order of the first list; points that are not finite match none.
    """
    kept = [np.flatnonzero(np.isfinite(points).all(axis=1)) for points in (first, second)]
    one, two = first[kept[0]], second[kept[1]]
    if not (len(one) and len(two)):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    length, there = _nearest(one, two)
    _, back = _nearest(two, one)
    good = (back[there] == np.arange(len(one))) & (length <= longest)
    return kept[0][good], kept[1][there[good]], length[good]


def _nearest(points: F64, others: F64) -> tuple[F64, I64]:
    """Return the distance (n,) of each of `points` (n, k) to the nearest of `others`, and which it is."""
    length, index = KDTree(others).query(points)
    return np.asarray(length, np.float64), np.asarray(index, np.int64)


def voted_shift(points: F64, others: F64, radius: float, search: float) -> F64:
    """Return the step (d,) from `points` (n, d) to `others` (m, d) that most pairs within `search` agree on.

    They agree when their steps are within half of `radius`. Without any pair the step is 0.
    """
    near = KDTree(others).query_ball_point(points, search)
    steps = np.concatenate([others[found] - place for place, found in zip(points, near, strict=True)])
    if not len(steps):
        return np.zeros(points.shape[1])
    tree = KDTree(steps)
    most = int(np.argmax(tree.query_ball_point(steps, radius / 2, return_length=True)))
    return np.asarray(np.median(steps[tree.query_ball_point(steps[most], radius / 2)], axis=0), np.float64)


def average_catalogs(
    catalogs: Sequence[Table] | Mapping[str, Table],
    radius: Radius | None = None,
    several: Literal["sum", "flag"] = "sum",
    flux: str = "flux",
) -> QTable:
    """Average the catalogues of several exposures of one field: one row a star.

    Parameters
    ----------
    catalogs : sequence or mapping of Table
        Catalogues with `flux`, `flux_err`, and either `ra`, `dec` (deg) or, when none of them has a WCS,
        `x`, `y` (pix) on one common grid; `flags` where there. A mapping gives them names.
    radius : Quantity, str or float, optional
        Match radius: an angle, or pixels to match on `x`, `y`. A plain number is in arcsec on the sky, else in
        pixels. Default: 0.375 arcsec or 1.5 pixels. It should exceed the position errors several times
        and stay below half of the FWHM.
    several : {"sum", "flag"}
        When one exposure has several detections of a star inside the radius: "sum" adds their fluxes, errors
        in quadrature, before exposures are averaged; "flag" leaves them out of the average. Either way the
        star gets the flag `several`.
    flux : str
        Column that is averaged with weights from `<flux>_err`; "flux_cal" where exposures have zero points of their
        own.

    Returns
    -------
    QTable
        Columns of `crowdfit.catalog.AVERAGE_COLUMNS`, brightest star first. Fluxes are in the unit of the
        catalogues; if these differ, in the alphabetically first. Weights are 1 / flux_err^2, positions count
        alike; measurements without finite flux and positive error are left out. Where none remains, flux is
        NaN and the position the mean of all.

    Raises
    ------
    InputError
        No catalogue, missing columns, fluxes in units that do not go together, or a bad radius.
    """
    named = name_catalogs(catalogs, flux)
    if several not in ("sum", "flag"):
        raise InputError(f"several: {several!r} is not one of 'sum', 'flag'")
    reach = reach_for(named, radius)
    unit = common_unit(named)
    found = pool(named, reach, unit)
    found = replace(found, star=_assign_stars(found.points, reach.length)).sorted()
    merged = _merge_exposures(found, len(named)).sorted()
    values = _averages(merged, reach, left_out=several == "flag")
    _complain_if_crowded(values["n_several"], reach)
    metadata = _metadata(named, reach, several) | {"averaged_column": flux, "unit": unit}
    return make_table(AVERAGE_COLUMNS, values, unit, metadata)


def average_files(
    paths: Sequence[str | Path],
    out: str | Path,
    radius: Radius | None = None,
    several: Literal["sum", "flag"] = "sum",
    flux: str = "flux",
) -> QTable:
    """Average catalogue files and write the result; see `average_catalogs`.

    Parameters
    ----------
    paths : sequence of path
        Catalogues in any format that crowdfit writes.
    out : path
        File to write; the suffix is the format.

    Raises
    ------
    InputError
        Also for a file that cannot be read or is named twice, and an output that is one of the inputs.
    """
    files, out = [Path(path) for path in paths], Path(out)
    check_formats((out.suffix.lstrip("."),))
    resolved = [path.resolve() for path in files]
    if twins := sorted({str(path) for path in files if resolved.count(path.resolve()) > 1}):
        raise InputError(f"{twins[0]}: given twice, which would count its stars twice; name each file once")
    if out.resolve() in resolved:
        raise InputError(f"{out}: is one of the catalogues to average; choose another name for the result")
    table = average_catalogs({str(path): read_catalog(path) for path in files}, radius, several, flux)
    table.meta["sha256"] = "\n".join(f"{sha256_of(path)}  {path.name}" for path in files)
    write_catalog(table, out)
    return table


def _assign_stars(points: F64, length: float) -> I64:
    """Return the star (n,) of each detection; detections and stars are numbered from the brightest on."""
    if len(points) == 0:
        return np.zeros(0, np.int64)
    tree = KDTree(points)
    is_claimed = np.zeros(len(points), bool)
    stars = []
    for number in range(len(points)):
        if not is_claimed[number]:
            is_claimed[tree.query_ball_point(points[number], length)] = True
            stars.append(number)
    return _nearest(points, points[stars])[1]


def _merge_exposures(found: Detections, n_exposures: int) -> Detections:
    """Return one measurement for each star and exposure: sum of fluxes, errors in quadrature, centre of light."""
    _, first, entry, count = np.unique(
        found.star * n_exposures + found.exposure, return_index=True, return_inverse=True, return_counts=True
    )
    light = np.where(found.flux > 0, found.flux, 0.0)
    is_dark = (_sums(entry, len(first), light) == 0)[entry]
    weight = np.where(is_dark | (count[entry] == 1), 1.0, light)
    bits = np.zeros(len(first), np.uint32)
    np.bitwise_or.at(bits, entry, found.flags)
    return Detections(
        points=_sums(entry, len(first), weight, found.points) / _sums(entry, len(first), weight)[:, None],
        flux=_sums(entry, len(first), found.flux),
        err=np.sqrt(_sums(entry, len(first), found.err**2)),
        exposure=found.exposure[first],
        star=found.star[first],
        flags=bits,
        count=count,
    )


def _sums(group: I64, n: int, weight: F64, values: F64 | None = None) -> F64:
    """Return the sum of `weight` (times `values` (m, k)) over each of `n` groups, (n,) or (n, k)."""
    if values is None:
        return np.asarray(np.bincount(group, weight, minlength=n), np.float64)
    return np.stack([np.bincount(group, weight * column, minlength=n) for column in values.T], axis=-1)


def _averages(merged: Detections, reach: Reach, *, left_out: bool) -> dict[str, NDArray[Any]]:
    """Return the columns of the averaged catalogue from the measurements of each star on each exposure."""
    star, n = merged.star, int(merged.star.max(initial=-1)) + 1
    is_several = merged.count > 1
    usable = np.isfinite(merged.flux) & np.isfinite(merged.err) & (merged.err > 0)
    usable &= ~(is_several & left_out)
    n_averaged = np.bincount(star[usable], minlength=n)
    n_several = np.bincount(star[is_several], minlength=n)
    bits = np.zeros(n, np.uint32)
    np.bitwise_or.at(bits, star, merged.flags)
    bits[n_several > 0] |= flags.bit("several")
    return {
        "id": np.arange(n),
        **_mean_positions(merged.take(np.asarray(usable | (n_averaged == 0)[star])), n, n_averaged, reach),
        **_mean_fluxes(merged.take(usable), n, n_averaged),
        "n_detections": np.bincount(star, merged.count, minlength=n),
        "n_averaged": n_averaged,
        "n_several": n_several,
        "flags": bits,
    }


def _mean_positions(merged: Detections, n: int, n_averaged: I64, reach: Reach) -> dict[str, F64]:
    """Return mean position and scatter (n,) of the stars."""
    ones = np.ones(len(merged.star))
    centre = _sums(merged.star, n, ones, merged.points) / _sums(merged.star, n, ones)[:, None]
    first, second = reach.positions(centre)
    off = np.linalg.norm(merged.points - centre[merged.star], axis=1)
    scatter = reach.distances(_spread(merged.star, n_averaged, off))
    if reach.on_sky:
        return {"ra": without_jump(first), "dec": second, "sky_scatter": scatter}
    return {"x": first, "y": second, "pixel_scatter": scatter}


def _mean_fluxes(merged: Detections, n: int, n_averaged: I64) -> dict[str, F64]:
    """Return weighted mean flux, its error, scatter and magnitudes (n,); NaN where nothing is left."""
    weight = _sums(merged.star, n, merged.err**-2)
    plain = _sums(merged.star, n, merged.flux)
    with np.errstate(divide="ignore", invalid="ignore"):
        flux = _sums(merged.star, n, merged.err**-2 * merged.flux) / weight
        flux_err = np.where(weight > 0, weight**-0.5, np.nan)
        plain /= n_averaged
    scatter = _spread(merged.star, n_averaged, merged.flux - plain[merged.star])
    return {"flux": flux, "flux_err": flux_err, "flux_scatter": scatter, **brightness(flux, flux_err)}


def _spread(star: I64, count: I64, off: F64) -> F64:
    """Return the sample standard deviation (n,) from deviations `off` (m,); NaN where fewer than two."""
    squares = np.bincount(star, off**2, minlength=len(count))
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def _complain_if_crowded(n_several: I64, reach: Reach) -> None:
    """Say so when the match radius joins neighbours rather than detections of one star."""
    n = int(np.count_nonzero(n_several))
    if n > CROWDED * len(n_several):
        log.warning(
            "%d of %d stars have several detections of one exposure within %s: the match radius is large for "
            "this field, try a smaller one",
            n,
            len(n_several),
            reach.radius,
        )


def _metadata(named: Mapping[str, Table], reach: Reach, several: str) -> dict[str, str]:
    """Return what has to be known to repeat the average."""
    return {
        "crowdfit": __version__,
        "numpy": np.__version__,
        "match_radius": str(reach.radius),
        "several": several,
        "catalogs": "\n".join(named),
        **common_facts(named),
    }

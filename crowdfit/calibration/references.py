"""Tables that calibrate: zero points, CRDS photom, AB - Vega offsets, and aperture corrections.

Rows are chosen by name, never by position. CRDS tables of NIRCam tell filters apart by FILTER and PUPIL, those of MIRI
by FILTER and SUBARRAY; a filter in the pupil wheel has its name in PUPIL.
"""

import io
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from crowdfit.errors import InputError

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["ApertureCorrection", "aperture_correction", "read_offset", "read_rows", "read_table"]

Array = NDArray[Any]

ALIKE: Final = 0.02
"""Relative difference below which radii are the same."""
FORMATS: Final = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".vot": "votable", ".xml": "votable"}


class ApertureCorrection(NamedTuple):
    """Factor from the flux in an aperture to all light, the aperture's radius (pix) and encircled energy, and why."""

    factor: float
    radius: float
    eefraction: float
    note: str


def read_table(path: str | Path, extension: str = "") -> "Table":
    """Read a table: FITS (an extension by name, else the first table), ECSV, CSV, VOTable or text with a header.

    Column names become lower case.

    Raises
    ------
    InputError
        No such file, no table in it, or nothing that can be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units and dates of other programs
            table = _read_any(path, extension)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError) as exc:
        reason = str(exc).strip().splitlines()
        raise InputError(
            f"{path}: cannot be read as a table ({reason[0] if reason else type(exc).__name__}); give "
            "FITS, ECSV, CSV or "
            "text with column names"
        ) from exc
    for name in table.colnames:
        if name != name.lower() and name.lower() not in table.colnames:
            table.rename_column(name, name.lower())
    return table


def _read_any(path: Path, extension: str) -> "Table":
    from astropy.table import Table  # noqa: PLC0415 - slow to import

    suffixes = [suffix.lower() for suffix in path.suffixes]
    if any(suffix in (".fits", ".fit", ".fts") for suffix in suffixes):
        with fits.open(path) as hdus:
            tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
            named = [hdu for hdu in tables if hdu.name == extension.upper()] or tables
            if not named:
                raise InputError(f"{path}: has no table; give a FITS file with one")
            return Table(Table.read(named[0]), masked=False, copy=True)
    if path.suffix.lower() == ".parquet":
        from crowdfit.io.tables import read_catalog  # noqa: PLC0415 - needs an optional package

        return Table(read_catalog(path))
    fmt = FORMATS.get(path.suffix.lower(), "ascii")
    return Table.read(path, format=fmt, **({"comment": "#"} if fmt == "ascii.csv" else {}))


def read_rows(table: "Table", facts: Mapping[str, str], path: str | Path) -> "Table":
    """Return the rows of a calibration table that hold for an image.

    Parameters
    ----------
    table : Table
        With a column `filter`, and perhaps `detector`, `pupil` and `subarray`.
    facts : mapping of str to str
        BAND (the effective filter), DETECTOR and SUBARRAY; what is missing is not compared.
    path : path
        For messages.

    Raises
    ------
    InputError
        No column `filter`, or no row for the filter.
    """
    band = facts.get("BAND", "")
    if "filter" not in table.colnames:
        raise InputError(f"{path}: has no column filter; it has {', '.join(table.colnames)}")
    if not band:
        raise InputError(
            f"{path}: the header of the image names no FILTER, so no row can be chosen; add the keyword"
        )
    names = _words(table, "filter")
    if "pupil" in table.colnames:
        pupil = _words(table, "pupil")
        # the effective filter may stand in either wheel, with CLEAR or the blocker in the other
        is_ours = (pupil == band) | ((names == band) & np.isin(pupil, ("CLEAR", "N/A", "ANY", "GENERIC", "")))
    else:
        is_ours = names == band
    for key in ("detector", "subarray"):
        if key in table.colnames and (wanted := facts.get(key.upper(), "").upper()):
            given = _words(table, key)
            exact = is_ours & (given == wanted)
            anywhere = is_ours & np.isin(
                given, ("ANY", "GENERIC", "N/A", "", "FULL" if key == "subarray" else "ANY")
            )
            is_ours = exact if exact.any() else anywhere
    if not is_ours.any():
        where = ", ".join(f"{key} {facts[key]}" for key in ("DETECTOR", "SUBARRAY") if facts.get(key))
        known = ", ".join(sorted(set(names)))
        raise InputError(
            f"{path}: has no row for filter {band}{' and ' * bool(where)}{where}; it has {known}"
        )
    return table[is_ours]


def _words(table: "Table", name: str) -> Array:
    """Return a column of words in capitals without blanks around them."""
    values = table[name]
    texts = [
        value.decode() if isinstance(value, bytes) else str(value)
        for value in np.ma.filled(values, "").tolist()
    ]
    return np.char.upper(np.char.strip(np.asarray(texts, str)))


def read_offset(path: str | Path, facts: Mapping[str, str]) -> float:
    """Return m_AB - m_Vega (mag) from a CRDS abvegaoffset file (ASDF), or a table with filter, abvega_offset.

    Raises
    ------
    InputError
        The file cannot be read, needs asdf, or has no row for the filter.
    """
    path = Path(path)
    table = _offsets_of_asdf(path) if path.suffix.lower() == ".asdf" else read_table(path)
    if "abvega_offset" not in table.colnames:
        raise InputError(f"{path}: has no column abvega_offset; it has {', '.join(table.colnames)}")
    return float(read_rows(table, facts, path)["abvega_offset"][0])


def _offsets_of_asdf(path: Path) -> "Table":
    """Return the table in a CRDS abvegaoffset file."""
    from astropy.table import Table  # noqa: PLC0415 - slow to import

    try:
        asdf = import_module("asdf")
    except ImportError as exc:
        raise InputError(f"{path}: reading it needs asdf: pip install 'crowdfit[jwst]'") from exc
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with asdf.open(io.BytesIO(path.read_bytes()), lazy_load=False, memmap=False) as tree:
                found = tree["abvega_offset"]
                names = found.colnames if isinstance(found, Table) else list(found)
                return Table({name: np.asarray(found[name]) for name in names})
        except (ValueError, TypeError, KeyError, OSError, AttributeError) as exc:
            raise InputError(
                f"{path}: holds no table abvega_offset ({exc}); give a CRDS abvegaoffset file"
            ) from exc


def aperture_correction(
    table: "Table",
    facts: Mapping[str, str],
    path: str | Path,
    *,
    eefraction: float | None = None,
    radius: float | None = None,
    annulus: tuple[float, float] | None = None,
) -> ApertureCorrection:
    """Return the correction to all light from a CRDS apcorr table (P050, M033, M036).

    A value of `apcorr` holds only with the sky annulus of its own row, whose sky has light of the star in it. With
    another annulus, or none, the flux is divided by the encircled energy, which holds where the sky is far away.

    Parameters
    ----------
    table : Table
        Columns filter, pupil or subarray, eefraction, radius, apcorr, skyin, skyout; radii in detector pixels.
    facts : mapping of str to str
        As for `read_rows`.
    path : path
        For messages.
    eefraction : float, optional
        Chooses the row.
    radius : float, optional
        Radius of the aperture (detector pixels); with `eefraction` it has to be that of the row, without, the encircled
        energy is interpolated between rows.
    annulus : (float, float), optional
        Sky annulus of the measurement (detector pixels).

    Raises
    ------
    InputError
        Missing columns or rows, neither or contradicting eefraction and radius, or an annulus inside the starlight
        that is not that of the row.
    """
    needed = ("eefraction", "radius", "apcorr", "skyin", "skyout")
    if missing := [name for name in needed if name not in table.colnames]:
        raise InputError(f"{path}: has no column {', '.join(missing)}; give a CRDS apcorr file")
    rows = read_rows(table, facts, path)
    rows.sort("eefraction")
    energy, radii = (np.asarray(rows[name], np.float64) for name in ("eefraction", "radius"))
    if eefraction is None and radius is None:
        raise InputError(f"{path}: which aperture? Set calibration.eefraction or calibration.aperture_radius")
    if eefraction is None:
        assert radius is not None
        at = _row_at(radii, radius, ALIKE * radius)
    else:
        at = _row_at(energy, eefraction, 0.005)
        if at is None:
            listed = ", ".join(f"{value:g}" for value in energy)
            raise InputError(f"{path}: calibration.eefraction = {eefraction:g} is no row; it has {listed}")
        if radius is not None and abs(radius - radii[at]) > ALIKE * radii[at]:
            raise InputError(
                f"{path}: calibration.aperture_radius = {radius:g} pix is not the {radii[at]:g} pix of "
                "encircled energy "
                f"{energy[at]:g}; leave one of the two out"
            )
    if at is not None and annulus is not None:
        own = (float(rows["skyin"][at]), float(rows["skyout"][at]))
        if np.allclose(annulus, own, rtol=ALIKE):
            return ApertureCorrection(
                float(rows["apcorr"][at]),
                radii[at],
                energy[at],
                f"APCORR with its own annulus {own[0]:g}-{own[1]:g} pix",
            )
    total = float(energy[at]) if at is not None else _energy_at(radii, energy, float(radius or 0), path)
    if annulus is not None and annulus[0] < radii[-1]:
        raise InputError(
            f"{path}: calibration.sky_annulus begins at {annulus[0]:g} pix, where there is light of the "
            "star, and is not "
            f"that of the row; use the annulus of the row, or one beyond {radii[-1]:g} pix"
        )
    used = float(radii[at]) if at is not None else float(radius or 0)
    return ApertureCorrection(
        1 / total, used, total, f"divided by the encircled energy {total:.4g} at {used:g} pix"
    )


def _row_at(values: Array, wanted: float, tolerance: float) -> int | None:
    """Return the row whose value is the one wanted."""
    at = int(np.argmin(np.abs(values - wanted)))
    return at if abs(values[at] - wanted) <= tolerance else None


def _energy_at(radii: Array, energy: Array, radius: float, path: str | Path) -> float:
    """Return the encircled energy at a radius between those of the rows."""
    if not radii[0] <= radius <= radii[-1]:
        raise InputError(
            f"{path}: calibration.aperture_radius = {radius:g} pix is outside of the {radii[0]:g} to "
            f"{radii[-1]:g} pix of "
            "the table"
        )
    return float(np.interp(radius, radii, energy))

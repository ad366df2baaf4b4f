"""The catalogue as FITS, ECSV, CSV, VOTable or Parquet, with the same content in each (P075, P076).

Units, descriptions, UCDs and the metadata travel along in the way of each format: FITS cards (TUNIT, TCOMM,
TUCD), the ECSV header, a YAML comment block at the top of CSV, VOTable fields and INFO elements, Parquet
field metadata.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import yaml
from astropy import units as u
from astropy.io import fits, votable
from astropy.io.votable.tree import Info, VOTableFile
from astropy.table import QTable, Table

from crowdfit.errors import InputError
from crowdfit.io.atomic import atomic_path
from crowdfit.io.cards import add_metadata, read_metadata
from crowdfit.io.formats import check_formats, pyarrow
from crowdfit.io.units import astropy_comments, fits_unit, votable_unit

__all__ = ["read_catalog", "write_catalog"]

_FITS_CODES: Final = {"i8": "K", "i4": "J", "u4": "J", "f8": "D", "f4": "E"}
_UNSIGNED: Final = 2**31


def write_catalog(table: Table, path: str | Path) -> Path:
    """Write a catalogue in the format of the file's suffix; the file appears whole or not at all.

    Parameters
    ----------
    table : astropy Table or QTable
        As `crowdfit.catalog.build_catalog` makes it.
    path : str or Path
        Ends in .fits, .ecsv, .csv, .vot or .parquet; an older file is replaced.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        Unknown suffix, folder that cannot be written, or a missing package.
    """
    path = Path(path)
    check_formats((path.suffix.lstrip("."),))
    plain = Table(table, copy=False)  # Quantities become columns with units, which every writer knows
    with atomic_path(path) as temporary:
        _WRITERS[path.suffix.lower()](plain, temporary)
    return path


def read_catalog(path: str | Path) -> QTable:
    """Read a catalogue that `write_catalog` wrote, with units, descriptions, UCDs and metadata.

    Raises
    ------
    InputError
        If there is no such file, it is no catalogue, or the suffix is not one of ours.
    """
    path = Path(path)
    check_formats((path.suffix.lstrip("."),))
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        return QTable(_READERS[path.suffix.lower()](path))
    except (OSError, ValueError, KeyError, IndexError, TypeError, SyntaxError, yaml.YAMLError) as exc:
        reason = str(exc).strip().splitlines()
        raise InputError(
            f"{path}: cannot be read as a catalogue ({reason[0] if reason else type(exc).__name__}); give a "
            "file that crowdfit wrote"
        ) from exc


def _described(table: Table) -> dict[str, dict[str, str]]:
    """Return unit, description and UCD of every column; empty ones are left out."""
    facts = {}
    for name in table.colnames:
        info = table[name].info
        unit = "" if info.unit is None else info.unit.to_string()
        entries = {"unit": unit, "description": info.description, "ucd": (info.meta or {}).get("ucd")}
        facts[name] = {key: value for key, value in entries.items() if value}
    return facts


def _describe(table: Table, facts: dict[str, dict[str, str]]) -> None:
    """Give the columns of a table the unit, description and UCD in `facts`."""
    for name, entries in facts.items():
        info = table[name].info
        if entries.get("unit"):
            table[name].unit = u.Unit(entries["unit"], parse_strict="silent")
        info.description = entries.get("description")
        if entries.get("ucd"):
            info.meta = {"ucd": entries["ucd"]}


def _write_fits(table: Table, path: Path) -> None:
    facts = _described(table)
    columns = []
    for name in table.colnames:
        data = np.asarray(table[name])
        code = data.dtype.str[1:]
        offset = {"bzero": _UNSIGNED} if code == "u4" else {}
        unit = fits_unit(facts[name].get("unit", ""))
        columns.append(fits.Column(name, _FITS_CODES[code], unit=unit or None, array=data, **offset))
    hdu = fits.BinTableHDU.from_columns(columns, name="CATALOG")
    odd = {
        name: entries["unit"]
        for name, entries in facts.items()
        if entries.get("unit") and fits_unit(entries["unit"]) is None
    }
    for number, name in enumerate(table.colnames, start=1):
        hdu.header[f"TCOMM{number}"] = facts[name].get("description", "") + _in_brackets(odd.get(name, ""))
        hdu.header[f"TUCD{number}"] = facts[name].get("ucd", "")
        if name in odd:
            hdu.header[f"TXUNI{number}"] = (odd[name], "unit, which the FITS standard lacks")
    add_metadata(hdu.header, table.meta)
    for line in astropy_comments(odd):
        hdu.header.add_comment(line)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, checksum=True)


def _in_brackets(unit: str) -> str:
    return f" [{unit}]" if unit else ""


def _read_fits(path: Path) -> Table:
    with fits.open(path) as hdus:
        hdu = hdus["CATALOG"]
        header, data = hdu.header, hdu.data
        table = Table({column.name: np.array(data[column.name]) for column in hdu.columns})
    table = Table(
        {name: column.data.astype(column.dtype.newbyteorder("=")) for name, column in table.columns.items()}
    )
    _describe(table, {name: _facts(header, i) for i, name in enumerate(table.colnames, start=1)})
    table.meta = read_metadata(header)
    return table


def _facts(header: fits.Header, number: int) -> dict[str, str]:
    """Return unit, description and UCD of a column from its cards."""
    odd = header.get(f"TXUNI{number}", "")
    return {
        "unit": odd or header.get(f"TUNIT{number}", ""),
        "description": header.get(f"TCOMM{number}", "").removesuffix(_in_brackets(odd)),
        "ucd": header.get(f"TUCD{number}", ""),
    }


def _write_ecsv(table: Table, path: Path) -> None:
    plain = Table(table, copy=False)
    # blank lines of the header get lost, and YAML may write line breaks as such
    plain.meta = {
        key: value.split("\n") if isinstance(value, str) and "\n" in value else value
        for key, value in table.meta.items()
    }
    plain.write(path, format="ascii.ecsv", delimiter=",")


def _read_ecsv(path: Path) -> Table:
    table = Table.read(path, format="ascii.ecsv")
    table.meta = {
        key: "\n".join(value) if isinstance(value, list) else value for key, value in table.meta.items()
    }
    return table


def _write_csv(table: Table, path: Path) -> None:
    about = {"metadata": dict(table.meta), "columns": _described(table)}
    block = yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=10_000)
    rows = zip(*(table[name].tolist() for name in table.colnames), strict=True)
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(f"# {line}\n" for line in block.splitlines())
        stream.write(",".join(table.colnames) + "\n")
        stream.writelines(",".join(map(repr, row)) + "\n" for row in rows)


def _read_csv(path: Path) -> Table:
    with path.open(encoding="utf-8") as stream:
        block = [line[2:] for line in stream if line.startswith("# ")]
    about = yaml.safe_load("".join(block)) or {}
    table = Table.read(path, format="ascii.csv", comment="#")
    _describe(table, about.get("columns", {}))
    table.meta = about.get("metadata", {})
    return table


def _write_votable(table: Table, path: Path) -> None:
    wide = Table(table, copy=False)
    for name in wide.colnames:
        if wide[name].dtype == np.uint32:  # VOTable has no unsigned 32-bit integers
            wide[name] = wide[name].astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", votable.exceptions.VOWarning)  # an image unit VOUnits does not know
        document = VOTableFile.from_table(wide)
        for field in document.get_first_table().fields:
            unit = wide[field.name].unit
            field.unit = None if unit is None else votable_unit(unit.to_string())
        for key, value in table.meta.items():
            info = Info(name=key, value="text" if "\n" in str(value) else str(value))
            if "\n" in str(value):  # attributes cannot hold line breaks
                info.content = str(value)
            document.resources[0].infos.append(info)
        document.to_xml(str(path), tabledata_format="binary2")


def _read_votable(path: Path) -> Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", votable.exceptions.VOWarning)
        document = votable.parse(path)
    table = document.get_first_table().to_table()
    for name in table.colnames:
        table[name] = table[name].filled(np.nan if table[name].dtype.kind == "f" else 0)
        table[name].description = " ".join(
            (table[name].description or "").split()
        )  # written with line breaks
        if table[name].unit is not None:  # a quoted unit is a private one, even if astropy knows the name
            table[name].unit = u.Unit(str(table[name].unit), parse_strict="silent")
    table.meta = {info.name: info.content or info.value for info in document.resources[0].infos}
    return table


def _write_parquet(table: Table, path: Path) -> None:
    arrow, parquet = pyarrow("pyarrow"), pyarrow("pyarrow.parquet")
    facts = _described(table)
    arrays = [arrow.array(np.asarray(table[name])) for name in table.colnames]
    columns = [
        arrow.field(name, array.type, metadata=facts[name])
        for name, array in zip(table.colnames, arrays, strict=True)
    ]
    metadata = {key: str(value) for key, value in table.meta.items()}
    schema = arrow.schema(columns, metadata=metadata)
    parquet.write_table(arrow.Table.from_arrays(arrays, schema=schema), path)


def _read_parquet(path: Path) -> Table:
    content = pyarrow("pyarrow.parquet").read_table(path)
    table = Table({name: content[name].to_numpy() for name in content.column_names})
    facts = {
        field.name: {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        for field in content.schema
    }
    _describe(table, facts)
    table.meta = {key.decode(): value.decode() for key, value in (content.schema.metadata or {}).items()}
    return table


_WRITERS: Final[dict[str, Callable[[Table, Path], None]]] = {
    ".fits": _write_fits,
    ".ecsv": _write_ecsv,
    ".csv": _write_csv,
    ".vot": _write_votable,
    ".parquet": _write_parquet,
}
_READERS: Final[dict[str, Callable[[Path], Table]]] = {
    ".fits": _read_fits,
    ".ecsv": _read_ecsv,
    ".csv": _read_csv,
    ".vot": _read_votable,
    ".parquet": _read_parquet,
}

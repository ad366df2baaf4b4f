"""Lists of positions for forced photometry."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.world import sky_to_pixel

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["Positions", "check_fluxes", "check_positions", "read_positions"]

F64 = NDArray[np.float64]

PIXEL_NAMES: Final = (("x", "y"), ("xcentroid", "ycentroid"), ("x_0", "y_0"), ("x_fit", "y_fit"))
SKY_NAMES: Final = (("ra", "dec"), ("raj2000", "dej2000"), ("ra_icrs", "de_icrs"))
SHOWN: Final = 3
"""So many offending rows are named in a message."""
ABSURD: Final = 1e12
"""A flux of more than so many times the noise of a pixel is no star's, and single precision has no digits for it."""


class Positions(NamedTuple):
    """Where stars are known to be.

    x, y : (n,) float64, 0-based pixel positions. flux : (n,) float64 (image unit), or None if not given.
    """

    x: F64
    y: F64
    flux: F64 | None


def read_positions(
    path: str | Path, wcs: Any = None, *, frame: Literal["auto", "pixel", "sky"] = "auto"
) -> Positions:
    """Read a list of positions.

    Parameters
    ----------
    path : str or Path
        FITS, ECSV, CSV, VOTable or Parquet table, or plain text. Columns `x`, `y` (0-based pixels) or
        `ra`, `dec` (ICRS, deg), and optionally `flux`; text without column names is x, y and maybe flux.
    wcs : astropy.wcs.WCS, optional
        Of the image, for `ra`, `dec`.
    frame : {"auto", "pixel", "sky"}
        Which columns to use; auto prefers pixels.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, lacks the columns, or holds positions that are not finite.
    """
    path = Path(path)
    columns = _columns_of(path)
    x, y = _pixel_positions(columns, path, wcs, frame)
    bad = ~(np.isfinite(x) & np.isfinite(y))
    if bad.any():
        raise InputError(
            f"{path}: {np.count_nonzero(bad)} of {len(x)} positions are not finite, first in row "
            f"{np.flatnonzero(bad)[0] + 1}; remove these rows"
        )
    flux = columns.get("flux")
    return Positions(x, y, None if flux is None else np.where(np.isnan(flux), 0.0, flux))


def check_positions(positions: Positions, shape: tuple[int, int], name: str = "positions") -> None:
    """Refuse a list that lies wholly or partly outside an image; outer pixel edges still count as inside.

    Parameters
    ----------
    positions : Positions
        The list.
    shape : (int, int)
        Rows and columns of the image.
    name : str
        For the message.

    Raises
    ------
    InputError
        If a position is outside, or the columns differ in length.
    """
    ny, nx = shape
    lengths = {key: len(part) for key, part in positions._asdict().items() if part is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{n} of {key}" for key, n in lengths.items())
        raise InputError(f"{name}: columns of different length ({found}); give each star all of them")
    inside = (
        (positions.x >= -0.5) & (positions.x <= nx - 0.5) & (positions.y >= -0.5) & (positions.y <= ny - 0.5)
    )
    n = len(inside)
    if n and inside.all():
        return
    if n == 0:
        raise InputError(f"{name}: the list is empty; give at least one position")
    rows = np.flatnonzero(~inside)
    shown = ", ".join(f"row {i + 1} at x {positions.x[i]:.1f}, y {positions.y[i]:.1f}" for i in rows[:SHOWN])
    how_many = "all" if len(rows) == n else f"{len(rows)} of"
    raise InputError(
        f"{name}: {how_many} {n} positions lie outside the image of {nx} x {ny} pixels ({shown}); x, y count "
        "from 0, so check the list, its origin and the WCS, or remove these rows"
    )


def check_fluxes(flux: F64, noise: float, name: str = "positions") -> None:
    """Refuse a list with fluxes out of all proportion to an image.

    Parameters
    ----------
    flux : ndarray (n,) float64
        Fluxes (image unit).
    noise : float
        Noise of a pixel (image unit).
    name : str
        For the message.

    Raises
    ------
    InputError
        If a flux is infinite, or above `ABSURD` times the noise.
    """
    rows = np.flatnonzero(~(np.abs(flux) <= ABSURD * noise))
    if len(rows):
        raise InputError(
            f"{name}: {len(rows)} of {len(flux)} fluxes are out of range, first {flux[rows[0]]:g} in row "
            f"{rows[0] + 1}; with a noise of {noise:.3g} per pixel they must lie within {ABSURD * noise:.3g}: "
            "correct them, or leave the column out"
        )


def _columns_of(path: Path) -> dict[str, F64]:
    """Return the numeric columns of a table file by lower-case name."""
    try:
        table = _read_table(path)
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file; check the path") from exc
    except (OSError, ValueError, TypeError, IndexError) as exc:
        reason = str(exc).strip().splitlines()
        raise InputError(
            f"{path}: cannot be read as a table ({reason[0] if reason else type(exc).__name__}); give FITS, "
            "ECSV, CSV or text with columns x, y"
        ) from exc
    if len(table) == 0:
        raise InputError(f"{path}: the list is empty; give at least one position")
    if "col1" in table.colnames and len(table.colnames) >= 2:
        table.rename_columns(table.colnames[:3], ["x", "y", "flux"][: len(table.colnames)])
    numeric = [name for name in table.colnames if table[name].dtype.kind in "iuf" and table[name].ndim == 1]
    return {
        name.lower(): np.ma.filled(table[name].astype(float), np.nan).view(np.ndarray) for name in numeric
    }


def _read_table(path: Path) -> "Table":
    """Read a table by suffix; of a FITS file the first table that has positions."""
    from astropy.io import ascii as ascii_tables  # noqa: PLC0415 - tables are slow to import, lists are rare
    from astropy.table import Table  # noqa: PLC0415

    from crowdfit.io.tables import read_catalog  # noqa: PLC0415

    suffixes = [suffix.lower() for suffix in path.suffixes]
    if any(suffix in (".fits", ".fit", ".fts") for suffix in suffixes):
        with fits.open(path) as hdus:
            tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
            names = [{name.lower() for name in hdu.columns.names} for hdu in tables]
            wanted = [set(pair) for pair in PIXEL_NAMES + SKY_NAMES]
            for hdu, found in zip(tables, names, strict=True):
                if any(pair <= found for pair in wanted):
                    return Table.read(hdu)
            raise InputError(f"{path}: no table with columns x, y or ra, dec in this file; name another file")
    formats = {".ecsv": "ascii.ecsv", ".vot": "votable", ".xml": "votable"}
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return Table(read_catalog(path))
    if suffix in formats:
        return Table.read(path, format=formats[suffix])
    if suffix == ".csv":
        return Table.read(path, format="ascii.csv", comment="#")
    return ascii_tables.read(path)


def _pixel_positions(columns: dict[str, F64], path: Path, wcs: Any, frame: str) -> tuple[F64, F64]:
    """Return x and y from the first pair of columns that fits, through the WCS where needed."""
    if frame != "sky":
        for x, y in PIXEL_NAMES:
            if x in columns and y in columns:
                return columns[x], columns[y]
    if frame != "pixel":
        for ra, dec in SKY_NAMES:
            if ra in columns and dec in columns:
                if wcs is None:
                    raise InputError(f"{path}: has {ra}, {dec} but the image has no WCS; give x, y in pixels")
                return sky_to_pixel(wcs, columns[ra], columns[dec])
    wanted = {"auto": "x, y or ra, dec", "pixel": "x, y", "sky": "ra, dec"}[frame]
    raise InputError(f"{path}: no columns {wanted}; it has {', '.join(columns) or 'no numbers'}: rename them")

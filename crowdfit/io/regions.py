"""Catalogues as DS9 region files: a circle for every star."""

from pathlib import Path

import numpy as np
from astropy.table import Table

from crowdfit.errors import InputError
from crowdfit.io.atomic import atomic_path

__all__ = ["write_regions"]

FITS_OFFSET = 1
"""DS9 counts pixels from 1."""


def write_regions(table: Table, path: str | Path, radius: float | None = None, colour: str = "green") -> Path:
    """Write a circle for every row of a catalogue, with its id; return the file.

    Parameters
    ----------
    table : Table
        With `ra`, `dec` (deg), or `x`, `y` (pix, from 0). Rows whose position is not finite are left out.
    path : str or Path
        File to write.
    radius : float, optional
        Radius of the circles: arcsec on the sky, pix without sky positions. Default 0.1 arcsec, 2 pix.
    colour : str
        One that DS9 knows.

    Raises
    ------
    InputError
        No positions, or a radius that is not positive.
    """
    on_sky = {"ra", "dec"} <= set(table.colnames)
    if not on_sky and not {"x", "y"} <= set(table.colnames):
        raise InputError(f"{path}: the catalogue has neither ra, dec nor x, y; give one that crowdfit wrote")
    size = (0.1 if on_sky else 2.0) if radius is None else radius
    if not (np.isfinite(size) and size > 0):
        raise InputError(f"radius: {radius} is refused; it must be positive")
    names = ("ra", "dec") if on_sky else ("x", "y")
    first, second = (np.asarray(getattr(table[name], "value", table[name]), np.float64) for name in names)
    labels = np.asarray(table["id"]).tolist() if "id" in table.colnames else range(len(table))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(
            f"# Region file format: DS9\nglobal color={colour} width=1\n{'icrs' if on_sky else 'image'}\n"
        )
        for label, a, b in zip(labels, first.tolist(), second.tolist(), strict=True):
            if not np.isfinite([a, b]).all():
                continue
            if on_sky:
                stream.write(f'circle({a % 360:.8f},{b:.8f},{size:g}") # tag={{{label}}}\n')
            else:
                stream.write(
                    f"circle({a + FITS_OFFSET:.4f},{b + FITS_OFFSET:.4f},{size:g}) # tag={{{label}}}\n"
                )
    return Path(path)

"""PSFs on a grid of field positions: STDPSF files (HST, JWST) and the grids of STPSF, which was WebbPSF.

Both hold effective PSFs, pixel response included, as a FITS cube whose first axis (NAXIS3) counts positions.

STDPSF (Anderson 2016, WFC3 ISR 2016-12): four samples per pixel, centre on the middle sample, row by row with x varying
fastest; positions in IPSFX.., JPSFY.. count pixels from 1. Files of instruments with several chips hold all of them.

STPSF (`psf_grid`): OVERSAMP samples per pixel, centre in the middle of the array, which is between two samples when its
sides are even. Keywords DET_YX0, DET_YX1, ... hold ``(y, x)``, counted from 0. Up to version 1.2 planes follow the
keywords; from 1.3 on they are sorted row by row with x varying fastest, while the keywords have kept their order, x
varying slowest (https://github.com/spacetelescope/webbpsf/pull/779).
"""

import ast
import logging
import re
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Grid
from crowdfit.psf.resample import centred

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

STDPSF_OVERSAMPLE = 4
"""Samples per pixel of every STDPSF file; no keyword says so."""
SORTED_SINCE = (1, 3)
"""Version of WebbPSF (and STPSF) from which planes are sorted by position and the keywords are not."""


@dataclass(frozen=True)
class Chips:
    """Chips side by side in a STDPSF file: how many along x and y, pixels of one, and where each is.

    `place` gives for every number that `psf.detector` may have the column and row of the chip, from the bottom left.
    """

    nx: int
    ny: int
    size: tuple[int, int]
    place: MappingProxyType[int, tuple[int, int]]
    names: str


_PAIR = MappingProxyType({1: (0, 0), 2: (0, 1)})
CHIPS = MappingProxyType(
    {
        # the key is the number of positions in x and y
        (9, 10): Chips(1, 2, (4096, 2048), _PAIR, "1 (lower chip: WFC2), 2 (WFC1)"),
        (7, 8): Chips(1, 2, (4096, 2048), _PAIR, "1 (lower chip: UVIS2), 2 (UVIS1)"),
        (6, 6): Chips(
            2, 2, (800, 800), MappingProxyType({1: (1, 1), 2: (0, 1), 3: (0, 0), 4: (1, 0)}),
            "1 (PC), 2 (WF2), 3 (WF3), 4 (WF4)",
        ),
        (20, 10): Chips(
            4, 2, (2048, 2048),
            MappingProxyType(
                {1: (0, 0), 3: (1, 0), 8: (2, 0), 6: (3, 0), 2: (0, 1), 4: (1, 1), 7: (2, 1), 5: (3, 1)}
            ),
            "1 to 4 (A1 to A4), 5 to 8 (B1 to B4)",
        ),
    }
)  # fmt: skip
"""STDPSF files with several chips, by the number of positions in x and y; numbers are those of photutils."""


def is_stdpsf(header: fits.Header) -> bool:
    """Return whether a header is that of a STDPSF cube."""
    return all(key in header for key in ("NAXIS3", "NXPSFS", "NYPSFS"))


def is_stpsf_grid(header: fits.Header) -> bool:
    """Return whether a header is that of a grid of STPSF."""
    return "DET_YX0" in header


def read_stdpsf(cube: F64, header: fits.Header, path: str, detector: int | str | None = None) -> EPSF:
    """Return the PSF of a STDPSF cube (n, sy, sx).

    Parameters
    ----------
    cube : ndarray (n, sy, sx)
        The planes.
    header : astropy.io.fits.Header
        With NXPSFS, NYPSFS and the positions.
    path : str
        The file, for messages.
    detector : int, str or None
        Number of the chip in a file of several (see `CHIPS`).

    Raises
    ------
    InputError
        Positions that are missing or do not match the planes, or a chip that is not there.
    """
    nx, ny = (_whole(header, key, path) for key in ("NXPSFS", "NYPSFS"))
    x, y = _stdpsf_positions(header, "X", nx, path), _stdpsf_positions(header, "Y", ny, path)
    if nx * ny != len(cube):
        raise InputError(
            f"{path}: NXPSFS {nx} times NYPSFS {ny} is not the number of planes, {len(cube)}; the file is damaged"
        )
    planes = cube.reshape(ny, nx, *cube.shape[1:])
    chips = CHIPS.get((nx, ny))
    if chips is not None:
        x, y, planes = _chip(chips, x, y, planes, path, detector)
    elif detector is not None:
        raise InputError(
            f"{path}: psf.detector {detector!r} is refused, since the file holds one chip; leave it out"
        )
    return _gridded(planes.reshape(-1, *cube.shape[1:]), x, y, STDPSF_OVERSAMPLE, path)


def _chip(
    chips: Chips, x: F64, y: F64, planes: F64, path: str, detector: int | str | None
) -> tuple[F64, F64, F64]:
    """Return positions and planes (ny, nx, sy, sx) of one chip of several."""
    if detector is None or not str(detector).isdigit() or int(detector) not in chips.place:
        raise InputError(
            f"{path}: the file holds {len(chips.place)} chips and psf.detector is {detector}; set it to one of "
            f"{chips.names}"
        )
    col, row = chips.place[int(detector)]
    nx, ny = len(x) // chips.nx, len(y) // chips.ny
    here_x, here_y = slice(col * nx, (col + 1) * nx), slice(row * ny, (row + 1) * ny)
    return x[here_x] - col * chips.size[0], y[here_y] - row * chips.size[1], planes[here_y, here_x]


def _stdpsf_positions(header: fits.Header, axis: str, n: int, path: str) -> F64:
    """Return the n positions along an axis, counted from 0.

    One keyword each, or, in files of many positions, five in a keyword.
    """
    letter = {"X": "I", "Y": "J"}[axis]
    keys = [f"{letter}PSF{axis}{i:02d}" for i in range(1, n + 1)]
    if keys[0] in header:
        values = [header.get(key) for key in keys]
    else:
        rows = sorted(key for key in header if re.fullmatch(f"{letter}PSF{axis}[A-Z]5", key))
        values = [value for key in rows for value in str(header[key]).split()][:n]
    try:
        positions = np.array(values, np.float64) - 1
    except (TypeError, ValueError):
        positions = np.full(0, np.nan)
    if len(positions) != n or np.any(np.diff(positions) < 0):
        raise InputError(
            f"{path}: keywords {letter}PSF{axis}.. hold {values}; {n} positions that increase are needed"
        )
    return positions


def read_stpsf_grid(cube: F64, header: fits.Header, path: str, oversample: int | None = None) -> EPSF:
    """Return the PSF of a grid (n, sy, sx) written by `psf_grid` of STPSF or WebbPSF.

    Parameters
    ----------
    cube : ndarray (n, sy, sx)
        The planes.
    header : astropy.io.fits.Header
        With DET_YX0, DET_YX1, ... and OVERSAMP.
    path : str
        The file, for messages.
    oversample : int or None
        Samples per pixel instead of OVERSAMP.

    Raises
    ------
    InputError
        Positions that are missing, are no rectangular grid, or do not match the planes.
    """
    labels = [_position(header, f"DET_YX{i}", path) for i in range(len(cube))]
    if f"DET_YX{len(cube)}" in header:
        raise InputError(f"{path}: more DET_YX keywords than planes ({len(cube)}); the file is damaged")
    y, x = (np.unique([label[axis] for label in labels]) for axis in (0, 1))
    by_row = sorted(labels)
    if by_row != [(row, col) for row in y for col in x]:
        raise InputError(
            f"{path}: the positions in DET_YX0 to DET_YX{len(cube) - 1} are no rectangular grid; make the grid of PSFs "
            "without psf_location_list"
        )
    order = list(range(len(cube)))
    if labels != by_row and not _is_sorted(header, path):
        order = [labels.index(place) for place in by_row]
    factor = oversample if oversample is not None else _whole(header, "OVERSAMP", path)
    return _gridded(cube[order], x, y, factor, path)


def _position(header: fits.Header, key: str, path: str) -> tuple[float, float]:
    """Return the (y, x) in a keyword."""
    try:
        y, x = ast.literal_eval(str(header[key]))
        return float(y), float(x)
    except (KeyError, ValueError, SyntaxError, TypeError) as problem:
        raise InputError(
            f"{path}: {key} is {header.get(key)!r}; a position '(y, x)' for every plane is needed"
        ) from problem


def _is_sorted(header: fits.Header, path: str) -> bool:
    """Return whether planes are sorted by position, whatever the order of the keywords."""
    found = re.match(r"(\d+)\.(\d+)", str(header.get("VERSION", "")))
    if not found:
        log.warning(
            "%s: no VERSION says which WebbPSF or STPSF made this grid; planes are taken to follow the DET_YX "
            "keywords, as before 1.3. If the PSF of one corner shows up in another, add the keyword", path
        )  # fmt: skip
        return False
    return (int(found[1]), int(found[2])) >= SORTED_SINCE


def _gridded(planes: F64, x: F64, y: F64, oversample: int, path: str) -> EPSF:
    """Return the PSF of planes ordered row by row."""
    try:
        grid = Grid(tuple(x.tolist()), tuple(y.tolist()))
        if len(planes) == 1:
            return EPSF.from_samples(centred(planes)[0], oversample)
        return EPSF.from_planes(centred(planes), oversample, grid)
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from problem


def _whole(header: fits.Header, key: str, path: str) -> int:
    """Return a keyword that must be a whole number from 1 to 20."""
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(1, 21):
        raise InputError(f"{path}: {key} is {value!r}; a whole number from 1 to 20 is needed")
    return int(value)

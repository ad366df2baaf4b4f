"""PSF models of PSFEx (Bertin 2011, ASP Conf. 442, 435): polynomials over the field of tables of any step.

A .psf file has a table with one cell PSF_MASK (n_terms, sy, sx) for each extension of the image. Samples are PSF_SAMP
pixels apart, the centre is sample ``s // 2``, and between samples PSFEx interpolates with a Lanczos kernel. Terms are
monomials of ``(X - POLZERO) / POLSCAL``, X counted from 1 as SExtractor does; the power of the first variable of a
group runs fastest: 1, x, x^2, y, xy, y^2 for degree 2. The pixel is included: the tables are fitted to pixel values.

The same as one row of a table with columns psf_mask, psf_samp, polzero1, ... for each CCD is how the Legacy Surveys
keep the models of DECam.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Constant, Polynomial
from crowdfit.psf.resample import lanczos

F64 = NDArray[np.float64]

FINENESS = 3
"""Samples of ours for one of PSFEx, at least: the spline through them follows the Lanczos kernel."""
FINEST = 12
"""Most samples per pixel of ours."""
LARGEST_STEP = 4.0
"""Coarsest PSF_SAMP (pix); PSFEx itself warns above 1."""


def is_psfex(hdus: fits.HDUList) -> bool:
    """Return whether a file has a table with a column PSF_MASK."""
    return bool(_tables(hdus))


def read_psfex(hdus: fits.HDUList, path: str, detector: int | str | None = None) -> EPSF:
    """Return the PSF of a PSFEx model.

    Parameters
    ----------
    hdus : HDUList
        The file.
    path : str
        Its name, for messages.
    detector : int, str or None
        Which of several models: number of the extension or row, from 1, or the value of a column `ccdname`.

    Raises
    ------
    InputError
        Several models and no choice, variables that are no positions, or keywords that contradict the table.
    """
    models = list(_models(hdus))
    detector = None if detector is None else str(detector)
    names = [name for name, _, _ in models]
    if detector is None and len(models) > 1:
        raise InputError(
            f"{path}: the file holds {len(models)} models and psf.detector is not set; give 1 to {len(models)}"
            + (f", or one of {', '.join(names)}" if names[0] != "1" else "")
        )
    number = int(detector) - 1 if detector is not None and detector.isdigit() else None
    if detector is None:
        number = 0
    elif detector in names:
        number = names.index(detector)
    if number is None or not 0 <= number < len(models):
        raise InputError(
            f"{path}: psf.detector {detector!r} is not there; give 1 to {len(models)}, or one of {', '.join(names)}"
        )
    _, keys, mask = models[number]
    return _psf(keys, mask, path)


def _tables(hdus: fits.HDUList) -> list[fits.BinTableHDU]:
    """Return the tables that hold models."""
    tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
    return [hdu for hdu in tables if "PSF_MASK" in (name.upper() for name in hdu.columns.names)]


def _models(hdus: fits.HDUList) -> Iterator[tuple[str, Mapping[str, Any], F64]]:
    """Yield name, keywords and coefficients (n_terms, sy, sx) of every model in a file."""
    for number, hdu in enumerate(_tables(hdus), 1):
        columns = {name.upper(): name for name in hdu.columns.names}
        for row in hdu.data:
            mask = np.asarray(row[columns["PSF_MASK"]], np.float64)
            if "PSF_SAMP" in columns:
                keys = {key: row[name] for key, name in columns.items() if key != "PSF_MASK"}
                yield str(keys.get("CCDNAME", number)).strip(), keys, mask
            else:
                yield str(number), hdu.header, mask


def _psf(keys: Mapping[str, Any], mask: F64, path: str) -> EPSF:
    """Return the PSF of a model."""
    step = _number(keys, "PSF_SAMP", path)
    if not 0 < step <= LARGEST_STEP:
        raise InputError(
            f"{path}: PSF_SAMP is {step:g}; a step above 0 and up to {LARGEST_STEP:g} pixels is needed"
        )
    powers = _powers(keys, path)
    planes = mask[np.newaxis] if mask.ndim == 2 else mask
    if planes.ndim != 3 or len(planes) != len(powers):
        raise InputError(
            f"{path}: PSF_MASK has shape {mask.shape}, and the POL.. keywords ask for {len(powers)} planes; the file "
            "is damaged, or padded to the size of other models"
        )
    oversample = min(max(int(np.ceil(FINENESS / step)), 1), FINEST)
    fine = lanczos(planes, step, oversample)
    field, terms = _field(keys, powers, path)
    try:
        return EPSF.from_planes(np.tensordot(terms, fine, 1), oversample, field)
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from problem


def _powers(keys: Mapping[str, Any], path: str) -> list[tuple[int, ...]]:
    """Return the powers of the variables in every term, in the order of the planes."""
    n = int(_number(keys, "POLNAXIS", path)) if "POLNAXIS" in keys else 0
    if n == 0:
        return [()]
    groups = [int(_number(keys, f"POLGRP{i}", path)) for i in range(1, n + 1)]
    degrees = {g: int(_number(keys, f"POLDEG{g}", path)) for g in sorted(set(groups))}
    if min(degrees.values()) < 0 or max(degrees.values()) > 10:
        raise InputError(f"{path}: POLDEG is {list(degrees.values())}; degrees from 0 to 10 are needed")
    powers: list[tuple[int, ...]] = [()]
    # from the last variable, which varies slowest, to the first; a group shares its degree
    for i in reversed(range(n)):
        longer = []
        for later in powers:
            used = sum(p for p, g in zip(later, groups[i + 1 :], strict=True) if g == groups[i])
            longer += [(p, *later) for p in range(degrees[groups[i]] - used + 1)]
        powers = longer
    return powers


def _field(
    keys: Mapping[str, Any], powers: list[tuple[int, ...]], path: str
) -> tuple[Constant | Polynomial, F64]:
    """Return the polynomial of ours, and the matrix (n_basis, n_terms) that makes its planes from those of PSFEx.

    POLSCAL is the whole range of the variable, our unit is half of it; a position counted from 1 is one larger.
    """
    order = max(sum(term) for term in powers)
    if order == 0:
        return Constant(), np.ones((1, 1))
    axes = [_axis(str(keys.get(f"POLNAME{i}", "")), i, path) for i in range(1, len(powers[0]) + 1)]
    if len(set(axes)) != len(axes):
        raise InputError(f"{path}: POLNAME1 and POLNAME2 are the same axis; X and Y positions are needed")
    origin, scale = [0.0, 0.0], [1.0, 1.0]
    for i, axis in enumerate(axes, 1):
        origin[axis] = _number(keys, f"POLZERO{i}", path) - 1
        scale[axis] = _number(keys, f"POLSCAL{i}", path) / 2
        if not scale[axis] > 0:
            raise InputError(f"{path}: POLSCAL{i} is {2 * scale[axis]:g}; a range above 0 pixels is needed")
    terms = np.zeros(((order + 1) * (order + 2) // 2, len(powers)))
    for k, term in enumerate(powers):
        x, y = (sum(p for p, axis in zip(term, axes, strict=True) if axis == a) for a in (0, 1))
        degree = x + y
        terms[degree * (degree + 1) // 2 + y, k] = 0.5**degree
    return Polynomial(order, (origin[0], origin[1]), (scale[0], scale[1])), terms


def _axis(name: str, number: int, path: str) -> int:
    """Return 0 for a variable that is a column of the image, 1 for a row."""
    name = name.strip()
    if name[:1] in ("X", "Y") and name.endswith("_IMAGE"):
        return "XY".index(name[0])
    raise InputError(
        f"{path}: POLNAME{number} is {name!r}, which is no position on the image; run PSFEx with PSFVAR_KEYS "
        "X_IMAGE,Y_IMAGE"
    )


def _number(keys: Mapping[str, Any], key: str, path: str) -> float:
    """Return a keyword that must be a number."""
    try:
        value = float(keys[key])
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(
            f"{path}: {key} is {keys.get(key)!r}; a number is needed beside PSF_MASK, as PSFEx writes it"
        ) from problem
    if not np.isfinite(value):
        raise InputError(f"{path}: {key} is {value}; a finite number is needed")
    return value

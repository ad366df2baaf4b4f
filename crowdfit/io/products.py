"""The files a fit leaves behind: their names, the catalogue, and the image of model, sky and residual."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from astropy.io import fits

from crowdfit.io.atomic import atomic_path, check_writable
from crowdfit.io.cards import add_metadata
from crowdfit.io.formats import check_formats
from crowdfit.io.hdus import file_stem

if TYPE_CHECKING:
    from astropy.table import QTable

    from crowdfit.exposure import Exposure
    from crowdfit.result import FitResult

__all__ = ["check_output", "image_header", "product_path", "write_all", "write_fit_image", "write_products"]

_NAMES: Final = {"fit": "_fit.fits", "run": "_run.h5", "report": "_report.html"}


def product_path(
    directory: str | Path,
    name: str,
    product: Literal["catalog", "fit", "run", "report"],
    suffix: str = "fits",
) -> Path:
    """Return where a product of the exposure called `name` goes; `suffix` is the format of a catalogue."""
    return Path(directory) / f"{file_stem(name)}{_NAMES.get(product, f'_catalog.{suffix}')}"


def check_output(directory: str | Path, formats: Sequence[str] = ("fits",)) -> Path:
    """Make the output folder and prove, before the fit starts, that everything can be written there (P103).

    Raises
    ------
    InputError
        Folder that cannot be written, unknown format, or a missing package.
    """
    check_formats(tuple(formats))
    return check_writable(directory)


def write_products(
    result: "FitResult", directory: str | Path, formats: Sequence[str] = ("fits",)
) -> list[Path]:
    """Write the catalogue in every format, and the fit image.

    Parameters
    ----------
    result : FitResult
        A finished fit.
    directory : str or Path
        Output folder; made if missing.
    formats : sequence of str
        Catalogue formats, see `crowdfit.io.formats.FORMATS`.

    Returns
    -------
    list of Path
        What was written, catalogues first.

    Raises
    ------
    InputError
        If the folder cannot be written, or a format is unknown.
    """
    return write_all(result.catalog, result.exposure.name, (result,), directory, formats)


def write_all(
    catalog: "QTable",
    name: str,
    results: Sequence["FitResult"],
    directory: str | Path,
    formats: Sequence[str],
) -> list[Path]:
    """Write a catalogue called `name` in every format, and the fit image of each result; return what was written."""
    from crowdfit.io.tables import write_catalog  # noqa: PLC0415 - tables are slow to import

    directory = check_output(directory, formats)
    written = [write_catalog(catalog, product_path(directory, name, "catalog", suffix)) for suffix in formats]
    images = [write_fit_image(one, product_path(directory, one.exposure.name, "fit")) for one in results]
    return written + images


def write_fit_image(result: "FitResult", path: str | Path) -> Path:
    """Write MODEL, SKY, RESIDUAL and PSF as extensions of one FITS file, and STRUCTURE where the sky has such.

    Where extended sources were looked for, SEGMAP has their outlines and SEGMENTS is the table of them.

    RESIDUAL is data - sky - model, and 0 where a pixel is not used; STRUCTURE is noise (`Frame.structure`). The
    image extensions carry the WCS and the unit; the primary header holds the metadata. PSF is the table with
    OVERSAMP samples per pixel, its values per native pixel.

    Parameters
    ----------
    result : FitResult
        A finished fit.
    path : str or Path
        File to write, whole or not at all.

    Returns
    -------
    Path
        The file.
    """
    from crowdfit.psf.stored import psf_hdu  # noqa: PLC0415 - what compiles is slow to import

    path = Path(path)
    primary = fits.PrimaryHDU()
    add_metadata(primary.header, result.metadata)
    header = image_header(result.exposure)
    planes = {"MODEL": result.model, "SKY": result.sky, "RESIDUAL": result.residual}
    if result.structure is not None:
        planes["STRUCTURE"] = result.structure
    images = [
        fits.ImageHDU(np.asarray(plane, np.float32), header=header, name=name)
        for name, plane in planes.items()
    ]
    with atomic_path(path) as temporary:
        fits.HDUList([primary, *images, psf_hdu(result.psf), *_segment_hdus(result, header)]).writeto(
            temporary, checksum=True
        )
    return path


def _segment_hdus(result: "FitResult", header: fits.Header) -> list[Any]:
    """Return outlines and catalogue of extended sources; nothing where they were not looked for."""
    from crowdfit.catalog import build_segments  # noqa: PLC0415 - tables are slow to import

    if result.segments is None:
        return []
    plain = header.copy()
    plain.remove("BUNIT", ignore_missing=True)
    table = fits.table_to_hdu(build_segments(result.segments.columns, result.exposure))
    table.name = "SEGMENTS"
    return [fits.ImageHDU(result.segments.outline, header=plain, name="SEGMAP"), table]


def image_header(exposure: "Exposure") -> fits.Header:
    """Return WCS and unit of an exposure as a header."""
    if exposure.wcs is None:
        header = fits.Header()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a header cannot hold was noted when it was read
            header = exposure.wcs.to_header(relax=True)
    if exposure.unit:
        header["BUNIT"] = exposure.unit
    return header

"""A small picture of a fit, for a README: image, model and residual of a box side by side.

``python -m crowdfit.report.picture OUT/field_fit.fits field.fits field.png`` makes it from files.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

from crowdfit.config import load_config
from crowdfit.errors import CrowdfitError, InputError
from crowdfit.exposure import Image
from crowdfit.io.atomic import atomic_path
from crowdfit.io.fits import read_exposure
from crowdfit.report import images
from crowdfit.report.pixels import Planes
from crowdfit.report.places import Place, box_around

if TYPE_CHECKING:
    from crowdfit.result import FitResult

SIZE = 256
"""Default side of the box (pix)."""


def picture(result: "FitResult", size: int = SIZE, centre: tuple[float, float] | None = None) -> bytes:
    """Return the picture of a fit as PNG.

    Parameters
    ----------
    result : FitResult
    size : int
        Side of the box (pix); the box is moved inside the image and cut to it.
    centre : tuple of float or None
        Middle of the box, x and y (pix); None: the middle of the image.
    """
    return _draw(Planes.of(result.frame), size, centre)


def picture_of_files(
    fit: str | Path,
    image: str | Path,
    config: str | Path | None = None,
    size: int = SIZE,
    centre: tuple[float, float] | None = None,
) -> bytes:
    """Return the picture of a fit from its files, as `picture` does in memory.

    Parameters
    ----------
    fit : str or Path
        File `*_fit.fits` written by `FitResult.write`.
    image : str or Path
        The image that was fitted, for its noise and mask.
    config : str, Path or None
        Configuration of the fit, for how the image is read.
    size, centre
        As in `picture`.

    Raises
    ------
    InputError
        If a file cannot be read, is not a fit, or the two do not belong together.
    """
    model, sky, resid, structure = _read_fit(fit)
    exposure = read_exposure(image, load_config(config).input)
    if exposure.shape != model.shape:
        raise InputError(
            f"{fit}: shape {model.shape}, but {image} has {exposure.shape}; give the image fitted"
        )
    ivar = exposure.fit_ivar(model)
    planes = Planes(exposure.data, sky + model, resid, ivar / (1 + ivar * structure * structure))
    return _draw(planes, size, centre)


def _read_fit(path: str | Path) -> list[Image]:
    """Return model, sky, residual and structure noise of a fit; the last is 0 where the fit has none."""
    names = ("MODEL", "SKY", "RESIDUAL")
    try:
        with fits.open(path) as hdus:
            missing = [name for name in names if name not in hdus]
            if not missing:
                planes = [np.asarray(hdus[name].data, np.float32) for name in names]
                has_structure = "STRUCTURE" in hdus
                last = (
                    np.asarray(hdus["STRUCTURE"].data, np.float32)
                    if has_structure
                    else np.zeros_like(planes[0])
                )
                return [*planes, last]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); give the file *_fit.fits of a run") from error
    raise InputError(f"{path}: no extension {', '.join(missing)}; give the file *_fit.fits of a run")


def _draw(planes: Planes, size: int, centre: tuple[float, float] | None) -> bytes:
    ny, nx = planes.data.shape
    x, y = centre or ((nx - 1) / 2, (ny - 1) / 2)
    box = box_around(Place(x, y, ""), size, (ny, nx))
    return images.trio(planes, box, dots=500).png()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a picture: ``python -m crowdfit.report.picture FIT IMAGE PNG``; errors end with status 2."""
    parser = argparse.ArgumentParser(prog="python -m crowdfit.report.picture", description=__doc__)
    parser.add_argument("fit", type=Path, help="file *_fit.fits of a run")
    parser.add_argument("image", type=Path, help="the image that was fitted")
    parser.add_argument("png", type=Path, help="file to write")
    parser.add_argument("-c", "--config", help="configuration of the fit")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the box (pix)")
    parser.add_argument("--centre", type=float, nargs=2, metavar=("X", "Y"), help="middle of the box (pix)")
    options = parser.parse_args(arguments)
    try:
        png = picture_of_files(options.fit, options.image, options.config, options.size, options.centre)
        with atomic_path(options.png) as temporary:
            temporary.write_bytes(png)
    except CrowdfitError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

"""Copies of FITS files with the PSF of another image, everything else in them as it was (P062)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import QTable
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.io.atomic import atomic_path, check_writable
from crowdfit.io.fits import read_exposure
from crowdfit.io.hdus import opened_to_change
from crowdfit.io.options import InputOptions
from crowdfit.psf.analytic import moffat
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.homogenize import Homogenizer, homogenize
from crowdfit.psf.readers import read_psf
from crowdfit.world import pixel_to_sky, read_wcs, sky_to_pixel

if TYPE_CHECKING:
    from crowdfit.exposure import Exposure

__all__ = ["BETA", "HomogenizedFile", "Target", "homogenize_file", "moffat_target", "read_target"]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

PARTS: Final = ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")
"""Planes of a JWST file that hold parts of the variance; left as they were, they would be taken for it."""
BETA: Final = 2.5
"""Exponent of a Moffat when nothing is said, as of the first guess of a PSF."""
FWHM_RANGE: Final = (0.5, 50.0)
"""Widths that a target may be given (pix)."""
TURNED: Final = 1.0
"""Images whose axes differ by more than this are said to be turned (deg)."""


class Target(NamedTuple):
    """The PSF that an image shall have, the name it goes by, and the WCS of its field if it has one."""

    psf: EPSF
    name: str
    wcs: Any = None


@dataclass(frozen=True, eq=False)
class HomogenizedFile:
    """What was written for an image.

    Parameters
    ----------
    file : Path
        The copy.
    report : astropy.table.QTable
        `Homogenizer.report`: one row a node.
    text : str
        Some lines for the user.
    """

    file: Path
    report: QTable
    text: str


def moffat_target(fwhm: float, beta: float = BETA) -> Target:
    """Return a round Moffat PSF as target.

    Parameters
    ----------
    fwhm : float
        FWHM before it is integrated over the pixel, in pixels of the image, above 0.5 and up to 50.
    beta : float
        Exponent, above 1.

    Raises
    ------
    InputError
        A width or an exponent out of range.
    """
    low, high = FWHM_RANGE
    if not low < fwhm <= high:
        raise InputError(
            f"fwhm: {fwhm} is refused; give pixels of the image, above {low:g} and up to {high:g}"
        )
    if not 1 < beta < np.inf:
        raise InputError(f"beta: {beta} is refused; give the exponent of a Moffat, which is above 1")
    return Target(moffat(fwhm, beta), f"Moffat of FWHM {fwhm:g} pix, exponent {beta:g}")


def read_target(path: str | Path) -> Target:
    """Return the PSF of a file, and the WCS of the image that it belongs to where the file tells it.

    Parameters
    ----------
    path : path
        A fit image of crowdfit, which has a WCS, or any PSF that `crowdfit.read_psf` reads.

    Raises
    ------
    InputError
        The file cannot be read, or is none of these.
    """
    psf = read_psf(path)
    with fits.open(path, memmap=False) as hdus:
        model = next((hdu for hdu in hdus if hdu.name == "MODEL" and hdu.header.get("NAXIS") == 2), None)
        shape = (0, 0) if model is None else (int(model.header["NAXIS2"]), int(model.header["NAXIS1"]))
        wcs = None if model is None else read_wcs(model.header, shape).wcs
    return Target(psf, str(path), wcs)


def homogenize_file(
    path: str | Path,
    out: str | Path,
    psf: "Callable[[Exposure], EPSF]",
    target: Target,
    options: InputOptions | None = None,
    *,
    scale: float | None = None,
    max_lost: float = 0.02,
) -> HomogenizedFile:
    """Write a copy of a FITS file whose image has the PSF of another one.

    The copy has all extensions of the file. Its error, variance or weight plane, and the parts of the variance in
    JWST files, are those of the convolved pixels, each for itself: neighbours share their noise from then on, which
    the header says. The image is NaN where bad pixels hold too much of the light that belongs there.

    Parameters
    ----------
    path, out : path
        Image, and file to write.
    psf : callable
        Returns the PSF of an exposure, such as `GivenPsf` of `crowdfit.psf.initial`.
    target : Target
        What it shall have.
    options : InputOptions, optional
        Which extensions and pixels to use.
    scale : float, optional
        Pixel of the image over pixel of the target. Default: by the WCS of both, 1 where one has none.
    max_lost : float
        See `Homogenizer.apply`.

    Raises
    ------
    InputError
        The image cannot be read, its PSF does not fit it, the scale or share is out of range, or the file cannot be
        written.
    """
    path, out, options = Path(path), Path(out), options or InputOptions()
    check_writable(out.parent)
    if out.exists() and out.samefile(path):
        raise InputError(f"{path}: would be overwritten by its own copy; choose another name with -o")
    if not 0 <= max_lost < 1:
        raise InputError(f"max_lost: {max_lost} is refused; give a share from 0 up to 1")
    with opened_to_change(path, options) as (hdus, sci, noise):
        # surface brightness stays what it is: the area of the pixels changes nothing within one kernel
        exposure = read_exposure(path, replace(options, area="none"))
        source = psf(exposure)
        ratio, there = _to_target(exposure, target, scale)
        kernels = homogenize(source, target.psf, exposure.shape, ratio, there)
        plane = np.where(exposure.good, exposure.data, np.float32(np.nan))
        sci.data = kernels.apply(plane, max_lost=max_lost).image.astype(np.float32)
        lost = float(np.mean(np.isnan(sci.data)))
        sci.header.extend(_cards(kernels, target), update=True)
        for line in _remarks(noise):
            sci.header.add_comment(line)
        parts = {hdus.index_of(hdu): "variance" for hdu in hdus if hdu.name in PARTS and hdu.data is not None}
        for number, kind in (parts | noise).items():
            _replace_noise(hdus[number], kind, kernels, exposure, max_lost)
        with atomic_path(out) as temporary:
            hdus.writeto(temporary, checksum=True)
    return HomogenizedFile(
        out, kernels.report, _summary(path, kernels, (source.fwhm, target.psf.fwhm / ratio), lost)
    )


def _replace_noise(hdu: Any, kind: str, kernels: Homogenizer, exposure: "Exposure", max_lost: float) -> None:
    """Replace a plane of a kind ("error", "variance", "ivar") by that of the convolved pixels."""
    plane = np.asarray(hdu.data, np.float64)
    with np.errstate(divide="ignore"):
        variance = {"error": np.square, "variance": np.positive, "ivar": np.reciprocal}[kind](plane)
    new = kernels.variance(np.where(exposure.good, variance, np.nan), max_lost)
    if kind == "error":
        new = np.sqrt(new)
    elif kind == "ivar":
        new = np.where(np.isfinite(new), 1 / new, 0.0)
    hdu.data = new.astype(np.float32)


def _to_target(
    exposure: "Exposure", target: Target, scale: float | None
) -> tuple[float, Callable[[F64, F64], tuple[F64, F64]] | None]:
    """Return the ratio of the pixel sizes, and where on the field of the target a place of the image lies."""
    known = exposure.wcs is not None and target.wcs is not None
    if known:
        ratio, turn = _step(exposure, target)
        if abs(turn) > TURNED:
            log.warning(
                "%s: turned by %.1f deg against the image of %s, which the kernels do not take into account; resample "
                "one of them first", exposure.name, turn, target.name,
            )  # fmt: skip
        if scale is not None and not 0.99 < scale / ratio < 1.01:
            log.warning("%s: a scale of %g is taken, the WCS says %.4g", exposure.name, scale, ratio)
    else:
        ratio = 1.0
        if scale is None:
            log.info("%s: no WCS for both PSFs, so their pixels are taken to be of one size", exposure.name)
    ratio = ratio if scale is None else scale
    if not (np.isfinite(ratio) and ratio > 0):
        raise InputError(f"scale: {ratio} is refused; give the ratio of the pixel sizes, which is positive")

    def by_sky(x: F64, y: F64) -> tuple[F64, F64]:
        sky = pixel_to_sky(exposure.wcs, x, y)
        found = sky_to_pixel(target.wcs, sky.ra, sky.dec)
        return found.x, found.y

    def by_pixels(x: F64, y: F64) -> tuple[F64, F64]:
        return (x + 0.5) * ratio - 0.5, (y + 0.5) * ratio - 0.5

    if known:
        return ratio, by_sky
    return ratio, by_pixels if ratio != 1 else None


def _step(exposure: "Exposure", target: Target) -> tuple[float, float]:
    """Return size of a pixel of the image in pixels of the target, and the angle between their x axes (deg)."""
    ny, nx = exposure.shape
    middle = np.array([nx / 2, nx / 2 + 1, nx / 2]), np.array([ny / 2, ny / 2, ny / 2 + 1])
    sky = pixel_to_sky(exposure.wcs, *middle)
    there = sky_to_pixel(target.wcs, sky.ra, sky.dec)
    across = (there.x[1] - there.x[0], there.y[1] - there.y[0])
    along = (there.x[2] - there.x[0], there.y[2] - there.y[0])
    area = abs(across[0] * along[1] - across[1] * along[0])
    return float(np.sqrt(area)), float(np.degrees(np.arctan2(across[1], across[0])))


def _cards(kernels: Homogenizer, target: Target) -> fits.Header:
    """Return the header cards that say what was done; figures are those of the worst node."""
    table, header = kernels.report, fits.Header()
    header["CFHTO"] = (Path(target.name).name, "PSF that the image was given")
    header["CFHNODES"] = (len(table), "nodes with kernels of their own")
    header["CFHSUM"] = (_farthest(table["kernel_sum"], 1.0), "sum of the kernel")
    header["CFHRESID"] = (float(np.max(table["residual"])), "sum |star - target| of a star of flux 1")
    header["CFHGROW"] = (float(np.max(table["growth_deviation"])), "deviation of the curve of growth")
    header["CFHNOISE"] = (float(np.max(table["noise"])), "noise of a pixel, after over before")
    return header


def _remarks(noise: dict[int, str]) -> tuple[str, ...]:
    """Return what a user of the copy has to know."""
    said = "The error plane is that of single pixels." if noise else "There is no error plane."
    return (
        "Convolved by crowdfit homogenize: pixels share their noise with neighbours.",
        f"{said} Sums over several pixels have larger errors than independent",
        "pixels would have.",
    )


def _farthest(values: Any, middle: float) -> float:
    values = np.asarray(values, np.float64)
    return float(values[np.argmax(np.abs(values - middle))])


def _summary(path: Path, kernels: Homogenizer, widths: tuple[float, float], lost: float) -> str:
    """Return what was done, and how well; the worst of all nodes."""
    table = kernels.report
    nodes = "one kernel" if len(table) == 1 else f"kernels at {len(table)} places"
    return (
        f"{path}: from FWHM {widths[0]:.2f} to {widths[1]:.2f} pix, {nodes}\n"
        f"  kernel sum {_farthest(table['kernel_sum'], 1.0):.5f}, residual {100 * max(table['residual']):.2f} % of "
        f"the light, curve of growth within {100 * max(table['growth_deviation']):.3f} %, noise of a pixel times "
        f"{max(table['noise']):.3f}\n"
        f"  {100 * lost:.1f} % of the pixels have no value, since bad ones lie too near (--max-lost)"
    )

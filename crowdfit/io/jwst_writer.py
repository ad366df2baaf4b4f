"""Synthetic JWST files with the structure of real ones, for tests, tutorials and planning.

Extensions, keywords, quality bits, pixel areas and the parts of the errors are those that the pipeline writes in a
`_cal` or `_i2d` file; what is in the sky is up to the caller, as a noiseless image.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from crowdfit.errors import InputError
from crowdfit.io.atomic import atomic_path
from crowdfit.io.dq import DQ_BITS

__all__ = ["BORDER", "Camera", "area_of", "quality_of", "write_cal", "write_i2d"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U32 = NDArray[np.uint32]
Cards = Mapping[str, Any]

BORDER: Final = 4
"""Reference pixels along each edge of a detector, and pixels without weight along those of a mosaic."""
SQUARE_ARCSEC: Final = 2.350443e-11
"""Steradians."""
FRAME_TIME: Final = 21.47354
"""Seconds between the groups of a NIRCam full frame with two frames averaged and eight skipped (BRIGHT2)."""
PRIMARY: Final[Cards] = {
    "TELESCOP": "JWST", "SUBARRAY": "SUB", "SUBSTRT1": 1, "SUBSTRT2": 1, "READPATT": "BRIGHT2", "NGROUPS": 2,
    "NINTS": 1, "TGROUP": FRAME_TIME, "EXPOSURE": "1", "EXPMID": 59776.403137, "DATE-OBS": "2022-07-16",
    "CAL_VER": "1.20.2", "CRDS_CTX": "jwst_1413.pmap", "S_PHOTOM": "COMPLETE", "S_FLAT": "COMPLETE",
    "S_OUTLIR": "COMPLETE",
}  # fmt: skip
SIP: Final[Cards] = {
    "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-6, "B_0_2": -3e-6,
    "AP_ORDER": 2, "BP_ORDER": 2, "AP_2_0": -2e-6, "BP_0_2": 3e-6, "SIPMXERR": 0.008,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A detector behind a filter, and an exposure with it; the defaults are those of a short NIRCam F444W exposure.

    Parameters
    ----------
    instrument, detector, filter : str
        As in the header: INSTRUME, DETECTOR, FILTER.
    extra : mapping
        More cards of the primary header, such as PUPIL, MODULE and CHANNEL of NIRCam.
    scale : float
        Side of a pixel (arcsec).
    pixel_sr : float
        PIXAR_SR, area of the average pixel (sr).
    photmjsr : float
        PHOTMJSR, MJy/sr for 1 DN/s.
    exptime : float
        XPOSURE, exposure time (s).
    electrons : float
        Electrons for 1 MJy/sr in a pixel of average area, over the exposure.
    read : float
        Noise of the readout (MJy/sr).
    flat : float
        Relative error of the flat field, which goes into VAR_FLAT.
    """

    instrument: str = "NIRCAM"
    detector: str = "NRCALONG"
    filter: str = "F444W"
    extra: Cards = field(
        default_factory=lambda: {"PUPIL": "CLEAR", "MODULE": "A", "CHANNEL": "LONG", "EXP_TYPE": "NRC_IMAGE"}
    )
    scale: float = 0.063
    pixel_sr: float = 9.31e-14
    photmjsr: float = 0.3925
    exptime: float = 42.947
    electrons: float = 105.0
    read: float = 0.1
    flat: float = 0.0056

    def primary(self) -> dict[str, Any]:
        """Return the cards of the primary header."""
        own = {"INSTRUME": self.instrument, "DETECTOR": self.detector, "FILTER": self.filter}
        return {**PRIMARY, **own, **self.extra, "EFFEXPTM": self.exptime}

    def photometry(self) -> dict[str, Any]:
        """Return the cards of a SCI header about units."""
        return {
            "BUNIT": "MJy/sr", "PIXAR_SR": self.pixel_sr, "PIXAR_A2": round(self.pixel_sr / SQUARE_ARCSEC, 5),
            "XPOSURE": self.exptime,
        }  # fmt: skip

    def wcs_cards(
        self, shape: tuple[int, int], ra: float, dec: float, centre: tuple[float, float] = (0.0, 0.0)
    ) -> dict[str, Any]:
        """Return a tangential WCS, north up, with (ra, dec) (deg) `centre` pixels right of and above the middle."""
        return {
            "WCSAXES": 2, "CRPIX1": shape[1] / 2 + 0.5 + centre[0], "CRPIX2": shape[0] / 2 + 0.5 + centre[1],
            "CRVAL1": ra, "CRVAL2": dec, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg",
            "CUNIT2": "deg", "RADESYS": "ICRS", "PC1_1": -1.0, "PC1_2": 0.0, "PC2_1": 0.0, "PC2_2": 1.0,
            "CDELT1": self.scale / 3600, "CDELT2": self.scale / 3600,
        }  # fmt: skip


def area_of(shape: tuple[int, int]) -> F32:
    """Return a relative pixel area that changes by 4 % over the field, (ny, nx)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(1 + 0.02 * (x / shape[1] - 0.5) + 0.02 * (y / shape[0] - 0.5), np.float32)


def quality_of(shape: tuple[int, int]) -> U32:
    """Return a DQ plane, (ny, nx): a border of reference pixels, a hot pixel, and harmless bits as in real files."""
    dq = np.zeros(shape, np.uint32)
    border = np.ones(shape, bool)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    dq[border] = DQ_BITS["REFERENCE_PIXEL"] | DQ_BITS["DO_NOT_USE"]
    dq[20:24, 30:60] |= np.uint32(DQ_BITS["UNRELIABLE_BIAS"])
    dq[40, 50:70] |= np.uint32(DQ_BITS["JUMP_DET"])
    dq[60, 20] |= np.uint32(DQ_BITS["DO_NOT_USE"] | DQ_BITS["HOT"])
    return dq


def write_cal(  # noqa: PLR0913 - one argument for each part of a file that is not that of the camera
    path: str | Path,
    light: ArrayLike,
    sky: F64 | float,
    camera: Camera | None = None,
    *,
    dq: U32 | None = None,
    ra: float = 10.0,
    dec: float = -30.0,
    centre: tuple[float, float] = (0.0, 0.0),
    seed: int = 5,
    primary: Cards | None = None,
    sci: Cards | None = None,
    drop: Collection[str] = (),
    asdf: bytes | None = None,
) -> Path:
    """Write a `_cal` file: SCI, ERR, DQ, AREA and the three variances, gzipped where the name ends in .gz.

    Parameters
    ----------
    path : path
        FITS file; replaced when it is there, and complete or not written at all.
    light : array (ny, nx)
        Noiseless sources in MJy/sr of a pixel of average area; SCI holds them divided by AREA, as real files do.
    sky : array (ny, nx) or float
        Noiseless sky, surface brightness (MJy/sr).
    camera : Camera, optional
        Detector, filter and exposure.
    dq : ndarray (ny, nx) uint32, optional
        Data quality; `quality_of` by default. Pixels with DO_NOT_USE are NaN.
    ra, dec : float
        Sky position of the middle of the image (deg), or of the point that `centre` names.
    centre : (float, float)
        Where that point lies, columns and rows from the middle.
    seed : int
        Seed of the noise.
    primary, sci : mapping, optional
        Cards of the primary and of the SCI header that are changed; None removes one.
    drop : collection of str
        Extensions that are left out.
    asdf : bytes, optional
        Content of the ASDF extension, for an exact WCS.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        `light` is no image of at least 64 x 72 pixels, or the file cannot be written.
    """
    camera = camera or Camera()
    sources = _image(light)
    ny, nx = shape = sources.shape
    area = area_of(shape)
    image, parts = _exposed(sources / area + sky, camera, seed, np.ones(shape))
    dq = quality_of(shape) if dq is None else dq
    err = np.sqrt(np.sum(list(parts.values()), axis=0))
    lost = (dq & np.uint32(DQ_BITS["DO_NOT_USE"])) != 0
    image[lost] = err[lost] = np.nan
    header = {
        **camera.photometry(), "PHOTMJSR": camera.photmjsr, "PHOTUJA2": camera.photmjsr * 1e12 * SQUARE_ARCSEC,
        **camera.wcs_cards(shape, ra, dec, centre), **SIP,
    }  # fmt: skip
    first = {**camera.primary(), "SUBSIZE1": nx, "SUBSIZE2": ny, "DATAMODL": "ImageModel"}
    # AREA in the fourth place, as in a real header
    planes = {"SCI": image, "ERR": err, "DQ": dq, "AREA": area, **parts}
    return _write(path, planes, first | dict(primary or {}), header | dict(sci or {}), drop, asdf)


def write_i2d(  # noqa: PLR0913 - as above
    path: str | Path,
    light: ArrayLike,
    sky: F64 | float,
    camera: Camera | None = None,
    *,
    depth: F64 | float = 1.0,
    ra: float = 10.0,
    dec: float = -30.0,
    seed: int = 5,
    primary: Cards | None = None,
    sci: Cards | None = None,
    drop: Collection[str] = (),
) -> Path:
    """Write an `_i2d` file: SCI, ERR, CON, WHT and the variances; no DQ, NaN and weight 0 where nothing was seen.

    Pixels have independent noise, which those of a real mosaic have not.

    Parameters
    ----------
    path, light, sky, camera, ra, dec, seed, primary, sci, drop
        As in `write_cal`; the area of all pixels is the same.
    depth : array (ny, nx) or float
        Number of exposures at each pixel.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        As in `write_cal`.
    """
    camera = camera or Camera()
    sources = _image(light)
    exposures = np.broadcast_to(np.asarray(depth, np.float64), sources.shape)
    image, parts = _exposed(sources + sky, camera, seed, exposures)
    weight = (camera.exptime * exposures).astype(np.float32)
    for edge in (np.s_[:BORDER], np.s_[-BORDER:], np.s_[:, :BORDER], np.s_[:, -BORDER:]):
        weight[edge] = 0
    err = np.sqrt(np.sum(list(parts.values()), axis=0))
    image[weight == 0] = err[weight == 0] = np.nan
    times = {"XPOSURE": camera.exptime * float(exposures.max())}
    header = {**camera.photometry(), **times, **camera.wcs_cards(sources.shape, ra, dec)}
    context = np.where(weight > 0, 3, 0).astype(np.int32)[np.newaxis]
    planes = {"SCI": image, "ERR": err, "CON": context, "WHT": weight, **parts}
    first = {**camera.primary(), "S_RESAMP": "COMPLETE"}
    return _write(path, planes, first | dict(primary or {}), header | dict(sci or {}), drop, None)


def _image(light: ArrayLike) -> F64:
    """Return the sources as an image that the quality plane fits on."""
    image = np.asarray(light, np.float64)
    if image.ndim != 2 or image.shape[0] < 64 or image.shape[1] < 72:
        raise InputError(
            f"light: shape {image.shape} is refused; give an image of at least 64 x 72 pixels (ny, nx)"
        )
    return image


def _exposed(bright: F64, camera: Camera, seed: int, depth: F64) -> tuple[F32, dict[str, F32]]:
    """Return SCI with noise, and the variances of `depth` exposures of a noiseless surface brightness."""
    rng = np.random.default_rng(seed)
    electrons, read = camera.electrons * depth, camera.read / np.sqrt(depth)
    sci = rng.poisson(bright * electrons) / electrons + rng.normal(0, 1, bright.shape) * read
    parts = {
        "VAR_POISSON": np.maximum(sci, 0) / electrons,
        "VAR_RNOISE": np.broadcast_to(read**2, bright.shape),
        "VAR_FLAT": (camera.flat * sci) ** 2,
    }
    return sci.astype(np.float32), {name: plane.astype(np.float32) for name, plane in parts.items()}


def _write(
    path: str | Path,
    planes: Mapping[str, NDArray[Any]],
    primary: Cards,
    sci: Cards,
    drop: Collection[str],
    asdf: bytes | None,
) -> Path:
    """Write the extensions in order; cards that are None are left out."""
    heads = [
        fits.Header({key: value for key, value in cards.items() if value is not None})
        for cards in (primary, sci)
    ]
    hdus = [fits.PrimaryHDU(header=heads[0])]
    hdus += [
        fits.ImageHDU(plane, heads[1] if name == "SCI" else None, name=name)
        for name, plane in planes.items()
        if name not in drop
    ]
    if asdf is not None:
        column = fits.Column(
            "ASDF_METADATA", f"{len(asdf)}B", array=np.frombuffer(asdf, np.uint8)[np.newaxis]
        )
        hdus.append(fits.BinTableHDU.from_columns([column], name="ASDF"))
    with atomic_path(path) as temporary:
        fits.HDUList(hdus).writeto(temporary)
    return Path(path)

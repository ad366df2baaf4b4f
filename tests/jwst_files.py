"""Synthetic JWST files with the structure of real ones: extensions, keywords, quality bits, pixel areas."""

import io

import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS
from astropy.io import fits
from astropy.modeling import models

from crowdfit.io.dq import DQ_BITS
from crowdfit.psf.analytic import moffat
from crowdfit.render import render

SHAPE = (96, 112)
FWHM = 2.2
SKY = 0.5
ELECTRONS = 105.0
READ = 0.1
FLAT = 0.0056
PIXAR_SR = 9.31e-14
PHOTMJSR = 0.3925
SCALE = 0.063 / 3600
BORDER = 4

PRIMARY = {
    "TELESCOP": "JWST", "INSTRUME": "NIRCAM", "DETECTOR": "NRCALONG", "MODULE": "A", "CHANNEL": "LONG",
    "FILTER": "F444W", "PUPIL": "CLEAR", "EXP_TYPE": "NRC_IMAGE", "SUBARRAY": "SUB", "SUBSTRT1": 1, "SUBSTRT2": 1,
    "READPATT": "BRIGHT2", "NGROUPS": 2, "NINTS": 1, "TGROUP": 21.47354, "EFFEXPTM": 42.947, "EXPOSURE": "1",
    "EXPMID": 59776.403137, "DATE-OBS": "2022-07-16", "CAL_VER": "1.20.2", "CRDS_CTX": "jwst_1413.pmap",
    "S_PHOTOM": "COMPLETE", "S_FLAT": "COMPLETE", "S_OUTLIR": "COMPLETE",
}  # fmt: skip


def area_of(shape=SHAPE):
    """Return a relative pixel area that changes by 4 % over the field."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (1 + 0.02 * (x / shape[1] - 0.5) + 0.02 * (y / shape[0] - 0.5)).astype(np.float32)


def wcs_cards(shape=SHAPE, ra=10.0, dec=-30.0, *, sip=True):
    """Return the WCS of a SCI header."""
    cards = {
        "WCSAXES": 2, "CRPIX1": shape[1] / 2 + 0.5, "CRPIX2": shape[0] / 2 + 0.5, "CRVAL1": ra, "CRVAL2": dec,
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS",
        "PC1_1": -1.0, "PC1_2": 0.0, "PC2_1": 0.0, "PC2_2": 1.0, "CDELT1": SCALE, "CDELT2": SCALE,
    }  # fmt: skip
    if sip:
        cards |= {
            "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-6,
            "B_0_2": -3e-6, "AP_ORDER": 2, "BP_ORDER": 2, "AP_2_0": -2e-6, "BP_0_2": 3e-6, "SIPMXERR": 0.008,
        }  # fmt: skip
    return cards


def gwcs_bytes(shape=SHAPE, ra=10.0, dec=-30.0, shift=0.0):
    """Return an ASDF file with meta.wcs: a plain TAN grid, moved by `shift` pixels."""
    import asdf  # noqa: PLC0415 - optional
    import gwcs  # noqa: PLC0415
    from gwcs import coordinate_frames  # noqa: PLC0415

    centre = models.Shift(-(shape[1] / 2 - 0.5) - shift) & models.Shift(-(shape[0] / 2 - 0.5))
    to_sky = (
        centre
        | models.Scale(-SCALE) & models.Scale(SCALE)
        | models.Pix2Sky_TAN()
        | models.RotateNative2Celestial(ra, dec, 180)
    )
    pixels = coordinate_frames.Frame2D(name="detector", unit=(u.pix, u.pix))
    sky = coordinate_frames.CelestialFrame(name="world", reference_frame=ICRS(), unit=(u.deg, u.deg))
    out = io.BytesIO()
    asdf.AsdfFile({"meta": {"wcs": gwcs.WCS([(pixels, to_sky), (sky, None)])}}).write_to(out)
    return out.getvalue()


def stars_of(n=60, shape=SHAPE, seed=3, faint=3.0, bright=300.0):
    """Return x, y and flux (MJy/sr summed over pixels of average area) of stars away from the border."""
    rng = np.random.default_rng(seed)
    margin = BORDER + 4
    x, y = (rng.uniform(margin, n_pix - margin, n) for n_pix in (shape[1], shape[0]))
    return x, y, np.exp(rng.uniform(np.log(faint), np.log(bright), n))


def scene(stars, area, shape=SHAPE, seed=5, sky=SKY, depth=1.0):
    """Return SCI and the variances of `depth` exposures: surface brightness, so stars are divided by the area."""
    rng = np.random.default_rng(seed)
    light = render(moffat(FWHM, 3.0, radius=14), *stars, shape) / area + sky
    electrons, read = ELECTRONS * depth, READ / np.sqrt(depth)
    sci = rng.poisson(light * electrons) / electrons + rng.normal(0, 1, shape) * read
    parts = {
        "VAR_POISSON": np.maximum(sci, 0) / electrons,
        "VAR_RNOISE": np.broadcast_to(read**2, shape),
        "VAR_FLAT": (FLAT * sci) ** 2,
    }
    return sci.astype(np.float32), {name: plane.astype(np.float32) for name, plane in parts.items()}


def quality_of(shape=SHAPE):
    """Return a DQ plane with a border of reference pixels and the harmless bits that real files are full of."""
    dq = np.zeros(shape, np.uint32)
    border = np.ones(shape, bool)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    dq[border] = DQ_BITS["REFERENCE_PIXEL"] | DQ_BITS["DO_NOT_USE"]
    dq[20:24, 30:60] |= DQ_BITS["UNRELIABLE_BIAS"]
    dq[40, 50:70] |= DQ_BITS["JUMP_DET"]
    dq[60, 20] |= DQ_BITS["DO_NOT_USE"] | DQ_BITS["HOT"]
    return dq


def write_cal(path, stars=None, *, primary=None, sci=None, dq=None, drop=(), asdf=None, seed=5, ra=10.0):
    """Write a `_cal` file, gzipped where the name ends in .gz; return x, y and flux of its stars.

    `primary` and `sci` change header cards (None removes one), `drop` leaves out extensions.
    """
    stars = stars_of() if stars is None else stars
    area = area_of()
    image, parts = scene(stars, area, seed=seed)
    dq = quality_of() if dq is None else dq
    lost = (dq & DQ_BITS["DO_NOT_USE"]) != 0
    err = np.sqrt(sum(parts.values()))
    image[lost] = err[lost] = np.nan
    header = {
        "BUNIT": "MJy/sr", "PHOTMJSR": PHOTMJSR, "PHOTUJA2": PHOTMJSR * 23.504, "PIXAR_SR": PIXAR_SR,
        "PIXAR_A2": 0.00396, "XPOSURE": 42.947, **wcs_cards(ra=ra),
    }  # fmt: skip
    # AREA in the fourth place, as in a real header
    planes = {"SCI": image, "ERR": err, "DQ": dq, "AREA": area, **parts}
    sizes = {"SUBSIZE1": SHAPE[1], "SUBSIZE2": SHAPE[0], "DATAMODL": "ImageModel"}
    _write(path, planes, PRIMARY | sizes | (primary or {}), header | (sci or {}), drop, asdf)
    return stars


def write_i2d(path, stars=None, *, primary=None, sci=None, drop=(), seed=5):
    """Write an `_i2d` file: no DQ, no AREA; NaN and weight 0 where nothing was seen; return its stars."""
    stars = stars_of() if stars is None else stars
    depth = np.full(SHAPE, 2.0)
    depth[:, SHAPE[1] // 2 :] = 1  # two exposures here, one there
    image, parts = scene(stars, np.ones(SHAPE), seed=seed, depth=depth)
    weight = (42.947 * depth).astype(np.float32)
    weight[:BORDER] = 0
    err = np.sqrt(sum(parts.values()))
    image[weight == 0] = err[weight == 0] = np.nan
    header = {
        "BUNIT": "MJy/sr", "PIXAR_SR": PIXAR_SR, "PIXAR_A2": 0.00396, "XPOSURE": 85.894, **wcs_cards(sip=False)
    }  # fmt: skip
    context = np.where(weight > 0, 3, 0).astype(np.int32)[None]
    planes = {"SCI": image, "ERR": err, "CON": context, "WHT": weight, **parts}
    _write(
        path, planes, PRIMARY | {"S_RESAMP": "COMPLETE"} | (primary or {}), header | (sci or {}), drop, None
    )
    return stars


def _write(path, planes, primary, sci, drop, asdf):
    heads = [
        fits.Header({key: value for key, value in cards.items() if value is not None})
        for cards in (primary, sci)
    ]
    hdus = [fits.PrimaryHDU(header=heads[0])]
    for name, plane in planes.items():
        if name not in drop:
            hdus.append(fits.ImageHDU(plane, header=heads[1] if name == "SCI" else None, name=name))
    if asdf is not None:
        column = fits.Column("ASDF_METADATA", f"{len(asdf)}B", array=np.frombuffer(asdf, np.uint8)[None])
        hdus.append(fits.BinTableHDU.from_columns([column], name="ASDF"))
    fits.HDUList(hdus).writeto(path)

"""JWST files with a list of stars in them, by `crowdfit.io.jwst_writer`; and an exact WCS as those files hold it."""

import io

import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS
from astropy.modeling import models

from crowdfit.io import jwst_writer
from crowdfit.io.jwst_writer import BORDER, Camera
from crowdfit.psf.analytic import moffat
from crowdfit.render import render

SHAPE = (96, 112)
FWHM = 2.2
SKY = 0.5
CAMERA = Camera()
ELECTRONS = CAMERA.electrons
READ = CAMERA.read
PIXAR_SR = CAMERA.pixel_sr
SCALE = CAMERA.scale / 3600


def area_of():
    return jwst_writer.area_of(SHAPE)


def quality_of():
    return jwst_writer.quality_of(SHAPE)


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


def light_of(stars):
    return render(moffat(FWHM, 3.0, radius=14), *stars, SHAPE)


def write_cal(path, stars=None, **changes):
    """Write a `_cal` file; return x, y and flux of its stars."""
    stars = stars_of() if stars is None else stars
    jwst_writer.write_cal(path, light_of(stars), SKY, **changes)
    return stars


def write_i2d(path, stars=None, **changes):
    """Write an `_i2d` file with twice the exposures on the left half; return its stars."""
    stars = stars_of() if stars is None else stars
    depth = np.where(np.arange(SHAPE[1]) < SHAPE[1] // 2, 2.0, 1.0)
    jwst_writer.write_i2d(path, light_of(stars), SKY, depth=depth, **changes)
    return stars

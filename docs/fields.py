"""The star fields of the tutorials, drawn into the folder in which it is called: ``python -m docs.fields nircam``.

Every field is small, so that all pages together are made in minutes; its truth lies beside it as `<field>_truth.ecsv`.
The sequences of colours are drawn by hand after those of an old cluster. They are no isochrones.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.modeling.models import Sersic2D
from astropy.table import Table
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from crowdfit.calibration.units import jansky_of_ab
from crowdfit.io.jwst_writer import Camera, write_cal, write_i2d
from crowdfit.psf import truth
from crowdfit.psf.epsf import EPSF
from crowdfit.render import render

F64 = NDArray[np.float64]
SEED = 11
OBSCURATION = 0.25
"""Inner over outer radius of a round mirror with the area of JWST's hole."""

SEQUENCE = np.array(
    [(0.62, 17.0), (0.52, 19.0), (0.45, 20.6), (0.40, 21.2), (0.24, 21.6), (0.17, 22.2), (0.20, 23.0),
     (0.34, 24.3), (0.47, 25.6), (0.54, 27.0), (0.58, 28.5)]
)  # fmt: skip
"""Colour and magnitude (the redder band) from giants over the turn-off down to dwarfs."""


def cluster_stars(
    n: int, shape: tuple[int, int], faint: float, core: float | None, rng: np.random.Generator
) -> tuple[F64, F64, F64, F64]:
    """Return x, y (pix), magnitude in the redder band, and colour of stars.

    Parameters
    ----------
    n : int
        Number of stars.
    shape : (ny, nx)
        The frame; stars also lie 5 pixels outside.
    faint : float
        Faintest magnitude; counts rise towards it.
    core : float or None
        Core radius of a cluster in the middle of the frame (pix); None: evenly spread.
    rng : numpy.random.Generator
        Source of all random numbers.
    """
    x, y = (rng.uniform(-5, size + 4, n) for size in shape[::-1])
    if core is not None:  # surface density of Plummer's model: radius from a uniform share of the light
        radius = core * np.sqrt(1 / rng.uniform(0.02, 1, n) - 1)
        angle = rng.uniform(0, 2 * np.pi, n)
        x, y = shape[1] / 2 + radius * np.cos(angle), shape[0] / 2 + radius * np.sin(angle)
    bright = SEQUENCE[0, 1]
    # ten times as many stars in four magnitudes
    mag = bright + 4 * np.log10(1 + rng.uniform(size=n) * (10 ** ((faint - bright) / 4) - 1))
    return x, y, mag, np.interp(mag, SEQUENCE[:, 1], SEQUENCE[:, 0])


def diffraction(fwhm: float, half: int = 40) -> EPSF:
    """Return the PSF of a round telescope of this FWHM (pix)."""
    return truth.integrated(truth.airy(fwhm, OBSCURATION), half)


def nircam() -> list[Path]:
    """Draw one field through F115W and F200W, two `_cal` files whose pointings differ by a few pixels."""
    rng, shape = np.random.default_rng(SEED), (260, 260)
    x, y, mag, colour = cluster_stars(1650, shape, 27.5, None, rng)
    common = {"PUPIL": "CLEAR", "MODULE": "B", "CHANNEL": "SHORT", "EXP_TYPE": "NRC_IMAGE"}
    camera: dict[str, Any] = {
        "instrument": "NIRCAM",
        "detector": "NRCB1",
        "extra": common,
        "scale": 0.0312,
        "pixel_sr": 2.29e-14,
    }
    blue = Camera(**camera, filter="F115W", photmjsr=2.8, exptime=311.4, electrons=220.0, read=0.06)
    red = Camera(**camera, filter="F200W", photmjsr=2.0, exptime=311.4, electrons=310.0, read=0.045)
    _write_truth("nircam", x, y, F115W=mag + colour, F200W=mag)
    files = []
    for band, fwhm, magnitude, shift, seed in (
        (blue, 1.29, mag + colour, (0.0, 0.0), 1),
        (red, 2.13, mag, (3.3, -1.6), 2),
    ):
        flux = jansky_of_ab(magnitude) / (1e6 * band.pixel_sr)
        light = render(diffraction(fwhm), x + shift[0], y + shift[1], flux, shape)
        path = Path(f"nircam_{band.filter.lower()}_cal.fits")
        files.append(write_cal(path, light, 0.25, band, ra=6.0223, dec=-72.0814, centre=shift, seed=seed))
    return files


def miri() -> list[Path]:
    """Draw a field through F770W: bright sky that changes over the field, few stars."""
    rng, shape = np.random.default_rng(SEED + 1), (224, 224)
    camera = Camera(
        instrument="MIRI", detector="MIRIMAGE", filter="F770W", extra={"EXP_TYPE": "MIR_IMAGE"}, scale=0.11,
        pixel_sr=2.86e-13, photmjsr=0.45, exptime=111.0, electrons=480.0, read=0.02, flat=0.003,
    )  # fmt: skip
    x, y, mag, _ = cluster_stars(220, shape, 22.5, None, rng)
    flux = jansky_of_ab(mag) / (1e6 * camera.pixel_sr)
    light = render(diffraction(2.45, 50), x, y, flux, shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / shape[0]
    sky = 7.0 + 0.6 * columns + 0.5 * np.sin(3 * rows)
    _write_truth("miri", x, y, F770W=mag)
    return [write_cal("miri_f770w_cal.fits", light, sky, camera, ra=80.48, dec=-69.5, seed=3)]


def deep() -> list[Path]:
    """Draw a deep field through F150W as `_i2d`: a few stars among galaxies."""
    rng, shape = np.random.default_rng(SEED + 2), (256, 256)
    common = {"PUPIL": "CLEAR", "MODULE": "A", "CHANNEL": "SHORT", "EXP_TYPE": "NRC_IMAGE"}
    camera = Camera(
        detector="NRCA1", filter="F150W", extra=common, scale=0.0312, pixel_sr=2.29e-14, photmjsr=2.2,
        exptime=20_000.0, electrons=19_000.0, read=0.0012, flat=0.0005,
    )  # fmt: skip
    psf = diffraction(2.0, 60)
    x, y = (rng.uniform(10, size - 10, 40) for size in shape[::-1])
    mag = rng.uniform(21.5, 28.5, 40)
    flux = jansky_of_ab(mag) / (1e6 * camera.pixel_sr)
    light = render(psf, x, y, flux, shape) + _galaxies(psf, shape, 24, camera, rng)
    _write_truth("deep", x, y, F150W=mag)
    return [write_i2d("deep_f150w_i2d.fits", light, 0.18, camera, depth=1.0, ra=53.25, dec=-27.83, seed=4)]


def _galaxies(psf: EPSF, shape: tuple[int, int], n: int, camera: Camera, rng: np.random.Generator) -> F64:
    """Return an image (MJy/sr) of Sersic galaxies blurred by the PSF; their places go to deep_galaxies.ecsv."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    sharp, about = np.zeros(shape), []
    for _ in range(n):
        x, y = (rng.uniform(20, size - 20) for size in shape[::-1])
        mag, radius = rng.uniform(24.0, 27.5), rng.uniform(2.5, 7)
        galaxy = Sersic2D(
            1.0, radius, rng.choice([1.0, 1.0, 2.5]), x, y, rng.uniform(0.1, 0.6), rng.uniform(0, np.pi)
        )(columns, rows)
        sharp += galaxy / galaxy.sum() * jansky_of_ab(mag) / (1e6 * camera.pixel_sr)
        about.append((x, y, float(mag), float(radius)))
    Table(rows=about, names=("x", "y", "mag", "radius")).write("deep_galaxies.ecsv", overwrite=True)
    kernel = render(psf, [60.0], [60.0], [1.0], (121, 121))
    return np.asarray(np.maximum(fftconvolve(sharp, kernel / kernel.sum(), mode="same"), 0), np.float64)


def cluster() -> list[Path]:
    """Draw a globular cluster in B and V as a CCD on the ground sees it: no WCS, and B shifted by a pixel."""
    rng, shape = np.random.default_rng(SEED + 3), (240, 240)
    gain, read, sky, zero_point = 4.0, 10.0, 90.0, 32.5
    x, y, v, colour = cluster_stars(1500, shape, 25.5, 50.0, rng)
    v_mag, b_mag = v, v + 1.3 * colour
    _write_truth("cluster", x, y, B=b_mag, V=v_mag)
    files = []
    for band, mag, fwhm, shift in (("B", b_mag, 3.5, (-0.7, 0.4)), ("V", v_mag, 3.2, (0.0, 0.0))):
        psf = truth.integrated(truth.moffat(fwhm, 3.2), 50)
        flux = 10 ** (0.4 * (zero_point - mag)) / gain
        bright = sky + render(psf, x + shift[0], y + shift[1], flux, shape)
        image = rng.poisson(bright * gain) / gain + rng.normal(0, read / gain, shape)
        image = np.minimum(image, 60_000).astype(np.float32)
        header = fits.Header(
            {"FILTER": band, "GAIN": gain, "RDNOISE": read, "BUNIT": "adu", "SATURATE": 59_000}
        )
        files.append(Path(f"cluster_{band}.fits"))
        fits.PrimaryHDU(image, header).writeto(files[-1], overwrite=True)
    return files


def _write_truth(field: str, x: F64, y: F64, **magnitudes: F64) -> None:
    """Write the truth of a field, brightest star first."""
    table = Table({"x": x, "y": y, **magnitudes})
    table.sort(list(magnitudes)[-1])
    table.write(f"{field}_truth.ecsv", overwrite=True)


FIELDS: dict[str, Callable[[], list[Path]]] = {
    "nircam": nircam, "miri": miri, "deep": deep, "cluster": cluster
}  # fmt: skip

if __name__ == "__main__":
    for name in sys.argv[1:]:
        print("\n".join(map(str, FIELDS[name]())))

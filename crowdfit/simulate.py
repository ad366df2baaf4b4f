"""Synthetic star fields with known truth, for tests, benchmarks, the demo and planning.

A `Scene` says what is in the sky and what the detector does to it; `simulate` draws it, with the finely
integrated PSFs of `crowdfit.psf.truth`.

Data-quality values of the result: 0 good, 1 bad (garbage value or dead column), 2 saturated.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

import crowdfit
from crowdfit.detectors.one_over_f import amplifier_edges
from crowdfit.exposure import Exposure
from crowdfit.io.atomic import atomic_path
from crowdfit.psf import truth
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Grid
from crowdfit.psf.readers import read_psf
from crowdfit.psf.truth import Profile
from crowdfit.render import render
from crowdfit.scene import CARDS, SCENES, Cluster, Scene, describe, named_scene

__all__ = [
    "CARDS",
    "DQ_BAD",
    "DQ_SATURATED",
    "SCENES",
    "Cluster",
    "Scene",
    "Simulated",
    "draw_stars",
    "draw_stripes",
    "local_scene",
    "named_scene",
    "simulate",
    "sky_plane",
    "true_psf",
    "write_field",
]

log = logging.getLogger(__name__)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

DQ_BAD: Final = 1
DQ_SATURATED: Final = 2
NEGLIGIBLE: Final = 0.05
"""The table of the PSF ends where the brightest star falls below this, in units of sky and read noise."""
MIN_REACH: Final = 8.0
"""Least half width of that table (FWHM)."""
MAX_RADIUS: Final = 150
"""Largest half width of the PSF table (pix)."""
VARYING_RADIUS: Final = 60
"""Largest half width of the tables of a PSF that varies, of which there are many (pix)."""
NODE_CHANGE: Final = 0.05
"""FWHM and ellipticity change by at most this much, as a share, from node to node of a PSF that varies."""
HALO_BETA: Final = 2.0
"""Moffat exponent of the wide halo; the r^-4 surface brightness is between r^-2 and r^-6 of real wings."""
GARBAGE: Final = (np.nan, 1e8, 0.0)
"""What bad pixels hold, one third of them each."""


@dataclasses.dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated image and the truth behind it.

    Parameters
    ----------
    scene : Scene
        What was asked for.
    psf : EPSF
        The true PSF, pixel response included.
    fwhm : float
        `Scene.fwhm`, or the measured one of a PSF given as an array (pix).
    data : ndarray (ny, nx) float32
        The image: sky, stars, noise, saturation and bad pixels.
    err : ndarray (ny, nx) float32
        Standard deviation of the noiseless image, stars included.
    dq : ndarray (ny, nx) uint32
        0 good, 1 bad, 2 saturated; bits add.
    sky, model : ndarray (ny, nx) float32
        Noiseless sky and noiseless stars.
    stripes : ndarray (ny, nx) float32
        Drift of the readout, which lies on top of both.
    truth : astropy.table.Table
        `x`, `y` (pix, 0-based pixel centres) and `flux` (image unit) of every star.
    """

    scene: Scene
    psf: EPSF
    fwhm: float
    data: F32
    err: F32
    dq: NDArray[np.uint32]
    sky: F32
    model: F32
    stripes: F32
    truth: Table

    @property
    def exposure(self) -> Exposure:
        """The image as the fitter takes it, with the true sky and read noise."""
        scene = self.scene
        variance = self.sky / scene.gain + (scene.read_noise / scene.gain) ** 2
        ivar = np.where(self.dq == 0, 1 / variance, 0)
        saturated = (self.dq & DQ_SATURATED) > 0
        return Exposure.of(self.data, ivar, self.dq, saturated=saturated, gain=scene.gain, name="simulated")

    def write(self, path: str | Path) -> Path:
        """Write SCI, ERR, DQ and TRUTH extensions, with the scene in the primary header.

        Parameters
        ----------
        path : path
            FITS file; replaced when it is there, and complete or not written at all.
        """
        return write_field(path, self._header(), fits.Header(), self.data, self.err, self.dq, self.truth)

    def _header(self) -> fits.Header:
        header = fits.Header()
        header["ORIGIN"] = f"crowdfit {crowdfit.__version__}"
        header["OBJECT"] = "simulated star field"
        header["BUNIT"] = "adu"
        header["FWHM"] = (self.fwhm, "of the true PSF (pix)")
        header["NTRUTH"] = (len(self.truth), "stars in TRUTH")
        for field in dataclasses.fields(Scene):
            value = getattr(self.scene, field.name)
            if value is None or value == () or field.name == "fwhm":
                continue
            if field.name == "clusters":
                value = json.dumps([dataclasses.asdict(cluster) for cluster in value])
            header[CARDS[field.name]] = value
            if not isinstance(value, str):
                header.comments[CARDS[field.name]] = describe(field.name)
        return header


def write_field(
    path: str | Path,
    primary: fits.Header,
    image: fits.Header,
    data: F32,
    err: F32,
    dq: NDArray[np.uint32],
    truth: Table,
) -> Path:
    """Write an image with known truth as SCI, ERR, DQ and TRUTH extensions.

    Parameters
    ----------
    path : path
        FITS file; replaced when it is there, and complete or not written at all.
    primary, image : astropy.io.fits.Header
        Cards of the primary and of the SCI header.
    data, err, dq : ndarray (ny, nx)
        Image, its errors and its data quality.
    truth : astropy.table.Table
        The stars.

    Returns
    -------
    Path
        The file.
    """
    path = Path(path)
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(header=primary),
            fits.ImageHDU(data, header=image, name="SCI"),
            fits.ImageHDU(err, name="ERR"),
            fits.ImageHDU(dq.astype(np.int32), name="DQ"),
            fits.table_to_hdu(truth, name="TRUTH"),
        ]
    )
    with atomic_path(path) as temporary:
        hdus.writeto(temporary, overwrite=True)
    return path


def simulate(
    scene: Scene, psf: EPSF | None = None, *, stars: Table | None = None, noise_seed: int | None = None
) -> Simulated:
    """Draw a scene.

    Parameters
    ----------
    scene : Scene
        What to draw. Equal scenes give equal images.
    psf : EPSF, optional
        Used instead of the PSF that the scene describes.
    stars : astropy.table.Table, optional
        `x`, `y` (pix) and `flux` of the stars, instead of those that the scene describes.
    noise_seed : int, optional
        Seed of photons, defects and drifts where they are not to be those of another image of the same scene.

    Returns
    -------
    Simulated
    """
    places, fluxes, photons, defects, drifts = np.random.default_rng(scene.seed).spawn(5)
    if noise_seed is not None:
        photons, defects, drifts = np.random.default_rng([scene.seed, noise_seed]).spawn(3)
    fwhm = scene.fwhm
    if psf is None and scene.psf_file is not None:
        psf = read_psf(scene.psf_file)
    if psf is None:
        psf = true_psf(scene)
    else:
        fwhm = psf.fwhm
    if stars is None:
        stars = draw_stars(scene, places, fluxes)
    # every star on the full table: the cut wings of the faint ones would add up to a hole in the sky
    model = render(psf, stars["x"], stars["y"], stars["flux"], (scene.ny, scene.nx))
    sky = sky_plane(scene)
    expected = (sky + model).astype(np.float64)
    stripes = draw_stripes(scene, drifts)
    data, dq = _expose(scene, expected, stripes, photons, defects)
    err = np.sqrt(expected / scene.gain + (scene.read_noise / scene.gain) ** 2).astype(np.float32)
    log.info("simulated %d stars on %d x %d pixels, FWHM %.2f", len(stars), scene.ny, scene.nx, fwhm)
    return Simulated(scene, psf, fwhm, data, err, dq, sky, model, stripes, stars)


def draw_stars(scene: Scene, places: np.random.Generator, fluxes: np.random.Generator) -> Table:
    """Return `x`, `y` (pix) and `flux` (image unit) of the field and cluster stars.

    Parameters
    ----------
    scene : Scene
        What to draw.
    places, fluxes : numpy.random.Generator
        Sources of the positions and of the fluxes.
    """
    low = -0.5 - scene.margin
    x = places.uniform(low, scene.nx - 0.5 + scene.margin, scene.n_stars)
    y = places.uniform(low, scene.ny - 0.5 + scene.margin, scene.n_stars)
    for cluster in scene.clusters:
        members = _draw_cluster(scene, cluster, places)
        x, y = np.append(x, members[0]), np.append(y, members[1])
    bright, faint = scene.flux_max**-scene.slope, scene.flux_min**-scene.slope
    flux = (faint + fluxes.uniform(size=len(x)) * (bright - faint)) ** (-1 / scene.slope)
    return Table({"x": x, "y": y, "flux": flux}, units={"x": "pix", "y": "pix"})


def _draw_cluster(scene: Scene, cluster: Cluster, rng: np.random.Generator) -> F64:
    """Return x, y of the members, (2, n); those drawn outside the frame and margin are drawn again."""
    corner = np.hypot(max(cluster.x, scene.nx - cluster.x), max(cluster.y, scene.ny - cluster.y))
    farthest = (corner + 2 * scene.margin + 2) / cluster.core_radius
    radius = np.linspace(0, min(cluster.concentration, farthest), 4000)
    if cluster.gamma is None:
        edge = 1 / np.hypot(1, cluster.concentration)
        density = (1 / np.hypot(1, radius) - edge) ** 2 * radius
    else:
        density = np.hypot(1, radius) ** -cluster.gamma * radius
    inside = np.append(0, np.cumsum(density[1:] + density[:-1]))
    inside /= inside[-1]
    low, high = -0.5 - scene.margin, np.array([[scene.nx], [scene.ny]]) - 0.5 + scene.margin
    members = np.empty((2, 0))
    while members.shape[1] < cluster.n_stars:
        r = cluster.core_radius * np.interp(rng.uniform(size=cluster.n_stars), inside, radius)
        phi = rng.uniform(0, 2 * np.pi, cluster.n_stars)
        drawn = np.stack([cluster.x + r * np.cos(phi), cluster.y + r * np.sin(phi)])
        members = np.append(members, drawn[:, ((drawn > low) & (drawn < high)).all(axis=0)], axis=1)
    return members[:, : cluster.n_stars]


def sky_plane(scene: Scene) -> F32:
    """Return the noiseless sky, a tilted plane, (ny, nx) in image units."""
    angle = np.radians(scene.sky_angle)
    yy, xx = np.mgrid[: scene.ny, : scene.nx]
    along = xx * np.cos(angle) + yy * np.sin(angle)
    tilt = (along - along.mean()) / np.ptp(along)
    return np.asarray(scene.sky * (1 + scene.sky_gradient * tilt), np.float32)


def draw_stripes(scene: Scene, rng: np.random.Generator) -> F32:
    """Return the stripes of the readout (ny, nx; image unit): offsets of rows with the power spectrum 1/f.

    With several amplifiers half of the variance is common to all and half is each one's own.
    """
    if scene.stripes == 0:
        return np.zeros((scene.ny, scene.nx), np.float32)
    frequency = np.fft.rfftfreq(scene.ny)
    frequency[0] = np.inf  # a common level would be sky
    white = rng.normal(size=(scene.amplifiers + 1, scene.ny))
    drift = np.fft.irfft(np.fft.rfft(white) / np.sqrt(frequency), scene.ny)
    drift *= scene.stripes * scene.noise / drift.std(axis=1, keepdims=True)
    whole, own = drift[0], drift[1:]
    lines = np.sqrt(0.5) * (whole + own) if scene.amplifiers > 1 else own
    edges = amplifier_edges(scene.nx, scene.amplifiers)
    return np.repeat(lines.T.astype(np.float32), np.diff(edges), axis=1)


def _expose(
    scene: Scene, expected: F64, stripes: F32, photons: np.random.Generator, defects: np.random.Generator
) -> tuple[F32, NDArray[np.uint32]]:
    """Return the image with noise, saturation and bad pixels, and its data quality."""
    data = photons.poisson(expected * scene.gain) / scene.gain
    data += photons.normal(0, scene.read_noise / scene.gain, data.shape) + stripes
    dq = np.zeros(data.shape, np.uint32)
    if scene.saturation is not None:
        full = data >= scene.saturation
        data[full] = scene.saturation
        dq[full] |= DQ_SATURATED
    bad = defects.uniform(size=data.shape) < scene.bad_pixels
    data[bad] = np.array(GARBAGE)[np.arange(bad.sum()) % len(GARBAGE)]
    dead = defects.choice(scene.nx, scene.dead_columns, replace=False)
    bad[:, dead] = True
    data[:, dead] = 0
    dq[bad] |= DQ_BAD
    return data.astype(np.float32), dq


def true_psf(scene: Scene) -> EPSF:
    """Return the PSF that a scene describes, as wide as its brightest star stands out of the noise.

    One that varies is exact at the nodes of a grid and by definition bilinear between them.
    """
    if scene.varies:
        return _varying_psf(scene)
    profile = _profile(scene)
    return truth.integrated(profile, _half_width(scene, profile), scene.ellipticity, scene.angle)


def _half_width(scene: Scene, profile: Profile) -> int:
    """Return how far out the table of a profile reaches (pix)."""
    radius = np.arange(0, MAX_RADIUS, 0.1)
    envelope = np.maximum.accumulate(profile(radius)[::-1])[::-1]
    seen = 0.1 * np.count_nonzero(envelope * scene.flux_max > NEGLIGIBLE * scene.noise)
    reach = max(seen / np.sqrt(1 - scene.ellipticity), MIN_REACH * scene.fwhm)
    return min(int(np.ceil(reach)) + 1, MAX_RADIUS)


def _varying_psf(scene: Scene) -> EPSF:
    """Return the PSF of a scene whose width and shape change over the field."""
    change = scene.fwhm_gradient + scene.fwhm_bowl + scene.ellipticity_bowl
    n = int(np.ceil(change / NODE_CHANGE)) + 2
    grid = Grid(*(tuple(np.linspace(0, size - 1, n).tolist()) for size in (scene.nx, scene.ny)))
    local = [local_scene(scene, x, y) for x, y in grid.places]
    half = min(max(_half_width(here, _profile(here)) for here in local), VARYING_RADIUS)
    # of ten samples a pixel every second one is kept: enough for the spline, and a quarter of the memory
    planes = [
        truth.integrated(_profile(here), half, here.ellipticity, here.angle).cube[0, ::2, ::2]
        for here in local
    ]
    return EPSF.from_planes(planes, truth.OVERSAMPLE // 2, grid)


def local_scene(scene: Scene, x: float, y: float) -> Scene:
    """Return the scene with the constant PSF that it has at a position (x, y).

    With (u, v) from -1 to 1 over the frame, the FWHM rises by `fwhm_gradient` in the direction of `fwhm_angle` and
    by `fwhm_bowl` (u^2 + v^2) / 2; the ellipse of the middle and a radial one of `ellipticity_bowl` (u^2 + v^2) / 2
    add up as vectors of twice their angles.
    """
    u, v = (2 * x / (scene.nx - 1) - 1, 2 * y / (scene.ny - 1) - 1)
    r2, towards = (u**2 + v**2) / 2, np.radians(scene.fwhm_angle)
    along = (u * np.cos(towards) + v * np.sin(towards)) / (abs(np.cos(towards)) + abs(np.sin(towards)))
    width = 1 + scene.fwhm_gradient / 2 * along + scene.fwhm_bowl * r2
    ellipse = scene.ellipticity * np.exp(2j * np.radians(scene.angle))
    ellipse += scene.ellipticity_bowl * r2 * np.exp(2j * np.arctan2(v, u))
    return dataclasses.replace(
        scene, fwhm=float(scene.fwhm * width), ellipticity=float(abs(ellipse)),
        angle=float(np.degrees(np.angle(ellipse)) / 2), fwhm_gradient=0.0, fwhm_bowl=0.0, ellipticity_bowl=0.0,
    )  # fmt: skip


def _profile(scene: Scene) -> Profile:
    """Return the surface brightness of the PSF, halo included, for unit flux."""
    core = {
        "gaussian": lambda: truth.gaussian(scene.fwhm),
        "moffat": lambda: truth.moffat(scene.fwhm, scene.beta),
        "airy": lambda: truth.airy(scene.fwhm, scene.obscuration),
    }[scene.psf]()
    if scene.wing_fraction == 0:
        return core
    halo = truth.moffat(scene.fwhm * scene.wing_scale, HALO_BETA)
    return lambda r: (1 - scene.wing_fraction) * core(r) + scene.wing_fraction * halo(r)

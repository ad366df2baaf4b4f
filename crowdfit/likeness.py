"""A simulated copy of a real field: what a fit found in an image, drawn again with known truth.

The copy has the PSF, the sky, the noise and the bad pixels of the image, and other stars that are as many, as
bright and as crowded: their fluxes are those of the catalogue above its completeness limit, and below it the
luminosity function goes on with the slope it has there, down to `FAINTEST_SNR`. Settings can be tuned and errors
be measured on it (P116, P119).
"""

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq
from scipy.spatial import cKDTree

import crowdfit
from crowdfit.config import load_config
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure, Image
from crowdfit.io.fits import read_exposure
from crowdfit.io.local import local_percentile
from crowdfit.io.products import image_header, product_path
from crowdfit.io.tables import read_catalog
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.stored import stored_psf
from crowdfit.render import render
from crowdfit.simulate import DQ_BAD, DQ_SATURATED, write_field

if TYPE_CHECKING:
    from crowdfit.result import FitResult

__all__ = ["Copy", "Likeness", "LuminosityFunction", "luminosity_function", "read_likeness", "simulate_like"]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

COMPLETE_SNR: Final = 10.0
"""Below this S/N no catalogue is taken to be complete."""
COMPLETE_FACTOR: Final = 3.0
"""Completeness limit over the flux where the counts turn over: half the stars are found there, nearly all here."""
FIT_RANGE: Final = 30.0
"""The slope is that of the fluxes up to this many limits: what goes on below it is the faint part of the counts."""
LEAST_STARS: Final = 30
"""With fewer stars in that range the slope is not measured and nothing is added below the limit."""
FAINTEST_SNR: Final = 1.0
"""Where the added stars end (S/N of a lone star). Fainter ones act through their mean light alone, which stays in the
sky: of the scatter that unresolved stars cause, which goes as flux^2 N, they hold a few per cent."""
MARGIN: Final = 10.0
"""Stars lie this far outside the image too (pix)."""
NEIGHBOURS: Final = 8
"""The density around a star is smoothed over the distance to this neighbour."""
SMOOTH_FWHM: Final = 8.0
"""The light of the added stars is taken out of the sky smoothed by this (sigma, in FWHM): a sky is no finer."""


class LuminosityFunction(NamedTuple):
    """How many stars there are below the limit of a catalogue.

    Parameters
    ----------
    limit : float
        Flux above which the catalogue counts as complete (image unit).
    slope, slope_err : float
        N(>f) ~ f^-slope above the limit, and its error; NaN when there were too few stars.
    n_fitted : int
        Stars that the slope was measured with.
    faintest : float
        Flux down to which stars are added; the limit itself when there is no slope (image unit).
    n_faint : int
        Stars between `faintest` and the limit.
    """

    limit: float
    slope: float
    slope_err: float
    n_fitted: int
    faintest: float
    n_faint: int

    @property
    def text(self) -> str:
        """What was added below the limit, for people."""
        if not self.n_faint:
            return f"none added to the catalogue: {self.n_fitted} stars are too few to tell how counts go on"
        return (
            f"{self.n_faint:,} on the image are fainter than {self.limit:.4g}, down to {self.faintest:.4g}, "
            f"with slope {self.slope:.2f} +- {self.slope_err:.2f}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Likeness:
    """What a copy is made from.

    Parameters
    ----------
    exposure : Exposure
        The image that was fitted, for its noise, mask, unit and coordinates.
    psf : EPSF
        The fitted PSF.
    sky : ndarray (ny, nx) float32
        The fitted sky (image unit).
    x, y, flux : ndarray (n,)
        The catalogue (pix, image unit).
    """

    exposure: Exposure
    psf: EPSF
    sky: Image
    x: F64
    y: F64
    flux: F64

    @classmethod
    def of(cls, result: "FitResult") -> "Likeness":
        """Return what a finished fit says."""
        stars = result.sources
        return cls(result.exposure, result.psf, result.sky, stars.x, stars.y, stars.flux)

    @property
    def variance(self) -> Image:
        """Variance of sky and detector, (ny, nx); where a pixel was not used that of its surroundings."""
        good = self.exposure.good
        variance = np.divide(1, self.exposure.ivar, out=np.zeros_like(self.exposure.ivar), where=good)
        return np.where(good, variance, local_percentile(variance, good, 50))

    def flux_at(self, snr: float) -> float:
        """Return the flux of a lone star of this S/N on a typical pixel (image unit)."""
        sky = self.psf.n_eff * float(np.median(self.variance))
        photons = snr**2 / self.exposure.gain
        return float(photons / 2 + np.sqrt(photons**2 / 4 + snr**2 * sky))


def read_likeness(
    image: str | Path,
    run: str | Path,
    err: str | Path | ArrayLike | None = None,
    dq: str | Path | ArrayLike | None = None,
) -> Likeness:
    """Return what the files of an earlier fit say.

    Parameters
    ----------
    image : path
        The image that was fitted.
    run : path
        Folder with the catalogue (FITS) and the fit image of `crowdfit fit`.
    err, dq : path or array (ny, nx), optional
        Planes kept elsewhere, as they were given to the fit.

    Raises
    ------
    InputError
        Missing files, or files of another image.
    """
    name = Path(image).name
    catalog = read_catalog(product_path(run, name, "catalog"))
    settings = yaml.safe_load(str(catalog.meta.get("config", "{}"))).get("input", {})
    options = load_config(None, {f"input.{key}": value for key, value in settings.items()}).input
    exposure = read_exposure(image, options, err=err, dq=dq)
    known = {str(key).upper(): str(value) for key, value in catalog.meta.items()}
    if known.get("SHA256") != str(exposure.meta.get("SHA256")):
        raise InputError(f"{image}: the fit in {run} is of another image of this name; fit this one first")
    path = product_path(run, name, "fit")
    try:
        with fits.open(path) as hdus:
            sky = np.array(hdus["SKY"].data, np.float32)
            psf = stored_psf(hdus["PSF"], str(path))
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: no fit image with SKY and PSF ({error}); fit {image} again") from error
    x, y, flux = (
        np.asarray(getattr(catalog[key], "value", catalog[key]), float) for key in ("x", "y", "flux")
    )
    return Likeness(exposure, psf, sky, x, y, flux)


def luminosity_function(flux: F64, complete: float, faintest: float) -> LuminosityFunction:
    """Measure where the counts of a catalogue end and how they rise there.

    Parameters
    ----------
    flux : ndarray (n,)
        Fluxes of the catalogue (image unit).
    complete : float
        Least completeness limit.
    faintest : float
        Where the continued counts end.

    Returns
    -------
    LuminosityFunction
        The slope is the one of greatest likelihood for a power law between the limit and `FIT_RANGE` times it.
    """
    limit = max(COMPLETE_FACTOR * _turnover(flux), complete)
    inside = np.log(flux[(flux >= limit) & (flux < FIT_RANGE * limit)] / limit)
    n, depth = len(inside), np.log(FIT_RANGE)
    if n < LEAST_STARS or faintest >= limit:
        return LuminosityFunction(limit, np.nan, np.nan, n, min(faintest, limit) if n else limit, 0)

    def excess(slope: float) -> float:
        """Return the mean of ln(f/limit) that a slope predicts, less the one that is seen."""
        return float(1 / slope - depth / np.expm1(slope * depth) - inside.mean())

    # a flat distribution of ln f, slope 0, has the mean depth / 2; counts that fall to the faint end have no faint part
    slope = brentq(excess, 1e-3, 50.0) if inside.mean() < depth / 2 - 1e-3 * depth**2 / 12 else 1e-3
    spread = 1 / slope**2 - depth**2 / (4 * np.sinh(slope * depth / 2) ** 2)
    below = ((faintest / limit) ** -slope - 1) / (1 - FIT_RANGE**-slope)
    return LuminosityFunction(limit, slope, 1 / np.sqrt(n * spread), n, faintest, round(n * below))


def _turnover(flux: F64) -> float:
    """Return the flux where counts per magnitude are highest; 0 without stars."""
    logs = np.log10(flux[flux > 0])
    if not len(logs):
        return 0.0
    edges = np.arange(logs.min() - 0.25, logs.max() + 0.35, 0.1)
    counts = gaussian_filter(np.histogram(logs, edges)[0].astype(float), 1.0)
    return float(10 ** (edges[np.argmax(counts)] + 0.05))


@dataclasses.dataclass(frozen=True, eq=False)
class Copy:
    """A simulated copy of a field and the truth behind it.

    Parameters
    ----------
    original : Likeness
        What it was made from.
    luminosity : LuminosityFunction
        How the counts were continued.
    seed : int
        Seed of all random numbers.
    data, err : ndarray (ny, nx) float32
        The image, and the standard deviation of the noiseless image, stars included.
    dq : ndarray (ny, nx) uint32
        0 good, 1 bad, 3 saturated.
    sky, model : ndarray (ny, nx) float32
        Noiseless sky without the light of the added stars, and noiseless stars.
    truth : astropy.table.Table
        `x`, `y` (pix) and `flux` (image unit) of every star.
    """

    original: Likeness
    luminosity: LuminosityFunction
    seed: int
    data: Image
    err: Image
    dq: NDArray[np.uint32]
    sky: Image
    model: Image
    truth: Table

    @property
    def fwhm(self) -> float:
        """FWHM of the PSF (pix)."""
        return self.original.psf.fwhm

    def write(self, path: str | Path) -> Path:
        """Write SCI, ERR, DQ and TRUTH extensions, SCI with the coordinates and the unit of the original.

        Parameters
        ----------
        path : path
            FITS file; replaced when it is there, and complete or not written at all.
        """
        exposure, counts = self.original.exposure, self.luminosity
        header = fits.Header()
        header["ORIGIN"] = f"crowdfit {crowdfit.__version__}"
        header["OBJECT"] = f"simulated copy of {exposure.name}"
        header["FWHM"] = (self.fwhm, "of the PSF (pix)")
        header["NTRUTH"] = (len(self.truth), "stars in TRUTH")
        header["SEED"] = (self.seed, "seed of all random numbers")
        header["LFLIMIT"] = (counts.limit, "above it fluxes are those of the catalogue")
        header["LFFAINT"] = (counts.faintest, "down to it the counts are continued")
        header["LFNADD"] = (counts.n_faint, "stars added below LFLIMIT on the image")
        if np.isfinite(counts.slope):
            header["LFSLOPE"] = (counts.slope, "slope of N(>f) below LFLIMIT")
        for key, value in {**exposure.meta, **_gain_card(exposure)}.items():
            if (
                len(key) <= 8
                and isinstance(value, str | int | float)
                and key not in _NOT_COPIED | set(header)
            ):
                header[key] = value
        return write_field(path, header, image_header(exposure), self.data, self.err, self.dq, self.truth)


_NOT_COPIED: Final = {"FILE", "SHA256"}
"""Facts about the file of the original, which are not true of the copy."""


def _gain_card(exposure: Exposure) -> dict[str, float]:
    """Return the gain as a header says it: electrons per count, when the image is in counts, or counts a second."""
    base, _, per = exposure.unit.partition("/")
    time = float(exposure.meta.get("EXPTIME", 0)) if per == "s" else float(per == "")
    if base not in ("", "adu", "ct") or not time or not np.isfinite(exposure.gain):
        return {}
    return {"GAIN": exposure.gain / time}


def simulate_like(original: Likeness, seed: int = 1) -> Copy:
    """Draw a copy.

    Parameters
    ----------
    original : Likeness
        What it shall be like.
    seed : int
        Seed of all random numbers; equal seeds give equal copies.

    Returns
    -------
    Copy

    Raises
    ------
    InputError
        A catalogue without stars of positive flux.
    """
    if not np.any(original.flux > 0):
        raise InputError(f"{original.exposure.name}: the catalogue has no star; there is nothing to copy")
    places, fluxes, photons = np.random.default_rng(seed).spawn(3)
    counts = luminosity_function(
        original.flux, original.flux_at(COMPLETE_SNR), original.flux_at(FAINTEST_SNR)
    )
    stars, n_inside = _draw_stars(original, counts, places, fluxes)
    model = render(original.psf, stars["x"], stars["y"], stars["flux"], original.exposure.shape)
    sky = original.sky - _added_light(original, counts, stars[:n_inside])
    data, err, dq = _expose(original, sky + model, model, photons)
    log.info("copy of %s: %d stars; %s", original.exposure.name, len(stars), counts.text)
    return Copy(original, counts, seed, data, err, dq, sky, model, stars)


def _draw_stars(
    original: Likeness,
    counts: LuminosityFunction,
    places: np.random.Generator,
    fluxes: np.random.Generator,
) -> tuple[Table, int]:
    """Return the stars, those on the image first, and how many these are."""
    least = counts.limit if counts.n_faint else 0
    bright = original.flux[original.flux >= least]
    low, high = counts.faintest**-counts.slope, counts.limit**-counts.slope
    faint = (low + fluxes.uniform(size=counts.n_faint) * (high - low)) ** (-1 / counts.slope)
    flux = fluxes.permutation(np.append(bright[bright > 0], faint))
    x, y = _draw_places(original, least, len(flux), places)
    # the field goes on beyond the edge as in a mirror: the same density, with fluxes of its own
    ny, nx = original.exposure.shape
    around = [
        (mx, my)
        for my in (y, -1 - y, 2 * ny - 1 - y)
        for mx in (x, -1 - x, 2 * nx - 1 - x)
        if not (mx is x and my is y)
    ]
    outside_x, outside_y = (np.concatenate(axis) for axis in zip(*around, strict=True))
    near = (np.abs(outside_x - (nx - 1) / 2) < nx / 2 + MARGIN) & (
        np.abs(outside_y - (ny - 1) / 2) < ny / 2 + MARGIN
    )
    flux_outside = fluxes.choice(flux, int(near.sum()))
    columns = {
        "x": np.append(x, outside_x[near]),
        "y": np.append(y, outside_y[near]),
        "flux": np.append(flux, flux_outside),
    }
    return Table(columns, units={"x": "pix", "y": "pix"}), len(flux)


def _draw_places(original: Likeness, limit: float, n: int, rng: np.random.Generator) -> tuple[F64, F64]:
    """Return n positions on the image that follow the smoothed density of the stars above the limit."""
    ny, nx = original.exposure.shape
    inside = (np.abs(original.x - (nx - 1) / 2) <= nx / 2) & (np.abs(original.y - (ny - 1) / 2) <= ny / 2)
    chosen = inside & (original.flux >= limit)
    if chosen.sum() <= NEIGHBOURS:
        return rng.uniform(-0.5, nx - 0.5, n), rng.uniform(-0.5, ny - 0.5, n)
    seeds = np.column_stack([original.x[chosen], original.y[chosen]])
    reach = np.asarray(cKDTree(seeds).query(seeds, [NEIGHBOURS + 1])[0])[:, 0]
    pick = rng.integers(len(seeds), size=n)
    moved = seeds[pick] + rng.normal(size=(n, 2)) * (reach[pick] / 2)[:, np.newaxis]
    return _reflected(moved[:, 0], nx), _reflected(moved[:, 1], ny)


def _reflected(at: F64, size: int) -> F64:
    """Return positions brought into the image by reflection at its edges, -0.5 and size - 0.5."""
    folded = np.mod(at + 0.5, 2 * size)
    return np.asarray(np.where(folded < size, folded, 2 * size - folded) - 0.5)


def _added_light(original: Likeness, counts: LuminosityFunction, stars: Table) -> Image:
    """Return the smooth light of the faint stars beyond what the catalogue holds of them, (ny, nx).

    It is in the fitted sky, and would be there twice.
    """
    ny, nx = original.exposure.shape
    faint = stars["flux"] < counts.limit
    if not counts.n_faint:
        return np.zeros((ny, nx), np.float32)
    edges = (np.arange(ny + 1) - 0.5, np.arange(nx + 1) - 0.5)
    known = original.flux < counts.limit
    new, old = (
        np.histogram2d(y, x, edges, weights=flux)[0]
        for x, y, flux in (
            (stars["x"][faint], stars["y"][faint], stars["flux"][faint]),
            (original.x[known], original.y[known], original.flux[known]),
        )
    )
    smooth = gaussian_filter(new - old, SMOOTH_FWHM * original.psf.fwhm, mode="reflect")
    return np.asarray(smooth, np.float32)


def _expose(
    original: Likeness, expected: Image, model: Image, rng: np.random.Generator
) -> tuple[Image, Image, NDArray[np.uint32]]:
    """Return the image with the noise and the mask of the original, its errors, and its data quality."""
    exposure, variance = original.exposure, original.variance.astype(np.float64)
    data = expected + rng.normal(size=expected.shape) * np.sqrt(variance)
    if np.isfinite(exposure.gain):
        electrons = np.maximum(model, 0).astype(np.float64) * exposure.gain
        data += (rng.poisson(electrons) - electrons) / exposure.gain
        variance = variance + electrons / exposure.gain**2
    dq = np.zeros(data.shape, np.uint32)
    level = float(exposure.meta.get("SATURATE", 0))
    if level or exposure.saturated.any():
        level = level or float(exposure.data[exposure.good].max())
        full = data >= level
        data[full], dq[full] = level, DQ_SATURATED | DQ_BAD
    # what was saturated belongs to stars that are elsewhere now
    bad = ~exposure.good & ~exposure.saturated
    data[bad], dq[bad] = np.nan, DQ_BAD
    return data.astype(np.float32), np.sqrt(variance).astype(np.float32), dq

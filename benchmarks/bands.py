"""Two bands of one crowded NIRCam field, from `_cal` files to a colour-magnitude diagram with known truth.

    python -m benchmarks.bands --seeds 1 2 3
    python -m benchmarks.bands --seeds 5 6 7 --keep folder

Each seed is a field of main-sequence stars of finite width in colour, seen in F150W (pixels of 0.031 arcsec) and F277W
(0.063 arcsec), written as two `_cal` files with the extensions, units and flags of real ones. They go through
`crowdfit fit` and `crowdfit cmd` without a setting, and AB magnitudes are compared with those put in.

Definitions. *S/N* is that of an isolated star with the true PSF, photons of the star included. A star is *found* as in
`benchmarks.score`: within half a FWHM and a factor 2, one to one. No zero point is removed. *Bias* is the median of
magnitude found minus true, above S/N 50 in that band. *Width* is the robust width of colour minus the true ridge at
the true magnitude, for stars whose lower S/N of the two bands is 15 to 27. It is compared with the *injected* width,
that of the true colours of the same stars about the ridge, and with the *expected* one, in which the errors that
these stars would have alone are added in quadrature: no photometry has less. *Beyond* is the light of the true PSF
outside the table of the fitted one, which no flux of a fit holds (README, "Magnitudes"). *Clean* stars have qf > 0.7
and fracflux > 0.5 in both bands and one detection in each, as the README advises.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from benchmarks.score import Stars, Truth, match, robust_width
from crowdfit import flags
from crowdfit.cli import main as crowdfit
from crowdfit.io.dq import DQ_BITS
from crowdfit.io.tables import read_catalog
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.readers import read_psf
from crowdfit.render import render
from crowdfit.scene import Scene
from crowdfit.simulate import true_psf

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

AB_JY: Final = 3631.0
SECONDS: Final = 300.0
PIXELS_PER_STAR: Final = 52.4
"""Of the first band; 13 of the second, which are 6 square FWHM."""
BORDER: Final = 4
"""Reference pixels along the edges of a detector."""
BRIGHT_SNR: Final = 50.0
AT_SNR: Final = (15.0, 27.0)
"""What counts as S/N 20."""
WIDTH: Final = 0.05
"""Standard deviation of colour about the ridge (mag); photons at S/N 20 are about as wide."""
BRIGHT, FAINT, SLOPE = 19.3, 29.6, 0.24
"""Magnitudes of the stars in the first band, and the logarithmic slope of their number with magnitude."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """A filter as NIRCam has it.

    `scale` is the pixel size in pixels of the first band, `fwhm` that of the diffraction pattern (pix), `electrons`
    what 1 MJy/sr gives in the exposure, `read` the read noise (electrons), `sky` and `saturation` in MJy/sr.
    """

    name: str
    detector: str
    channel: str
    scale: float
    fwhm: float
    pixel_sr: float
    photmjsr: float
    electrons: float
    sky: float
    read: float = 10.0
    saturation: float = 400.0

    @property
    def noise(self) -> float:
        """Standard deviation of a pixel of sky (MJy/sr)."""
        return float(np.sqrt(self.sky * self.electrons + self.read**2) / self.electrons)

    def flux(self, mag: F64) -> F64:
        """Return the sum of MJy/sr over the pixels of a star of some AB magnitude."""
        return np.asarray(AB_JY * 10 ** (-0.4 * mag) / (1e6 * self.pixel_sr))

    def psf(self) -> EPSF:
        """Return the true PSF, as far out as the brightest star is seen."""
        brightest = float(self.flux(np.array(BRIGHT - 1.0)))
        scene = Scene(
            psf="airy", fwhm=self.fwhm, ellipticity=0.05, angle=30.0, flux_min=1.0, sky=self.sky * self.electrons,
            flux_max=brightest * self.electrons, read_noise=self.read,
        )  # fmt: skip
        return true_psf(scene)


BANDS: Final = (
    Band(
        name="F150W", detector="NRCA1", channel="SHORT", scale=1.0, fwhm=1.63, pixel_sr=2.23e-14, photmjsr=1.9,
        electrons=SECONDS * 2.05 / 1.9, sky=0.25,
    ),
    Band(
        name="F277W", detector="NRCALONG", channel="LONG", scale=2.0, fwhm=1.46, pixel_sr=9.31e-14, photmjsr=0.42,
        electrons=SECONDS * 1.82 / 0.42, sky=0.15,
    ),
)  # fmt: skip


def ridge(mag: F64) -> F64:
    """Return the colour (mag) of the middle of the main sequence at a magnitude of the first band."""
    return np.asarray(-0.55 + 0.02 * (mag - 19) + 0.0045 * (mag - 19) ** 2)


class Field(NamedTuple):
    """True stars: places in pixels of the first band (n,), and their magnitudes in each band (2, n)."""

    x: F64
    y: F64
    mag: F64

    def places(self, band: Band) -> tuple[F64, F64]:
        """Return x, y on the pixels of a band; the detectors share their lower left corner."""
        x, y = ((where + 0.5) / band.scale - 0.5 for where in (self.x, self.y))
        return x, y


def draw_field(seed: int, side: int) -> Field:
    """Return the stars of a field of `side` pixels of the first band, and of a margin around."""
    rng = np.random.default_rng(seed)
    margin = 10.0
    n = round((side + 2 * margin) ** 2 / PIXELS_PER_STAR)
    x, y = rng.uniform(-0.5 - margin, side - 0.5 + margin, (2, n))
    low, high = 10 ** (SLOPE * BRIGHT), 10 ** (SLOPE * FAINT)
    mag = np.log10(rng.uniform(low, high, n)) / SLOPE
    colour = ridge(mag) + rng.normal(0, WIDTH, n)
    return Field(x, y, np.array([mag, mag - colour]))


def write_cal(path: Path, band: Band, field: Field, side: int, seed: int) -> Path:
    """Write the `_cal` file of a band: surface brightness, so that stars are divided by the relative pixel area."""
    number = [known.name for known in BANDS].index(band.name)
    rng = np.random.default_rng((seed, number))
    shape = (round(side / band.scale),) * 2
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    area = (1 + 0.02 * (xx / shape[1] - 0.5) + 0.02 * (yy / shape[0] - 0.5)).astype(np.float32)
    stars = render(band.psf(), *field.places(band), band.flux(field.mag[number]), shape)
    light = (stars / area + band.sky).astype(np.float64)
    read = band.read / band.electrons
    sci = rng.poisson(light * band.electrons) / band.electrons + rng.normal(0, read, shape)
    parts = {
        "VAR_POISSON": np.maximum(sci, 0) / band.electrons,
        "VAR_RNOISE": np.full(shape, read**2),
        "VAR_FLAT": (0.005 * sci) ** 2,
    }
    dq = np.zeros(shape, np.uint32)
    edge = np.ones(shape, bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    dq[edge] = DQ_BITS["REFERENCE_PIXEL"] | DQ_BITS["DO_NOT_USE"]
    dq[light > band.saturation] |= DQ_BITS["SATURATED"] | DQ_BITS["DO_NOT_USE"]
    dq[rng.uniform(size=shape) < 2e-3] |= DQ_BITS["JUMP_DET"]
    dq[rng.uniform(size=shape) < 2e-4] |= DQ_BITS["DO_NOT_USE"] | DQ_BITS["DEAD"]
    err = np.sqrt(sum(parts.values()))
    lost = (dq & DQ_BITS["DO_NOT_USE"]) > 0
    sci[lost] = err[lost] = np.nan
    planes = {"SCI": sci, "ERR": err, "AREA": area, **parts}
    hdus = [fits.PrimaryHDU(header=_primary(band, shape))]
    hdus += [fits.ImageHDU(plane.astype(np.float32), name=name) for name, plane in planes.items()]
    hdus.insert(3, fits.ImageHDU(dq, name="DQ"))
    hdus[1].header.update(_image(band, shape))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def _primary(band: Band, shape: tuple[int, int]) -> fits.Header:
    return fits.Header(
        {
            "TELESCOP": "JWST", "INSTRUME": "NIRCAM", "DETECTOR": band.detector, "MODULE": "A",
            "CHANNEL": band.channel, "FILTER": band.name, "PUPIL": "CLEAR", "EXP_TYPE": "NRC_IMAGE", "SUBARRAY": "SUB",
            "SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": shape[1], "SUBSIZE2": shape[0], "NGROUPS": 6, "NINTS": 1,
            "EFFEXPTM": SECONDS, "CAL_VER": "1.20.2", "CRDS_CTX": "jwst_1413.pmap", "DATAMODL": "ImageModel",
            "S_PHOTOM": "COMPLETE", "S_FLAT": "COMPLETE", "DATE-OBS": "2023-07-16",
        }
    )  # fmt: skip


def _image(band: Band, shape: tuple[int, int]) -> dict[str, Any]:
    step = 0.0311 / 3600 * band.scale
    return {
        "BUNIT": "MJy/sr", "PHOTMJSR": band.photmjsr, "PIXAR_SR": band.pixel_sr, "XPOSURE": SECONDS, "WCSAXES": 2,
        "CRPIX1": shape[1] / 2 + 0.5, "CRPIX2": shape[0] / 2 + 0.5, "CRVAL1": 10.0, "CRVAL2": -30.0,
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS",
        "PC1_1": -1.0, "PC1_2": 0.0, "PC2_1": 0.0, "PC2_2": 1.0, "CDELT1": step, "CDELT2": step,
    }  # fmt: skip


def isolated_errors(band: Band, flux: F64) -> F64:
    """Return the errors of flux (n,; MJy/sr) that stars would have alone, at the mean place in a pixel."""
    psf, phases = band.psf(), np.linspace(-0.375, 0.375, 4)
    size = 2 * int(np.ceil(8 * band.fwhm)) + 1
    middle = size // 2
    x, y = (where.ravel() for where in np.meshgrid(phases, phases))
    one = np.ones(1)
    stamps = np.array(
        [
            render(psf, (middle + dx) * one, (middle + dy) * one, one, (size, size))
            for dx, dy in zip(x, y, strict=True)
        ]
    )
    profile = stamps.reshape(len(x), -1).astype(np.float64)
    table = np.geomspace(flux.min(), flux.max(), 60)
    error = [
        np.mean((profile**2 / (band.noise**2 + f * profile / band.electrons)).sum(axis=1)) for f in table
    ]
    return np.asarray(np.interp(np.log(flux), np.log(table), np.array(error) ** -0.5), np.float64)


class Seen(NamedTuple):
    """What one band knows of the true stars (n,): S/N alone, row of the catalogue or -1, error of its magnitude."""

    snr: F64
    row: NDArray[np.int64]
    off: F64


def seen(band: Band, field: Field, side: int, catalog: Table) -> Seen:
    """Return what the catalogue of a band holds of each true star."""
    number = [known.name for known in BANDS].index(band.name)
    flux = band.flux(field.mag[number])
    x, y = field.places(band)
    n = round(side / band.scale)
    truth = Truth(Stars(x, y, flux, np.full(len(x), np.nan)), band.fwhm, 1.0, (n, n), np.ones(len(x), bool))
    # pixel areas are in the fluxes of the catalogue already, and all calibrated magnitudes hang on one zero point
    plain = {
        name: np.asarray(catalog[name].value, float) for name in ("x", "y", "flux", "flux_err", "mag_cal")
    }
    rows = match(truth, Stars(plain["x"], plain["y"], plain["flux"], plain["flux_err"]))
    off = np.where(rows >= 0, plain["mag_cal"][rows] - field.mag[number], np.nan)
    inside = truth.inside(truth.stars)
    return Seen(flux / isolated_errors(band, flux), np.where(inside, rows, -1), np.where(inside, off, np.nan))


def beyond(band: Band, psf: EPSF) -> float:
    """Return the share of a star's light outside the table of a fitted PSF."""
    true, half = band.psf(), psf.radius
    if half >= true.radius:
        return 0.0
    return float(1 - true.native(2 * half + 1).sum(dtype=float))


def figures(
    field: Field, side: int, catalogs: Sequence[Table], colours: Table, psfs: Sequence[EPSF]
) -> dict[str, Any]:
    """Return bias by band and S/N, and the width of the main sequence.

    Parameters
    ----------
    field : Field
        The truth.
    side : int
        Pixels of the first band along an edge.
    catalogs : sequence of Table
        Of both bands.
    colours : Table
        As `crowdfit cmd` makes it.
    psfs : sequence of EPSF
        The fitted PSFs of both bands.
    """
    both = [seen(band, field, side, table) for band, table in zip(BANDS, catalogs, strict=True)]
    result: dict[str, Any] = {}
    for band, found, psf in zip(BANDS, both, psfs, strict=True):
        bright = (found.snr > BRIGHT_SNR) & np.isfinite(found.off)
        off = found.off[bright]
        result[band.name] = {
            "bias_mmag": 1e3 * float(np.median(off)),
            "bias_err_mmag": 1e3 * 1.25 * robust_width(off) / np.sqrt(len(off)),
            "scatter_mmag": 1e3 * robust_width(off),
            "beyond_mmag": -2500 * float(np.log10(1 - beyond(band, psf))),
            "n": int(bright.sum()),
        }
    result["ms"] = {
        "all": _width(field, both, catalogs, colours, clean=False),
        "clean": _width(field, both, catalogs, colours, clean=True),
    }
    return result


def _width(
    field: Field, both: Sequence[Seen], catalogs: Sequence[Table], colours: Table, *, clean: bool
) -> dict[str, Any]:
    """Return the width of the main sequence at S/N 20, found, injected and expected (mag)."""
    row_1, row_2 = (np.asarray(colours[f"row_{k}"]) for k in (1, 2))
    star_of = np.full(len(catalogs[0]), -1)
    is_found = both[0].row >= 0
    star_of[both[0].row[is_found]] = np.flatnonzero(is_found)
    star = star_of[row_1]
    lower = np.minimum(both[0].snr, both[1].snr)[star]
    chosen = (star >= 0) & (lower > AT_SNR[0]) & (lower < AT_SNR[1])
    chosen &= np.isfinite(colours["colour_12"].value)
    n_all = int(chosen.sum())
    if clean:
        chosen &= (np.asarray(colours["flags"]) & flags.bit("several")) == 0
        for table, row in zip(catalogs, (row_1, row_2), strict=True):
            chosen &= (np.asarray(table["qf"])[row] > 0.7) & (np.asarray(table["fracflux"])[row] > 0.5)
    star = star[chosen]
    middle = ridge(field.mag[0])[star]
    found = colours["colour_12"].value[chosen] - middle
    injected = field.mag[0, star] - field.mag[1, star] - middle
    photons = 1.0857 * np.hypot(1 / both[0].snr[star], 1 / both[1].snr[star])
    expected = np.hypot(robust_width(injected), np.median(photons))
    width = robust_width(found)
    return {
        "n": int(chosen.sum()), "share": chosen.sum() / max(n_all, 1), "width": width,
        "injected": robust_width(injected), "expected": float(expected), "ratio": width / float(expected),
        "over_injected": width / robust_width(injected), "offset": float(np.median(found)),
    }  # fmt: skip


def run(seed: int, side: int, folder: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Return the figures of a field: drawn, fitted, matched.

    Parameters
    ----------
    seed : int
        Of the field.
    side : int
        Pixels of the first band along an edge.
    folder : Path
        Where the files go.
    options : sequence of str
        More arguments for `crowdfit fit`.

    Raises
    ------
    RuntimeError
        A command fails.
    """
    field = draw_field(seed, side)
    paths = [
        write_cal(folder / f"{band.name.lower()}_{seed}_cal.fits", band, field, side, seed) for band in BANDS
    ]
    names = [folder / f"{path.stem}_catalog.fits" for path in paths]
    table = folder / f"colours_{seed}.fits"
    for command in (
        ["fit", *map(str, paths), "-o", str(folder), "-q", *options],
        ["cmd", *map(str, names), "-o", str(table), "-q"],
    ):
        if crowdfit(command) != 0:
            raise RuntimeError(f"crowdfit {' '.join(command)} failed")
    return {"seed": seed, "side": side} | read_figures(field, side, folder, seed)


def read_figures(field: Field, side: int, folder: Path, seed: int) -> dict[str, Any]:
    """Return the figures of the files that a run has left."""
    stems = [f"{band.name.lower()}_{seed}_cal" for band in BANDS]
    return figures(
        field,
        side,
        [read_catalog(folder / f"{stem}_catalog.fits") for stem in stems],
        read_catalog(folder / f"colours_{seed}.fits"),
        [read_psf(folder / f"{stem}_fit.fits") for stem in stems],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures of some seeds and their medians."""
    parser = argparse.ArgumentParser(prog="benchmarks.bands", description="Two bands against truth.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--side", type=int, default=1024, help="pixels of the first band along an edge")
    parser.add_argument("--keep", type=Path, help="folder for images, catalogues and diagrams")
    parser.add_argument("--json", type=Path, help="JSON lines are appended to this file")
    parser.add_argument("options", nargs="*", help="arguments for `crowdfit fit`, behind --")
    args = parser.parse_args(argv)
    records = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.keep or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            records.append(run(seed, args.side, folder, args.options))
        print_figures(records[-1], f"seed {seed}")
        if args.json is not None:
            with args.json.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(records[-1]) + "\n")
    if len(records) > 1:
        print_figures(median_of(records), "median")


def median_of(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of all figures."""
    first = records[0]
    return {
        key: median_of([record[key] for record in records])
        if isinstance(value, dict)
        else float(np.median([record[key] for record in records]))
        for key, value in first.items()
    }


def print_figures(record: dict[str, Any], title: str) -> None:
    """Print the figures of one seed."""
    print(title)
    for band in BANDS:
        its = record[band.name]
        print(
            f"  {band.name} above S/N {BRIGHT_SNR:g}: bias {its['bias_mmag']:+.1f} +- {its['bias_err_mmag']:.1f} "
            f"mmag, of which {its['beyond_mmag']:.1f} beyond the PSF, scatter {its['scatter_mmag']:.1f}, "
            f"{its['n']:.0f} stars"
        )
    for name, its in record["ms"].items():
        print(
            f"  main sequence at S/N 20, {name}: width {its['width']:.4f}, injected {its['injected']:.4f} (x "
            f"{its['over_injected']:.2f}), with photons {its['expected']:.4f} (x {its['ratio']:.2f}), "
            f"offset {its['offset']:+.4f}, {its['n']:.0f} stars ({100 * its['share']:.0f} %)"
        )


if __name__ == "__main__":
    main()

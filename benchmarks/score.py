"""How good a catalogue is, on a field with known truth.

    python -m benchmarks.score FIELD.fits CATALOGUE [CATALOGUE ...]

FIELD has extensions SCI, ERR, DQ (0 = good) and TRUTH (x, y, flux), and FWHM in its primary header, as
`crowdfit simulate` writes them. A catalogue needs x, y (0-based pixels), flux, and flux_err or dflux.

Definitions. A *match* is one-to-one, within half a FWHM and a factor 2 in flux; the brightest true star
chooses first, and takes the nearest free entry. *S/N* is that of an isolated star, f / sqrt(s^2 + f), with s
the sky-limited error of the whole field. Stars within 20 px of the border are left out, and so are true stars
whose central pixel is masked, but catalogue entries on them may be matched. One constant zero point, the
median flux ratio of the bright stars, is removed first: codes differ in where they let a PSF end. An entry is
*false* when it has no partner; it belongs to the bin of its own S/N. *Density* is the number of true stars with
S/N > 5 per square FWHM, the star itself left out, within 4 FWHM; its bins hold everything above S/N 10.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.units import UnitsWarning
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from crowdfit.simulate import Simulated

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, 200.0), (200.0, 1e9))
"""Edges of the S/N bins."""
DENSITIES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, np.inf)
"""Edges of the density bins (stars per square FWHM)."""
DENSITY_RADIUS = 4.0
"""Neighbours up to this distance count for the density (FWHM)."""
DENSITY_SNR = 5.0
"""Stars above this S/N count for the density; fainter ones are noise rather than neighbours."""
BORDER = 20.0
"""Stars closer to the edge than this are left out (pix)."""


@dataclass(frozen=True, eq=False)
class Stars:
    """Positions (pix), fluxes and flux errors of n stars; the errors of true stars are NaN.

    `shift_err` (n, 2) are errors of x and y (pix), where there are any.
    """

    x: F64
    y: F64
    flux: F64
    err: F64
    shift_err: F64 | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def places(self) -> F64:
        """Positions as (n, 2)."""
        return np.column_stack([self.x, self.y])


@dataclass(frozen=True, eq=False)
class Truth:
    """True stars of a field, its FWHM (pix), sky-limited flux error and shape, and which cores are clean."""

    stars: Stars
    fwhm: float
    sky_error: float
    shape: tuple[int, int]
    clean: NDArray[np.bool_]

    def snr(self, flux: F64) -> F64:
        """Return the S/N of isolated stars of the given fluxes."""
        return flux / np.sqrt(self.sky_error**2 + np.maximum(flux, 0))

    def inside(self, stars: Stars) -> NDArray[np.bool_]:
        """Return which stars are far enough from the border."""
        ny, nx = self.shape
        in_x = (stars.x > BORDER) & (stars.x < nx - BORDER)
        return in_x & (stars.y > BORDER) & (stars.y < ny - BORDER)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of some stars: `n` true ones, medians and robust widths over those matched."""

    n: int
    completeness: float
    false_frac: float
    f1: float
    bias_mmag: float
    scatter: float
    pull_med: float
    pull_mad: float
    pos_med: float
    pos_pull: float


@dataclass(frozen=True, kw_only=True)
class BinScore(Figures):
    """The figures of one S/N bin."""

    snr: str


@dataclass(frozen=True, kw_only=True)
class DensityScore(Figures):
    """The figures of one density bin, stars above S/N 10."""

    density: str


@dataclass(frozen=True)
class Score:
    """The figures of a catalogue; `..._snr5` and `..._snr10` are for stars above that S/N."""

    n_cat: int
    n_match: int
    zp_mmag: float
    completeness_snr5: float
    false_frac_snr5: float
    f1_snr5: float
    completeness_snr10: float
    false_frac_snr10: float
    f1_snr10: float
    bins: tuple[BinScore, ...]
    density_bins: tuple[DensityScore, ...]

    def bin(self, snr: str) -> BinScore | None:
        """Return the figures of the bin labelled e.g. ``50-200``; None if it holds no star."""
        return next((b for b in self.bins if b.snr == snr), None)

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists for JSON: rounded, None for what is not defined."""
        return {name: _plain_json(value) for name, value in asdict(self).items()}


def _plain_json(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain_json(item) for item in value]
    return value


def robust_width(values: F64) -> float:
    """Return 1.4826 times the median absolute deviation; NaN of nothing."""
    if not len(values):
        return float("nan")
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def read_truth(path: str | Path) -> Truth:
    """Return the truth of a simulated field in a file."""
    with fits.open(path) as hdus:
        fwhm = float(hdus[0].header["FWHM"])
        return _truth(Table(hdus["TRUTH"].data), fwhm, hdus["ERR"].data, hdus["DQ"].data)


def truth_of(made: Simulated) -> Truth:
    """Return the truth of a field just simulated."""
    return _truth(made.truth, made.fwhm, made.err, made.dq)


def _truth(table: Table, fwhm: float, noise: NDArray[Any], dq: NDArray[Any]) -> Truth:
    x, y, flux = (_values(table[name]) for name in ("x", "y", "flux"))
    ny, nx = dq.shape
    col = np.clip(np.round(x).astype(int), 0, nx - 1)
    row = np.clip(np.round(y).astype(int), 0, ny - 1)
    # a Gaussian of this FWHM covers 4 pi sigma^2 pixels
    sky_error = float(np.median(noise) * np.sqrt(4 * np.pi) * fwhm / 2.355)
    return Truth(Stars(x, y, flux, np.full(len(x), np.nan)), fwhm, sky_error, (ny, nx), dq[row, col] == 0)


def read_catalog(path: str | Path) -> Stars:
    """Return the sources of a catalogue file with finite positions and positive flux."""
    with warnings.catch_warnings():
        # BUNITs such as `electron` are widely used and not in the FITS standard; units do not matter here
        warnings.simplefilter("ignore", UnitsWarning)
        return as_stars(Table.read(path))


def as_stars(table: Table) -> Stars:
    """Return the sources of a catalogue with finite positions and positive flux."""
    error = next((name for name in ("dflux", "flux_err") if name in table.colnames), None)
    x, y, flux = (_values(table[name]) for name in ("x", "y", "flux"))
    err = _values(table[error]) if error else np.full(len(x), np.nan)
    keep = np.isfinite(x) & np.isfinite(y) & np.isfinite(flux) & (flux > 0)
    shift_err = None
    if {"x_err", "y_err"} <= set(table.colnames):
        shift_err = np.column_stack([_values(table[name]) for name in ("x_err", "y_err")])[keep]
    return Stars(x[keep], y[keep], flux[keep], err[keep], shift_err)


def _values(column: object) -> F64:
    """Return a column without unit or mask, masked entries as NaN."""
    values = getattr(column, "value", column)
    return np.ma.filled(np.ma.asarray(values, float), np.nan)


def zero_point(truth: Truth, found: Stars) -> float:
    """Return the median flux ratio of clean stars above S/N 100 with an entry within 0.3 FWHM, or 1."""
    if not len(found) or not len(truth.stars):
        return 1.0
    answer = cKDTree(found.places).query(truth.stars.places)
    distance, nearest = np.asarray(answer[0]), np.asarray(answer[1])
    bright = (distance < 0.3 * truth.fwhm) & (truth.snr(truth.stars.flux) > 100) & truth.clean
    if bright.sum() <= 10:
        return 1.0
    return float(np.median(found.flux[nearest[bright]] / truth.stars.flux[bright]))


def match(truth: Truth, found: Stars) -> NDArray[np.int64]:
    """Return for every true star the index of its entry in `found`, or -1, (n,)."""
    partner = np.full(len(truth.stars), -1)
    if not len(found) or not len(truth.stars):
        return partner
    lists = cKDTree(found.places).query_ball_point(truth.stars.places, 0.5 * truth.fwhm)
    near = np.asarray(lists, dtype=object)
    star = np.repeat(np.arange(len(near)), [len(entries) for entries in near])
    entry = np.concatenate([np.asarray(entries, int) for entries in near])
    ratio = found.flux[entry] / truth.stars.flux[star]
    star, entry = star[(ratio > 0.5) & (ratio < 2)], entry[(ratio > 0.5) & (ratio < 2)]
    apart = np.hypot(found.x[entry] - truth.stars.x[star], found.y[entry] - truth.stars.y[star])
    taken = np.zeros(len(found), bool)
    for k in np.lexsort((apart, -truth.stars.flux[star])):
        if partner[star[k]] < 0 and not taken[entry[k]]:
            partner[star[k]] = entry[k]
            taken[entry[k]] = True
    return partner


def score(truth: Truth, found: Stars) -> Score:
    """Return all figures of a catalogue with positive fluxes."""
    zero = zero_point(truth, found)
    found = replace(found, flux=found.flux / zero, err=found.err / zero)
    partner = match(truth, found)
    counted = truth.inside(truth.stars)
    figures = {}
    for limit in (5, 10):
        complete, false = _rates(truth, found, partner, limit)
        figures[f"completeness_snr{limit}"] = complete
        figures[f"false_frac_snr{limit}"] = false
        figures[f"f1_snr{limit}"] = _f1(complete, 1 - false)
    return Score(
        n_cat=len(found),
        n_match=int((counted & (partner >= 0)).sum()),
        zp_mmag=-2500 * float(np.log10(zero)),
        bins=_snr_bins(truth, found, partner),
        density_bins=_density_bins(truth, found, partner),
        **figures,
    )


def _snr_bins(truth: Truth, found: Stars, partner: NDArray[np.int64]) -> tuple[BinScore, ...]:
    """Return the figures of all S/N bins that hold true stars."""
    true, own = truth.snr(truth.stars.flux), truth.snr(found.flux)
    bins = []
    for low, high in BINS:
        stars, entries = (true >= low) & (true < high), (own >= low) & (own < high)
        if (figures := _figures(truth, found, partner, stars, entries)) is not None:
            label = f"{low:g}-{'inf' if high >= 1e9 else f'{high:g}'}"
            bins.append(BinScore(snr=label, **figures))
    return tuple(bins)


def _density_bins(truth: Truth, found: Stars, partner: NDArray[np.int64]) -> tuple[DensityScore, ...]:
    """Return the figures of all density bins that hold true stars, stars above S/N 10."""
    true, own = truth.snr(truth.stars.flux) >= 10, truth.snr(found.flux) > 10
    around_star, around_entry = local_density(truth, truth.stars), local_density(truth, found)
    # a star does not crowd itself
    around_star -= (truth.snr(truth.stars.flux) > DENSITY_SNR) / _density_area()
    matched = partner[partner >= 0]
    around_entry[matched] = around_star[partner >= 0]
    bins = []
    for low, high in zip(DENSITIES[:-1], DENSITIES[1:], strict=True):
        stars = true & (around_star >= low - 1e-9) & (around_star < high - 1e-9)
        entries = own & (around_entry >= low - 1e-9) & (around_entry < high - 1e-9)
        if (figures := _figures(truth, found, partner, stars, entries)) is not None:
            bins.append(DensityScore(density=f"{low:g}-{high:g}", **figures))
    return tuple(bins)


def _density_area() -> float:
    """Return the area that the density is counted on (square FWHM)."""
    return float(np.pi * DENSITY_RADIUS**2)


def local_density(truth: Truth, stars: Stars) -> F64:
    """Return the number of true stars above `DENSITY_SNR` per square FWHM around places, (n,)."""
    seen = truth.stars.places[truth.snr(truth.stars.flux) > DENSITY_SNR]
    if not len(seen) or not len(stars):
        return np.zeros(len(stars))
    tree = cKDTree(seen)
    n = tree.query_ball_point(stars.places, DENSITY_RADIUS * truth.fwhm, return_length=True)
    return np.asarray(n / _density_area(), float)


def _rates(truth: Truth, found: Stars, partner: NDArray[np.int64], limit: float) -> tuple[float, float]:
    """Return completeness and false fraction above an S/N."""
    wanted = truth.inside(truth.stars) & (truth.snr(truth.stars.flux) >= limit) & truth.clean
    matched = np.zeros(len(found), bool)
    matched[partner[partner >= 0]] = True
    claimed = truth.inside(found) & (truth.snr(found.flux) > limit)
    complete = float((wanted & (partner >= 0)).sum() / max(wanted.sum(), 1))
    return complete, float((claimed & ~matched).sum() / max(claimed.sum(), 1))


def _f1(completeness: float, purity: float) -> float:
    """Return the harmonic mean; 0 when nothing was found."""
    return 2 * completeness * purity / (completeness + purity) if completeness > 0 else 0.0


def _figures(
    truth: Truth, found: Stars, partner: NDArray[np.int64], stars: Mask, entries: Mask
) -> dict[str, Any] | None:
    """Return the figures of some true stars, and of the entries that claim to be such; None without stars."""
    wanted = truth.inside(truth.stars) & stars & truth.clean
    if not wanted.any():
        return None
    claimed = truth.inside(found) & entries
    matched = np.zeros(len(found), bool)
    matched[partner[partner >= 0]] = True
    false = float((claimed & ~matched).sum() / max(claimed.sum(), 1))
    star = np.flatnonzero(wanted & (partner >= 0))
    entry = partner[star]
    true, measured = truth.stars.flux[star], found.flux[entry]
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = (measured - true) / found.err[entry]
    off = found.places[entry] - truth.stars.places[star]
    apart = np.hypot(off[:, 0], off[:, 1])
    complete = float(len(star) / wanted.sum())
    return {
        "n": int(wanted.sum()),
        "completeness": complete,
        "false_frac": false,
        "f1": _f1(complete, 1 - false),
        "bias_mmag": -2500 * float(np.log10(_median(measured / true))),
        "scatter": robust_width(measured / true),
        "pull_med": _median(pulls),
        "pull_mad": robust_width(pulls),
        "pos_med": _median(apart),
        "pos_pull": _pos_pull(off, found, entry),
    }


def _pos_pull(off: F64, found: Stars, entry: NDArray[np.int64]) -> float:
    """Return the robust width of position errors `off` (n, 2) over those claimed, x and y together; NaN without."""
    if found.shift_err is None:
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        return robust_width((off / found.shift_err[entry]).ravel())


def _median(values: F64) -> float:
    """Return the median; NaN of nothing."""
    return float(np.median(values)) if len(values) else float("nan")


def print_bins(rows: Sequence[dict[str, Any]], label: str) -> None:
    """Print the figures of bins, one line each, `label` first."""
    if rows:
        table = Table(rows=list(rows))
        table[label, *(name for name in table.colnames if name != label)].pprint_all()


def main() -> None:
    """Print the figures of one or more catalogues."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.score", description="Score catalogues on a field with truth."
    )
    parser.add_argument("field", help="FITS file with SCI, ERR, DQ and TRUTH")
    parser.add_argument(
        "catalogs", nargs="+", metavar="catalogue", help="tables with x, y, flux and flux_err"
    )
    args = parser.parse_args()
    truth = read_truth(args.field)
    for path in args.catalogs:
        figures = score(truth, read_catalog(path)).as_dict()
        bins, densities = figures.pop("bins"), figures.pop("density_bins")
        print(Path(path).name, json.dumps(figures))
        print_bins(bins, "snr")
        print_bins(densities, "density")


if __name__ == "__main__":
    main()

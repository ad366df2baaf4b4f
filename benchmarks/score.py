"""How good a catalogue is, on a field with known truth.

    python -m benchmarks.score FIELD.fits CATALOGUE [CATALOGUE ...]

FIELD has extensions SCI, ERR, DQ (0 = good) and TRUTH (x, y, flux), and FWHM in its primary header, as
`crowdfit simulate` writes them. A catalogue needs x, y (0-based pixels), flux, and flux_err or dflux.

Definitions. A *match* is one-to-one, within half a FWHM and a factor 2 in flux; the brightest true star
chooses first, and takes the nearest free entry. *S/N* is that of an isolated star, f / sqrt(s^2 + f), with s
the sky-limited error of the whole field. Stars within 20 px of the border are left out, and so are true stars
whose central pixel is masked, but catalogue entries on them may be matched. One constant zero point, the
median flux ratio of the bright stars, is removed first: codes differ in where they let a PSF end.
"""

import argparse
import json
import warnings
from dataclasses import asdict, dataclass
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
BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, 200.0), (200.0, 1e9))
"""Edges of the S/N bins."""
BORDER = 20.0
"""Stars closer to the edge than this are left out (pix)."""


@dataclass(frozen=True, eq=False)
class Stars:
    """Positions (pix), fluxes and flux errors of n stars; the errors of true stars are NaN."""

    x: F64
    y: F64
    flux: F64
    err: F64

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


@dataclass(frozen=True)
class BinScore:
    """The figures of one S/N bin: `n` true stars, medians and robust widths over those matched."""

    snr: str
    n: int
    completeness: float
    bias_mmag: float
    scatter: float
    pull_med: float
    pull_mad: float
    pos_med: float


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
    return Stars(x[keep], y[keep], flux[keep], err[keep])


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
    found = Stars(found.x, found.y, found.flux / zero, found.err / zero)
    partner = match(truth, found)
    counted = truth.inside(truth.stars)
    figures = {}
    for limit in (5, 10):
        complete, false = _rates(truth, found, partner, limit)
        figures[f"completeness_snr{limit}"] = complete
        figures[f"false_frac_snr{limit}"] = false
        figures[f"f1_snr{limit}"] = _f1(complete, 1 - false)
    bins = (_score_bin(truth, found, partner, low, high) for low, high in BINS)
    return Score(
        n_cat=len(found),
        n_match=int((counted & (partner >= 0)).sum()),
        zp_mmag=-2500 * float(np.log10(zero)),
        bins=tuple(b for b in bins if b is not None),
        **figures,
    )


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


def _score_bin(
    truth: Truth, found: Stars, partner: NDArray[np.int64], low: float, high: float
) -> BinScore | None:
    """Return the figures of the stars with S/N in [low, high); None if there are none."""
    snr = truth.snr(truth.stars.flux)
    wanted = truth.inside(truth.stars) & (snr >= low) & (snr < high) & truth.clean
    if not wanted.any():
        return None
    star = np.flatnonzero(wanted & (partner >= 0))
    entry = partner[star]
    true, measured = truth.stars.flux[star], found.flux[entry]
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = (measured - true) / found.err[entry]
    apart = np.hypot(found.x[entry] - truth.stars.x[star], found.y[entry] - truth.stars.y[star])
    return BinScore(
        snr=f"{low:g}-{'inf' if high >= 1e9 else f'{high:g}'}",
        n=int(wanted.sum()),
        completeness=float(len(star) / wanted.sum()),
        bias_mmag=-2500 * float(np.log10(_median(measured / true))),
        scatter=robust_width(measured / true),
        pull_med=_median(pulls),
        pull_mad=robust_width(pulls),
        pos_med=_median(apart),
    )


def _median(values: F64) -> float:
    """Return the median; NaN of nothing."""
    return float(np.median(values)) if len(values) else float("nan")


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
        bins = figures.pop("bins")
        print(Path(path).name, json.dumps(figures))
        Table(rows=bins).pprint_all()


if __name__ == "__main__":
    main()

"""A zero point fitted against a reference catalogue: clipped median of magnitude differences, with rms and plot.

Stars are matched as mutual nearest neighbours; what the match gets wrong in a crowd has a wrong magnitude too and is
clipped. The zero point then holds the correction to total light as well, because the reference is total (M030).
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import KDTree

from crowdfit import flags
from crowdfit.calibration.calibrate import colour_of, column_of, error_of
from crowdfit.errors import InputError
from crowdfit.match import Matches, match_positions
from crowdfit.reach import Radius, read_reach
from crowdfit.robust import scatter

__all__ = ["FittedZeroPoint", "Reference", "fit_zero_point", "read_reference", "write_plot"]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

DEFAULT_RADIUS: Final = 0.2
"""Match radius (arcsec) where none is given: a few pixels of the sharpest cameras."""
SKY_NAMES: Final = (
    ("ra", "dec"), ("raj2000", "dej2000"), ("ra_icrs", "de_icrs"), ("sky_centroid.ra", "sky_centroid.dec")
)  # fmt: skip
MAG_NAMES: Final = ("aper_total_abmag", "mag_cal", "mag")
"""Columns that are taken for the reference magnitude when none is named: JWST pipeline, crowdfit, anybody."""
ROUNDS: Final = 10
LEAST: Final = 5
"""With fewer stars a scatter means nothing."""
BAD: Final = ("saturated", "core_masked", "negative", "not_converged", "measure_failed", "edge")
"""Flags of stars that take no part."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Positions (n,; ICRS, deg), magnitudes and colours of reference stars; colours are NaN where there are none."""

    ra: F64
    dec: F64
    mag: F64
    colour: F64
    name: str
    mag_name: str


@dataclass(frozen=True, eq=False)
class FittedZeroPoint:
    """A fitted zero point, and the stars that it rests on.

    Parameters
    ----------
    value, error : float
        Magnitude of a flux of one image unit at the pivot colour, and the error of the mean (mag).
    rms : float
        Standard deviation of the stars that were kept (mag).
    colour_term, colour_term_err, colour_pivot : float
        mag per mag of colour, its error, and the colour at which it adds nothing; 0 without one.
    n_used, n_matched, n_ambiguous : int
        Stars kept, stars matched, and matched reference stars with several stars of the catalogue inside the radius.
    shift : (float, float)
        Median position, catalogue less reference, in RA cos(Dec) and Dec (arcsec).
    instrumental, difference : ndarray (n_matched,)
        -2.5 log10(flux), and reference less instrumental magnitude without the colour term.
    used : ndarray (n_matched,) bool
    """

    value: float
    error: float
    rms: float
    colour_term: float
    colour_term_err: float
    colour_pivot: float
    n_used: int
    n_matched: int
    n_ambiguous: int
    shift: tuple[float, float]
    instrumental: F64
    difference: F64
    used: Mask

    @property
    def text(self) -> str:
        """One line for people."""
        term = (
            f", colour term {self.colour_term:.4f} +- {self.colour_term_err:.4f}"
            if self.colour_term_err
            else ""
        )
        return (
            f"zero point {self.value:.4f} +- {self.error:.4f} mag, rms {self.rms:.4f}{term}, {self.n_used} of "
            f"{self.n_matched} matched stars, {self.n_ambiguous} ambiguous, offset {self.shift[0]:+.3f}, "
            f"{self.shift[1]:+.3f} arcsec"
        )


def read_reference(table: Table, name: str, mag: str | None = None, colour: str | None = None) -> Reference:
    """Return the reference stars of a table.

    Parameters
    ----------
    table : Table
        With ra, dec (deg) or sky_centroid, as in `_cat.ecsv` of the JWST pipeline, and magnitudes.
    name : str
        For messages.
    mag : str, optional
        Column of the magnitudes; default: aper_total_abmag, mag_cal or mag.
    colour : str, optional
        Column of a colour, or two with a minus sign.

    Raises
    ------
    InputError
        No positions or magnitudes under these names.
    """
    ra, dec = _positions(table, name)
    chosen = mag or next((known for known in MAG_NAMES if known in table.colnames), None)
    if chosen is None or chosen not in table.colnames:
        raise InputError(
            f"{name}: has no column {chosen or 'of magnitudes'}; name one with --reference-mag: it has "
            f"{', '.join(table.colnames)}"
        )
    try:
        colours = np.full(len(table), np.nan) if colour is None else colour_of(table, colour)
        mags = column_of(table, chosen)
    except InputError as exc:
        raise InputError(f"{name}: {exc}") from exc
    return Reference(ra, dec, mags, colours, name, chosen)


def _positions(table: Table, name: str) -> tuple[F64, F64]:
    """Return RA and Dec (deg) of a table."""
    if "sky_centroid" in table.colnames and hasattr(table["sky_centroid"], "icrs"):
        sky = table["sky_centroid"].icrs
        return np.asarray(sky.ra.deg, np.float64), np.asarray(sky.dec.deg, np.float64)
    for ra, dec in SKY_NAMES:
        if ra in table.colnames and dec in table.colnames:
            return column_of(table, ra), column_of(table, dec)
    raise InputError(f"{name}: has no columns ra, dec; it has {', '.join(table.colnames)}: rename them")


def fit_zero_point(  # noqa: PLR0913 - the settings of a fit
    catalog: Table,
    reference: Reference,
    *,
    flux: str = "flux",
    radius: Radius = DEFAULT_RADIUS,
    nsigma: float = 2.0,
    min_snr: float = 20.0,
    colour_term: bool = False,
) -> FittedZeroPoint:
    """Fit the zero point of a catalogue against reference stars (M027 to M032, P073).

    Parameters
    ----------
    catalog : Table
        With ra, dec, the flux and its error; stars with bad flags, qf < 0.7 or fracflux < 0.5 take no part.
    reference : Reference
    flux : str
        Column of the flux.
    radius : Quantity, str or float
        Match radius; a plain number is in arcsec.
    nsigma : float
        Stars farther than this many standard deviations from the median are clipped, in ten rounds.
    min_snr : float
        Least S/N of stars that take part.
    colour_term : bool
        Whether to fit a slope with the colours of the reference.

    Raises
    ------
    InputError
        Missing columns, a radius in pixels, or fewer than 5 stars in common.
    """
    reach = read_reach(radius, u.arcsec)
    if not reach.on_sky:
        raise InputError(
            f"radius: {radius} is in pixels; reference stars are matched on the sky, give an angle"
        )
    kept = _clean(catalog, flux, min_snr)
    ra, dec, light = (column_of(catalog, name)[kept] for name in ("ra", "dec", flux))
    pairs = match_positions((ra, dec), (reference.ra, reference.dec), reach.radius)
    pairs = _with_values(pairs, reference, colour_term)
    if len(pairs.first) < LEAST:
        raise InputError(
            f"{reference.name}: only {len(pairs.first)} of {len(reference.ra)} reference stars match one of the "
            f"{np.count_nonzero(kept)} clean stars above S/N {min_snr:g} within {reach.radius}; at least "
            f"{LEAST} are needed: "
            "check the WCS, or give a larger radius or a lower S/N"
        )
    instrumental = -2.5 * np.log10(light[pairs.first])
    difference = reference.mag[pairs.second] - instrumental
    colour = reference.colour[pairs.second] if colour_term else np.zeros(len(difference))
    pivot = float(np.median(colour)) if colour_term else 0.0
    line, errors, used = _clipped_line(colour - pivot, difference, nsigma, with_slope=colour_term)
    rest = (difference - line[0] - line[1] * (colour - pivot))[used]
    fitted = FittedZeroPoint(
        value=line[0], error=errors[0], rms=float(np.std(rest)),
        colour_term=line[1], colour_term_err=errors[1], colour_pivot=pivot,
        n_used=int(used.sum()), n_matched=len(used),
        n_ambiguous=_ambiguous(reference, pairs, reach.points(ra, dec), reach.length),
        shift=_shift(ra[pairs.first], dec[pairs.first], reference, pairs),
        instrumental=instrumental, difference=difference - line[1] * (colour - pivot), used=used,
    )  # fmt: skip
    log.info("%s: %s", reference.name, fitted.text)
    return fitted


def _clean(catalog: Table, flux: str, min_snr: float) -> Mask:
    """Return the stars whose fluxes are to be trusted."""
    light, error = column_of(catalog, flux), error_of(catalog, flux)
    with np.errstate(invalid="ignore"):
        kept = np.isfinite(light) & (light > min_snr * error) & (error > 0)
    if "flags" in catalog.colnames:
        bits = np.asarray(catalog["flags"], np.uint32)
        kept &= ~np.any([flags.has(bits, name) for name in BAD], axis=0)
    for name, least in (("qf", 0.7), ("fracflux", 0.5)):
        if name in catalog.colnames:
            kept &= column_of(catalog, name) > least
    return np.asarray(kept, bool)


def _with_values(pairs: Matches, reference: Reference, colour_term: bool) -> Matches:
    """Return the pairs whose reference star has a magnitude, and a colour where that is wanted."""
    known = np.isfinite(reference.mag[pairs.second])
    if colour_term:
        known &= np.isfinite(reference.colour[pairs.second])
    return Matches(pairs.first[known], pairs.second[known], pairs.distance[known])


def _clipped_line(
    x: F64, y: F64, nsigma: float, *, with_slope: bool
) -> tuple[list[float], list[float], Mask]:
    """Return intercept and slope, their errors, and which points were used: median first, clipped in rounds."""
    used = np.ones(len(y), bool)
    slope, zero = 0.0, float(np.median(y))
    for _ in range(ROUNDS):
        if with_slope:
            slope = float(np.polyfit(x[used], y[used], 1)[0])
        rest = y - slope * x
        zero = float(np.median(rest[used]))
        sigma = scatter(rest[used]) if used.sum() else 0.0
        again = np.abs(rest - zero) <= nsigma * sigma
        if again.sum() < LEAST or np.array_equal(again, used):
            break
        used = again
    rest, n = (y - zero - slope * x)[used], int(used.sum())
    rms = float(np.std(rest, ddof=1 + with_slope))
    lever = float(np.std(x[used])) if with_slope else 0.0
    return [zero, slope], [rms / np.sqrt(n), rms / (np.sqrt(n) * lever) if lever else 0.0], used


def _ambiguous(reference: Reference, pairs: Matches, points: F64, length: float) -> int:
    """Return how many matched reference stars have several stars of the catalogue inside the radius."""
    reach = read_reach(1.0, u.arcsec)
    there = reach.points(reference.ra[pairs.second], reference.dec[pairs.second])
    inside = KDTree(points).query_ball_point(there, length, return_length=True)
    return int(np.count_nonzero(np.asarray(inside) > 1))


def _shift(ra: F64, dec: F64, reference: Reference, pairs: Matches) -> tuple[float, float]:
    """Return the median offset of the matches (arcsec); RA is wrapped before it is taken (M026, M028)."""
    step = (ra - reference.ra[pairs.second] + 180) % 360 - 180
    mean = np.radians((dec + reference.dec[pairs.second]) / 2)
    return (
        3600 * float(np.median(step * np.cos(mean))),
        3600 * float(np.median(dec - reference.dec[pairs.second])),
    )


def write_plot(fitted: FittedZeroPoint, path: str | Path, label: str) -> Path:
    """Draw magnitude differences against instrumental magnitude with the zero point (M032), and return the file.

    Raises
    ------
    InputError
        The file cannot be written in the format of its suffix.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    path = Path(path)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    mag, off, used = fitted.instrumental, fitted.difference, fitted.used
    axes.plot(
        mag[~used], off[~used], "x", ms=4, color="#9a9fa6", label=f"clipped ({np.count_nonzero(~used)})"
    )
    axes.plot(mag[used], off[used], "o", ms=3, color="#2f6db3", label=f"used ({np.count_nonzero(used)})")
    axes.axhline(fitted.value, color="#d9822b", label=f"zero point {fitted.value:.3f}, rms {fitted.rms:.3f}")
    axes.axhspan(fitted.value - fitted.rms, fitted.value + fitted.rms, color="#d9822b", alpha=0.2, lw=0)
    reach = max(8 * fitted.rms, 0.05)
    axes.set_ylim(fitted.value - reach, fitted.value + reach)
    axes.set(xlabel="instrumental magnitude", ylabel="reference - instrumental (mag)", title=label)
    axes.legend(frameon=False)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as exc:
        raise InputError(
            f"{path}: the plot cannot be written ({exc}); give a name that ends in .png or .pdf"
        ) from exc
    return path

"""Star or not: concentration indices with their line, and a probability from three measures of extent.

Each measure is compared with the stars of the same S/N in the same image, so that errors of the PSF and the crowd
widen what a star may look like. All three look at the image cleaned of the other stars. So they tell what a source is
that has one entry in the list, as in a list that is measured; what a fit has explained by two stars or more they
see as stars.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_ndtr

from crowdfit.sources import Sources

F64 = NDArray[np.float64]

STAR, OTHER, UNDECIDED = 1, 0, -1
"""Values of the class by the line."""

TYPICAL: Final = {"spread": 0.02, "growth": 0.2, "chi": 1.0}
"""Mean excess over a star of an extended source that is seen without noise: spread_model; magnitude between the
first two circles; logarithm of rchi2."""
WEIGHT: Final = {"spread": 0.7, "growth": 0.3, "chi": 0.25}
"""Shares in the sum of log-likelihood ratios. The measures see the same pixels and are not independent; chi also
rises for blends and errors of the PSF."""
PER_BIN: Final = 100
"""Sources per step of S/N in which the stars of the image are described."""
STRAY: Final = (0.05, 6.0)
"""Share of stars that scatter more than the others, and by which factor: blends."""


def concentration(outer: F64, inner: F64) -> F64:
    """Return the ratio of fluxes in a larger and a smaller circle, (n,); NaN where one is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((outer > 0) & (inner > 0), outer / inner, np.nan)


def is_below(line: tuple[tuple[float, float], ...], first: F64, second: F64) -> NDArray[np.int32]:
    """Return on which side of a polyline sources lie (n,): `STAR` below, `OTHER` above, `UNDECIDED` on it or NaN.

    Parameters
    ----------
    line : tuple of (float, float)
        Knots: concentration of the first two circles, and the limit on that of the second and third there. The limit
        is 0 beyond the ends, so that nothing is a star there.
    first, second : ndarray (n,)
        The two concentrations.
    """
    at, limits = np.array(line).T
    limit = np.interp(first, at, limits, left=0.0, right=0.0)
    side = np.where(second < limit, STAR, OTHER)
    unknown = np.isnan(first) | np.isnan(second) | (second == limit)
    return np.where(unknown, UNDECIDED, side).astype(np.int32)


def star_probability(
    sources: Sources,
    measured: Mapping[str, NDArray[Any]],
    apertures: Mapping[str, NDArray[Any]],
    labels: tuple[str, ...],
    share: float,
) -> F64:
    """Return the probability (n,) that a source is not extended; NaN where nothing could be measured.

    Parameters
    ----------
    sources : Sources
        With flux and error.
    measured : mapping
        `spread_model`, `spread_model_err` and `rchi2`.
    apertures : mapping
        Flux, error and correction of the circles.
    labels : tuple of str
        Of the circles; the first two are compared.
    share : float
        Share of stars among the sources.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = sources.flux / sources.flux_err
        chi = np.log(measured["rchi2"])
    growth, growth_err = _growth(apertures, labels)
    measures = {
        "spread": (np.asarray(measured["spread_model"]), np.asarray(measured["spread_model_err"])),
        "growth": (growth, growth_err),
        "chi": (chi, np.full(len(chi), 0.3)),
    }
    total = np.full(len(sources), np.log(share / (1 - share)))
    known = np.zeros(len(sources), bool)
    for name, (values, errors) in measures.items():
        ratio = _log_ratio(values, errors, snr, TYPICAL[name])
        total += WEIGHT[name] * np.nan_to_num(ratio)
        known |= np.isfinite(ratio) & (name != "chi")
    return np.where(known, expit(total), np.nan)


def _growth(apertures: Mapping[str, NDArray[Any]], labels: tuple[str, ...]) -> tuple[F64, F64]:
    """Return by how many magnitudes more than the PSF each source grows from the first to the second circle; error."""
    f, e, c = (
        np.array([apertures[f"{name}_{end}"] for end in labels[:2]], np.float64)
        for name in ("aper_flux", "aper_flux_err", "aper_corr")
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((f > 0).all(axis=0), f[1] / f[0], np.nan)
        between = np.sqrt(np.maximum(e[1] ** 2 - e[0] ** 2, 0))
        error = np.hypot(between / f[0], (f[1] - f[0]) * e[0] / f[0] ** 2) / ratio
        return 2.5 * np.log10(ratio * c[1] / c[0]), 2.5 / np.log(10) * error


def _log_ratio(values: F64, errors: F64, snr: F64, typical: float) -> F64:
    """Return the logarithm of star density over extended density of a measure, (n,); NaN where it is not known."""
    good = np.isfinite(values) & np.isfinite(errors) & (errors > 0) & (snr > 0)
    if not good.any():
        return np.full(len(values), np.nan)
    middle, width = _stars_like(values[good], errors[good], np.log(snr[good]))
    z, mean = (values[good] - middle) / width, typical / width
    stray, wide = STRAY
    star = np.logaddexp(np.log1p(-stray) - 0.5 * z**2, np.log(stray / wide) - 0.5 * (z / wide) ** 2)
    # a normal error plus an exponential excess; both densities lack 1 / sqrt(2 pi)
    extended = -np.log(mean) + 0.5 / mean**2 - z / mean + log_ndtr(z - 1 / mean) + 0.5 * np.log(2 * np.pi)
    result = np.full(len(values), np.nan)
    result[good] = star - extended
    return result


def _stars_like(values: F64, errors: F64, at: F64) -> tuple[F64, F64]:
    """Return middle and width of what stars of the same log S/N `at` (n,) show, in the unit of the values, (n,).

    Most sources are taken for stars, and the width from the side that extended ones do not widen. Few sources say
    nothing: then the errors stand.
    """
    order = np.argsort(at, kind="stable")
    groups = [g for g in np.array_split(order, max(len(at) // PER_BIN, 1)) if len(g)]
    if len(at) < PER_BIN:
        return np.zeros(len(at)), errors
    places, middles, widths = [], [], []
    for group in groups:
        scaled = values[group] / errors[group]
        low, middle = np.percentile(scaled, [15.87, 50])
        places.append(np.median(at[group]))
        middles.append(middle)
        widths.append(max(middle - low, 0.5))
    return errors * np.interp(at, places, middles), errors * np.interp(at, places, widths)

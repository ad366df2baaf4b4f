"""From fluxes by column to the light of all exposures together, by which stars are told from noise.

Fluxes of one band add up with the inverse of their variances. Colours are not known, so that bands add up as squares
of significances, those above 0: a star that only one band shows counts there. The sum of B such squares exceeds t^2
by chance as often as a Gaussian exceeds z(t): z is the significance of all bands together, and t itself for one.
"""

from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit.view import View

__all__ = ["Light", "gaussian_equivalent"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Light:
    """Fluxes of n stars by band, and of all bands together.

    Parameters
    ----------
    bands, band_errs : ndarray (n, n_bands) float64
        Flux and error by band; 0 and infinite where the band has none.
    snr : ndarray (n,) float64
        Significance of all bands, as that of a Gaussian.
    flux, flux_err : ndarray (n,) float64
        What all bands together amount to, in the unit of the first, and the error that goes with `snr`. For one band
        its own.
    """

    bands: F64
    band_errs: F64
    snr: F64
    flux: F64
    flux_err: F64

    @classmethod
    def of(cls, views: tuple[View, ...], fluxes: F64, flux_errs: F64) -> "Light":
        """Return the light of fluxes by column (n, n_columns)."""
        flux, err = by_band(views, fluxes, flux_errs)
        if flux.shape[1] == 1:
            return cls(flux, err, flux[:, 0] / err[:, 0], flux[:, 0], err[:, 0])
        # what a band can see of a typical star makes its unit comparable with that of another band
        seen = [err[np.isfinite(err[:, b]), b] for b in range(err.shape[1])]
        depth = np.array([np.median(e) if len(e) else 1.0 for e in seen])
        snr = combined(flux / err)
        size = combined(flux / depth, equivalent=False) * depth[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(snr * size > 0, size / snr, depth[0])
        unseen = ~np.isfinite(err).any(axis=1)
        return cls(flux, err, snr, size, np.where(unseen, np.inf, error))


def by_band(views: tuple[View, ...], fluxes: F64, flux_errs: F64) -> tuple[F64, F64]:
    """Return fluxes and errors by band, (n, n_bands), from those by column."""
    if not views[0].by_exposure:
        return fluxes, flux_errs
    n_bands = 1 + max(view.band for view in views)
    top, info = np.zeros((len(fluxes), n_bands)), np.zeros((len(fluxes), n_bands))
    for view in views:
        weight = (view.band_scale / flux_errs[:, view.column]) ** 2
        info[:, view.band] += weight
        top[:, view.band] += weight * fluxes[:, view.column] / view.band_scale
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(info > 0, top / info, 0.0), 1 / np.sqrt(info)


def combined(snr: F64, *, equivalent: bool = True) -> F64:
    """Return the significance of all bands from those of each, (n, n_bands) to (n,).

    Where no band is above 0 it is that of the highest. Without `equivalent` the root of the sum of squares.
    """
    total = np.sqrt(np.sum(np.square(np.maximum(snr, 0)), axis=-1))
    if equivalent:
        total = gaussian_equivalent(total, snr.shape[-1])
    return np.asarray(np.where(total > 0, total, np.max(snr, axis=-1)))


def gaussian_equivalent(root: F64, n_bands: int) -> F64:
    """Return the Gaussian significance that is as rare as a root of a sum of squares over `n_bands`; 0 for 0."""
    if n_bands == 1:
        return root
    t, z = _table(n_bands)
    # far out both grow alike
    inside = np.interp(root, t, z)
    return np.asarray(np.where(root > t[-1], root - t[-1] + z[-1], inside))


@cache
def _table(n_bands: int) -> tuple[F64, F64]:
    t = np.linspace(0.0, 30.0, 1201)
    tail = np.zeros_like(t)
    for k in range(1, n_bands + 1):
        tail += comb(n_bands, k) * 0.5**n_bands * scipy.stats.chi2.sf(t**2, k)
    return t, np.maximum(scipy.stats.norm.isf(np.maximum(tail, 1e-300)), 0.0)

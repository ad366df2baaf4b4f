"""Fluxes from one unit to another: DN, DN/s, electrons, MJy/sr summed over pixels, Jy, and magnitudes.

AB magnitudes follow ``m = -2.5 log10(f_nu) - 48.60`` with f_nu in erg/s/cm^2/Hz, which is 8.90 with f_nu in Jy
(M034). Offsets are those of the CRDS files, m_AB - m_Vega, so ``m_Vega = m_AB - offset`` (M035).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from crowdfit.errors import InputError

__all__ = ["AB_ZERO", "FluxScale", "ab_magnitude", "ab_to_st", "ab_to_vega", "jansky_of_ab", "vega_to_ab"]

F64 = NDArray[np.float64]

AB_ZERO: Final = 8.90
"""AB magnitude of 1 Jy."""
LIGHT: Final = 2.99792458e18
"""Speed of light (Angstrom / s)."""
MAGNITUDES: Final = ("AB", "Vega")


def ab_magnitude(jansky: ArrayLike) -> F64:
    """Return AB magnitudes of flux densities (Jy); NaN where they are not positive."""
    flux = np.asarray(jansky, np.float64)
    return np.asarray(AB_ZERO - 2.5 * np.log10(np.where(flux > 0, flux, np.nan)), np.float64)


def jansky_of_ab(magnitude: ArrayLike) -> F64:
    """Return flux densities (Jy) of AB magnitudes."""
    return np.asarray(10 ** (0.4 * (AB_ZERO - np.asarray(magnitude, np.float64))), np.float64)


def ab_to_vega(magnitude: ArrayLike, ab_minus_vega: float) -> F64:
    """Return Vega magnitudes; `ab_minus_vega` is positive for every JWST filter, and Vega magnitudes are smaller.

    Examples
    --------
    >>> float(ab_to_vega(25.0, 3.204))
    21.796
    """
    return np.asarray(magnitude, np.float64) - ab_minus_vega


def vega_to_ab(magnitude: ArrayLike, ab_minus_vega: float) -> F64:
    """Return AB magnitudes of Vega magnitudes."""
    return np.asarray(magnitude, np.float64) + ab_minus_vega


def ab_to_st(magnitude: ArrayLike, pivot: float) -> F64:
    """Return ST magnitudes; `pivot` is the pivot wavelength in um.

    ST is -2.5 log10(f_lambda) - 21.10 with f_lambda = f_nu c / lambda^2 in erg/s/cm^2/Angstrom.
    """
    return np.asarray(magnitude, np.float64) + st_minus_ab(pivot)


def st_minus_ab(pivot: float) -> float:
    """Return m_ST - m_AB (mag) at a pivot wavelength (um)."""
    return float(48.60 - 21.10 - 2.5 * np.log10(LIGHT / (1e4 * pivot) ** 2))


@dataclass(frozen=True)
class FluxScale:
    """What one image unit, summed over the pixels of a star, is in other units; None where that is not known.

    Parameters
    ----------
    jansky : float or None
        Jy.
    dn_rate : float or None
        DN/s.
    exptime : float or None
        Exposure time (s), between counts and count rates.
    gain : float or None
        Electrons per DN.
    ab_minus_vega : float or None
        m_AB - m_Vega of the filter (mag).
    """

    jansky: float | None = None
    dn_rate: float | None = None
    exptime: float | None = None
    gain: float | None = None
    ab_minus_vega: float | None = None

    @classmethod
    def of_mjy_per_sr(cls, pixel_sr: float, photmjsr: float | None = None, **facts: Any) -> "FluxScale":
        """Return the scale of an image in MJy/sr.

        Parameters
        ----------
        pixel_sr : float
            PIXAR_SR, the area of the average pixel (sr).
        photmjsr : float, optional
            PHOTMJSR, MJy/sr for 1 DN/s.
        **facts
            `exptime`, `gain`, `ab_minus_vega`.
        """
        return cls(1e6 * pixel_sr, None if photmjsr is None else 1 / photmjsr, **facts)

    def convert(self, flux: ArrayLike, unit: str) -> F64:
        """Return fluxes (image unit) in another unit (P011).

        Parameters
        ----------
        flux : array
            Image unit, summed over pixels.
        unit : str
            "DN/s", "DN", "e-/s", "e-", "AB", "Vega", or a unit of flux density such as "nJy", "uJy", "mJy", "Jy".

        Raises
        ------
        InputError
            Unknown unit, or a fact is missing; the message says which.
        """
        values = np.asarray(flux, np.float64)
        if unit in MAGNITUDES:
            ab = ab_magnitude(values * self._known("jansky", unit))
            return ab if unit == "AB" else ab_to_vega(ab, self._known("ab_minus_vega", unit))
        factors: dict[str, tuple[str, ...]] = {
            "DN/s": ("dn_rate",),
            "DN": ("dn_rate", "exptime"),
            "e-/s": ("dn_rate", "gain"),
            "e-": ("dn_rate", "gain", "exptime"),
        }
        if unit in factors:
            return values * float(np.prod([self._known(name, unit) for name in factors[unit]]))
        try:
            return values * self._known("jansky", unit) * float(u.Jy.to(u.Unit(unit)))
        except (ValueError, TypeError) as exc:
            if isinstance(exc, InputError):
                raise
            known = ", ".join((*factors, *MAGNITUDES, "Jy", "mJy", "uJy", "nJy"))
            raise InputError(f"unit: {unit!r} is no unit of flux; give one of {known}") from exc

    def _known(self, name: str, unit: str) -> float:
        value = getattr(self, name)
        if value is None:
            raise InputError(f"unit {unit}: {_MEANING[name]} is not known; give {name}")
        return float(value)


_MEANING: Final = {
    "jansky": "the flux density of one image unit (a zero point)",
    "dn_rate": "the count rate of one image unit (PHOTMJSR)",
    "exptime": "the exposure time",
    "gain": "the gain, which no JWST header holds (CRDS file named by R_GAIN),",
    "ab_minus_vega": "the AB - Vega offset of the filter",
}

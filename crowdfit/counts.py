"""Star counts: how many stars of each flux there are, as far as the list goes and below it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdfit.frame import Frame
from crowdfit.sources import Sources

__all__ = ["Counts", "Limits", "least_snr", "limits_of", "noise_peaks"]

F64 = NDArray[np.float64]

FAR, NOISY = 12.0, 6.0
"""A list that ends above the one ends for want of stars; below the other its counts are not trusted (sigma)."""
FEW = 30
"""With fewer stars in the faintest octave the slope is not measured but `USUAL_SLOPE`."""
USUAL_SLOPE = 0.6


@dataclass(frozen=True)
class Counts:
    """Counts N(>f) ~ f^-slope at the faint end of a list.

    Parameters
    ----------
    sigma : float
        Error of an isolated faint star without confusion (image unit).
    depth : float
        The list is complete down to this flux (image unit).
    flux : float
        Where the counts are measured, at `depth` or above (image unit).
    slope : float
        Of the logarithmic counts.
    density : float
        Stars per pixel and unit of ln f at `flux`.
    """

    sigma: float
    depth: float
    flux: float
    slope: float
    density: float

    @classmethod
    def of(cls, frame: Frame, sources: Sources, quantile: float = 0.1) -> "Counts":
        """Return the counts of a list that is complete down to a quantile of its fluxes, per usable pixel."""
        sigma = frame.faint_error
        seen = sources.flux[sources.flux > 2 * sigma]
        # a list that ends far above the noise ends because there is nothing fainter
        depth = min(float(np.quantile(seen, quantile)), FAR * sigma) if len(seen) else FAR * sigma
        # near the noise stars are listed too bright or are none
        flux = max(depth, NOISY * sigma)
        first, second = np.histogram(seen, flux * np.array([1.0, 2.0, 4.0]))[0].astype(float)
        slope = USUAL_SLOPE if first < FEW else float(np.clip(np.log2(first / max(second, 1.0)), 0.3, 1.5))
        # few stars over two octaves, since one may be empty; never none: a tenth of one is no surprise
        seen_here, octaves = (first + second, 2) if first < FEW else (first, 1)
        number = slope * max(seen_here, 0.1) / (1 - 2 ** (-octaves * slope))
        return cls(sigma, depth, flux, slope, float(number / np.count_nonzero(frame.exposure.good)))

    def at(self, flux: F64) -> F64:
        """Return stars per pixel and unit of ln f at given fluxes."""
        return np.asarray(self.density * (flux / self.flux) ** -self.slope)

    def variance_below(self) -> float:
        """Return the sum of squared fluxes of the stars fainter than the list, per pixel (image unit^2)."""
        return float(self.at(np.array(self.depth)) * self.depth**2 / (2 - self.slope))

    def pure_above(self, share: float, fwhm: float) -> float:
        """Return the S/N above which at least `share` of the peaks at each S/N are stars, the rest noise.

        Between 2 and 8, or 0 when no share is asked for; noise under a star, and blends, pass for stars here.
        """
        if share <= 0:
            return 0.0
        snr = np.arange(2.0, 8.0, 0.02)
        stars, noise = self.at(snr * self.sigma) / snr, noise_peaks(snr, fwhm)
        bad = np.flatnonzero(stars < share * (stars + noise))
        first = bad[-1] + 1 if len(bad) else 0
        return float(snr[min(first, len(snr) - 1)])


class Limits(NamedTuple):
    """S/N above which stars are found: single ones, and companions of brighter ones."""

    alone: float
    beside: float


def limits_of(frame: Frame, sources: Sources) -> Limits:
    """Return the limits of a list of which nothing is known but itself: as deep as nine tenths of its stars."""
    counts = Counts.of(frame, sources)
    depth = counts.depth / counts.sigma
    return Limits(depth, depth)


def least_snr(frame: Frame, sources: Sources, nsigma: float, purity: float) -> float:
    """Return `nsigma`, or the S/N above which a share `purity` of the peaks are stars if that is more."""
    return max(nsigma, Counts.of(frame, sources).pure_above(purity, frame.psf.fwhm))


def noise_peaks(snr: F64, fwhm: float) -> F64:
    """Return how many peaks noise makes in a matched-filter image, per pixel and unit of S/N.

    Maxima of a Gaussian random field with the correlation of a Gaussian PSF, at the high end (Bond & Efstathiou 1987,
    MNRAS 226, 655): N(>s) = s exp(-s^2 / 2) / (2 (2 pi)^1.5 sigma^2).
    """
    sigma = fwhm / 2.3548
    return np.asarray((snr**2 - 1) * np.exp(-(snr**2) / 2) / (2 * (2 * np.pi) ** 1.5 * sigma**2))

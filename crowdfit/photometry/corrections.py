"""From the light in a circle to all of it: the curve of growth, from the PSF and from stars."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crowdfit.robust import scatter

F64 = NDArray[np.float64]

LEAST_STARS = 5
"""Fewer stars say nothing about their scatter."""
CLIP = 3.0
"""Stars farther off the median than this many robust sigma are left out."""


@dataclass(frozen=True, eq=False)
class Corrections:
    """Factors from the flux in a circle to the total flux.

    Parameters
    ----------
    labels : tuple of str
        The circles as in the names of columns, for example `2fwhm`.
    radii : ndarray (m,)
        Their radii (pix).
    psf : ndarray (m,)
        1 over the share of the PSF inside, median over the stars.
    stars, stars_err : ndarray (m,)
        The same with the growth up to the largest circle measured on bright, lonely stars, where the PSF takes over;
        and its error. NaN with fewer than `LEAST_STARS` such stars.
    n_stars : int
        Stars in that median, before clipping.
    """

    labels: tuple[str, ...]
    radii: F64
    psf: F64
    stars: F64
    stars_err: F64
    n_stars: int

    @classmethod
    def measure(
        cls,
        labels: tuple[str, ...],
        radii: F64,
        flux: F64,
        share: F64,
        chosen: NDArray[np.bool_],
    ) -> "Corrections":
        """Measure corrections.

        Parameters
        ----------
        labels, radii
            See above.
        flux, share : ndarray (n, m)
            Flux in each circle (image unit), and share of the PSF inside it.
        chosen : ndarray (n,) bool
            Stars to be trusted as isolated and bright.
        """
        m, last = len(radii), int(np.argmax(radii)) if len(radii) else 0
        psf = np.median(1 / share, axis=0) if len(share) else np.full(m, np.nan)
        bright = flux[chosen]
        bright = bright[(bright > 0).all(axis=1)]
        stars, errors = np.full(m, np.nan), np.full(m, np.nan)
        if len(bright) >= LEAST_STARS:
            for j in range(m):
                growth, error = clipped_median(bright[:, last] / bright[:, j])
                stars[j], errors[j] = growth * psf[last], error * psf[last]
        return cls(labels, radii, psf, stars, errors, len(bright))

    @property
    def text(self) -> str:
        """One line for each circle."""
        return "\n".join(
            f"{label}: radius {radius:.3f} pix, correction {psf:.5f} by the PSF, "
            + (f"{stars:.5f} +- {error:.5f} by {self.n_stars} stars" if np.isfinite(stars) else "no stars")
            for label, radius, psf, stars, error in zip(
                self.labels, self.radii, self.psf, self.stars, self.stars_err, strict=True
            )
        )


def clipped_median(values: F64) -> tuple[float, float]:
    """Return the median without outliers and its error; `values` (n,) has at least one number."""
    for _ in range(5):
        middle = np.median(values)
        sigma = scatter(values)
        kept = values[np.abs(values - middle) <= CLIP * sigma] if sigma > 0 else values
        if len(kept) == len(values):
            break
        values = kept
    return float(np.median(values)), float(np.sqrt(np.pi / 2 / len(values)) * np.std(values))

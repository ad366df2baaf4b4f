"""The apertures of a fit: curve of growth, corrections to all light, and what neighbours put into the circles."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdfit.photometry.corrections import Corrections
from crowdfit.report import canvas, plot
from crowdfit.report.canvas import Picture
from crowdfit.report.curves import column, draw_trend
from crowdfit.report.facts import digits, plural

if TYPE_CHECKING:
    from astropy.table import QTable

F64 = NDArray[np.float64]

HEADINGS = (
    "circle",
    "radius (pix)",
    "correction by the PSF",
    "by stars",
    "difference (mmag)",
    "contamination before (median)",
    "after (median)",
    "after (width)",
)


@dataclass(frozen=True)
class Summary:
    """What the section says: a sentence, and a table with a row for each circle."""

    text: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Contamination(NamedTuple):
    """Light of others over that of the star in a circle (n,): before the image is cleaned of them, and left after."""

    before: F64
    after: F64

    @classmethod
    def of(cls, catalog: "QTable", label: str) -> "Contamination":
        """Return that of a circle, for stars where both are known."""
        before, after = (column(catalog, f"aper_{kind}_{label}") for kind in ("contam", "left"))
        good = np.isfinite(before) & np.isfinite(after)
        return cls(np.where(good, before, np.nan), np.where(good, after, np.nan))

    @property
    def medians(self) -> tuple[float, float]:
        """Median before and after; NaN without a star."""
        if not np.isfinite(self.before).any():
            return np.nan, np.nan
        return float(np.nanmedian(self.before)), float(np.nanmedian(self.after))

    @property
    def width(self) -> float:
        """Half of the range that holds 68 % of what is left; NaN without a star."""
        good = self.after[np.isfinite(self.after)]
        if not good.size:
            return np.nan
        low, high = np.percentile(good, (16, 84))
        return float((high - low) / 2)


def summary(catalog: "QTable", corrections: Corrections | None) -> Summary | None:
    """Return what the report says about apertures, None when none were measured."""
    if corrections is None or not corrections.labels:
        return None
    rows: list[tuple[str, ...]] = []
    for k, label in enumerate(corrections.labels):
        seen = Contamination.of(catalog, label)
        before, after = seen.medians
        by_psf, by_stars = float(corrections.psf[k]), float(corrections.stars[k])
        error = float(corrections.stars_err[k])
        stars = f"{by_stars:.4f} ± {error:.4f}" if np.isfinite(by_stars) else digits(np.nan)
        off = 2500 * np.log10(by_stars / by_psf) if np.isfinite(by_stars) else np.nan
        rows.append(
            (
                label,
                f"{corrections.radii[k]:.2f}",
                digits(by_psf, ".4f"),
                stars,
                digits(off, "+.1f"),
                digits(before, ".3f"),
                digits(after, "+.4f"),
                digits(seen.width, ".3f"),
            )
        )
    n = corrections.n_stars
    text = (
        f"Growth measured on {plural(n, 'bright, lonely star')} up to the largest circle; beyond it the PSF takes over."
        if np.isfinite(corrections.stars).any()
        else "There are too few bright, lonely stars to measure the growth on: the PSF alone tells of it."
    )
    return Summary(text, HEADINGS, rows)


def aperture_pictures(catalog: "QTable", corrections: Corrections | None) -> list[Picture]:
    """Return curve of growth and contamination before and after cleaning; nothing when no apertures were measured."""
    if corrections is None or not corrections.labels:
        return []
    return [_growth(corrections), _contamination(catalog, corrections)]


def _growth(corrections: Corrections) -> Picture:
    figure, axes = plot.new_plot()
    order = np.argsort(corrections.radii)
    radii = corrections.radii[order]
    axes.plot(radii, 1 / corrections.psf[order], "o-", color=canvas.INK, ms=3, lw=1.2, label="PSF")
    stars, error = corrections.stars[order], corrections.stars_err[order]
    if np.isfinite(stars).any():
        axes.errorbar(
            radii, 1 / stars, yerr=error / stars**2, fmt="o", color=canvas.ORANGE, ms=4, lw=1.2, label="stars"
        )
    low = float(np.nanmin([1 / corrections.psf, 1 / corrections.stars])) if len(radii) else 0.0
    axes.set(
        title="Curve of growth", xlabel="radius (pix)", ylabel="share of all light",
        xlim=(0, 1.08 * float(radii[-1])), ylim=(max(0.0, low - 0.1), 1.03),
    )  # fmt: skip
    axes.axhline(1, color=canvas.QUIET, lw=0.7)
    axes.legend(loc="lower right")
    caption = (
        "Where stars and PSF part, the wings of the PSF are wrong, or lonely stars are not lonely. All light is that "
        "of the PSF over its full extent."
    )
    return plot.finish(
        figure, "growth", "Share of the light inside circles, by the PSF and by stars.", caption
    )


def _contamination(catalog: "QTable", corrections: Corrections) -> Picture:
    label = corrections.labels[int(np.argmax(corrections.radii))]
    figure, axes = plot.new_plot()
    mag, seen = column(catalog, "mag"), Contamination.of(catalog, label)
    good = np.isfinite(mag) & np.isfinite(seen.before)
    if good.any():
        draw_trend(axes, mag, seen.before, canvas.ORANGE, "before cleaning, median", few=True)
        draw_trend(axes, mag, seen.after, canvas.INK, "after cleaning, median", few=True)
        draw_trend(axes, mag, np.abs(seen.after), canvas.BLUE, "after cleaning, median size", few=True)
        axes.axhline(0, color=canvas.QUIET, lw=0.7)
        axes.legend(loc="upper left")
    else:
        plot.empty(axes, "no source with finite values")
    axes.set(
        title=f"Light of others in the largest circle ({label})",
        xlabel="magnitude",
        ylabel="share of the star",
    )
    caption = (
        "What neighbours put into the circle, over the light of the star itself: by the models before the image is "
        "cleaned of them, and what is left then. Its median should be near 0; its size grows with the noise of "
        "faint stars."
    )
    return plot.finish(
        figure, "contamination", "Contamination before and after cleaning, against magnitude.", caption
    )

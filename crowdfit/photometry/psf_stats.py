"""The columns of the catalogue: every star measured on the image cleaned of its neighbours.

Formulas are those of crowdsource (Schlafly et al. 2018), all in one normalisation: unit sum of the PSF over its
full extent. `spread_model` compares with an exponential disc as SExtractor does (Desai et al. 2012).
"""

from dataclasses import dataclass as plain

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.ndimage import maximum_filter

from crowdfit._kernels import measure
from crowdfit.counts import Limits
from crowdfit.frame import Frame, Frames
from crowdfit.photometry.errors import errors_of, marginal_errors, undecided
from crowdfit.psf.epsf import EPSF
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT

F64 = NDArray[np.float64]


@plain(frozen=True, eq=False)
class Measured:
    """The stars with their final flags, and the measured columns by name."""

    sources: Sources
    columns: dict[str, NDArray[np.generic]]


LEFT = 0.35
"""A source that leaves more than this share of its own light behind has another shape than a star."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Measure:
    """Errors, shape and environment of every star."""

    window: float = Field(
        default=2.0, gt=0, description="half width of the measuring stamp, in FWHM (crowdsource: 9 px)"
    )
    reach: float = Field(
        default=2.0, gt=0, description="neighbours up to this distance share the marginal error, in FWHM"
    )
    neighbours: int = Field(
        default=10, ge=0, le=40, description="most neighbours that share the marginal error"
    )
    confusion: bool = Field(
        default=True, description="count the light of stars that are not in the list as part of the errors"
    )
    min_qf: float = Field(
        default=0.5, ge=0, le=1, description="below this share of usable PSF the flag core_masked is set"
    )

    def __call__(self, frames: Frames, sources: Sources, limits: Limits | None = None) -> Measured:
        """Return columns and flags of all stars; `limits` tells what the search finds, None that it finds all."""
        (frame,) = frames
        # the errors first: the statistics keep planes of their own on the frame
        variance = marginal_errors(frame, sources, self.reach * frame.psf.fwhm, self.neighbours)
        stats = self.statistics(frame, sources)
        # the error of the PSF is that of stars, and flags say which sources are none
        sources = self._flagged(frame, sources, stats)
        columns: dict[str, NDArray[np.generic]] = {
            "id": sources.id,
            "x": sources.x,
            "y": sources.y,
            "flux": sources.flux,
            "pass_no": sources.pass_no,
        }
        columns |= errors_of(frame, sources, variance, limits if self.confusion else None).columns()
        columns |= {name: stats[:, k] for name, k in _STATS.items()}
        columns["sky"] = frame.sky[frame.nearest_pixel(sources)]
        shared = variance * frame.noise_factors.flux**2
        sources = sources.flagged("undecided", undecided(sources, shared, frame.psf.fwhm))
        return Measured(sources, columns | {"flags": sources.flags})

    def statistics(self, frame: Frame, sources: Sources) -> F64:
        """Return the statistics of `crowdfit._kernels.measure`, shape (n, N_STATS)."""
        out = np.empty((len(sources), measure.N_STATS))
        fwhm, psf = frame.psf.fwhm, frame.psf
        half = psf.window(self.window)
        rings = np.array([max(0.5 * fwhm, 0.8), max(fwhm, 1.6)])
        total = np.where(frame.exposure.good, frame.exposure.data - frame.sky, np.float32(0))
        measure.measure_stars(
            psf.coef, convolved_with_disc(psf).coef, psf.basis(sources.x, sources.y), sources.x, sources.y,
            sources.flux, half, rings, frame.resid, frame.fit_ivar, total, out,
        )  # fmt: skip
        return out

    def _flagged(self, frame: Frame, sources: Sources, stats: F64) -> Sources:
        exposure, psf = frame.exposure, frame.psf
        qf, good = stats[:, measure.QF], stats[:, measure.N_GOOD]
        side = 2 * psf.window(self.window) + 1
        at = frame.nearest_pixel(sources)
        near_saturated = maximum_filter(exposure.saturated, 3)[at]
        cut = (frame.half_sizes(sources.flux) >= psf.radius) & (
            np.abs(sources.flux) * psf.envelope[-1] > frame.stamps.level * frame.noise
        )
        last = sources.pass_no == sources.pass_no.max(initial=-1)
        return (
            sources.flagged("core_masked", ~(qf >= self.min_qf))
            .flagged("saturated", near_saturated)
            .flagged("edge", stats[:, measure.N_PIXELS] < side * side)
            .flagged("near_mask", good < stats[:, measure.N_PIXELS])
            .flagged("close_pair", has_close_neighbour(sources, psf.fwhm))
            .flagged("new", last & (sources.pass_no > 0))
            .flagged("negative", ~(sources.flux > 0))
            .flagged("truncated", cut)
            .flagged("measure_failed", ~np.isfinite(stats[:, measure.FLUX_ISO]))
            .flagged("misfit", stats[:, measure.RCHI2] > self.most_rchi2(frame, sources))
        )

    @staticmethod
    def most_rchi2(frame: Frame, sources: Sources) -> F64:
        """Return the rchi2 of sources that leave `LEFT` of their own light, five sigma beyond that of noise.

        The sum of P^3 is 4/3 of the square of that of P^2, as of a Gaussian.
        """
        area = frame.psf.n_eff
        # a sum over pixels, each with its own variance, knows of no noise that they share
        error = frame.isolated_error(sources.flux) / frame.noise_factors.flux
        own = 4 / 3 * np.square(sources.flux / error) / area
        return np.asarray(1 + 5 * np.sqrt(2 * 4 / 3 / area) + LEFT**2 * own)


_STATS = {
    "qf": measure.QF,
    "rchi2": measure.RCHI2,
    "fracflux": measure.FRACFLUX,
    "sharpness": measure.SHARPNESS,
    "spread_model": measure.SPREAD_MODEL,
    "spread_model_err": measure.SPREAD_MODEL_ERR,
    "flux_lbs": measure.FLUX_LBS,
    "flux_lbs_err": measure.FLUX_LBS_ERR,
    "flux_iso": measure.FLUX_ISO,
    "x_iso": measure.STEP_X_ISO,
    "y_iso": measure.STEP_Y_ISO,
    "fwhm": measure.FWHM,
}


def has_close_neighbour(sources: Sources, radius: float) -> NDArray[np.bool_]:
    """Return which stars have another within `radius` pixels."""
    if len(sources) < 2:
        return np.zeros(len(sources), bool)
    points = np.column_stack([sources.x, sources.y])
    distance = np.asarray(scipy.spatial.cKDTree(points).query(points, k=2)[0])
    return np.asarray(distance[:, 1] < radius)


def convolved_with_disc(psf: EPSF) -> EPSF:
    """Return the PSF convolved with a round exponential disc of scale length fwhm / 16.

    In Fourier space, where the disc of scale h is ``(1 + (2 pi k h)^2)^(-3/2)``, so that a disc smaller than
    a sample is exact too.
    """
    side = psf.cube.shape[1]
    k = np.fft.fftfreq(side, 1 / psf.oversample)
    scale = psf.fwhm / 16
    disc = (1 + (2 * np.pi * scale) ** 2 * (k[:, None] ** 2 + k[None, :] ** 2)) ** -1.5
    blurred = np.fft.ifft2(np.fft.fft2(psf.cube) * disc).real
    return psf.with_cube(np.ascontiguousarray(blurred))

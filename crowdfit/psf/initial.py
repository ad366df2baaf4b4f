"""A first PSF: blind, from the image alone, or from a file.

The blind guess fits every bright peak with stamps of many widths; the width at which most peaks agree is
the seeing. Widths are those of pixel-integrated PSFs, so that undersampled images are not guessed too broad.
"""

import logging
from dataclasses import dataclass as plain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.ndimage import binary_dilation, maximum_filter

from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.psf.analytic import moffat
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.readers import read_psf_image
from crowdfit.stages.base import STRICT

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

CORE_BETA = 5.0
"""Moffat exponent that fits the cores of both seeing-limited and diffraction-limited stars."""

RING = 0.1
"""A peak this much fainter than another one nearby may be a piece of its diffraction rings."""
RING_REACH = 4.0
"""How near that is, in widths of the brighter one; rings farther out are fainter than 2e-3 of the peak."""


@plain(frozen=True, eq=False)
class Peaks:
    """Bright local maxima: rows, columns, and their cutouts (n, size, size) of data - sky and ivar."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    data: F64
    ivar: F64


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BlindPsf:
    """A round Moffat of the width on which the bright peaks of the image agree."""

    kind: Literal["blind"] = "blind"
    fwhm: float | None = Field(
        default=None, gt=0.5, description="first guess of the FWHM in pixels; null measures it"
    )
    beta: float = Field(default=2.5, gt=1, description="Moffat exponent of the first guess")
    max_peaks: int = Field(default=300, ge=1, description="most peaks looked at")
    min_snr: float = Field(default=10.0, gt=0, description="least single-pixel S/N of a peak")

    def __call__(self, exposure: Exposure) -> EPSF:
        """Return the first PSF of an exposure."""
        if self.fwhm is not None:
            return moffat_of(self.fwhm, self.beta, exposure.shape)
        fwhm = measure_fwhm(exposure, max_peaks=self.max_peaks, min_snr=self.min_snr)
        log.info("%s: first guess of the FWHM: %.2f px", exposure.name, fwhm)
        # what was measured is the width on the pixels; two steps undo the broadening by the pixel
        width = fwhm
        for _ in range(2):
            width *= fwhm / moffat_of(width, self.beta, exposure.shape).fwhm
        return moffat_of(width, self.beta, exposure.shape)


def moffat_of(fwhm: float, beta: float, shape: tuple[int, int]) -> EPSF:
    """Return a round Moffat PSF for an image of `shape`, sampled as finely as its width needs."""
    radius = int(min(10 * fwhm + 1, max(shape)))
    return moffat(fwhm, beta, oversample=4 if fwhm < 4 else 2, radius=radius)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GivenPsf:
    """A PSF read from a FITS image; `psf_update` decides whether it is held fixed or refined."""

    kind: Literal["file"] = "file"
    path: Path = Field(description="FITS image of the PSF, odd-sized")
    oversample: int | None = Field(
        default=None, ge=1, le=20, description="samples per pixel; null reads OVERSAMP, else 1"
    )

    def __call__(self, exposure: Exposure) -> EPSF:
        """Return the PSF in the file."""
        psf = read_psf_image(self.path, oversample=self.oversample)
        check_fits_image(psf, exposure, str(self.path))
        return psf


def check_fits_image(psf: EPSF, exposure: Exposure, name: str = "psf") -> None:
    """Refuse a PSF whose table is larger than the image; the message begins with `name`.

    Raises
    ------
    InputError
        The full stamp is wider than the image is.
    """
    side = 2 * psf.radius + 1
    if side > max(exposure.shape):
        raise InputError(
            f"{name}: {side} px on a side is larger than the image {exposure.name} {exposure.shape}; cut the "
            "PSF, or give its oversampling (psf.oversample for a file, EPSF.from_samples for an array)"
        )


def measure_fwhm(exposure: Exposure, *, max_peaks: int = 300, min_snr: float = 10.0) -> float:
    """Return the FWHM on the pixels (pix) on which the bright peaks of an image agree.

    Cores are compared with Moffat stamps of exponent `CORE_BETA`, pixel included.

    Parameters
    ----------
    exposure : Exposure
        The image.
    max_peaks : int
        Brightest peaks used.
    min_snr : float
        Least S/N of the peak pixel; lowered when fewer than 20 peaks are found.
    """
    widths = np.geomspace(1.0, 16.0, 33)
    scale = 4.0
    for _ in range(3):
        half = int(np.clip(np.ceil(1.25 * scale), 3, 20))
        peaks = bright_peaks(exposure, half, max_peaks, min_snr)
        if len(peaks.rows) < 3:
            log.warning("%s: fewer than 3 bright peaks; assuming a FWHM of 3 px", exposure.name)
            return 3.0
        best = best_widths(peaks, widths, CORE_BETA, scale)
        best = best[~in_rings(peaks, best)]
        previous, scale = scale, typical(best)
        if abs(np.log(scale / previous)) < 0.1:
            break
    return moffat(scale, CORE_BETA, oversample=4 if scale < 4 else 2, radius=int(6 * scale) + 4).fwhm


def bright_peaks(exposure: Exposure, half: int, most: int, min_snr: float) -> Peaks:
    """Return the brightest peaks whose surroundings of half width `half` are usable, brightest first."""
    good = exposure.good
    level = np.median(exposure.data[good])
    image = np.where(good, exposure.data - level, -np.inf)
    snr = np.where(good, (exposure.data - level) * np.sqrt(exposure.ivar), 0)
    near_mask = binary_dilation(~good, iterations=2)
    is_peak = (image == maximum_filter(image, 2 * max(half // 2, 1) + 1)) & good & ~near_mask
    is_peak[:half], is_peak[-half:], is_peak[:, :half], is_peak[:, -half:] = False, False, False, False
    for limit in (min_snr, 5.0, 3.0):
        rows, cols = np.nonzero(is_peak & (snr > limit))
        if len(rows) >= 20:
            break
    order = np.argsort(-image[rows, cols], kind="stable")[:most]
    rows, cols = rows[order], cols[order]
    offsets = np.arange(-half, half + 1)
    at = (rows[:, None, None] + offsets[:, None], cols[:, None, None] + offsets)
    data = np.where(good, exposure.data - level, 0)[at].astype(np.float64)
    return Peaks(rows, cols, data, exposure.ivar[at].astype(np.float64))


def best_widths(peaks: Peaks, widths: F64, beta: float, scale: float) -> F64:
    """Return for each peak the width whose stamp fits it best, NaN at the ends of the range.

    Each stamp is fitted linearly with a constant and both shifts, within one `scale` (pix) of the peak.
    """
    half = peaks.data.shape[1] // 2
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    inside = np.hypot(xx, yy) <= max(scale, 1.5)
    chi2 = np.empty((len(widths), len(peaks.rows)))
    noise = 1 / np.maximum(peaks.ivar, 1e-30) + (0.02 * np.maximum(peaks.data, 0)) ** 2
    weight = np.where((peaks.ivar > 0) & inside, 1 / noise, 0)[:, inside]
    target = peaks.data[:, inside]
    for k, width in enumerate(widths):
        psf = moffat(width, beta, oversample=4, radius=half + 2)
        planes = psf.planes(0.0, 0.0, 2 * half + 1)[:, inside].astype(np.float64)
        chi2[k] = _linear_chi2(np.vstack([planes / planes[0].max(), np.ones(inside.sum())]), target, weight)
    best = np.argmin(chi2, axis=0)
    return np.where((best > 0) & (best < len(widths) - 1), _refined(widths, chi2, best), np.nan)


def in_rings(peaks: Peaks, widths: F64) -> NDArray[np.bool_]:
    """Return which peaks may belong to the diffraction rings of a far brighter one.

    The reach is the width of that brighter peak; a hot pixel, whose width is unknown, has no rings.
    """
    middle = peaks.data.shape[1] // 2
    height = peaks.data[:, middle, middle]
    gap = np.hypot(peaks.rows[:, None] - peaks.rows, peaks.cols[:, None] - peaks.cols)
    near = gap < RING_REACH * np.nan_to_num(widths)
    return np.asarray(np.any(near & (height[:, None] < RING * height), axis=1))


def _linear_chi2(design: F64, target: F64, weight: F64) -> F64:
    """Return the weighted chi^2 of the best linear fit of `design` (k, pixels) to each target (n, pixels)."""
    normal = np.einsum("ip,np,jp->nij", design, weight, design)
    normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(len(design)) + 1e-300
    vector = np.einsum("ip,np->ni", design, weight * target)
    answer = np.linalg.solve(normal, vector[..., None])[..., 0]
    return np.asarray(np.sum(weight * target**2, axis=1) - np.einsum("ni,ni->n", vector, answer))


def _refined(widths: F64, chi2: F64, best: NDArray[np.int64]) -> F64:
    """Return the minimum of the parabola through the best width and its two neighbours, in log width."""
    k = np.clip(best, 1, len(widths) - 2)
    star = np.arange(len(k))
    a, b, c = chi2[k - 1, star], chi2[k, star], chi2[k + 1, star]
    bend = a - 2 * b + c
    step = np.where(bend > 0, 0.5 * (a - c) / np.where(bend > 0, bend, 1), 0)
    return np.asarray(widths[k] * (widths[1] / widths[0]) ** np.clip(step, -1, 1))


def typical(widths: F64) -> float:
    """Return the mode of the widths: the middle of the densest half, repeated, in log width.

    Blends make a tail of broad peaks and cosmic rays one of sharp peaks; both leave the mode alone.
    """
    sample = np.sort(np.log(widths[np.isfinite(widths)]))
    if len(sample) == 0:
        return 3.0
    while len(sample) > 3:
        n = (len(sample) + 1) // 2
        start = int(np.argmin(sample[n - 1 :] - sample[: len(sample) - n + 1]))
        sample = sample[start : start + n]
    return float(np.exp(np.median(sample)))

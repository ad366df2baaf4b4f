"""A first PSF: blind, from the image alone, or from a file.

The blind guess fits every bright peak with stamps of many widths; the width at which most peaks agree is
the seeing. Widths are those of pixel-integrated PSFs, so that undersampled images are not guessed too broad.
"""

import logging
from dataclasses import dataclass as plain
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.ndimage import binary_dilation

from crowdfit.errors import InputError
from crowdfit.exposure import Exposure, Image
from crowdfit.psf.analytic import moffat
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.readers import read_psf
from crowdfit.stages.base import STRICT

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

CORE_BETA = 5.0
"""Moffat exponent that fits the cores of both seeing-limited and diffraction-limited stars."""

RING = 0.1
"""A peak this much fainter than another one nearby may be a piece of its diffraction rings."""
RING_REACH = 4.0
"""How near that is, in widths of the brighter one; rings farther out are fainter than 2e-3 of the peak."""

ENOUGH = 20
"""With fewer peaks than this, fainter ones are welcome."""
ALIKE = 1.2
"""Peaks whose widths differ by less than this factor agree."""
ENOUGH_ALIKE = 8
"""Fewer peaks of one width say nothing."""
BATCH = 1000
"""So many maxima are looked at together, the brightest first."""
NODES = 5
"""Gauss-Legendre nodes per axis of a pixel: the narrowest profile is right to 1e-6 of its peak."""


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
            width *= fwhm / fwhm_on_pixels(width, self.beta)
        return moffat_of(width, self.beta, exposure.shape)


def moffat_of(fwhm: float, beta: float, shape: tuple[int, int]) -> EPSF:
    """Return a round Moffat PSF for an image of `shape`, sampled as finely as its width needs."""
    radius = int(min(10 * fwhm + 1, max(shape)))
    return moffat(fwhm, beta, oversample=_fineness(fwhm), radius=radius)


def _fineness(fwhm: float) -> int:
    """Return how many samples per pixel the table of a Moffat of that FWHM (pix) needs."""
    return 4 if fwhm < 4 else 2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GivenPsf:
    """A PSF read from a file (`crowdfit.psf.readers`); `psf_update` decides whether it is held fixed or refined.

    One that varies over the field is corrected, another replaced (`psf_update.given`).
    """

    kind: Literal["file"] = "file"
    path: Path = Field(
        description="FITS image, STDPSF or STPSF grid, STPSF calculation, or PSFEx model; known by its content"
    )
    oversample: int | None = Field(
        default=None, ge=1, le=20, description="samples per pixel; null reads it from the file, else 1"
    )
    detector: int | str | None = Field(
        default=None, description="which detector of a file that holds several, by number or name"
    )
    recentre: bool | None = Field(
        default=None, description="move the centroid to the middle sample; null: plain images only"
    )
    first_pixel: tuple[float, float] | None = Field(
        default=None,
        description="detector column and row, from 0, of the first pixel of the image: of subarrays and cutouts; "
        "unset: from the header of a JWST subarray, else 0, 0",
    )

    def __call__(self, exposure: Exposure) -> EPSF:
        """Return the PSF in the file."""
        psf = read_psf(self.path, oversample=self.oversample, detector=self.detector, recentre=self.recentre)
        known = tuple(float(exposure.meta.get(key, 1)) - 1 for key in ("SUBSTRT1", "SUBSTRT2"))
        x, y = known if self.first_pixel is None else self.first_pixel
        psf = replace(psf, field=psf.field.shifted(-x, -y))
        check_fits_image(psf, exposure, str(self.path))
        return psf


def check_fits_image(psf: EPSF, exposure: Exposure, name: str = "psf") -> None:
    """Refuse a PSF without a width, or whose table is larger than the image; the message begins with `name`.

    Raises
    ------
    InputError
        Nothing is positive around the middle, or the full stamp is wider than the image is.
    """
    psf.check_width(name)
    side = 2 * psf.radius + 1
    if side > max(exposure.shape):
        raise InputError(
            f"{name}: {side} px on a side is larger than the image {exposure.name} {exposure.shape}; cut the "
            "PSF, or give its oversampling (psf.oversample for a file, EPSF.from_samples for an array)"
        )


def measure_fwhm(exposure: Exposure, *, max_peaks: int = 300, min_snr: float = 10.0) -> float:
    """Return the FWHM on the pixels (pix) on which most bright peaks of an image agree; 3 with fewer than 3 peaks.

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
    widths = peak_widths(exposure, max_peaks=max_peaks, min_snr=min_snr)
    if len(widths) < 3:
        log.warning("%s: fewer than 3 bright peaks; assuming a FWHM of 3 px", exposure.name)
        return 3.0
    return fwhm_on_pixels(typical(widths), CORE_BETA)


def agreed_fwhm(exposure: Exposure) -> float | None:
    """Return the FWHM on the pixels (pix) of the bright peaks of an image, None where they do not agree on one.

    Stars agree: in fields of all densities two thirds or more of the widths lie within `ALIKE` of the mode. Where
    galaxies or noise make the peaks it is a third.
    """
    widths = peak_widths(exposure)
    widths = widths[np.isfinite(widths)]
    alike = np.abs(np.log(widths / typical(widths))) < np.log(ALIKE)
    if np.count_nonzero(alike) < max(ENOUGH_ALIKE, len(widths) / 2):
        return None
    return fwhm_on_pixels(typical(widths), CORE_BETA)


def peak_widths(exposure: Exposure, *, max_peaks: int = 300, min_snr: float = 10.0) -> F64:
    """Return the FWHM (pix) of the profiles that fit the bright peaks best, without the pixel; empty below 3 peaks.

    Parameters are those of `measure_fwhm`. NaN where the width is outside of 1 to 16 pix.
    """
    widths = np.geomspace(1.0, 16.0, 33)
    maxima = Maxima.of(exposure)
    scale = 4.0
    for _ in range(3):
        half = int(np.clip(np.ceil(1.25 * scale), 3, 20))
        peaks = maxima.peaks(half, max_peaks, min_snr)
        if len(peaks.rows) < 3:
            return np.zeros(0)
        best = best_widths(peaks, widths, CORE_BETA, scale)
        best = best[~in_rings(peaks, best)]
        previous, scale = scale, typical(best)
        if abs(np.log(scale / previous)) < 0.1:
            break
    return best


def fwhm_on_pixels(fwhm: float, beta: float) -> float:
    """Return the FWHM (pix) that a Moffat profile has after integration over the pixel.

    From a table that ends at twice the width, for what lies farther out does not move the half-maximum contour.
    """
    return moffat(fwhm, beta, oversample=_fineness(fwhm), radius=int(2 * fwhm) + 4).fwhm


@plain(frozen=True, eq=False)
class Maxima:
    """Usable pixels that no neighbour outshines, brightest first, and the image they are in.

    rows, cols : (n,) int64. snr : (n,) float32, of that one pixel. image, ivar : (ny, nx) float32, data - level
    and its inverse variance; both are 0 where not usable.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    snr: Image
    image: Image
    ivar: Image

    @classmethod
    def of(cls, exposure: Exposure) -> "Maxima":
        """Return the maxima of an image above its median, two pixels away from the next masked pixel."""
        good = exposure.good
        image = np.where(good, exposure.data - np.median(exposure.data[good]), np.float32(0))
        is_peak = (image > 0) & good & ~binary_dilation(~good, iterations=2)
        middle = image[1:-1, 1:-1]
        ny, nx = image.shape
        for j, i in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)):
            is_peak[1:-1, 1:-1] &= middle >= image[j : ny - 2 + j, i : nx - 2 + i]
        rows, cols = np.nonzero(is_peak)
        order = np.argsort(-image[rows, cols], kind="stable")
        rows, cols = rows[order], cols[order]
        return cls(rows, cols, image[rows, cols] * np.sqrt(exposure.ivar[rows, cols]), image, exposure.ivar)

    def peaks(self, half: int, most: int, min_snr: float) -> Peaks:
        """Return the `most` brightest peaks whose cutouts of half width `half` lie on the image.

        A peak outshines everything within half of that. Fewer than 20 above `min_snr` are not enough: then the
        limit falls to 5 and to 3.
        """
        ny, nx = self.image.shape
        inside = (self.rows >= half) & (self.rows < ny - half) & (self.cols >= half) & (self.cols < nx - half)
        for limit in (min_snr, 5.0, 3.0):
            found = self._highest(np.flatnonzero(inside & (self.snr > limit)), half, max(most, ENOUGH))
            if len(found) >= ENOUGH:
                break
        found = found[:most]
        at = self._around(found, half)
        return Peaks(
            self.rows[found],
            self.cols[found],
            self.image[at].astype(np.float64),
            self.ivar[at].astype(np.float64),
        )

    def _highest(self, chosen: NDArray[np.int64], half: int, most: int) -> NDArray[np.int64]:
        """Return the first `most` of the chosen maxima that are the highest of their neighbourhood."""
        found: list[NDArray[np.int64]] = []
        for start in range(0, len(chosen), BATCH):
            batch = chosen[start : start + BATCH]
            height = self.image[self.rows[batch], self.cols[batch]]
            around = self.image[self._around(batch, max(half // 2, 1))]
            found.append(batch[height >= around.max(axis=(1, 2))])
            if sum(map(len, found)) >= most:
                break
        return np.concatenate([chosen[:0], *found])[:most]

    def _around(self, chosen: NDArray[np.int64], half: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the indices of the cutouts (n, size, size) around the chosen maxima."""
        steps = np.arange(-half, half + 1)
        return self.rows[chosen, None, None] + steps[:, None], self.cols[chosen, None, None] + steps


def best_widths(peaks: Peaks, widths: F64, beta: float, scale: float) -> F64:
    """Return for each peak the width whose stamp fits it best, NaN at the ends of the range.

    Each stamp is fitted linearly with a constant and both shifts, within one `scale` (pix) of the peak.
    """
    half = peaks.data.shape[1] // 2
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    inside = np.hypot(xx, yy) <= max(scale, 1.5)
    noise = 1 / np.maximum(peaks.ivar, 1e-30) + (0.02 * np.maximum(peaks.data, 0)) ** 2
    weight = np.where((peaks.ivar > 0) & inside, 1 / noise, 0)[:, inside]
    designs = moffat_designs(widths, beta, xx[inside], yy[inside])
    chi2 = _linear_chi2(designs, peaks.data[:, inside], weight)
    best = np.argmin(chi2, axis=0)
    return np.where((best > 0) & (best < len(widths) - 1), _refined(widths, chi2, best), np.nan)


def moffat_designs(widths: F64, beta: float, x: NDArray[np.int64], y: NDArray[np.int64]) -> F64:
    """Return round Moffat profiles averaged over pixels, their x and y derivatives, and a constant.

    Parameters
    ----------
    widths : ndarray (k,)
        FWHM of the profiles (pix).
    beta : float
        Their exponent.
    x, y : ndarray (p,)
        Pixels, counted from the centre of the profiles.

    Returns
    -------
    ndarray (k, 4, p)
        In units of the highest pixel of each profile; the derivatives per pixel.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    xx, yy = x[:, None, None] + nodes / 2, y[:, None, None] + nodes[:, None] / 2
    share = weights * weights[:, None] / 4
    alpha2 = ((widths / 2) ** 2 / (2 ** (1 / beta) - 1))[:, None, None, None]
    base = 1 + (xx**2 + yy**2) / alpha2
    value = base**-beta
    slope = 2 * beta / alpha2 * value / base
    planes = [np.einsum("kpij,ij->kp", part, share) for part in (value, slope * xx, slope * yy)]
    return np.stack(
        [*(plane / planes[0].max(axis=1, keepdims=True) for plane in planes), np.ones_like(planes[0])], 1
    )


def in_rings(peaks: Peaks, widths: F64) -> NDArray[np.bool_]:
    """Return which peaks may belong to the diffraction rings of a far brighter one.

    The reach is the width of that brighter peak; a hot pixel, whose width is unknown, has no rings.
    """
    middle = peaks.data.shape[1] // 2
    height = peaks.data[:, middle, middle]
    gap = np.hypot(peaks.rows[:, None] - peaks.rows, peaks.cols[:, None] - peaks.cols)
    near = gap < RING_REACH * np.nan_to_num(widths)
    return np.asarray(np.any(near & (height[:, None] < RING * height), axis=1))


def _linear_chi2(designs: F64, target: F64, weight: F64) -> F64:
    """Return the weighted chi^2 (k, n) of the best linear fit of each design (k, m, p) to each target (n, p)."""
    k, m, p = designs.shape
    products = (designs[:, :, None] * designs[:, None]).reshape(k * m * m, p)
    normal = np.moveaxis((products @ weight.T).reshape(k, m, m, -1), 3, 1)
    normal += 1e-9 * np.trace(normal, axis1=2, axis2=3)[..., None, None] * np.eye(m) + 1e-300
    vector = (designs.reshape(k * m, p) @ (weight * target).T).reshape(k, m, -1).transpose(0, 2, 1)
    answer = np.linalg.solve(normal, vector[..., None])[..., 0]
    return np.asarray(np.sum(weight * target**2, axis=1) - np.einsum("kni,kni->kn", vector, answer))


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

"""An exposure together with what currently explains it: its PSF, sky and model."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as validated

from crowdfit.exposure import Exposure, Image
from crowdfit.psf.epsf import EPSF
from crowdfit.render import add_to
from crowdfit.robust import MAD, scatter
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT
from crowdfit.tiles import Tiles
from crowdfit.view import JointSources, Local, View
from crowdfit.whitening import Whitened, Whitening, whitening

BEYOND = 1.0
"""How far beyond the border a star may lie whose light reaches onto the image (FWHM)."""
WINGS_STILL = 0.3
"""Wings that change by less than this, in sigma of a pixel, leave no star behind: one covers some ten pixels."""
CHI_PIXELS = 200_000
"""So many pixels give the rms of the residual to a fifth of a percent."""


@validated(frozen=True, kw_only=True, config=STRICT)
class StampSizes:
    """How far out a star is rendered and fitted: until its PSF falls below the noise.

    A size follows from flux, noise and PSF and has no units of its own, so it holds in electrons and in MJy/sr.
    """

    level: float = Field(
        default=0.1, gt=0, description="neglect a star where it is fainter than this, in sigma of a pixel"
    )
    smallest: float = Field(default=2.0, gt=0, le=100, description="least half width of a stamp, in FWHM")

    def half(self, psf: EPSF, flux: NDArray[Any], noise: float) -> NDArray[np.int64]:
        """Return half widths (pix) for stars of the given fluxes on pixels with the given noise."""
        smallest = max(int(np.ceil(self.smallest * psf.fwhm)), 4)
        return psf.half_sizes(flux, self.level * noise, smallest)


@dataclass(frozen=True)
class PsfQuality:
    """How the present PSF was made, and whether it can be trusted (P035, P037).

    Parameters
    ----------
    n_stars : int
        Stars it was fitted to.
    refused : dict of str to int
        Candidates that were refused, by reason.
    core_error : float
        Scatter of residual over model at the centres of PSF stars, before the update.
    fwhm, ellipticity, position_angle : float
        Of the PSF (pix, -, deg).
    problems : tuple of str
        Why it should not be trusted; empty when it passes.
    change : float
        Share of its light that the last update moved, or of its FWHM if that is more; infinite while there was none.
    wing_change : float
        How much the last update changed the wings of the brightest saturated star (sigma of a pixel).
    """

    n_stars: int
    refused: dict[str, int]
    core_error: float
    fwhm: float
    ellipticity: float
    position_angle: float
    problems: tuple[str, ...] = ()
    change: float = np.inf
    wing_change: float = 0.0

    @property
    def wings_are_still(self) -> bool:
        """Whether the last update left the wings of saturated stars as they were, or there are none."""
        return self.wing_change <= WINGS_STILL

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.problems


class Factors(NamedTuple):
    """By what correlated noise multiplies the errors of fluxes and of positions; 1 for independent pixels."""

    flux: float = 1.0
    shift: float = 1.0


@dataclass(frozen=True, eq=False)
class Frame:
    """An exposure and its current explanation.

    Parameters
    ----------
    exposure : Exposure
        Pixels and noise.
    psf : EPSF
        Current PSF.
    sky, model : ndarray (ny, nx) float32
        Smooth background; sum of all sources without sky (image unit).
    stamps : StampSizes
        How far out each star is rendered.
    first_fwhm : float
        FWHM of the first PSF (pix), by which later ones are judged.
    seen_fwhm : float or None
        Where the first PSF was given: FWHM on which the bright peaks of the image agree (pix), by which later
        ones are judged too. None where they do not agree, or where it is the first PSF itself.
    given_psf : EPSF or None
        The first PSF where it was given, which may be that of a library; None where the image gave it.
    psf_quality : PsfQuality or None
        How the PSF was made; None while it is as given.
    confusion : float
        Sum of the squared fluxes of undetected stars per pixel (image unit^2): noise with the PSF's spectrum.
    structure : ndarray (ny, nx) float32 or None
        Noise of a pixel that stands for structure of the sky which is not in `sky` (image unit); None: no such.
    tiles : Tiles
        In which parts the linear system is assembled, and the memory that may be held.
    sky_error : ndarray (cy, cx) float64 or None
        1-sigma error of `sky` in the cells of an even grid (image unit); None while the last pass has not told.
    noise_factors : Factors
        What noise that neighbouring pixels share does to errors, which the variance of pixels does not tell.
    trust : ndarray (ny, nx) float32 or None
        Share of its weight that a pixel has in a solve, 0 to 1; None: all of it.
    view : View or None
        How the exposure sees the list of a joint fit; None: the list is its own.
    """

    exposure: Exposure
    psf: EPSF
    sky: Image
    model: Image
    stamps: StampSizes = field(default_factory=StampSizes)
    first_fwhm: float = np.nan
    seen_fwhm: float | None = None
    psf_quality: PsfQuality | None = None
    confusion: float = 0.0
    structure: Image | None = None
    tiles: Tiles = field(default_factory=Tiles)
    sky_error: NDArray[np.float64] | None = None
    given_psf: EPSF | None = None
    noise_factors: Factors = Factors()
    trust: Image | None = None
    view: View | None = None

    @classmethod
    def start(
        cls,
        exposure: Exposure,
        psf: EPSF,
        stamps: StampSizes,
        seen_fwhm: float | None = None,
        tiles: Tiles | None = None,
        *,
        is_given: bool = False,
    ) -> "Frame":
        """Return the frame before the first pass: no sky, no sources."""
        zero = np.zeros(exposure.shape, np.float32)
        given, tiles = psf if is_given else None, tiles or Tiles()
        return cls(exposure, psf, zero, zero, stamps, psf.fwhm, seen_fwhm, tiles=tiles, given_psf=given)

    @cached_property
    def resid(self) -> Image:
        """Data minus sky minus model; 0 where not usable (image unit)."""
        return np.where(self.exposure.good, self.exposure.data - self.sky - self.model, np.float32(0))

    @cached_property
    def fit_ivar(self) -> Image:
        """Inverse variance with the photons of the model and the structure of the sky, times trust (image unit^-2)."""
        ivar = self.exposure.fit_ivar(self.model)
        if self.structure is not None:
            ivar = ivar / (1 + ivar * self.structure * self.structure)
        return ivar if self.trust is None else ivar * self.trust

    @cached_property
    def model_error(self) -> float:
        """Fractional error of the model: scatter of resid / model beyond noise, where the model is bright.

        Taken over pixels whose model exceeds 20 sigma; 0 when there are fewer than 100 of them.
        """
        noise = 1 / np.sqrt(np.where(self.fit_ivar > 0, self.fit_ivar, np.inf))
        bright = (self.model > 20 * noise) & self.exposure.good
        if np.count_nonzero(bright) < 100:
            return 0.0
        model = self.model[bright]
        spread = MAD * np.median(np.abs(self.resid[bright]) / model)
        floor = np.median(noise[bright] / model)
        return float(np.sqrt(max(spread**2 - floor**2, 0.0)))

    @cached_property
    def whitened(self) -> Whitened:
        """The residual behind the filter, mixed with the unfiltered one where photons rule."""
        return Whitened.of(self.whitening, self.resid, self._brightness)

    def _brightness(self) -> Image:
        """Return what stars add to the noise, photons and error of their model, as variance over that of the sky."""
        ivar, floor = self.exposure.ivar, np.float32(1e-30)
        photons = 1 / np.maximum(self.fit_ivar, floor) - 1 / np.maximum(ivar, floor)
        photons += np.square(np.float32(self.model_error) * self.model)
        photons /= np.float32(self.noise**2)
        return np.where(self.exposure.good, photons, np.float32(0))

    @property
    def whitening(self) -> Whitening:
        """The filter that makes the light of undetected stars white noise."""
        return whitening(self.psf, self.confusion / self.noise**2)

    @property
    def noise(self) -> float:
        """Median sky-and-detector noise of a usable pixel (image unit)."""
        return self.exposure.noise

    @cached_property
    def chi(self) -> float:
        """Robust rms of the residual in units of its noise, over some `CHI_PIXELS`; 1 for a perfect model."""
        few = self._every(max(self.model.size // CHI_PIXELS, 1))
        pull = (few.resid * np.sqrt(few.fit_ivar))[few.exposure.good]
        return scatter(pull)

    def _every(self, step: int) -> "Frame":
        """Return a frame of one row with every so many of the pixels: whole planes are not made for a few numbers."""

        def few(plane: NDArray[Any] | None) -> Any:
            return None if plane is None else plane.ravel()[::step][np.newaxis]

        e = self.exposure
        exposure = replace(e, data=few(e.data), ivar=few(e.ivar), dq=few(e.dq), saturated=few(e.saturated))
        return self.with_(
            exposure=exposure, sky=few(self.sky), model=few(self.model), structure=few(self.structure),
            trust=few(self.trust),
        )  # fmt: skip

    def half_sizes(self, flux: NDArray[Any]) -> NDArray[np.int64]:
        """Return the stamp half widths of stars with the given fluxes (pix)."""
        return self.stamps.half(self.psf, flux, self.noise)

    def fit_half_sizes(self, flux: NDArray[Any]) -> NDArray[np.int64]:
        """Return how far out stars of the given fluxes tell about themselves (pix), by the filtered PSF."""
        smallest = max(int(np.ceil(self.stamps.smallest * self.psf.fwhm)), 4)
        return self.whitening.psf.half_sizes(flux, self.stamps.level * self.noise, smallest)

    def isolated_error(self, flux: NDArray[Any]) -> NDArray[np.float64]:
        """Return the flux error of isolated stars on typical pixels, shared noise included (image unit)."""
        area = self.psf.n_eff
        photons = np.maximum(flux, 0) / self.exposure.gain
        return np.asarray(np.sqrt(area * self.noise**2 + photons)) * self.noise_factors.flux

    @property
    def faint_error(self) -> float:
        """Error of the flux of a faint isolated star in the fit, all its exposures together (image unit)."""
        alone = float(self.isolated_error(np.zeros(1))[0])
        return alone if self.view is None else alone * self.view.depth

    def local(self, sources: Sources) -> Local:
        """Return the stars of a common list that this exposure sees, as its own list, and their numbers there.

        A list of its own is returned as it is.
        """
        if self.view is None or not isinstance(sources, JointSources):
            return Local(sources, np.arange(len(sources)))
        return self.view.local(sources, 0.499 + BEYOND * self.psf.fwhm)

    def nearest_pixel(self, sources: Sources) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and column of the pixel on the image that is nearest to each star."""
        return self.exposure.nearest_pixel(sources.x, sources.y)

    def plain_error(self, sources: Sources) -> NDArray[np.float64]:
        """Return the flux errors of fitted stars without confusion, shared noise included (image unit)."""
        return sources.flux_err / self.whitening.error_ratio * self.noise_factors.flux

    def with_(self, **changes: Any) -> "Frame":
        """Return the frame with another sky, model or PSF."""
        return replace(self, **changes)

    def rendered(self, sources: Sources) -> "Frame":
        """Return the frame whose model is the rendering of `sources`."""
        return self.with_(model=np.zeros_like(self.model)).adding(sources)

    def adding(self, sources: Sources) -> "Frame":
        """Return the frame with `sources` added to its model."""
        sources, model = self.local(sources).sources, self.model.copy()
        add_to(model, self.psf, sources.x, sources.y, sources.flux, radius=self.half_sizes(sources.flux))
        return self.with_(model=model)


Frames = tuple[Frame, ...]

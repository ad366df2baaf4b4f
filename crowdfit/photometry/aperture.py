"""Aperture photometry of all stars, each on the image cleaned of all other stars.

Circles have exact overlap with the pixels. The sky is that of the fit plus what is left of it in a ring around each
star, a clipped median on the residual; all stars are removed there, the star itself too, so that its wings do not
count as sky. Masked pixels hold the star's own model and add nothing to the error. Lists of radii may be of any
length; the columns have the radius in their name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass as plain
from typing import Annotated, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from crowdfit import flags
from crowdfit._kernels.cleaned import collect_bits, measure_rings
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, Frames
from crowdfit.photometry.classes import concentration, is_below, star_probability
from crowdfit.photometry.cleaned import Canvas, chunks
from crowdfit.photometry.corrections import Corrections
from crowdfit.photometry.daofind import Lowered, daofind_shapes
from crowdfit.photometry.kron import (
    FWHM_PER_RMS,
    kron_apertures,
    light_radii,
    measured_shapes,
    shapes_of_psf,
)
from crowdfit.sources import Sources
from crowdfit.stages.base import STRICT

F64 = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
Unit: TypeAlias = Literal["pix", "arcsec", "fwhm"]
Positive = Annotated[float, Field(gt=0)]

LONELY_SHARE: Final = 0.8
"""A star that is to show how light grows with radius has at least this own share of the light in its window."""
CORRECTION_SNR: Final = 50.0
"""Its S/N is above this."""
UNTRUSTED: Final = (
    "core_masked",
    "saturated",
    "edge",
    "near_mask",
    "close_pair",
    "negative",
    "measure_failed",
)
"""Source flags that such a star does not have."""


def _check_ring(ring: tuple[float, float]) -> tuple[float, float]:
    """Refuse a ring without an inside."""
    if not ring[0] < ring[1]:
        raise ValueError(f"{list(ring)} is refused; the outer radius must be larger than the inner one")
    return ring


def _check_line(line: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Refuse a line that turns back."""
    if not all(a[0] < b[0] for a, b in zip(line, line[1:], strict=False)):
        raise ValueError("the first numbers of the pairs must increase")
    return line


def _check_radii(radii: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse a list of radii that is not in order; concentrations are ratios of larger to smaller circles."""
    if not all(a < b for a, b in zip(radii, radii[1:], strict=False)):
        raise ValueError(f"{list(radii)} is refused; the radii must increase")
    if len({label(radius, "") for radius in radii}) < len(radii):
        raise ValueError(
            f"{list(radii)} is refused; radii that are equal in six digits make the same columns"
        )
    return radii


@plain(frozen=True, eq=False)
class Apertures:
    """Measured columns by name, each (n,), and the aperture corrections; nothing and None where nothing was asked."""

    columns: Columns
    corrections: Corrections | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoApertures:
    """No apertures."""

    kind: Literal["none"] = "none"

    def __call__(self, frames: Frames, sources: Sources, columns: Mapping[str, NDArray[Any]]) -> Apertures:  # noqa: ARG002
        """Return nothing."""
        return Apertures({})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CleanedApertures:
    """Circles, ellipses, Kron apertures, shapes and classes of every star on the image cleaned of all others."""

    kind: Literal["cleaned"] = "cleaned"
    radii: Annotated[tuple[Positive, ...], AfterValidator(_check_radii)] = Field(
        default=(1.0, 2.0, 3.0), min_length=1, description="radii of the circles, in `unit`, increasing"
    )
    unit: Unit = Field(default="fwhm", description="of `radii`; arcsec needs a WCS")
    annulus: Annotated[tuple[Positive, Positive], AfterValidator(_check_ring)] | None = Field(
        default=(4.0, 7.0),
        description="inner and outer radius of the ring of the local sky, in `annulus_unit`; null: no local sky",
    )
    annulus_unit: Unit = Field(default="fwhm", description="of `annulus`; arcsec needs a WCS")
    min_pixels: int = Field(
        default=10, ge=1, description="least pixels of the ring; with fewer the flux is flagged"
    )
    clip: float = Field(
        default=3.5, gt=0, description="clipping of the ring about its median, in standard deviations"
    )
    clip_iterations: int = Field(default=5, ge=0, le=100, description="most rounds of clipping")
    ellipses: tuple[Positive, ...] = Field(
        default=(3.0,), description="semi-axes of elliptical apertures, in rms of the star along each axis"
    )
    kron_factor: float = Field(
        default=2.5, gt=0, description="Kron aperture in units of the first moment radius"
    )
    kron_least: float = Field(default=1.0, gt=0, description="least radius of a Kron aperture, in FWHM")
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.5,), description="shares of the Kron flux whose radii are measured"
    )
    reach: float = Field(
        default=5.0, ge=2, description="how far ellipses and Kron apertures may reach, in FWHM"
    )
    shape_snr: float = Field(
        default=10.0, ge=0, description="below this S/N ellipses and Kron apertures have the shape of the PSF"
    )
    cut: Annotated[tuple[tuple[float, float], ...], AfterValidator(_check_line)] = Field(
        default=((0.6, 0.0), (1.0, 1.5), (1.3, 1.8), (1.7, 1.9), (1.8, 1.4), (2.0, 0.0)),
        min_length=2,
        description="line below which a star lies: concentration of the first two circles, and limit on that of "
        "the second and third",
    )
    star_share: float = Field(
        default=0.98, gt=0, lt=1, description="share of stars among the sources, for their probability"
    )

    def __call__(self, frames: Frames, sources: Sources, columns: Mapping[str, NDArray[Any]]) -> Apertures:
        """Return the columns of all stars.

        Parameters
        ----------
        frames : tuple of Frame
            One frame, whose model is that of `sources`.
        sources : Sources
            With their final flags.
        columns : mapping of str to ndarray (n,)
            What `Measure` has measured: `snr` follows from `flux` and `flux_err`; `fracflux`, `spread_model`,
            `spread_model_err` and `rchi2` are used.

        Raises
        ------
        InputError
            Radii in arcsec on an image without WCS.
        """
        (frame,) = frames
        radii = np.array(self.radii) * pixels(self.unit, frame, "aperture.unit")
        labels = tuple(label(radius, self.unit) for radius in self.radii)
        sky = self._local_sky(frame, sources)
        parts = [
            self._measure(frame, sources.take(np.arange(len(sources))[part]), sky[part], radii, labels)
            for part in self._parts(frame, sources, radii)
        ]
        found: Columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        found |= {"aper_sky": sky[:, 0], "aper_sky_err": sky[:, 1], "aper_sky_n": sky[:, 2].astype(np.int32)}
        bits = np.empty((len(sources), len(radii)), np.uint32)
        collect_bits(sources.x, sources.y, radii, frame.exposure.dq, bits)
        found |= {f"aper_dq_{name}": bits[:, j] for j, name in enumerate(labels)}
        found |= self._classes(sources, columns, found, labels)
        corrections = self._corrections(sources, columns, found, labels, radii)
        return Apertures(found, corrections)

    def half(self, frame: Frame, radii: F64) -> int:
        """Return the half width of a star's cell (pix): the largest circle, and `reach`."""
        needed = max(float(radii.max()), self.reach * frame.psf.fwhm, 2 * Lowered.of(frame.psf.fwhm).half)
        return int(np.ceil(needed)) + 1

    def _parts(self, frame: Frame, sources: Sources, radii: F64) -> Iterator[slice]:
        """Yield slices of stars; one of none where there are none, so that columns have their types."""
        yield from chunks(len(sources), self.half(frame, radii)) if len(sources) else (slice(0, 0),)

    def _local_sky(self, frame: Frame, sources: Sources) -> F64:
        """Return what the sky lacks around each star, its error, and the number of pixels, (n, 3)."""
        out = np.zeros((len(sources), 3))
        if self.annulus is None:
            out[:, :2] = np.nan
            return out
        inner, outer = np.array(self.annulus) * pixels(self.annulus_unit, frame, "aperture.annulus_unit")
        measure_rings(
            sources.x, sources.y, float(inner), float(outer), float(self.clip), self.clip_iterations, self.min_pixels,
            frame.resid, frame.fit_ivar, out,
        )  # fmt: skip
        return out

    def _measure(
        self, frame: Frame, stars: Sources, sky: F64, radii: F64, labels: tuple[str, ...]
    ) -> Columns:
        """Return the columns that are measured on a canvas of some stars; `sky` (n, 3) is that of `_local_sky`."""
        level, level_err = np.nan_to_num(sky[:, 0]), np.nan_to_num(sky[:, 1])
        canvas = Canvas.of(frame, stars, self.half(frame, radii), level)
        columns, bits = self._circles(canvas, stars, level_err, radii, labels)
        shaped, more = self._shaped(canvas, frame, stars, level_err)
        columns |= shaped
        dao = daofind_shapes(canvas, Lowered.of(frame.psf.fwhm))
        columns |= {
            "dao_sharpness": dao.sharpness,
            "roundness1": dao.roundness1,
            "roundness2": dao.roundness2,
        }
        bits |= more | flags.aperture_bits("sky_failed", np.isnan(sky[:, 0]) & (self.annulus is not None))
        bits |= flags.aperture_bits("edge", _is_beyond(stars, radii.max(), frame.exposure))
        return columns | {"aper_flags": bits}

    def _circles(  # noqa: PLR0913, PLR0917 - what a sum in a circle needs
        self, canvas: Canvas, stars: Sources, level_err: F64, radii: F64, labels: tuple[str, ...]
    ) -> tuple[Columns, NDArray[np.uint32]]:
        """Return the columns of the circles, and bits."""
        flux, share = canvas.in_circles(canvas.light, radii), canvas.in_circles(canvas.own, radii)
        variance, usable = canvas.in_circles(canvas.noise, radii), canvas.in_circles(canvas.usable, radii)
        others = canvas.in_circles(canvas.others, radii)
        model = stars.flux[:, None] * share
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {
                "aper_flux": flux,
                "aper_flux_err": np.sqrt(variance + (usable * level_err[:, None]) ** 2),
                "aper_mag": np.where(flux > 0, -2.5 * np.log10(flux), np.nan),
                "aper_corr": 1 / share,
                "aper_good": usable / (np.pi * radii**2),
                "aper_contam": others / np.abs(model),
                "aper_left": (flux - model) / np.abs(model),
            }
        columns = {
            f"{name}_{labels[j]}": part[:, j] for name, part in values.items() for j in range(len(radii))
        }
        # single precision leaves a few parts in a million of an area
        return columns, flags.aperture_bits("masked", values["aper_good"][:, -1] < 1 - 1e-5)

    def _shaped(
        self, canvas: Canvas, frame: Frame, stars: Sources, level_err: F64
    ) -> tuple[Columns, NDArray[np.uint32]]:
        """Return the columns of ellipses, Kron apertures and radii, and bits."""
        fwhm = frame.psf.fwhm
        own = shapes_of_psf(canvas, frame.psf)
        shape = measured_shapes(canvas, canvas.light, fwhm / FWHM_PER_RMS)
        columns: Columns = {"a": shape.a, "b": shape.b, "theta": np.degrees(shape.theta)}
        with np.errstate(invalid="ignore", divide="ignore"):
            is_clear = (stars.flux / stars.flux_err >= self.shape_snr) & np.isfinite(shape.a)
        taken = shape.where(is_clear, own)
        for size in self.ellipses:
            scale = np.minimum(size, canvas.half / taken.a)
            columns |= self._sums(canvas, f"ell_{{}}_{label(size, 'rms')}", taken, scale, level_err)
        kron = kron_apertures(canvas, canvas.light, taken, self.kron_factor, self.kron_least * fwhm)
        plain_kron = kron_apertures(canvas, canvas.own, own, self.kron_factor, self.kron_least * fwhm)
        axes = kron.ellipses.where(is_clear, plain_kron.ellipses)
        columns |= self._sums(canvas, "kron_{}", axes, np.ones(len(stars)), level_err)
        columns |= {
            "kron_radius": np.where(is_clear, kron.radius, plain_kron.radius),
            "kron_a": axes.a,
            "kron_b": axes.b,
        }
        radii = light_radii(canvas, canvas.light, np.array(self.fractions), columns["kron_flux"], 2 * axes.a)
        columns |= {f"r{label(100 * share, '')}": radii[:, j] for j, share in enumerate(self.fractions)}
        bits = flags.aperture_bits("psf_shape", ~is_clear)
        bits |= flags.aperture_bits("kron_least", np.where(is_clear, kron.is_least, plain_kron.is_least))
        return columns, bits | flags.aperture_bits(
            "kron_cut", np.where(is_clear, kron.is_most, plain_kron.is_most)
        )

    @staticmethod
    def _sums(canvas: Canvas, name: str, axes: Any, scale: F64, level_err: F64) -> Columns:
        """Return flux, error and correction of ellipses under names made from `name`."""
        light, own, noise, usable = (
            canvas.in_ellipses(plane, axes, scale)
            for plane in (canvas.light, canvas.own, canvas.noise, canvas.usable)
        )
        with np.errstate(divide="ignore"):
            return {
                name.format("flux"): light,
                name.format("flux_err"): np.sqrt(noise + (usable * level_err) ** 2),
                name.format("corr"): 1 / own,
            }

    def _classes(
        self,
        sources: Sources,
        measured: Mapping[str, NDArray[Any]],
        found: Columns,
        labels: tuple[str, ...],
    ) -> Columns:
        """Return concentrations, the class by the line, and the probability of a star."""
        flux = [found[f"aper_flux_{name}"] for name in labels[:3]]
        pairs = [(b, a) for b in range(1, len(flux)) for a in range(b)]
        ratio = {pair: concentration(flux[pair[0]], flux[pair[1]]) for pair in pairs}
        columns: Columns = {f"ci_{labels[b]}_{labels[a]}": values for (b, a), values in ratio.items()}
        if len(flux) == 3:
            columns["ci_class"] = is_below(self.cut, ratio[1, 0], ratio[2, 1])
        if len(flux) > 1:
            columns["p_star"] = star_probability(sources, measured, found, labels, self.star_share)
        return columns

    def _corrections(
        self,
        sources: Sources,
        measured: Mapping[str, NDArray[Any]],
        found: Columns,
        labels: tuple[str, ...],
        radii: F64,
    ) -> Corrections:
        """Return the aperture corrections."""
        flux, factor, good = (
            np.column_stack([found[f"{name}_{end}"] for end in labels])
            for name in ("aper_flux", "aper_corr", "aper_good")
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            snr = sources.flux / sources.flux_err
        lonely = np.asarray(measured["fracflux"]) > LONELY_SHARE
        lonely &= (good[:, -1] > 1 - 1e-5) & (snr > CORRECTION_SNR)
        for name in UNTRUSTED:
            lonely &= ~flags.has(sources.flags, name)
        return Corrections.measure(labels, radii, flux, 1 / factor, lonely)


def label(size: float, unit: str) -> str:
    """Return a size as it stands in the name of a column: 2.5 pix is `2p5pix`."""
    return f"{size:g}".replace(".", "p").replace("-", "m").replace("+", "") + unit


def pixels(unit: Unit, frame: Frame, key: str) -> float:
    """Return how many pixels a unit is; `key` is the setting to be named in the message.

    Raises
    ------
    InputError
        Arcsec, and the image has no WCS.
    """
    if unit == "arcsec":
        if frame.exposure.wcs is None:
            raise InputError(
                f"{frame.exposure.name}: {key} is 'arcsec', but the image has no WCS; give radii in pix or fwhm"
            )
        from astropy.wcs.utils import proj_plane_pixel_scales  # noqa: PLC0415 - coordinates are slow to import

        scales = 3600 * np.asarray(proj_plane_pixel_scales(frame.exposure.wcs.celestial))
        return float(1 / np.sqrt(scales[0] * scales[1]))
    return float(frame.psf.fwhm) if unit == "fwhm" else 1.0


def _is_beyond(stars: Sources, radius: float, exposure: Exposure) -> NDArray[np.bool_]:
    """Return which circles of a radius (pix) reach beyond the image."""
    ny, nx = exposure.shape
    inside_x = (stars.x - radius >= -0.5) & (stars.x + radius <= nx - 0.5)
    return ~(inside_x & (stars.y - radius >= -0.5) & (stars.y + radius <= ny - 0.5))

"""What a synthetic star field is made of: the description that `crowdfit.simulate` draws."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from crowdfit.errors import ConfigError
from crowdfit.stages.base import STRICT

MOST_STARS: Final = 100
"""More stars for each pixel are sky."""


def _no_bool(value: Any) -> Any:
    """Refuse true and false, which would pass as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_no_bool)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cluster:
    """A star cluster with the surface density of King (1962, AJ 67, 471), or of Elson et al. (1987, ApJ 323, 54).

    Its `n_stars` stars come on top of those of the field and follow the same luminosity function; all of
    them lie inside the frame and its margin.
    """

    x: float = Field(description="column of the centre, inside the frame (pix)")
    y: float = Field(description="row of the centre, inside the frame (pix)")
    n_stars: Count = Field(description="number of stars")
    core_radius: PositiveFloat = Field(description="King core radius (pix)")
    concentration: float = Field(default=10.0, gt=1, description="radius where it ends, in core radii")
    gamma: PositiveFloat | None = Field(
        default=None, description="outer slope of (1 + (r/core)^2)^(-gamma/2); None: King's tidal profile"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Scene:
    """What is simulated. Fluxes and sky are in image units; `gain` converts them to electrons."""

    ny: Whole = Field(default=384, ge=16, le=16384, description="rows")
    nx: Whole = Field(default=384, ge=16, le=16384, description="columns")
    n_stars: Count = Field(default=3000, description="field stars, on the frame and its margin")
    margin: NonNegativeFloat = Field(default=10.0, description="stars also lie this far outside (pix)")
    slope: PositiveFloat = Field(default=0.6, description="luminosity function N(>f) ~ f^-slope")
    flux_min: PositiveFloat = Field(default=150.0, description="faintest star")
    flux_max: PositiveFloat = Field(default=3e6, le=1e12, description="brightest possible star")
    clusters: tuple[Cluster, ...] = Field(default=(), description="clusters in addition to the field stars")

    psf: Literal["gaussian", "moffat", "airy", "file"] = Field(default="moffat", description="kind of PSF")
    psf_file: str | None = Field(default=None, description="FITS image of the PSF; psf=file only")
    fwhm: float = Field(default=4.2, gt=0.5, le=25, description="FWHM before pixel integration (pix)")
    beta: float = Field(default=3.5, gt=1, le=20, description="Moffat exponent")
    obscuration: float = Field(default=0.15, ge=0, lt=0.9, description="central obscuration of the airy PSF")
    ellipticity: float = Field(default=0.0, ge=0, lt=0.8, description="1 - minor/major axis of the PSF")
    angle: float = Field(default=0.0, description="PSF major axis, from x towards y (deg)")
    wing_fraction: float = Field(default=0.0, ge=0, le=0.5, description="part of the light in a wide halo")
    wing_scale: float = Field(default=5.0, ge=1, le=20, description="FWHM of the halo in FWHM of the PSF")
    fwhm_gradient: float = Field(
        default=0.0, ge=0, le=1, description="rise of FWHM across the field / middle"
    )
    fwhm_angle: float = Field(default=30.0, description="direction of that rise, x towards y (deg)")
    fwhm_bowl: float = Field(default=0.0, ge=0, le=1, description="rise of FWHM to the corners / middle")
    ellipticity_bowl: float = Field(
        default=0.0, ge=0, le=0.5, description="radial ellipticity at the corners"
    )

    sky: NonNegativeFloat = Field(default=400.0, le=1e12, description="mean sky level")
    sky_gradient: float = Field(
        default=0.0, ge=0, lt=2, description="rise of the sky across the field / mean"
    )
    sky_angle: float = Field(default=30.0, description="direction of that rise, from x towards y (deg)")
    gain: PositiveFloat = Field(default=1.0, le=1e5, description="electrons per image unit")
    read_noise: NonNegativeFloat = Field(default=6.0, description="read noise (electrons)")
    saturation: PositiveFloat | None = Field(default=None, description="level at which pixels are clipped")
    stripes: NonNegativeFloat = Field(default=0.0, description="rms of 1/f stripes along rows (pixel noise)")
    amplifiers: Annotated[int, Field(ge=1, le=64), BeforeValidator(_no_bool)] = Field(
        default=1, description="amplifiers, each with stripes of its own"
    )
    bad_pixels: float = Field(default=0.0, ge=0, lt=1, description="fraction of bad pixels")
    dead_columns: Count = Field(default=0, description="number of columns that read zero")
    seed: Count = Field(default=1, description="seed of all random numbers")

    @model_validator(mode="after")
    def _is_consistent(self) -> "Scene":
        if self.flux_max <= self.flux_min:
            raise ValueError(f"flux_max ({self.flux_max:g}) must be larger than flux_min ({self.flux_min:g})")
        most, wanted = MOST_STARS * self.ny * self.nx, self.n_stars + sum(c.n_stars for c in self.clusters)
        if wanted > most:
            raise ValueError(f"n_stars ({wanted}) must be at most {most}, {MOST_STARS} for each pixel")
        if self.sky == 0 and self.read_noise == 0:
            raise ValueError("sky and read_noise are both 0: pixels would have no noise")
        if (self.psf == "file") != (self.psf_file is not None):
            raise ValueError("psf_file goes with psf=file, and psf=file needs a psf_file")
        if self.psf == "file" and self.varies:
            raise ValueError(
                "a psf_file varies by itself: fwhm_gradient, fwhm_bowl and ellipticity_bowl must be 0"
            )
        if self.dead_columns >= self.nx:
            raise ValueError(f"dead_columns ({self.dead_columns}) must leave some of the {self.nx} columns")
        for cluster in self.clusters:
            if not (0 <= cluster.x < self.nx and 0 <= cluster.y < self.ny):
                raise ValueError(f"the cluster at ({cluster.x:g}, {cluster.y:g}) lies outside the frame")
        return self

    @property
    def varies(self) -> bool:
        """Whether the PSF is another at every place."""
        return max(self.fwhm_gradient, self.fwhm_bowl, self.ellipticity_bowl) > 0

    @property
    def noise(self) -> float:
        """Standard deviation of a pixel of mean sky without stars (image unit)."""
        return float(np.sqrt(self.sky / self.gain + (self.read_noise / self.gain) ** 2))


_DENSE: Final = Scene(
    ny=1024, nx=1024, n_stars=60_000, slope=0.75, fwhm=4.2, beta=3.5, ellipticity=0.05, angle=30.0,
    wing_fraction=0.04, sky_gradient=0.05, saturation=60_000.0, bad_pixels=2e-4, dead_columns=2,
)  # fmt: skip

LADDER: Final = (200, 100, 50, 25, 12, 8)
"""Pixels per star of the rungs of the density ladder."""


def _rung(pixels: int) -> Scene:
    """Return the scene with so many pixels per star; everything but the number of stars is that of `dense`."""
    side = 512 + 2 * _DENSE.margin
    return dataclasses.replace(_DENSE, ny=512, nx=512, n_stars=round(side**2 / pixels), dead_columns=1)


SCENES: Final[Mapping[str, Scene]] = MappingProxyType(
    {
        "demo": dataclasses.replace(_DENSE, ny=384, nx=384, n_stars=3000, slope=0.6, dead_columns=1),
        "dense": _DENSE,
        "sparse": dataclasses.replace(_DENSE, n_stars=4000, slope=0.6),
        "undersampled": dataclasses.replace(
            _DENSE, slope=0.6, psf="airy", fwhm=1.95, wing_fraction=0.0, flux_min=60.0, flux_max=1e6, sky=60.0
        ),
        "cluster": dataclasses.replace(
            _DENSE, n_stars=0, fwhm=3.2, beta=3.0, ellipticity=0.0, wing_fraction=0.0,
            clusters=(Cluster(x=511.5, y=511.5, n_stars=40_000, core_radius=120.0, gamma=4.0),),
        ),
        "big": dataclasses.replace(_DENSE, ny=2048, nx=2048, n_stars=240_000),
        **{f"ladder{pixels}": _rung(pixels) for pixels in LADDER},
    }
)  # fmt: skip
"""Scenes by name; `named_scene` changes single fields of one."""


def named_scene(name: str, **changes: Any) -> Scene:
    """Return a scene of `SCENES` with some fields changed.

    Parameters
    ----------
    name : str
        Key of `SCENES`.
    **changes
        Fields of `Scene`.

    Raises
    ------
    ConfigError
        No such scene or field, or a value out of range; one line per field.
    """
    if name not in SCENES:
        raise ConfigError(f"scene: {name!r} is not one of {', '.join(SCENES)}")
    fields = {field.name: getattr(SCENES[name], field.name) for field in dataclasses.fields(Scene)}
    try:
        return Scene(**(fields | changes))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(dict(e)) for e in error.errors())) from error


def _explain(error: Mapping[str, Any]) -> str:
    """Return one line for one field error of pydantic."""
    path = ".".join(str(part) for part in error["loc"]) or "scene"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"scene.{path}: unknown field; it takes {', '.join(f.name for f in dataclasses.fields(Scene))}"
    message = error["msg"].removeprefix("Value error, ")
    if path == "scene":
        return f"scene: {message}"
    shown = repr(error["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"scene.{path}: {shown}: {message[:1].lower()}{message[1:]}"


CARDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ny": "NY", "nx": "NX", "n_stars": "NSTARS", "margin": "MARGIN", "slope": "LFSLOPE",
        "flux_min": "FLUXMIN", "flux_max": "FLUXMAX", "clusters": "CLUSTERS", "psf": "PSFKIND",
        "psf_file": "PSFFILE", "fwhm": "FWHM", "beta": "PSFBETA", "obscuration": "PSFOBSC",
        "ellipticity": "PSFELL", "angle": "PSFANGLE", "wing_fraction": "WINGFRAC", "wing_scale": "WINGSCAL",
        "fwhm_gradient": "FWHMGRAD", "fwhm_angle": "FWHMANGL", "fwhm_bowl": "FWHMBOWL",
        "ellipticity_bowl": "ELLBOWL",
        "sky": "SKYLEVEL", "sky_gradient": "SKYGRAD", "sky_angle": "SKYANGLE", "gain": "GAIN",
        "read_noise": "RDNOISE", "saturation": "SATURATE", "bad_pixels": "BADFRAC",
        "stripes": "STRIPES", "amplifiers": "NAMPS", "dead_columns": "DEADCOLS", "seed": "SEED",
    }
)  # fmt: skip
"""FITS keyword of every field of `Scene`."""


def describe(name: str) -> str:
    """Return the description of a field of `Scene`."""
    return str(vars(Scene)["__pydantic_fields__"][name].description)

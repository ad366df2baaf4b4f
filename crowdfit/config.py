"""The configuration of a fit: which object does each stage, and with which numbers.

`Config` is the only list of what can be chosen. A stage is a union told apart by `kind`; the first member
is the default. In a file: `detect: {kind: sep}`; on the command line: `--set detect.kind=sep`; in Python:
`dataclasses.replace(config, detect=SepDetect())`, or any callable with the same arguments.

Files are YAML, hold departures from the defaults only, and may inherit: `base: NAME` names a shipped
configuration or a file relative to the one that says it. A block `filters: {F444W: {...}}` holds for
images of that filter only. Unknown keys, wrong types and values out of range are refused, all at once (P001).
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, WrapValidator
from pydantic.dataclasses import dataclass

from crowdfit import config_layers
from crowdfit.calibration.options import Calibration
from crowdfit.config_layers import Resolved
from crowdfit.frame import StampSizes
from crowdfit.io.options import InputOptions
from crowdfit.joint.options import Joint
from crowdfit.photometry.aperture import CleanedApertures, NoApertures
from crowdfit.photometry.psf_stats import Measure
from crowdfit.psf.initial import BlindPsf, GivenPsf
from crowdfit.stages.base import STRICT
from crowdfit.stages.centroid import DerivativeStep, NoStep, PeakStep, WeightedStep
from crowdfit.stages.confusion import CountedConfusion, NoConfusion
from crowdfit.stages.detect import CrowdsourceDetect, NoDetect, ScoreDetect, SepDetect
from crowdfit.stages.nebula import NebulaSky
from crowdfit.stages.prune import NoPrune, Prune
from crowdfit.stages.psf_update import EmpiricalPsf, FixedPsf
from crowdfit.stages.segments import NoSegments, SepSegments
from crowdfit.stages.shared_noise import MeasuredSharedNoise, NoSharedNoise
from crowdfit.stages.sky import BlockSky, FixedSky, MeshSky
from crowdfit.stages.solve import LsqrSolve, PcgSolve
from crowdfit.stages.stop import Settled
from crowdfit.stages.stripes import LineStripes, NoStripes
from crowdfit.tiles import Tiles

Overrides: TypeAlias = Iterable[str] | Mapping[str, object]


def _or_callable(value: Any, validate: Any) -> Any:
    """Let any callable stand in for a stage; what is ours or plain data is validated."""
    ours = isinstance(value, type) or hasattr(type(value), "__pydantic_fields__")
    return value if callable(value) and not ours else validate(value)


_KINDS = Field(discriminator="kind")
_STAGE = WrapValidator(_or_callable)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Output:
    """Which files a run leaves in its output folder."""

    formats: tuple[Literal["fits", "ecsv", "csv", "vot", "parquet"], ...] = Field(
        default=("fits",), min_length=1, description="formats of the catalogue; parquet needs pyarrow"
    )
    report: bool = Field(default=True, description="write the HTML report")
    run_record: bool = Field(default=True, description="write every pass into an HDF5 run record")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """What does each stage of a fit; every field is its configuration, calling it is its work."""

    input: InputOptions = InputOptions()
    psf: Annotated[BlindPsf | GivenPsf, _KINDS, _STAGE] = BlindPsf()
    stamps: StampSizes = StampSizes()
    sky: Annotated[MeshSky | BlockSky | NebulaSky | FixedSky, _KINDS, _STAGE] = MeshSky()
    stripes: Annotated[NoStripes | LineStripes, _KINDS, _STAGE] = NoStripes()
    shared_noise: Annotated[MeasuredSharedNoise | NoSharedNoise, _KINDS, _STAGE] = MeasuredSharedNoise()
    detect: Annotated[ScoreDetect | CrowdsourceDetect | SepDetect | NoDetect, _KINDS, _STAGE] = ScoreDetect()
    confusion: Annotated[CountedConfusion | NoConfusion, _KINDS, _STAGE] = CountedConfusion()
    solve: Annotated[PcgSolve | LsqrSolve, _KINDS, _STAGE] = PcgSolve()
    centroid: Annotated[DerivativeStep | WeightedStep | PeakStep | NoStep, _KINDS, _STAGE] = DerivativeStep()
    psf_update: Annotated[EmpiricalPsf | FixedPsf, _KINDS, _STAGE] = EmpiricalPsf()
    prune: Annotated[Prune | NoPrune, _KINDS, _STAGE] = Prune()
    stop: Annotated[Settled, _STAGE] = Settled()
    segments: Annotated[NoSegments | SepSegments, _KINDS, _STAGE] = NoSegments()
    measure: Measure = Measure()
    aperture: Annotated[NoApertures | CleanedApertures, _KINDS, _STAGE] = NoApertures()
    calibration: Calibration = Calibration()
    joint: Joint = Joint()
    tiles: Tiles = Tiles()
    output: Output = Output()


@cache
def shipped() -> dict[str, Path]:
    """Return the configurations that come with crowdfit, by name.

    They lie inside the installed package, or beside the package in a checkout.
    """
    package = Path(__file__).parent
    folder = next((f for f in (package / "configs", package.parent / "configs") if f.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def resolve(source: str | Path | None = None, overrides: Overrides = (), band: str = "") -> Resolved[Config]:
    """Return a configuration together with the origin of each of its values.

    Parameters
    ----------
    source : str, path or None
        Name of a shipped configuration, or a YAML file; None for the defaults.
    overrides : iterable of str, or mapping
        `a.b=value`, the value in YAML; or dotted keys with Python values. They win over the file.
    band : str
        Filter of the image, for the `filters:` blocks of the file.

    Raises
    ------
    ConfigError
        With one line for each setting that is refused.
    """
    return config_layers.resolve(Config, shipped(), source, overrides, band)


def load_config(source: str | Path | None = None, overrides: Overrides = (), band: str = "") -> Config:
    """Return the configuration that a file and overrides make; the parameters are those of `resolve`.

    Examples
    --------
    >>> load_config(None, ["sky.kind=fixed"]).sky.kind
    'fixed'
    """
    return resolve(source, overrides, band).config


def override(config: Config, overrides: Overrides) -> Config:
    """Return `config` with some values changed; stages that are not named are kept as they are.

    Raises
    ------
    ConfigError
        With one line for each setting that is refused.
    """
    return config_layers.override(config, overrides)


def dump(config: Config) -> str:
    """Return all values of a configuration as YAML; it loads back to an equal configuration.

    A stage that is a callable of the user's own is named, but cannot be loaded.
    """
    return config_layers.dump(config)


def describe(resolved: Resolved[Config]) -> str:
    """Return a configuration as YAML with the meaning, range and origin of every value in comments."""
    return config_layers.describe(resolved)


def config_hash(config: Config) -> str:
    """Return 12 hexadecimal digits that are equal for equal configurations, whatever they were made from."""
    return hashlib.sha256(dump(config).encode()).hexdigest()[:12]

"""crowdfit: photometry of dense star fields, sky + every star + PSF explained at once."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "Config",
    "EPSF",
    "Exposure",
    "FitResult",
    "JointResult",
    "Sources",
    "__version__",
    "calibrate",
    "fit_exposures",
    "fit_image",
    "load_config",
    "read_psf",
]

_HOMES = {
    "Calibration": "crowdfit.calibration.options",
    "calibrate": "crowdfit.calibration.calibrate",
    "Config": "crowdfit.config",
    "load_config": "crowdfit.config",
    "FitResult": "crowdfit.api",
    "JointResult": "crowdfit.joint.result",
    "fit_exposures": "crowdfit.api",
    "fit_image": "crowdfit.api",
    "Exposure": "crowdfit.exposure",
    "Sources": "crowdfit.sources",
    "EPSF": "crowdfit.psf.epsf",
    "read_psf": "crowdfit.psf.readers",
}

if TYPE_CHECKING:
    from crowdfit.api import FitResult, fit_exposures, fit_image
    from crowdfit.calibration.calibrate import calibrate
    from crowdfit.calibration.options import Calibration
    from crowdfit.config import Config, load_config
    from crowdfit.exposure import Exposure
    from crowdfit.joint.result import JointResult
    from crowdfit.psf.epsf import EPSF
    from crowdfit.psf.readers import read_psf
    from crowdfit.sources import Sources


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `crowdfit --help` answers at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'crowdfit' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)

"""What a fit is made from: the metadata of its products, and whether a run record is that of the same fit.

A run is resumed only where going on gives what an unbroken run would give. What has to agree with the record is
compared and a difference is named: the version of crowdfit, the checksums of all that went in, and every setting
but those that have no say in the numbers.
"""

import hashlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

import crowdfit
from crowdfit.config import Config, config_hash, dump
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.hdus import sha256_of
from crowdfit.io.run_record import Head, read_head
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.initial import GivenPsf
from crowdfit.sources import Sources

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["check_same_fit", "checksums", "differences", "find_record", "metadata_of", "other_packages"]

NO_SAY: Final = ("output.", "input.verify", "joint.", "tiles.")
"""Settings that have no say in the numbers of a fit: which files are written, whether damage is refused, what several
exposures would share, and in which parts a large image is taken."""
BY_CONTENT: Final = "psf.path"
"""A file that is compared by its checksum, wherever it lies."""
PACKAGES: Final = ("python", "numpy", "scipy", "astropy", "numba", "sep")
"""Where another version may change the last bits."""


def metadata_of(
    exposure: Exposure, config: Config, psf: "EPSF | ArrayLike | str | Path | None" = None
) -> dict[str, str]:
    """Return what has to be known to repeat the fit of an exposure with a PSF as given to `fit_image` (P076)."""
    import astropy  # noqa: PLC0415
    import numba  # noqa: PLC0415
    import scipy  # noqa: PLC0415
    import sep  # noqa: PLC0415

    versions = {"numpy": np, "scipy": scipy, "astropy": astropy, "numba": numba, "sep": sep}
    facts = {
        "crowdfit": crowdfit.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: module.__version__ for name, module in versions.items()},
        "image": exposure.name,
        "band": exposure.band,
        "unit": exposure.unit,
        "gain": f"{exposure.gain:.6g}" if np.isfinite(exposure.gain) else "",
        "notes": "\n".join(exposure.notes),
        **{key: str(value) for key, value in exposure.meta.items() if key != "SHA256"},
        "sha256": str(exposure.meta.get("SHA256", "")),
        "sha256_psf": _checksum_of_psf_file(psf, config),
        "config_hash": config_hash(config),
        "config": dump(config),
    }
    return {key: value for key, value in facts.items() if value}


def checksums(
    exposure: Exposure,
    config: Config,
    psf: "EPSF | ArrayLike | str | Path | None" = None,
    sources: Sources | None = None,
) -> dict[str, str]:
    """Return the SHA-256 of all that goes into a fit, by what it is; "" where there is no such.

    Parameters
    ----------
    exposure : Exposure
        The image.
    config : Config
        Names the file of the PSF, if there is one.
    psf : EPSF, array or path, optional
        As given to `fit_image`.
    sources : Sources, optional
        Stars known beforehand.

    Returns
    -------
    dict of str to str
        `image`, `err`, `dq` (as the files or arrays they came from), `psf`, `positions`, and `pixels`: values,
        errors and mask as they enter the fit.
    """
    given = {what: exposure.meta.get(f"SHA256{tail}", "") for what, tail in _PLANES.items()}
    planes = (exposure.data, exposure.ivar, exposure.dq, exposure.saturated, np.array([exposure.gain]))
    stars = () if sources is None or not len(sources) else (sources.x, sources.y, sources.flux, sources.flags)
    return {
        **{what: str(checksum) for what, checksum in given.items()},
        "psf": _checksum_of_psf_file(psf, config) or _checksum_of_psf(psf),
        "positions": _sha256(*stars) if stars else "",
        "pixels": _sha256(*planes),
    }


_PLANES: Final = {"image": "", "err": "_ERR", "dq": "_DQ"}


def _sha256(*arrays: NDArray[Any]) -> str:
    """Return the checksum of the values and shapes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _checksum_of_psf_file(psf: object, config: Config) -> str:
    """Return the checksum of the file that the first PSF comes from; empty where it comes from none.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    if not (psf is None or isinstance(psf, str | Path)) or not isinstance(config.psf, GivenPsf):
        return ""
    try:
        return sha256_of(config.psf.path)
    except OSError as exc:
        raise InputError(f"{config.psf.path}: cannot be read ({exc.strerror}); check psf.path") from exc


def _checksum_of_psf(psf: object) -> str:
    """Return the checksum of a PSF that was given as values; empty where it was not."""
    if isinstance(psf, EPSF):
        form = f"{psf.oversample} {psf.field}".encode()
        return _sha256(psf.cube, np.frombuffer(form, np.uint8))
    return "" if psf is None or isinstance(psf, str | Path) else _sha256(np.array(psf, np.float64))


def find_record(path: str | Path, exposure: Exposure, config: Config, inputs: dict[str, str]) -> Head | None:
    """Return what a run record says if it is that of this fit; None where there is none, or none with a pass.

    Raises
    ------
    InputError
        The record cannot be read, or is that of another fit.
    """
    if not Path(path).exists():
        return None
    head = read_head(path)
    if not head.n_passes:
        return None
    check_same_fit(head, exposure, config, inputs)
    return head


def check_same_fit(head: Head, exposure: Exposure, config: Config, inputs: dict[str, str]) -> None:
    """Refuse a run record that is not of this fit.

    Parameters
    ----------
    head : Head
        Of the record.
    exposure, config
        Of the fit that is to go on.
    inputs : dict of str to str
        Their `checksums`.

    Raises
    ------
    InputError
        One line for each difference: version of crowdfit, inputs and settings, old and new.
    """
    was = head.metadata.get("crowdfit", "")
    if was != crowdfit.__version__:
        raise InputError(
            f"{head.path}: crowdfit {was or 'of unknown version'} has begun this run, and this is "
            f"{crowdfit.__version__}; resume it with that version, or leave out --resume to fit from the beginning"
        )
    settings = differences(head.config_yaml, dump(config))
    lines = [f"{head.path}: {line}" for line in _other_inputs(head, exposure, config, inputs)]
    lines += [f"{key}: {old} in {head.path}, {new} now" for key, (old, new) in settings.items()]
    if not lines and head.inputs.get("pixels") != inputs["pixels"]:
        lines = [
            f"{head.path}: the values, errors or mask of {exposure.name} were others when this run began"
        ]
    if lines:
        raise InputError(
            "\n".join(lines)
            + "\nonly the same fit can be resumed; restore what differs, or leave out --resume to "
            "fit from the beginning"
        )


def _other_inputs(head: Head, exposure: Exposure, config: Config, inputs: dict[str, str]) -> list[str]:
    """Return what is to be said of each input that is not that of the record."""
    names = {
        "image": f"another image {exposure.meta.get('FILE', exposure.name)}",
        "err": "other errors",
        "dq": "other data quality",
        "psf": f"another PSF {getattr(config.psf, 'path', '')}".strip(),
        "positions": "another list of positions",
    }
    return [
        f"was made from {name} (SHA-256 {head.inputs.get(what, '')[:12] or 'none'} then, "
        f"{inputs[what][:12] or 'none'} now)"
        for what, name in names.items()
        if head.inputs.get(what, "") != inputs[what]
    ]


def differences(old: str, new: str) -> dict[str, tuple[str, str]]:
    """Return the settings that differ between two configurations and have a say in the numbers.

    Parameters
    ----------
    old, new : str
        As written by `crowdfit.config.dump`.

    Returns
    -------
    dict of str to (str, str)
        Old and new value by dotted key; of a stage of another kind only its kind.
    """
    before, after = _flat(old), _flat(new)
    keys = [key for key in [*before, *(k for k in after if k not in before)] if not key.startswith(NO_SAY)]
    found = {
        key: (before.get(key, "not set"), after.get(key, "not set"))
        for key in keys
        if before.get(key) != after.get(key) and not (key == BY_CONTENT and key in before and key in after)
    }
    other_kind = [key.removesuffix("kind") for key in found if key.endswith(".kind")]
    return {
        key: values
        for key, values in found.items()
        if key.endswith(".kind") or not key.startswith(tuple(other_kind))
    }


def _flat(config_yaml: str) -> dict[str, str]:
    """Return the values of a dumped configuration as they are written, by dotted key."""
    values, stage = {}, ""
    for line in config_yaml.splitlines():
        key, _, value = line.partition(":")
        if line.startswith(" "):
            values[f"{stage}.{key.strip()}"] = value.strip()
        else:
            stage = key
    return values


def other_packages(head: Head, metadata: Mapping[str, str]) -> list[str]:
    """Return the packages that a run was begun with in other versions than those in `metadata`, old and new.

    They may change the last bits.
    """
    return [
        f"{name} {head.metadata.get(name)} -> {metadata[name]}"
        for name in PACKAGES
        if head.metadata.get(name) != metadata[name]
    ]

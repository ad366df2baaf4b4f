"""FITS files opened with suspicion: which extension holds what, and is the file whole.

Refusals name the file, the extension and the remedy (P004, P013, P103).
"""

import bz2
import gzip
import hashlib
import io
import logging
import lzma
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.io.options import InputOptions
from crowdfit.unreadable import UNREADABLE, endless_card, reason_of

__all__ = ["Layers", "Plane", "file_stem", "opened_to_change", "read_layers", "read_plane", "sha256_of"]

log = logging.getLogger(__name__)

Array = NDArray[Any]
HDU = Any  # astropy's HDU classes are not typed

ERROR_NAMES: Final = {
    "ERR": "error", "ERROR": "error", "UNCERT": "error", "SIGMA": "error", "RMS": "error", "STDDEV": "error",
    "VAR": "variance", "VARIANCE": "variance",
}  # fmt: skip
WEIGHT_NAMES: Final = ("IVAR", "INVVAR", "WHT", "WEIGHT")
DQ_NAMES: Final = ("DQ", "MASK")
UNCERTAINTY_KINDS: Final = {
    "StdDevUncertainty": "error", "VarianceUncertainty": "variance", "InverseVariance": "ivar"
}  # fmt: skip
"""How astropy's CCDData says in UTYPE what its UNCERT extension holds."""

COMPANION_NAMES: Final = ("AREA", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")
"""Planes of JWST files beside image, errors and data quality: relative pixel area, and the parts of ERR^2."""

_UNPACK: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ": lzma.decompress,
}
_SUFFIXES: Final = re.compile(r"\.(fits?|fts)?(\.?(gz|bz2|xz|fz|Z|zip))?$", re.IGNORECASE)
_DATASUM: Final = re.compile(r"^(Datasum|Checksum) verification failed for HDU \('(.*)', \d+\)")


class Plane(NamedTuple):
    """An array (ny, nx), what it holds if it is a noise plane ("error", "variance", "ivar"), and where it lies."""

    data: Array
    kind: str
    label: str = ""


@dataclass(eq=False)
class Layers:
    """The planes of one exposure as they are in the file, and the headers that go with them.

    Parameters
    ----------
    data : ndarray
        The image, any shape and type.
    label : str
        File and extension, for messages.
    err, weight, dq : ndarray or None
        Error plane, inverse variance and data quality.
    err_kind : str
        What `err` holds: "error", "variance" or "ivar".
    own_dq : bool
        Whether `dq` has the bits of the instrument; a mask from elsewhere has bits of its own.
    companions : dict of str to ndarray
        Planes in `COMPANION_NAMES`, by name, where the file has them.
    asdf : bytes
        Content of the ASDF extension of a JWST file; empty when there is none.
    places : dict of str to str
        File and extension of "err", "weight" and "dq", for messages; not there for arrays.
    header, primary : astropy.io.fits.Header
        Of the image and of the file.
    meta : dict
        File, extension, checksum.
    notes : list of str
        What was found odd.
    alarms : set of str
        Those of the notes that a user should see without asking.
    """

    data: Array
    label: str
    err: Array | None = None
    weight: Array | None = None
    dq: Array | None = None
    err_kind: str = "error"
    own_dq: bool = True
    companions: dict[str, Array] = field(default_factory=dict)
    asdf: bytes = b""
    places: dict[str, str] = field(default_factory=dict)
    header: fits.Header = field(default_factory=fits.Header)
    primary: fits.Header = field(default_factory=fits.Header)
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    alarms: set[str] = field(default_factory=set)

    def warn(self, note: str) -> None:
        """Add a note that a user should see without asking."""
        self.notes.append(note)
        self.alarms.add(note)

    def replace_err(self, plane: Plane) -> None:
        """Take the noise from another plane, which also stands for the weights of the file."""
        self.err, self.err_kind, self.weight = plane.data, plane.kind, None
        self.places["err"] = plane.label
        self.drop_variances()

    def replace_weight(self, plane: Plane) -> None:
        """Take the weights from another plane; errors stay, and give them their scale."""
        self.weight = plane.data
        self.places["weight"] = plane.label
        self.drop_variances()

    def drop_variances(self) -> None:
        """Forget the parts of the variance, which belong to the error plane of the file."""
        self.companions = {name: plane for name, plane in self.companions.items() if name == "AREA"}

    def replace_dq(self, plane: Plane) -> None:
        """Take the data quality from another plane."""
        self.dq, self.own_dq = plane.data, False
        self.places["dq"] = plane.label

    def place(self, what: str) -> str:
        """Return the file and extension of a plane, or the name of the image it was given with."""
        return self.places.get(what) or self.label


def read_layers(path: str | Path, options: InputOptions) -> Layers:
    """Read the planes of an exposure from one file.

    Raises
    ------
    InputError
        If the file is missing, damaged or no FITS file, or a wanted extension is not there.
    """
    path = Path(path)
    with _opened(path, verify=options.verify) as (hdus, damaged):
        sci, others = _chosen(hdus, path, options)
        # weights stand for the variances, which would be read for nothing
        weighted = others["weight"] is not None or options.err_ext is not None
        names = COMPANION_NAMES[:1] if weighted else COMPANION_NAMES
        beside = {
            name: hdu for name in names if (hdu := _image_hdu(hdus, path, None, (name,), sci)) is not None
        }
        used = [hdu for hdu in (sci, *others.values(), *beside.values()) if hdu is not None]
        notes = _report_damage(path, damaged, {hdu.name for hdu in used})
        planes = {what: None if hdu is None else _data_of(hdu, path) for what, hdu in others.items()}
        return Layers(
            data=_data_of(sci, path),
            label=_label(path, hdus, sci),
            err=planes["err"],
            weight=planes["weight"],
            dq=planes["dq"],
            err_kind=_kind_of(others["err"]),
            companions={name: _data_of(hdu, path) for name, hdu in beside.items()},
            asdf=_asdf_of(hdus),
            places={
                what: _label(path, hdus, hdu) for what, hdu in (others | beside).items() if hdu is not None
            },
            header=sci.header.copy(),
            primary=hdus[0].header.copy(),
            meta={"FILE": path.name, "EXTENSION": _name_of(hdus, sci), "SHA256": sha256_of(path)},
            notes=notes,
        )


def _chosen(hdus: fits.HDUList, path: Path, options: InputOptions) -> tuple[HDU, dict[str, HDU | None]]:
    """Return the HDU of the image, and those of "err", "weight" and "dq" that belong to it."""
    sci = _image_hdu(hdus, path, options.sci_ext, ("SCI",), None) or _first_image(hdus, path)
    err = _image_hdu(hdus, path, options.err_ext, tuple(ERROR_NAMES), sci)
    weight = _image_hdu(hdus, path, options.wht_ext, WEIGHT_NAMES, sci)
    # naming one of the two says that it is the one to use
    err = None if options.err_ext is None and options.wht_ext is not None else err
    weight = None if options.wht_ext is None and options.err_ext is not None else weight
    return sci, {"err": err, "weight": weight, "dq": _image_hdu(hdus, path, options.dq_ext, DQ_NAMES, sci)}


@contextmanager
def opened_to_change(
    path: str | Path, options: InputOptions
) -> Iterator[tuple[fits.HDUList, HDU, dict[int, str]]]:
    """Open a file of which a changed copy shall be written, with all its extensions.

    Yields
    ------
    hdus : astropy.io.fits.HDUList
        All that is in the file; its pixels may be replaced, the file stays as it is.
    sci : HDU
        The image.
    noise : dict of int to str
        Number of each plane with noise of the image, and what it holds: "error", "variance" or "ivar".
    """
    path = Path(path)
    with _opened(path, verify=options.verify) as (hdus, _):
        sci, others = _chosen(hdus, path, options)
        noise = {
            hdus.index_of(hdu): _kind_of(hdu)
            for name, hdu in others.items()
            if hdu is not None and name != "dq"
        }
        yield hdus, sci, noise


def read_plane(path: str | Path, what: Literal["err", "wht", "dq"]) -> Plane:
    """Read one plane of an exposure from a file of its own, such as a weight map.

    Parameters
    ----------
    path : str or Path
        FITS file; its first image is taken unless an extension is named after what it holds.
    what : {"err", "wht", "dq"}
        What is wanted.
    """
    path = Path(path)
    names = {"dq": DQ_NAMES, "wht": WEIGHT_NAMES, "err": (*ERROR_NAMES, *WEIGHT_NAMES)}[what]
    with _opened(path, verify=True) as (hdus, damaged):
        hdu = _image_hdu(hdus, path, None, names, None) or _first_image(hdus, path)
        for note in _report_damage(path, damaged, {hdu.name}):
            log.info("%s", note)
        return Plane(_data_of(hdu, path), _kind_of(hdu), _label(path, hdus, hdu))


def file_stem(path: str | Path) -> str:
    """Return a file name without folder, FITS suffix and compression suffix."""
    return _SUFFIXES.sub("", Path(path).name)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 checksum of a file as hexadecimal text (P076)."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _opened(path: Path, *, verify: bool) -> Iterator[tuple[fits.HDUList, dict[str, str]]]:
    """Open a file and walk through all its HDUs; also give the names whose checksums fail, and which ones."""
    damaged: dict[str, str] = {}
    try:
        source = _unpacked(path)
        with source if isinstance(source, io.BytesIO) else source.open("rb") as stream:
            if card := endless_card(stream):
                raise InputError(f"{path}: the file is damaged ({card} makes no sense); fetch it again")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                hdus = fits.open(stream, memmap=False, checksum=verify)
                len(hdus)  # reads every header, and with it finds out where the file ends
            for message in (str(warning.message) for warning in caught):
                if "Error validating header" in message or "truncated" in message:
                    reason = "it is truncated, or goes on with bytes that are not FITS"
                    raise InputError(f"{path}: the file is damaged ({reason}); fetch it again")
                if match := _DATASUM.match(message):
                    kind = "DATASUM" if match[1] == "Datasum" else damaged.get(match[2], "CHECKSUM")
                    damaged[match[2]] = kind
            yield hdus, damaged
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file; check the path") from exc
    except InputError:
        raise
    except UNREADABLE as exc:
        raise _refusal(path, exc) from exc


def _unpacked(path: Path) -> Path | io.BytesIO:
    """Return the path, or the bytes of a compressed file: astropy does not notice when that is cut."""
    with path.open("rb") as stream:
        start = stream.read(8)
        for magic, unpack in _UNPACK.items():
            if start.startswith(magic):
                return io.BytesIO(unpack(start + stream.read()))
    return path


def _refusal(path: Path, exc: Exception) -> InputError:
    """Return one clear line for what went wrong when opening."""
    if isinstance(exc, IsADirectoryError):
        return InputError(f"{path}: this is a folder; name a FITS file in it")
    if isinstance(exc, PermissionError):
        return InputError(f"{path}: no permission to read it; change its mode or copy it")
    if isinstance(exc, EOFError | zlib.error | lzma.LZMAError):
        return InputError(f"{path}: the compressed file is truncated or damaged; fetch it again")
    if "No SIMPLE card" in str(exc):
        return InputError(f"{path}: not a FITS file; give an image in FITS format")
    return InputError(f"{path}: cannot be read ({reason_of(exc)}); fetch it again")


def _report_damage(path: Path, damaged: dict[str, str], used: set[str]) -> list[str]:
    """Refuse a used extension whose data contradict its DATASUM; return the lesser troubles."""
    for name, card in damaged.items():
        if card == "DATASUM" and name in used:
            raise InputError(
                f"{path}[{name}]: the data do not match their DATASUM, so the file is damaged; fetch it "
                "again, or set input.verify to false to use it all the same"
            )
    return [f"{card} of extension {name} does not match: it was edited" for name, card in damaged.items()]


def _is_image(hdu: HDU) -> bool:
    return bool(hdu.is_image) and hdu.header.get("NAXIS", 0) > 0


def _name_of(hdus: fits.HDUList, hdu: HDU) -> str:
    return str(hdu.name or hdus.index_of(hdu))


def _label(path: Path, hdus: fits.HDUList, hdu: HDU) -> str:
    """Return file and extension, as messages name them."""
    return f"{path.name}[{_name_of(hdus, hdu)}]"


def _image_hdu(
    hdus: fits.HDUList, path: Path, wanted: str | int | None, names: tuple[str, ...], sci: HDU | None
) -> HDU | None:
    """Return the HDU the user wants, or the first one with a usual name and the image's EXTVER, or None."""
    if isinstance(wanted, int):
        if wanted < len(hdus) and _is_image(hdus[wanted]):
            return hdus[wanted]
        raise _no_extension(hdus, path, str(wanted))
    candidates = (wanted.upper(),) if wanted else names
    found = [
        hdu for name in candidates for hdu in hdus if _is_image(hdu) and hdu.name == name and hdu is not sci
    ]
    if wanted and not found:
        raise _no_extension(hdus, path, wanted)
    version = 1 if sci is None else sci.ver
    return next((hdu for hdu in found if hdu.ver == version), found[0] if found else None)


def _first_image(hdus: fits.HDUList, path: Path) -> HDU:
    for hdu in hdus:
        if _is_image(hdu):
            return hdu
    raise InputError(f"{path}: no image in this file, it has {_listing(hdus)}; give a file with an image")


def _no_extension(hdus: fits.HDUList, path: Path, wanted: str) -> InputError:
    return InputError(
        f"{path}: no image extension {wanted}; it has {_listing(hdus)}: set input.sci_ext and so on"
    )


def _listing(hdus: fits.HDUList) -> str:
    kinds = [
        f"{i} {hdu.name or '(unnamed)'}{'' if _is_image(hdu) else ' (no image)'}"
        for i, hdu in enumerate(hdus)
    ]
    return ", ".join(kinds)


def _data_of(hdu: HDU, path: Path) -> Array:
    """Return the pixels in native byte order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = np.asarray(hdu.data)
    except UNREADABLE as exc:
        raise InputError(
            f"{path}[{hdu.name}]: the pixels cannot be read ({reason_of(exc)}); fetch the file again"
        ) from exc
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def _asdf_of(hdus: fits.HDUList) -> bytes:
    """Return the bytes of the ASDF extension; none when it is missing or is no table of them."""
    if "ASDF" not in hdus:
        return b""
    try:
        return bytes(np.asarray(hdus["ASDF"].data["ASDF_METADATA"][0], np.uint8))
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return b""


def _kind_of(err: HDU | None) -> str:
    """Return what an error extension holds, from the UTYPE of CCDData or from its name."""
    if err is None:
        return "error"
    if err.name in WEIGHT_NAMES:
        return "ivar"
    return UNCERTAINTY_KINDS.get(str(err.header.get("UTYPE")), ERROR_NAMES.get(err.name, "error"))

"""The run record: one HDF5 file with every pass of a fit, the configuration, and in the end the catalogue.

Layout::

    /               attributes: format, stop_reason (once finished)
    /metadata       attributes: versions, settings and facts of the image, as in every product
    /inputs         attributes: checksums of image, errors, data quality, PSF, positions, see `crowdfit.provenance`
    /config         the resolved configuration, YAML text
    /extended/{cores, masked, in_front}    pixels of extended sources, which the passes in the file leave out (bool);
                    attribute rounds; not there before any were found
    /passes/000     attributes: the numbers of `PassStats`; dictionaries as JSON
    /passes/000/sources/{x, y, flux, flux_err, flux_err_marginal, id, pass_no, flags}
    /passes/000/frames/0/{psf, sky}    one group per exposure, with what else `Frame` holds after the pass: images
                    as datasets, numbers as attributes; psf has the attributes oversample and field
    /psf_map/{n_stars, fwhm, fwhm_err, ellipticity, position_angle}    over the field; attribute shape, of the image
    /catalog        the final catalogue, readable with astropy's Table.read(path, path="catalog")

A pass together with the image and the configuration is all that the next pass depends on: the model is the
rendering of the sources, so it is not kept. `read_last` returns that state, to the last bit.

Every write goes to a copy that then takes the place of the file, so a run that is killed leaves the passes
that were finished, in a file that can be read. Arrays carry checksums (Fletcher), so damage does not go unseen.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from crowdfit.errors import CrowdfitError, InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import Factors, Frame, PsfQuality, StampSizes
from crowdfit.io.atomic import atomic_path
from crowdfit.loop import PassStats, State, render
from crowdfit.photometry.psf_map import PsfMap
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import as_values, from_values
from crowdfit.sources import Sources
from crowdfit.tiles import Tiles

if TYPE_CHECKING:
    from astropy.table import QTable, Table

__all__ = [
    "Head",
    "PassRecord",
    "Record",
    "RunRecord",
    "read_extended",
    "read_head",
    "read_last",
    "read_record",
]

FORMAT: Final = "crowdfit run record 3"

NOT_KEPT: Final = ("exposure", "model", "stamps", "tiles", "sky_error", "given_psf")
"""What a frame has from the image, the sources, the configuration, the last pass and the PSF that was given."""
REMEDY: Final = "delete it, or leave out --resume to fit from the beginning"


class RunRecord:
    """Writer of a run record: `start`, `add` after every pass, `finish`.

    Parameters
    ----------
    path : str or Path
        The file; an older one is replaced by `start`, and continued without.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def start(
        self,
        metadata: Mapping[str, Any],
        config_yaml: str,
        inputs: Mapping[str, str],
        extended: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin the file with metadata (versions, ...), the resolved configuration and checksums of the inputs.

        `extended` is what the passes that follow leave out: arrays (ny, nx) and numbers by name.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        with atomic_path(self.path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            file.create_group("metadata").attrs.update({key: str(value) for key, value in metadata.items()})
            file.create_group("inputs").attrs.update(inputs)
            file["config"] = config_yaml
            file.create_group("passes")
            if extended is not None:
                _put_values(file.create_group("extended"), extended)

    def add(self, state: "State") -> None:
        """Append a finished pass: its sources, what is known of every frame, and its statistics."""
        with self._changing() as file:
            before = file["passes"].get(f"{state.pass_no - 1:03d}/frames", {})
            group = file["passes"].create_group(f"{state.pass_no:03d}")
            group.attrs.update(_as_attributes(state.stats))
            _put_sources(group.create_group("sources"), state.sources)
            for number, frame in enumerate(state.frames):
                _put_frame(group.create_group(f"frames/{number}"), frame, before.get(str(number)))

    def finish(self, catalog: "Table", stop_reason: str, psf_map: PsfMap | None = None) -> None:
        """Add the final catalogue, why the fit stopped, and width and shape of the stars over the field.

        What an earlier call has left of these is replaced.
        """
        from astropy.io.misc.hdf5 import write_table_hdf5  # noqa: PLC0415 - tables are slow to import
        from astropy.table import Table  # noqa: PLC0415

        with self._changing() as file:
            for name in [name for name in file if name.startswith(("catalog", "psf_map"))]:
                del file[name]
            file.attrs["stop_reason"] = stop_reason
            if psf_map is not None:
                group = file.create_group("psf_map")
                for entry in fields(psf_map):
                    (group.attrs if entry.name == "shape" else group)[entry.name] = getattr(
                        psf_map, entry.name
                    )
            write_table_hdf5(Table(catalog, copy=False), file, path="catalog", serialize_meta=True)

    @contextmanager
    def _changing(self) -> Iterator[h5py.File]:
        """Give a copy of the file to add to; it replaces the file when the block ends well."""
        with atomic_path(self.path) as temporary:
            shutil.copyfile(self.path, temporary)
            with h5py.File(temporary, "r+") as file:
                yield file


@dataclass(frozen=True)
class Head:
    """What a run record says of its run as a whole.

    Parameters
    ----------
    path : Path
        The file.
    metadata, inputs : dict of str to str
        Versions and facts of the image; checksums of what went in.
    config_yaml : str
        The resolved configuration.
    n_passes : int
        Passes in it.
    stop_reason : str or None
        Why the fit ended; None when it did not.
    """

    path: Path
    metadata: dict[str, str]
    inputs: dict[str, str]
    config_yaml: str
    n_passes: int
    stop_reason: str | None


@dataclass(frozen=True, eq=False)
class PassRecord:
    """One pass as recorded.

    Parameters
    ----------
    sources : Sources
        The list after the pass.
    psf : tuple of ndarray (n_basis, sy, sx)
        PSF table of every frame; `oversample` (tuple of int) goes with it.
    sky : tuple of ndarray (ny, nx) float32
        Sky of every frame (image unit).
    stats : dict
        The numbers of `PassStats` by name.
    """

    sources: Sources
    psf: tuple[NDArray[np.float64], ...]
    oversample: tuple[int, ...]
    sky: tuple[NDArray[np.float32], ...]
    stats: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Record(Mapping[int, PassRecord]):
    """A run record in memory: a mapping of pass number to `PassRecord`, and what surrounds it.

    `catalog`, `stop_reason` and `psf_map` are None when the run did not finish.
    """

    passes: dict[int, PassRecord]
    metadata: dict[str, str]
    config_yaml: str
    inputs: dict[str, str]
    catalog: "QTable | None" = None
    stop_reason: str | None = None
    psf_map: PsfMap | None = None
    path: Path = field(default_factory=Path)

    def __getitem__(self, pass_no: int) -> PassRecord:
        return self.passes[pass_no]

    def __iter__(self) -> Iterator[int]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)


def read_record(path: str | Path) -> Record:
    """Read a run record.

    Raises
    ------
    InputError
        If there is no such file, or it is no run record, is of another format or is damaged.
    """
    from astropy.io.misc.hdf5 import read_table_hdf5  # noqa: PLC0415
    from astropy.table import QTable  # noqa: PLC0415

    path = Path(path)
    with _opened(path) as file:
        head = _get_head(path, file)
        return Record(
            passes={number: _get_pass(group) for number, group in _groups(file["passes"])},
            metadata=head.metadata,
            config_yaml=head.config_yaml,
            inputs=head.inputs,
            catalog=QTable(read_table_hdf5(file, path="catalog")) if "catalog" in file else None,
            stop_reason=head.stop_reason,
            psf_map=_get_psf_map(file["psf_map"]) if "psf_map" in file else None,
            path=path,
        )


def read_head(path: str | Path) -> Head:
    """Read what a run record says of its run, without the passes; raises as `read_record` does."""
    with _opened(Path(path)) as file:
        return _get_head(Path(path), file)


def read_extended(path: str | Path, shape: tuple[int, int]) -> dict[str, Any] | None:
    """Read what the passes of a run record leave out, as `RunRecord.start` was given it; None where there is nothing.

    Parameters
    ----------
    path : str or Path
        The record.
    shape : (int, int)
        Rows and columns of the image.

    Raises
    ------
    InputError
        As `read_record`, and where the arrays are not of that shape.
    """
    with _opened(Path(path)) as file:
        if "extended" not in file:
            return None
        values: dict[str, Any] = {name: data[()] for name, data in file["extended"].items()}
        for name, array in values.items():
            if array.shape != shape:
                raise ValueError(f"extended/{name} has shape {array.shape}, the image {shape}")
        return values | _get_attributes(file["extended"])


def read_last(
    path: str | Path, exposure: Exposure, stamps: StampSizes, tiles: Tiles | None = None
) -> tuple[State, list[PassStats]]:
    """Read the last pass of a run record of one exposure as the state that the next pass begins from.

    Parameters
    ----------
    path : str or Path
        A record with at least one pass.
    exposure : Exposure
        The image that was fitted; `crowdfit.provenance.check_same_fit` finds out whether it is.
    stamps : StampSizes
        As configured.
    tiles : Tiles, optional
        As configured for this run.

    Returns
    -------
    State, list of PassStats
        The state after the last pass, and the numbers of every pass.

    Raises
    ------
    InputError
        As `read_record`.
    """
    with _opened(Path(path)) as file:
        groups = _groups(file["passes"])
        history = [_get_stats(group) for _, group in groups]
        pass_no, last = groups[-1]
        sources = _get_sources(last["sources"])
        frames = tuple(
            _get_frame(group, exposure, stamps, tiles or Tiles()) for _, group in _groups(last["frames"])
        )
    return State(pass_no, sources, render(frames, sources), history[-1]), history


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a run record for reading; what cannot be read in the block is refused as damage."""
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file; check the path") from exc
    except OSError as exc:
        if path.is_file() and h5py.is_hdf5(path):
            raise InputError(f"{path}: the run record is cut short or damaged; {REMEDY}") from exc
        raise InputError(f"{path}: not an HDF5 file; give a run record (*_run.h5)") from exc
    with file:
        try:
            found = file.attrs.get("format")
            if not str(found).startswith("crowdfit run record"):
                raise InputError(f"{path}: not a run record; give a *_run.h5 of crowdfit")
            if found != FORMAT:
                raise InputError(
                    f"{path}: its format is '{found}', but this version of crowdfit reads '{FORMAT}'; read it with "
                    "the version that wrote it, or fit again without --resume"
                )
            yield file
        except CrowdfitError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as exc:
            raise InputError(f"{path}: the run record is damaged ({exc}); {REMEDY}") from exc


def _get_head(path: Path, file: h5py.File) -> Head:
    return Head(
        path=path,
        metadata=dict(file["metadata"].attrs),
        inputs=dict(file["inputs"].attrs),
        config_yaml=file["config"].asstr()[()],
        n_passes=len(file["passes"]),
        stop_reason=file.attrs.get("stop_reason"),
    )


def _groups(parent: h5py.Group) -> list[tuple[int, h5py.Group]]:
    """Return the numbered groups in a group by number."""
    return sorted(((int(name), parent[name]) for name in parent), key=lambda item: item[0])


def _as_attributes(values: Any) -> dict[str, Any]:
    """Return a dataclass, or values by name, as HDF5 attributes.

    Nested values become JSON; what is not known (None) is left out.
    """
    plain = values if isinstance(values, dict) else dataclasses.asdict(values)
    return {
        key: json.dumps(value) if isinstance(value, dict | tuple) else value
        for key, value in plain.items()
        if value is not None
    }


def _put_sources(group: h5py.Group, sources: Sources) -> None:
    for entry in fields(sources):
        _put_array(group, entry.name, getattr(sources, entry.name))


def _put_frame(group: h5py.Group, frame: Frame, before: h5py.Group | None = None) -> None:
    """Write all of a frame that the image, the configuration and the sources do not give.

    A PSF that is that of the pass before, whose group is `before`, is written only once.
    """
    values = {entry.name: getattr(frame, entry.name) for entry in fields(frame) if entry.name not in NOT_KEPT}
    psf: EPSF = values.pop("psf")
    others = {"oversample": psf.oversample, "field": as_values(psf.field)}
    old = None if before is None else before["psf"]
    if old is not None and _get_attributes(old) == others and np.array_equal(old, psf.cube):
        group["psf"] = old
    else:
        _put_array(group, "psf", psf.cube)
        group["psf"].attrs.update(_as_attributes(others))
    quality = values.pop("psf_quality")
    _put_values(group, values | {"psf_quality": quality and dataclasses.asdict(quality)})


def _put_values(group: h5py.Group, values: Mapping[str, Any]) -> None:
    """Write images as datasets, and all else as attributes."""
    images = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    for name, image in images.items():
        # such images are smooth: one quick pass of compression takes most of them away
        _put_array(group, name, image, compression="gzip", compression_opts=1, shuffle=True)
    group.attrs.update(_as_attributes({name: value for name, value in values.items() if name not in images}))


def _put_array(group: h5py.Group, name: str, array: NDArray[Any], **compression: Any) -> None:
    group.create_dataset(name, data=array, fletcher32=True, **compression)


def _get_pass(group: h5py.Group) -> PassRecord:
    frames = [frame for _, frame in _groups(group["frames"])]
    return PassRecord(
        sources=_get_sources(group["sources"]),
        psf=tuple(frame["psf"][()] for frame in frames),
        oversample=tuple(int(frame["psf"].attrs["oversample"]) for frame in frames),
        sky=tuple(frame["sky"][()] for frame in frames),
        stats=_get_attributes(group),
    )


def _get_sources(group: h5py.Group) -> Sources:
    return Sources(**{entry.name: group[entry.name][()] for entry in fields(Sources)})


def _get_stats(group: h5py.Group) -> PassStats:
    return PassStats(**_with_quality(_get_attributes(group)))


def _get_frame(group: h5py.Group, exposure: Exposure, stamps: StampSizes, tiles: Tiles) -> Frame:
    """Return a frame as it was, but without its model."""
    images = {name: group[name][()] for name in group if name != "psf"}
    form = _get_attributes(group["psf"])
    psf = EPSF(group["psf"][()], form["oversample"], from_values(form["field"]))
    zero = np.zeros(exposure.shape, np.float32)
    others = _with_quality(_get_attributes(group))
    return Frame(exposure=exposure, psf=psf, model=zero, stamps=stamps, tiles=tiles, **images, **others)


def _with_quality(values: dict[str, Any]) -> dict[str, Any]:
    """Return values by name with the quality of the PSF, where it is known, and factors of noise as objects."""
    if "noise_factors" in values:
        values = values | {"noise_factors": Factors(*values["noise_factors"])}
    known = values.get("psf_quality")
    if known is None:
        return values
    return values | {"psf_quality": PsfQuality(**known | {"problems": tuple(known["problems"])})}


def _get_psf_map(group: h5py.Group) -> PsfMap:
    ny, nx = (int(size) for size in group.attrs["shape"])
    return PsfMap(**{name: group[name][()] for name in group}, shape=(ny, nx))


def _get_attributes(group: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """Undo `_as_attributes`: JSON to dictionaries and tuples, numpy scalars to numbers."""
    return {key: _from_attribute(value) for key, value in group.attrs.items()}


def _from_attribute(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("{", "[")):
        known = json.loads(value)
        return tuple(known) if isinstance(known, list) else known
    return value.item() if isinstance(value, np.generic) else value

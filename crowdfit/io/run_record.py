"""The run record: one HDF5 file with every pass of a fit, the configuration, and in the end the catalogue.

Layout::

    /               attributes: format, metadata as attributes, input_checksum, stop_reason (once finished)
    /config         the resolved configuration, YAML text
    /passes/000     attributes: the numbers of `PassStats`; removed and stage_seconds as JSON
    /passes/000/sources/{x, y, flux, flux_err, id, pass_no, flags}
    /passes/000/frames/0/{psf, sky}    one group per exposure; psf has the attribute oversample
    /psf_map/{n_stars, fwhm, fwhm_err, ellipticity, position_angle}    over the field; attribute shape, of the image
    /catalog        the final catalogue, readable with astropy's Table.read(path, path="catalog")

Every write goes to a copy that then takes the place of the file, so a run that is killed leaves the passes
that were finished, in a file that can be read.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from crowdfit.errors import InputError
from crowdfit.io.atomic import atomic_path
from crowdfit.photometry.psf_map import PsfMap
from crowdfit.sources import Sources

if TYPE_CHECKING:
    from astropy.table import QTable, Table

    from crowdfit.loop import Frame, PassStats, State

__all__ = ["PassRecord", "Record", "RunRecord", "read_record"]

log = logging.getLogger(__name__)

FORMAT: Final = "crowdfit run record 1"


class RunRecord:
    """Writer of a run record: `start`, `add` after every pass, `finish`.

    Parameters
    ----------
    path : str or Path
        The file; an older one is replaced by `start`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def start(self, metadata: Mapping[str, Any], config_yaml: str, input_checksum: str) -> None:
        """Begin the file with metadata (versions, ...), the resolved configuration and the input's checksum.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        with atomic_path(self.path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["input_checksum"] = input_checksum
            file.create_group("metadata").attrs.update({key: str(value) for key, value in metadata.items()})
            file["config"] = config_yaml
            file.create_group("passes")

    def add(self, state: "State") -> None:
        """Append a finished pass: its sources, the PSF and sky of every frame, and its statistics."""
        with self._changing() as file:
            group = file["passes"].create_group(f"{state.pass_no:03d}")
            group.attrs.update(_as_attributes(state.stats))
            _put_sources(group.create_group("sources"), state.sources)
            for number, frame in enumerate(state.frames):
                _put_frame(group.create_group(f"frames/{number}"), frame)

    def finish(self, catalog: "Table", stop_reason: str, psf_map: PsfMap | None = None) -> None:
        """Add the final catalogue, why the fit stopped, and width and shape of the stars over the field."""
        from astropy.io.misc.hdf5 import write_table_hdf5  # noqa: PLC0415 - tables are slow to import
        from astropy.table import Table  # noqa: PLC0415

        with self._changing() as file:
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
    input_checksum: str
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
        If there is no such file, or it is no run record.
    """
    from astropy.io.misc.hdf5 import read_table_hdf5  # noqa: PLC0415
    from astropy.table import QTable  # noqa: PLC0415

    path = Path(path)
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file; check the path") from exc
    except OSError as exc:
        raise InputError(f"{path}: not an HDF5 file; give a run record (*_run.h5)") from exc
    with file:
        if file.attrs.get("format") != FORMAT:
            raise InputError(f"{path}: not a run record of this version; give a *_run.h5 of crowdfit")
        return Record(
            passes={int(name): _get_pass(group) for name, group in sorted(file["passes"].items())},
            metadata=dict(file["metadata"].attrs),
            config_yaml=file["config"].asstr()[()],
            input_checksum=file.attrs["input_checksum"],
            catalog=QTable(read_table_hdf5(file, path="catalog")) if "catalog" in file else None,
            stop_reason=file.attrs.get("stop_reason"),
            psf_map=_get_psf_map(file["psf_map"]) if "psf_map" in file else None,
            path=path,
        )


def _as_attributes(stats: "PassStats") -> dict[str, Any]:
    """Return statistics as HDF5 attributes; dictionaries become JSON, what is not known (None) is left out."""
    values = dataclasses.asdict(stats)
    return {
        key: json.dumps(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def _put_sources(group: h5py.Group, sources: Sources) -> None:
    for entry in fields(sources):
        group.create_dataset(entry.name, data=getattr(sources, entry.name))


def _put_frame(group: h5py.Group, frame: "Frame") -> None:
    group.create_dataset("psf", data=frame.psf.cube).attrs["oversample"] = frame.psf.oversample
    # sky is smooth: one quick pass of compression takes most of it away
    group.create_dataset("sky", data=frame.sky, compression="gzip", compression_opts=1, shuffle=True)


def _get_pass(group: h5py.Group) -> PassRecord:
    frames = [group["frames"][name] for name in sorted(group["frames"], key=int)]
    stats = {key: _from_attribute(value) for key, value in group.attrs.items()}
    return PassRecord(
        sources=Sources(**{entry.name: group["sources"][entry.name][()] for entry in fields(Sources)}),
        psf=tuple(frame["psf"][()] for frame in frames),
        oversample=tuple(int(frame["psf"].attrs["oversample"]) for frame in frames),
        sky=tuple(frame["sky"][()] for frame in frames),
        stats=stats,
    )


def _get_psf_map(group: h5py.Group) -> PsfMap:
    ny, nx = (int(size) for size in group.attrs["shape"])
    return PsfMap(**{name: group[name][()] for name in group}, shape=(ny, nx))


def _from_attribute(value: Any) -> Any:
    """Undo `_as_attributes`: JSON to dictionaries, numpy scalars to numbers."""
    if isinstance(value, str) and value.startswith("{"):
        return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value

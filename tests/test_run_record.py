"""The run record: every pass, readable whenever the run ends."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, fields
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from astropy.table import Table

from crowdfit.catalog import build_catalog
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import PsfQuality
from crowdfit.io.run_record import RunRecord, read_record
from crowdfit.photometry.psf_map import PsfMap
from crowdfit.psf.epsf import EPSF
from crowdfit.sources import Sources

CONFIG = "detect:\n  kind: score  # \N{GREEK SMALL LETTER MU}\n"


@dataclass
class Stats:
    """Stands in for `PassStats`."""

    pass_no: int
    n_sources: int
    chi: float
    n_removed: dict = field(default_factory=dict)
    psf_quality: object = None


def psf(oversample=2):
    grid = np.exp(-(np.linspace(-3, 3, 13)[:, None] ** 2) - np.linspace(-3, 3, 13) ** 2)
    return EPSF.from_samples(grid, oversample=oversample)


def state(pass_no, n=3, n_frames=1):
    sky = np.full((20, 30), 7.5 + pass_no, np.float32)
    frames = tuple(SimpleNamespace(psf=psf(), sky=sky + number) for number in range(n_frames))
    sources = Sources.at(np.arange(n) + 0.5, np.arange(n), np.arange(n) * 10.0, pass_no=pass_no)
    return SimpleNamespace(
        pass_no=pass_no,
        sources=sources.flagged("new", np.ones(n, bool)),
        frames=frames,
        stats=Stats(pass_no, n, 1.25, {"faint": 2}),
    )


def start(path):
    record = RunRecord(path)
    record.start({"crowdfit": "0.1.0", "numpy": "2"}, CONFIG, "ab" * 32)
    return record


def catalog():
    exposure = Exposure.of(np.eye(20), np.ones((20, 20)), unit="adu")
    columns = {"id": [0, 1], "x": [1.0, 2], "y": [3.0, 4], "flux": [5.0, np.nan], "flux_err": [1.0, 1]}
    return build_catalog(
        {key: np.array(value) for key, value in columns.items()}, exposure, {"crowdfit": "0.1.0"}
    )


def test_map_of_the_psf(tmp_path):
    """P037: comes back as it went in; there is none before the fit is finished."""
    record = start(tmp_path / "run.h5")
    assert read_record(record.path).psf_map is None
    planes = np.random.default_rng(1).uniform(size=(4, 2, 3))
    planes[:, 0, 1] = np.nan
    given = PsfMap(np.arange(6).reshape(2, 3), *planes, shape=(40, 60))
    record.finish(catalog(), "settled", given)
    back = read_record(record.path).psf_map
    for entry in fields(PsfMap):
        np.testing.assert_array_equal(getattr(back, entry.name), getattr(given, entry.name))
    assert back.shape == (40, 60)


def test_round_trip(tmp_path):
    """P075, P076: passes, configuration, versions, checksum and catalogue come back as they went in."""
    path = tmp_path / "run.h5"
    record = start(path)
    for pass_no in range(12):
        record.add(state(pass_no, n=pass_no))
    record.finish(catalog(), "settled")
    back = read_record(path)
    assert list(back) == list(range(12))
    assert len(back) == 12
    assert back.metadata == {"crowdfit": "0.1.0", "numpy": "2"}
    assert back.config_yaml == CONFIG
    assert back.input_checksum == "ab" * 32
    assert back.stop_reason == "settled"
    for pass_no, entry in back.items():
        there = state(pass_no, n=pass_no)
        for name in ("x", "y", "flux", "flux_err", "id", "pass_no", "flags"):
            here, expected = getattr(entry.sources, name), getattr(there.sources, name)
            np.testing.assert_array_equal(here, expected)
            assert here.dtype == expected.dtype
        np.testing.assert_array_equal(entry.sky[0], there.frames[0].sky)
        np.testing.assert_array_equal(entry.psf[0], there.frames[0].psf.cube)
        assert entry.oversample == (2,)
        assert entry.stats == {
            "pass_no": pass_no,
            "n_sources": pass_no,
            "chi": 1.25,
            "n_removed": {"faint": 2},
        }
    table = back.catalog
    assert table["flux"].unit.to_string() == "adu"
    assert np.isnan(table["flux"][1])
    assert table["x"].info.meta["ucd"] == "pos.cartesian.x;instr.det"
    assert Table.read(path, path="catalog").colnames == table.colnames


def test_what_is_not_known_is_left_out(tmp_path):
    """P035: the report on the PSF is kept where there is one; without, the pass is recorded all the same."""
    record = start(tmp_path / "run.h5")
    first, second = state(0), state(1)
    first.stats.psf_quality = PsfQuality(9, {"faint": 3}, 0.01, 2.5, 0.1, 30.0, ("9 PSF stars",))
    record.add(first)
    record.add(second)
    back = read_record(tmp_path / "run.h5")
    assert back[0].stats["psf_quality"]["refused"] == {"faint": 3}
    assert back[0].stats["psf_quality"]["problems"] == ["9 PSF stars"]
    assert "psf_quality" not in back[1].stats


def test_several_exposures(tmp_path):
    record = start(tmp_path / "run.h5")
    record.add(state(0, n_frames=11))
    skies = read_record(tmp_path / "run.h5")[0].sky
    assert [sky[0, 0] for sky in skies] == [7.5 + number for number in range(11)]


def test_unfinished_run(tmp_path):
    """What is there after a kill is the passes that were finished."""
    path = tmp_path / "run.h5"
    record = start(path)
    assert len(read_record(path)) == 0
    record.add(state(0))
    record.add(state(1))
    back = read_record(path)
    assert list(back) == [0, 1]
    assert back.catalog is None
    assert back.stop_reason is None


def test_start_replaces_an_older_record(tmp_path):
    start(tmp_path / "run.h5").add(state(0))
    start(tmp_path / "run.h5")
    assert len(read_record(tmp_path / "run.h5")) == 0


def test_failure_in_a_pass_leaves_the_file_whole(tmp_path):
    record = start(tmp_path / "run.h5")
    record.add(state(0))
    broken = state(1)
    broken.frames = (SimpleNamespace(psf=psf(), sky=None),)
    with pytest.raises(TypeError):
        record.add(broken)
    assert list(read_record(tmp_path / "run.h5")) == [0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.h5"]
    record.add(state(1))
    assert list(read_record(tmp_path / "run.h5")) == [0, 1]


KILLED = """
import os, signal, sys
import h5py
sys.path.insert(0, {tests!r})
import test_run_record as t
record = t.start({path!r})
record.add(t.state(0))
write = h5py.Group.create_dataset
def killed(*args, **kwargs):
    write(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
h5py.Group.create_dataset = killed
record.add(t.state(1))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_kill_while_writing(tmp_path):
    """P016: a process killed in the middle of writing a pass leaves the passes before it readable."""
    path = tmp_path / "run.h5"
    script = KILLED.format(tests=os.path.dirname(__file__), path=str(path))
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(read_record(path)) == [0]


def test_refusals(tmp_path):
    """P103."""
    with pytest.raises(InputError, match="no such file"):
        read_record(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(InputError, match=r"not an HDF5 file; give a run record"):
        read_record(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(InputError, match="not a run record"):
        read_record(tmp_path / "other.h5")
    with pytest.raises(InputError, match="cannot write there"):
        start(tmp_path / "missing" / "run.h5")

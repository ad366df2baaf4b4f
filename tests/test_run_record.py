"""The run record: every pass, readable whenever the run ends."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, fields, replace

import h5py
import numpy as np
import pytest
from astropy.table import Table

from crowdfit.catalog import build_catalog
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import Factors, Frame, PsfQuality, StampSizes
from crowdfit.io.run_record import NOT_KEPT, RunRecord, read_head, read_last, read_record
from crowdfit.loop import PassStats, State, render
from crowdfit.photometry.psf_map import PsfMap
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Grid
from crowdfit.sources import Sources

CONFIG = "detect:\n  kind: score  # \N{GREEK SMALL LETTER MU}\n"


STAMPS = StampSizes()
EXPOSURE = Exposure.of(np.arange(600.0).reshape(20, 30), np.ones((20, 30)))
INPUTS = {"image": "ab" * 32, "psf": ""}


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
    start, sky = Frame.start(EXPOSURE, psf(), STAMPS), np.full((20, 30), 7.5 + pass_no, np.float32)
    sources = Sources.at(np.arange(n) + 0.5, np.arange(n), np.arange(n) * 10.0, pass_no=pass_no)
    return State(
        pass_no,
        sources.flagged("new", np.ones(n, bool)),
        tuple(start.with_(sky=sky + number) for number in range(n_frames)),
        Stats(pass_no, n, 1.25, {"faint": 2}),
    )


def start(path):
    record = RunRecord(path)
    record.start({"crowdfit": "0.1.0", "numpy": "2"}, CONFIG, INPUTS)
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
    planes = np.random.default_rng(1).uniform(size=(6, 2, 3))
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
    assert back.inputs == INPUTS
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


QUALITY = PsfQuality(9, {"faint": 3}, 0.01, 2.5, 0.1, 30.0, ("9 PSF stars", "a"))
NUMBERS = {
    "n_sources": 3, "n_new": 2, "n_removed": {"faint": 2}, "chi": 1.25, "fwhm": 0.1 + 0.2, "max_step": 0.3,
    "psf_stars": 9, "solver_iterations": 17, "seconds": 1 / 3, "stage_seconds": {"sky": 1 / 7},
    "stage_memory_mb": {"sky": np.nan}, "memory_mb": 300.5, "fwhm_change": 1e-3,
}  # fmt: skip


def full_state(pass_no, **changes):
    """A state with a value of its own in every field that a later pass may look at."""
    rng = np.random.default_rng(pass_no)
    plane = psf().cube[0]
    table = EPSF(np.array([0.7 * plane, 0.1 * plane]), 2, Grid((1 / 3, 29.5), (14.5,)))
    frame = Frame(
        EXPOSURE, table, rng.normal(size=(20, 30)).astype("f4"), np.zeros((20, 30), np.float32), STAMPS,
        first_fwhm=1 / 3, seen_fwhm=2.7, psf_quality=QUALITY, confusion=1e-7 / 3,
        noise_factors=Factors(4 / 3, 1.25),
        structure=rng.normal(size=(20, 30)).astype("f4"),
    )  # fmt: skip
    sources = Sources.at([3.25, 17.5], [4.0, 9.75], [100 / 3, 70.0], pass_no=pass_no)
    (frame,) = render((frame.with_(**changes),), sources)
    return State(pass_no, sources, (frame,), PassStats(pass_no, **NUMBERS, psf_quality=frame.psf_quality))


def same_frame(one, other):
    for entry in fields(Frame):
        here, there = getattr(one, entry.name), getattr(other, entry.name)
        if entry.name == "psf":
            np.testing.assert_array_equal(here.cube, there.cube)
            assert here.cube.flags.c_contiguous
            assert [getattr(here, f.name) for f in fields(EPSF)[1:]] == [
                getattr(there, f.name) for f in fields(EPSF)[1:]
            ]
        elif isinstance(there, np.ndarray):
            assert here.dtype == there.dtype, entry.name
            np.testing.assert_array_equal(here, there, err_msg=entry.name)
        else:
            assert here is there or here == there, entry.name


class TestLast:
    """P100: the last pass comes back as the state that it was, to the last bit."""

    def test_every_field(self, tmp_path):
        """A field of `Frame` that was added and is not recorded is found here."""
        record = start(tmp_path / "run.h5")
        states = [full_state(0), full_state(1)]
        for each in states:
            record.add(each)
        last, history = read_last(record.path, EXPOSURE, STAMPS)
        assert last.pass_no == 1
        same_frame(last.frames[0], states[1].frames[0])
        for entry in fields(Sources):
            here, there = (getattr(s.sources, entry.name) for s in (last, states[1]))
            np.testing.assert_array_equal(here, there)
            assert here.dtype == there.dtype
        assert [repr(stats) for stats in history] == [repr(each.stats) for each in states]
        assert last.stats is history[-1]
        assert last.stats.psf_quality == QUALITY
        assert set(NOT_KEPT) < {entry.name for entry in fields(Frame)}

    def test_what_is_not_there(self, tmp_path):
        """No PSF of its own, no structure, no width of the peaks, no source."""
        record = start(tmp_path / "run.h5")
        nothing = full_state(0, psf_quality=None, structure=None, seen_fwhm=None)
        record.add(State(0, Sources.empty(), render(nothing.frames, Sources.empty()), nothing.stats))
        last, _ = read_last(record.path, EXPOSURE, STAMPS)
        assert len(last.sources) == 0
        frame = last.frames[0]
        assert (frame.psf_quality, frame.structure, frame.seen_fwhm, last.stats.psf_quality) == (None,) * 4
        assert not frame.model.any()

    def test_hundreds_of_passes(self, tmp_path):
        record = start(tmp_path / "run.h5")
        for pass_no in (998, 999, 1000):
            record.add(full_state(pass_no))
        assert read_last(record.path, EXPOSURE, STAMPS)[0].pass_no == 1000

    def test_psf_that_has_not_changed_is_written_once(self, tmp_path):
        """One that differs, be it in its field position only, is not taken for the same."""
        record = start(tmp_path / "run.h5")
        first = full_state(0)
        moved = replace(first.frames[0].psf, field=Grid((1.0,), (1.0, 2 / 3 + 1)))
        for each in (first, full_state(1), full_state(2, psf=moved)):
            record.add(each)
        with h5py.File(record.path) as file:
            one, two, three = (file[f"passes/00{k}/frames/0/psf"].id for k in range(3))
            places = [h5py.h5o.get_info(dataset).addr for dataset in (one, two, three)]
        assert places[0] == places[1] != places[2]
        assert read_last(record.path, EXPOSURE, STAMPS)[0].frames[0].psf.field == moved.field
        assert read_record(record.path)[1].oversample == (2,)


def test_head(tmp_path):
    """What there is can be seen without reading the passes."""
    record = start(tmp_path / "run.h5")
    head = read_head(record.path)
    assert (head.n_passes, head.stop_reason, head.path) == (0, None, tmp_path / "run.h5")
    assert (head.metadata, head.inputs, head.config_yaml) == (
        {"crowdfit": "0.1.0", "numpy": "2"},
        INPUTS,
        CONFIG,
    )
    record.add(full_state(0))
    record.finish(catalog(), "settled")
    head = read_head(record.path)
    assert (head.n_passes, head.stop_reason) == (1, "settled")


def test_finished_twice(tmp_path):
    """A run that was killed while its files were written finishes once more."""
    record = start(tmp_path / "run.h5")
    given = PsfMap(np.ones((1, 1)), *np.ones((6, 1, 1)), shape=(40, 60))
    record.finish(catalog(), "settled", given)
    record.finish(catalog()[:1], "max_passes", given)
    back = read_record(record.path)
    assert (len(back.catalog), back.stop_reason, back.psf_map.shape) == (1, "max_passes", (40, 60))


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
    with pytest.raises(TypeError):
        record.add(replace(broken, frames=(broken.frames[0].with_(sky=np.array([object()])),)))
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


READERS = {
    "record": read_record,
    "head": read_head,
    "last": lambda path: read_last(path, EXPOSURE, STAMPS),
}


class TestDamage:
    """P103: a record that cannot be used is refused in one line, with what to do."""

    @pytest.fixture
    def whole(self, tmp_path):
        record = start(tmp_path / "run.h5")
        record.add(full_state(0))
        return record.path

    @pytest.mark.parametrize("reader", READERS)
    def test_cut_short(self, whole, reader):
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(
            InputError, match=r"run\.h5: the run record is cut short or damaged; delete it, or"
        ):
            READERS[reader](whole)

    @pytest.mark.parametrize("reader", ["record", "last"])
    def test_flipped_bits(self, whole, reader):
        """In the values of the positions, where nothing but the checksum can tell."""
        data = bytearray(whole.read_bytes())
        place = data.index(np.array([3.25, 17.5]).tobytes())
        data[place + 6] ^= 0x10
        whole.write_bytes(data)
        with pytest.raises(InputError, match=r"run\.h5: the run record is damaged \(.*; delete it, or"):
            READERS[reader](whole)

    @pytest.mark.parametrize("reader", READERS)
    def test_part_missing(self, whole, reader):
        with h5py.File(whole, "r+") as file:
            del file["passes"]
        with pytest.raises(InputError, match=r"run\.h5: the run record is damaged"):
            READERS[reader](whole)

    @pytest.mark.parametrize("reader", READERS)
    def test_other_format(self, whole, reader):
        """Named with both versions, since another crowdfit can read it."""
        with h5py.File(whole, "r+") as file:
            file.attrs["format"] = "crowdfit run record 1"
        with pytest.raises(
            InputError, match=r"'crowdfit run record 1', but .* reads 'crowdfit run record 3'"
        ):
            READERS[reader](whole)

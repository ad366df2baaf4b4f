"""`crowdfit fit --resume` after a kill at any moment: the same files as an unbroken run, and what is said."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

import crowdfit
from crowdfit.cli import main
from crowdfit.io.run_record import read_head, read_record
from crowdfit.io.tables import read_catalog
from crowdfit.job import DONE, INTERRUPTED, REFUSED
from crowdfit.simulate import Scene, simulate

SETTINGS = ("--set", "stop.min_passes=5", "--set", "sky.mesh_px=32")
OPTIONS = (*SETTINGS, "--no-report")

KILLED = """
import os, signal, sys
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
{hook}
from crowdfit.__main__ import main
sys.exit(main({arguments!r}))
"""

IN_A_PASS = """
from crowdfit.stages.psf_update import EmpiricalPsf
work = EmpiricalPsf.__call__
def killed(*given, pass_no):
    return kill() if pass_no == 2 else work(*given, pass_no=pass_no)
EmpiricalPsf.__call__ = killed
"""

IN_A_WRITE = """
import h5py
work = h5py.Group.create_dataset
def killed(group, name, *given, **options):
    made = work(group, name, *given, **options)
    return kill() if group.name.startswith("/passes/003/frames") else made
h5py.Group.create_dataset = killed
"""

BEFORE_RENAMING = """
work = os.replace
def killed(old, new):
    return kill() if str(new).endswith("{name}") else work(old, new)
os.replace = killed
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


def killed(hook, *arguments):
    """Run a command in a process that kills itself at some moment, without a chance to clean up."""
    root = str(Path(crowdfit.__file__).parent.parent)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    script = KILLED.format(hook=hook, arguments=list(map(str, arguments)))
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, env=env
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """300 stars on 128 x 128 pixels."""
    scene = Scene(ny=128, nx=128, n_stars=300, fwhm=2.8, flux_min=500, flux_max=2e5, sky=100, seed=7)
    return simulate(scene).write(tmp_path_factory.mktemp("image") / "field.fits")


@pytest.fixture(scope="module")
def whole(image, tmp_path_factory):
    """The folder of an unbroken run."""
    out = tmp_path_factory.mktemp("whole")
    assert main(["fit", str(image), "-o", str(out), *OPTIONS, "-q"]) == DONE
    return out


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of that folder, which may be changed; times of files are kept."""
    return Path(shutil.copytree(whole, tmp_path / "finished"))


def fit(image, out, *options):
    return main(["fit", str(image), "-o", str(out), *OPTIONS, *options])


def same_files(out, whole):
    """Assert that two runs have left the same numbers, to the last bit, and nothing else."""
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())
    one, other = (QTable.read(folder / "field_catalog.fits") for folder in (out, whole))
    assert len(one) > 100
    assert one.colnames == other.colnames
    for name in other.colnames:
        assert np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes(), name
    with fits.open(out / "field_fit.fits") as here, fits.open(whole / "field_fit.fits") as there:
        assert [hdu.name for hdu in here] == [hdu.name for hdu in there]
        for mine, theirs in zip(here[1:], there[1:], strict=True):
            assert mine.data.tobytes() == theirs.data.tobytes(), mine.name
    mine, theirs = (read_record(folder / "field_run.h5") for folder in (out, whole))
    assert list(mine) == list(theirs)
    assert mine.stop_reason == theirs.stop_reason
    for number in mine:
        np.testing.assert_array_equal(mine[number].sources.flux, theirs[number].sources.flux)
        assert mine[number].stats["chi"] == theirs[number].stats["chi"]


def leftovers(out):
    return [path.name for path in out.iterdir() if path.name.startswith(".")]


def test_killed_again_and_again(image, whole, tmp_path, capsys):
    """P100: in the middle of a pass, of a write, and between two products; each run goes on where the last ended."""
    out = tmp_path / "out"
    record = out / "field_run.h5"
    command = ("fit", image, "-o", out, *OPTIONS, "--threads", "1")

    killed(IN_A_PASS, *command)
    assert read_head(record).n_passes == 2
    assert leftovers(out) == []

    said = killed(IN_A_WRITE, *command, "--resume")
    assert f"{image}: goes on after the 2 passes in {record}" in said
    assert read_head(record).n_passes == 3
    assert len(leftovers(out)) == 1

    said = killed(BEFORE_RENAMING.format(name="_fit.fits"), *command, "--resume")
    assert f"{image}: goes on after the 3 passes in {record}" in said
    assert read_head(record).stop_reason == read_record(whole / "field_run.h5").stop_reason
    assert (out / "field_catalog.fits").exists()
    assert not (out / "field_fit.fits").exists()
    assert len(leftovers(out)) == 1

    capsys.readouterr()
    assert fit(image, out, "--resume") == DONE
    told = capsys.readouterr()
    passes = read_head(record).n_passes
    assert (
        told.err
        == f"crowdfit: {image}: all {passes} passes are in {record}; the files are written from there\n"
    )
    assert f"{passes} passes (" in told.out
    same_files(out, whole)


def test_killed_before_there_is_a_record(image, whole, tmp_path, capsys):
    """What was left of the write is no record, and is cleared away."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "field_catalog.fits").write_text("of another run, whose record is not there")
    killed(BEFORE_RENAMING.format(name="_run.h5"), "fit", image, "-o", out, *OPTIONS)
    assert not (out / "field_run.h5").exists()
    assert len(leftovers(out)) == 1
    assert fit(image, out, "--resume") == DONE
    record = out / "field_run.h5"
    said = f"crowdfit: {image}: no pass is recorded in {record} yet; the fit starts from the beginning\n"
    assert capsys.readouterr().err == said
    same_files(out, whole)


def test_finished_run_is_left_alone(image, finished, capsys):
    """Not a byte is written; on any number of threads, and more or less is said."""
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished.iterdir()}
    assert fit(image, finished, "--resume") == DONE
    assert capsys.readouterr() == (f"{image}: finished already; nothing is left to do\n", "")
    assert fit(image, finished, "--resume", "-q", "--threads", "1") == DONE
    assert capsys.readouterr() == ("", "")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished.iterdir()} == before


def test_another_format_is_no_other_fit(image, whole, finished, capsys):
    """P100: what is missing is made from the record, without a pass."""
    assert fit(image, finished, "--resume", "--format", "csv", "--format", "fits", "-v") == DONE
    said = capsys.readouterr().err
    assert "the files are written from there" in said
    assert "pass 0:" not in said
    table = read_catalog(finished / "field_catalog.csv")
    np.testing.assert_array_equal(table["flux"], QTable.read(whole / "field_catalog.fits")["flux"])
    (finished / "field_catalog.csv").unlink()
    same_files(finished, whole)


def test_files_of_another_run_are_not_taken_for_those_of_this(image, whole, finished, capsys):
    """They are older than the record: a second run was killed when it had replaced the record and nothing else."""
    record = finished / "field_run.h5"
    for name in ("field_catalog.fits", "field_fit.fits"):
        (finished / name).write_text("of another run")
        os.utime(finished / name, ns=(0, record.stat().st_mtime_ns - 1))
    assert fit(image, finished, "--resume", "-q") == DONE
    same_files(finished, whole)


def test_other_settings_are_refused_by_name(image, finished, capsys):
    """P100: old and new value, one line each, and nothing is written; without --resume the fit begins anew."""
    record = finished / "field_run.h5"
    before = record.read_bytes()
    assert fit(image, finished, "--resume", "--set", "prune.nsigma=4", "--set", "detect.kind=sep") == REFUSED
    assert capsys.readouterr().err.splitlines() == [
        f"crowdfit: error: detect.kind: score in {record}, sep now",
        f"crowdfit: error: prune.nsigma: 2.7 in {record}, 4.0 now",
        "crowdfit: error: only the same fit can be resumed; restore what differs, or leave out --resume to fit from "
        "the beginning",
    ]
    assert record.read_bytes() == before


def test_other_image_is_refused_and_the_others_go_on(image, finished, tmp_path, capsys):
    """P100: the same name, but not the same file; every image has a record of its own."""
    other, third = tmp_path / "field.fits", tmp_path / "third.fits"
    other.write_bytes(image.read_bytes())
    with fits.open(other, mode="update") as hdus:
        hdus["SCI"].data[5, 5] += 1
        hdus["SCI"].add_checksum()
    third.write_bytes(image.read_bytes())
    assert fit(other, finished, str(third), "--resume", "--set", "stop.max_passes=5") == REFUSED
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith(
        f"crowdfit: error: {finished}/field_run.h5: was made from another image field.fits (SHA-256"
    )
    assert lines[0].startswith("crowdfit: error: stop.max_passes: 14 in")
    assert lines[-1].startswith(f"crowdfit: {third}: no pass is recorded")
    assert (finished / "third_catalog.fits").exists()


def test_damaged_record_is_refused(image, finished, capsys):
    record = finished / "field_run.h5"
    record.write_bytes(record.read_bytes()[:-5000])
    assert fit(image, finished, "--resume") == REFUSED
    wanted = (
        f"crowdfit: error: {record}: the run record is cut short or damaged; delete it, or leave out --resume"
    )
    assert capsys.readouterr().err.startswith(wanted)


def test_other_packages_are_a_warning(image, whole, finished, capsys):
    """P100: they may change the last bits; it is said once."""
    (finished / "field_fit.fits").unlink()
    record = finished / "field_run.h5"
    with h5py.File(record, "r+") as file:
        file["metadata"].attrs["scipy"] = "0.9"
    assert fit(image, finished, "--resume") == DONE
    assert capsys.readouterr().err.count("begun with other packages (scipy 0.9 -> ") == 1
    same_files(finished, whole)


def test_record_of_another_version_is_refused(image, finished, capsys):
    record = finished / "field_run.h5"
    with h5py.File(record, "r+") as file:
        file["metadata"].attrs["crowdfit"] = "0.0.1"
    assert fit(image, finished, "--resume") == REFUSED
    assert f"{record}: crowdfit 0.0.1 has begun this run" in capsys.readouterr().err


def test_without_a_record_there_is_nothing_to_resume(image, tmp_path, capsys):
    assert fit(image, tmp_path, "--resume", "--set", "output.run_record=no") == REFUSED
    wanted = "crowdfit: error: output.run_record: --resume needs the run record; leave it at true\n"
    assert capsys.readouterr().err == wanted


def test_interrupt_of_a_resumed_run(image, finished, monkeypatch, capsys):
    """Ctrl-C before a pass is added: those of the earlier run are still there, and that is said."""
    (finished / "field_fit.fits").unlink()

    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("crowdfit.run.finish", interrupt)
    assert fit(image, finished, "--resume", "-q") == INTERRUPTED
    said = capsys.readouterr().err
    assert said.startswith(
        f"crowdfit: {image}: interrupted; the finished passes are kept in {finished}/field_run.h5"
    )

"""The command line: what it passes on, what it says, and the status it ends with."""

import json
import logging
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from typer.testing import CliRunner

import crowdfit
from crowdfit import console
from crowdfit.catalog import COLUMNS, SEGMENT_COLUMNS
from crowdfit.cli import app, main
from crowdfit.commands.options import Format
from crowdfit.config import Output, load_config, shipped
from crowdfit.config_schema import allowed
from crowdfit.errors import InputError
from crowdfit.flags import APERTURE_FLAGS, SOURCE_FLAGS
from crowdfit.io.run_record import read_record
from crowdfit.job import DONE, FAILED, INTERRUPTED, REFUSED
from crowdfit.simulate import Scene, simulate

SMALL = Scene(ny=64, nx=64, n_stars=25, margin=0, fwhm=3.0, flux_min=5e3, flux_max=1e5, seed=2)
ROOT = Path(crowdfit.__file__).parent.parent
HEAVY = ("numpy", "scipy", "astropy", "numba", "pydantic", "yaml", "matplotlib", "sep", "h5py", "jinja2")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python from the checkout or the installed package, whichever the tests import."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=env, check=False, timeout=300
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that can be read; what a fit would find in it does not matter here."""
    path = tmp_path / "field.fits"
    noise = np.random.default_rng(1).normal(100, 5, (32, 32)).astype(np.float32)
    fits.writeto(path, noise)
    return path


class FakeResult:
    """What the command line uses of a result."""

    def __init__(self, config) -> None:
        self.config = config
        self.catalog = QTable({"id": [1, 2, 3]}, meta={"mag_system": "AB", "zero_point": "26.4776"})
        self.psf = SimpleNamespace(fwhm=2.5)
        self.history = (1, 2)
        self.stop_reason = "settled"
        self.seconds = 1.0
        self.peak_memory_mb = 100.0
        self.written: list[tuple[Path, tuple[str, ...]]] = []

    def write(self, directory, formats=("fits",)):
        self.written.append((Path(directory), tuple(formats)))
        return [Path(directory) / "field_catalog.fits"]

    def report(self, path):
        self.written.append((Path(path), ()))
        return Path(path)


class Fits:
    """Stands in for `fit_image`, remembers its arguments, and ends as told."""

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.results: list[FakeResult] = []
        self.ending = lambda given: None

    def __call__(self, image, **given):
        self.calls.append({"image": image, **given})
        self.ending(given)
        self.results.append(FakeResult(given["config"]))
        return self.results[-1]


@pytest.fixture
def fit_image(monkeypatch: pytest.MonkeyPatch) -> Fits:
    fake = Fits()
    monkeypatch.setattr("crowdfit.api.fit_image", fake)
    monkeypatch.setattr("crowdfit._kernels.jit.cache_is_cold", lambda: False)
    return fake


def state(pass_no: int):
    stats = SimpleNamespace(
        pass_no=pass_no, n_sources=1234, n_new=56, n_removed={"faint": 7}, chi=1.25, fwhm=3.5, seconds=0.5
    )
    return SimpleNamespace(pass_no=pass_no, stats=stats)


def test_help_imports_nothing_heavy():
    """`crowdfit --help` answers at once because it needs none of these."""
    code = f"""
import sys
from crowdfit.__main__ import main
status = main(["--help"])
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules], "STATUS", status)
"""
    done = python("-c", code)
    assert "HEAVY [] STATUS 0" in done.stdout, done.stdout + done.stderr
    assert "simulate" in done.stdout


def test_fit_starts_without_what_it_needs_later():
    """Tables, coordinates, plots and splines are loaded when they are used, for each takes its tenth of a second."""
    later = (
        "astropy.table",
        "astropy.coordinates",
        "scipy.interpolate",
        "scipy.spatial",
        "matplotlib",
        "jinja2",
    )
    code = f"""
import sys
import crowdfit.api, crowdfit.io.products
print([name for name in {later!r} if name in sys.modules])
"""
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_module_is_a_command():
    done = python("-m", "crowdfit", "--version")
    assert (done.returncode, done.stdout) == (0, f"crowdfit {crowdfit.__version__}\n")


@pytest.mark.parametrize("command", ["fit", "demo", "simulate", "config", "columns", "flags"])
def test_every_command_has_help(command: str):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


USAGE = {
    "fit": "Missing argument 'IMAGE' (see crowdfit fit --help)",
    "fit a.fits": "Missing option '-o' / '--out' (see crowdfit fit --help)",
    "fit a.fits -o x --nope": "No such option: --nope (see crowdfit fit --help)",
    "fit a.fits -o x --threads 0": "Invalid value for '--threads'",
    "fut": "No such command 'fut'",
    "simulate": "simulate: which file shall be written? Give its name, or --list",
    "fit a.fits b.fits -o x --err e.fits": "--err, --wht and --dq belong to one image; fit the images one by one",
}


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage_is_one_line_and_status_2(arguments: str, capsys: pytest.CaptureFixture[str]):
    """P013: one clear line, no traceback."""
    assert main(arguments.split()) == REFUSED
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"crowdfit: error: {USAGE[arguments]}")
    assert said.err.count("\n") == 1


def test_no_arguments_show_the_commands(capsys: pytest.CaptureFixture[str]):
    assert main([]) == REFUSED
    said = capsys.readouterr()
    assert "Commands" in said.out
    assert "error" not in said.err


def test_status_of_the_process_is_2_for_a_bad_configuration(tmp_path: Path, image: Path):
    """P001, P103: seen from outside, with every mistake on its own line and no output folder made."""
    out = tmp_path / "out"
    command = [
        "-m",
        "crowdfit",
        "fit",
        str(image),
        "-o",
        str(out),
        "--set",
        "detect.nsgma=4",
        "--set",
        "sky.kind=x",
    ]
    done = python(*command)
    assert done.returncode == REFUSED
    lines = done.stderr.splitlines()
    assert lines[0].startswith("crowdfit: error: sky.kind: 'x' is not one of 'mesh'")
    assert lines[1].startswith("crowdfit: error: detect.nsgma: unknown field of 'score'")
    assert len(lines) == 2
    assert not out.exists()


def test_arguments_reach_the_library(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    """The command maps arguments to a library call and adds nothing of its own."""
    stars = tmp_path / "stars.csv"
    stars.write_text("x,y,flux\n3,4,100\n5,6,200\n")
    out = tmp_path / "out"
    settings = ["--set", "stop.max_passes=7", "-c", "irac", "--format", "csv", "--format", "vot"]
    settings += ["--set", "psf.oversample=4"]
    options = ["--psf", "my: psf.fits", "--positions", str(stars), "--threads", "1"]
    assert main(["fit", str(image), "-o", str(out), *settings, *options]) == DONE
    (call,) = fit_image.calls
    changes = {"stop.max_passes": 7, "output.formats": ["csv", "vot"]}
    changes |= {"psf.kind": "file", "psf.path": "my: psf.fits", "psf.oversample": 4}
    assert call["config"] == load_config("irac", changes)
    assert call["image"].shape == (32, 32)
    np.testing.assert_array_equal(call["positions"].x, [3, 5])
    assert call["record"] == out / "field_run.h5"
    call["progress"](state(0))  # nothing is shown where standard error is no terminal
    assert fit_image.results[0].written == [(out, ("csv", "vot")), (out / "field_report.html", ())]
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        f"{image}: 3 stars, FWHM 2.50 pix, AB zero point 26.478, 2 passes (settled), 1.0 s, 100 MB",
        f"  {out}/field_catalog.fits",
        f"  {out}/field_run.h5",
        f"  {out}/field_report.html",
    ]


def test_report_and_record_can_be_left_out(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    options = ["--no-report", "-q", "--set", "output.run_record=no"]
    assert main(["fit", str(image), "-o", str(tmp_path), *options]) == DONE
    assert fit_image.calls[0]["record"] is None
    assert [path for path, _ in fit_image.results[0].written] == [tmp_path]
    assert capsys.readouterr() == ("", "")


def test_filter_block_is_chosen_by_the_header(image: Path, tmp_path: Path, fit_image: Fits):
    """P002."""
    fits.setval(image, "FILTER", value="F444W")
    recipe = tmp_path / "survey.yaml"
    recipe.write_text("filters: {F444W: {stop: {max_passes: 5}}}\n")
    assert main(["fit", str(image), "-o", str(tmp_path), "-c", str(recipe), "-q"]) == DONE
    assert fit_image.calls[0]["config"].stop.max_passes == 5


def test_bad_image_is_refused_and_the_others_are_fitted(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    """P004, P103: one line names the file; the status tells that something was refused."""
    missing = tmp_path / "missing.fits"
    assert main(["fit", str(missing), str(image), "-o", str(tmp_path / "out")]) == REFUSED
    assert len(fit_image.calls) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"crowdfit: error: {missing}")
    assert said.err.count("\n") == 1


def test_images_of_one_name_are_refused(tmp_path: Path, capsys):
    assert main(["fit", "a/field.fits", "b/field.fits.gz", "-o", str(tmp_path)]) == REFUSED
    assert "field: several images have this name" in capsys.readouterr().err


def test_folder_that_cannot_be_made_is_refused_before_the_fit(
    image: Path, tmp_path: Path, fit_image: Fits, capsys
):
    """P103."""
    (tmp_path / "file").write_text("")
    assert main(["fit", str(image), "-o", str(tmp_path / "file" / "out")]) == REFUSED
    assert fit_image.calls == []
    assert str(tmp_path / "file" / "out") in capsys.readouterr().err


def test_too_many_threads_are_refused(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    assert main(["fit", str(image), "-o", str(tmp_path), "--threads", "100000"]) == REFUSED
    assert "--threads 100000: this machine has " in capsys.readouterr().err
    assert fit_image.calls == []


def test_interrupt_says_where_the_finished_passes_are(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    def interrupt(given):
        given["record"].write_text("two passes")
        given["progress"](state(0))
        given["progress"](state(1))
        raise KeyboardInterrupt

    fit_image.ending = interrupt
    other = tmp_path / "other.fits"
    other.write_bytes(image.read_bytes())
    assert main(["fit", str(image), str(other), "-o", str(tmp_path)]) == INTERRUPTED
    assert len(fit_image.calls) == 1
    wanted = f"crowdfit: {image}: interrupted; the finished passes are kept in {tmp_path}/field_run.h5, "
    wanted += "and the same command with --resume goes on from there\n"
    assert capsys.readouterr().err == wanted


def test_interrupt_before_the_first_pass(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    """The record of an earlier run is not taken for one of this run."""

    def interrupt(given):
        raise KeyboardInterrupt

    fit_image.ending = interrupt
    (tmp_path / "field_run.h5").write_text("last week")
    assert main(["fit", str(image), "-o", str(tmp_path)]) == INTERRUPTED
    assert capsys.readouterr().err == f"crowdfit: {image}: interrupted\n"


@pytest.mark.parametrize("place", ["crowdfit.io.products.check_output", "crowdfit.commands.show.aligned"])
def test_interrupt_outside_a_fit(image: Path, tmp_path: Path, monkeypatch, capsys, place: str):
    """Ctrl-C while the output folder is looked at, or in another command, is said in one line."""

    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    command = ["flags"] if "aligned" in place else ["fit", str(image), "-o", str(tmp_path)]
    assert main(command) == INTERRUPTED
    assert capsys.readouterr().err == "crowdfit: interrupted\n"


@pytest.mark.parametrize("module", ["typer", "crowdfit.config", "numba.core.decorators", "astropy.io.fits"])
def test_interrupt_while_packages_are_imported(tmp_path: Path, module: str):
    code = f"""
import sys
from crowdfit.__main__ import main

class Interrupt:
    def find_spec(name, *rest):
        if name == "{module}":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt)
print(main(["fit", "{tmp_path}/none.fits", "-o", "{tmp_path}/out"]))
"""
    done = python("-c", code)
    assert (done.stdout, done.stderr) == (f"{INTERRUPTED}\n", "crowdfit: interrupted\n")


def test_interrupt_is_not_lost_in_a_callback():
    """A signal at the end of a kernel is handled where no exception gets out; the command ends all the same."""
    code = """
import signal, time, weakref
import crowdfit.__main__, crowdfit.cli

# a shell has its background jobs ignore the signal, and they hand that on
signal.signal(signal.SIGINT, signal.default_int_handler)

class Thing:
    pass

def work(arguments):
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    for _ in range(600):
        time.sleep(0.1)

crowdfit.cli.main = work
print(crowdfit.__main__.main([]))
"""
    done = python("-c", code)
    assert (done.stdout, done.stderr) == (f"{INTERRUPTED}\n", "crowdfit: interrupted\n")


def test_failure_of_the_machine_is_status_1(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    def fill_disk(given):
        raise OSError(28, "No space left on device")

    fit_image.ending = fill_disk
    assert main(["fit", str(image), "-o", str(tmp_path)]) == FAILED
    assert capsys.readouterr().err == "crowdfit: error: [Errno 28] No space left on device\n"


def test_first_run_says_that_it_compiles(image: Path, tmp_path: Path, fit_image: Fits, monkeypatch, capsys):
    monkeypatch.setattr("crowdfit._kernels.jit.cache_is_cold", lambda: True)
    assert main(["fit", str(image), "-o", str(tmp_path)]) == DONE
    assert "first run: compiling" in capsys.readouterr().err
    assert main(["fit", str(image), "-o", str(tmp_path), "-q"]) == DONE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [["demo"], ["simulate", "f.fits"]])
def test_demo_and_simulate_say_first_that_they_compile(
    tmp_path: Path, fit_image: Fits, monkeypatch, capsys, arguments: list[str]
):
    """Before anything is drawn, and once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crowdfit._kernels.jit.cache_is_cold", lambda: True)
    monkeypatch.setattr("crowdfit._kernels.jit.drawing_is_cold", lambda: True)
    monkeypatch.setattr("crowdfit.simulate.SCENES", {"demo": SMALL})
    before = []

    def simulate(scene):
        before.append(capsys.readouterr().err)
        return real(scene)

    import crowdfit.simulate  # noqa: PLC0415

    real = crowdfit.simulate.simulate
    monkeypatch.setattr("crowdfit.simulate.simulate", simulate)
    assert main(arguments) == DONE
    assert before[0].count("first run: compiling") == 1
    assert "compiling" not in capsys.readouterr().err
    assert main([*arguments, "-q"]) == DONE
    assert before[1] == ""
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "seen"),
    [(["-q"], "E"), ([], "EW"), (["-v"], "EWI"), (["-vv"], "EWID"), (["-vvv"], "EWID")],
)
def test_levels_of_the_log(
    image: Path, tmp_path: Path, fit_image: Fits, capsys, options: list[str], seen: str
):
    """P012: quiet, normal, verbose, debug."""

    def log(given):
        logger = logging.getLogger("crowdfit.loop")
        for name in ("error", "warning", "info", "debug"):
            getattr(logger, name)("letter %s", name[0].upper())

    fit_image.ending = log
    assert main(["fit", str(image), "-o", str(tmp_path), *options]) == DONE
    err = capsys.readouterr().err
    assert "".join(letter for letter in "EWID" if f"letter {letter}\n" in err) == seen


@pytest.mark.filterwarnings("always:something")
def test_log_for_machines(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    """P012: JSON lines with everything, whatever the screen shows, and the numbers as numbers."""

    def log(given):
        logging.getLogger("crowdfit.loop").debug("pass %d", 3, extra={"pass_no": 3, "chi": 1.5})
        warnings.warn("something\nodd", UserWarning, stacklevel=1)

    fit_image.ending = log
    path = tmp_path / "log.jsonl"
    assert main(["fit", str(image), "-o", str(tmp_path), "-q", "--log-json", str(path)]) == DONE
    assert capsys.readouterr().err == ""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records = [record for record in records if record["logger"] in ("crowdfit.loop", "py.warnings")]
    assert [record["message"] for record in records] == ["pass 3", "UserWarning: something"]
    assert {key: records[0][key] for key in ("level", "pass_no", "chi")} == {
        "level": "debug", "pass_no": 3, "chi": 1.5,
    }  # fmt: skip
    assert logging.getLogger("crowdfit").handlers == []


def test_log_file_that_cannot_be_written(image: Path, tmp_path: Path, capsys):
    bad = tmp_path / "no" / "log.jsonl"
    assert main(["fit", str(image), "-o", str(tmp_path), "--log-json", str(bad)]) == REFUSED
    assert f"--log-json {bad}: cannot be written" in capsys.readouterr().err


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch):
    """P015."""
    for level, terminal, shown in [("normal", True, True), ("normal", False, False), ("quiet", True, False)]:
        monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda answer=terminal: answer))
        monkeypatch.setattr(console, "live_passes", lambda title: "table")
        assert (console.progress(level, "x") == "table") is shown


def test_table_has_a_row_for_each_pass(capsys: pytest.CaptureFixture[str]):
    """P015: pass, sources, new, chi, seconds."""
    with console.live_passes("field.fits") as show:
        show(state(0))
        show(state(1))
    rows = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert ["pass", "sources", "new", "removed", "chi", "FWHM", "seconds"] in rows
    assert ["1", "1,234", "56", "7", "1.250", "3.50", "0.5"] in rows


def test_config_is_shown_as_a_file_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """P003."""
    assert main(["config", "--show", "nircam_sw", "--set", "stop.max_passes=9"]) == DONE
    text = capsys.readouterr().out
    assert "max_passes: 9  # --set stop.max_passes=9" in text
    path = tmp_path / "again.yaml"
    path.write_text(text)
    assert load_config(path) == load_config("nircam_sw", ["stop.max_passes=9"])


def test_config_list_has_every_shipped_one_with_its_purpose(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "--list"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped())
    assert all(len(line.split()) > 4 for line in lines)


def test_unknown_configuration_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "--show", "nircam_ws"]) == REFUSED
    assert "did you mean nircam_sw?" in capsys.readouterr().err


def test_columns_and_flags_print_the_tables_of_the_code(capsys: pytest.CaptureFixture[str]):
    assert main(["columns"]) == DONE
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == [c.name for c in COLUMNS]
    assert all(column.text in out and column.ucd in out for column in COLUMNS)
    assert main(["flags"]) == DONE
    blocks = capsys.readouterr().out.split("\n\nin aper_flags:\n")
    for block, table in zip(blocks, (SOURCE_FLAGS, APERTURE_FLAGS), strict=True):
        lines = block.splitlines()[1:]
        assert [line.split()[:2] for line in lines] == [[str(flag.value), flag.name] for flag in table]
    assert main(["columns", "--segments"]) == DONE
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == [
        c.name for c in SEGMENT_COLUMNS
    ]
    assert main(["columns", "--segments", "--average"]) == REFUSED


def test_formats_are_those_of_the_configuration():
    assert allowed(Output, "formats").split("one of ")[1] == ", ".join(repr(str(name)) for name in Format)


def test_simulate_writes_image_and_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "sim.fits"
    settings = ["--set", "n_stars=20", "--set", "ny=40", "--set", "nx=50", "--seed", "3"]
    assert main(["simulate", str(path), *settings]) == DONE
    assert capsys.readouterr().out == f"{path}: 20 stars, 50 x 40 pixels\n"
    with fits.open(path) as hdus:
        assert hdus["SCI"].shape == (40, 50)
        assert len(hdus["TRUTH"].data) == 20


def test_simulate_lists_its_fields(capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", "--list", "--scene", "sparse"]) == DONE
    out = capsys.readouterr().out
    assert out.startswith("scenes: demo, dense, sparse, undersampled")
    assert "n_stars" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "n_strs=3"], "scene.n_strs: unknown field"),
        (["--set", "fwhm=-1"], "scene.fwhm: "),
        (["--scene", "milkyway"], "scene: 'milkyway' is not one of"),
    ],
)
def test_simulate_refuses_what_it_does_not_know(tmp_path: Path, capsys, arguments: list[str], message: str):
    path = tmp_path / "sim.fits"
    assert main(["simulate", str(path), *arguments]) == REFUSED
    assert capsys.readouterr().err.startswith(f"crowdfit: error: {message}")
    assert not path.exists()


@pytest.fixture
def small_field(tmp_path: Path) -> Path:
    """A field of 25 stars that is fitted in a second."""
    path = tmp_path / "small.fits"
    simulate(SMALL).write(path)
    return path


def test_command_and_library_give_the_same_numbers(small_field: Path, tmp_path: Path, capsys):
    """The files of the command hold the catalogue of the library, bit for bit."""
    out = tmp_path / "out"
    options = ["--set", "stop.max_passes=5", "--set", "sky.mesh_px=32", "--no-report", "--format", "ecsv"]
    assert main(["fit", str(small_field), "-o", str(out), *options]) == DONE
    from_command = QTable.read(out / "small_catalog.ecsv")
    from_library = crowdfit.fit_image(small_field, stop__max_passes=5, sky__mesh_px=32).catalog
    assert len(from_library) > 10
    for name in from_library.colnames:
        np.testing.assert_array_equal(from_command[name], from_library[name], err_msg=name)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert {path.name for path in out.iterdir()} == {"small_catalog.ecsv", "small_fit.fits", "small_run.h5"}


def test_interrupted_run_keeps_its_finished_passes(small_field: Path, tmp_path: Path, monkeypatch, capsys):
    """P103: the run record can be read, holds what was finished, and nothing else is written."""

    def interrupt(state):
        if state.pass_no == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(console, "progress", lambda level, title: nullcontext(interrupt))
    out = tmp_path / "out"
    assert main(["fit", str(small_field), "-o", str(out)]) == INTERRUPTED
    assert "the finished passes are kept in" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["small_run.h5"]
    assert list(read_record(out / "small_run.h5")) == [0, 1]


def test_demo_leaves_catalogue_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """What a person who knows nothing runs first; here on a smaller field."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crowdfit.simulate.SCENES", {"demo": SMALL})
    assert main(["demo"]) == DONE
    said = capsys.readouterr()
    for name in ("demo.fits", "demo_catalog.fits", "demo_fit.fits", "demo_report.html"):
        assert (tmp_path / "crowdfit_demo" / name).stat().st_size > 0
        assert f"crowdfit_demo/{name}" in said.out
    assert said.out.startswith("crowdfit_demo/demo.fits: ")


def test_reader_of_a_pipe_may_leave():
    code = """
import subprocess, sys
command = subprocess.Popen([sys.executable, "-m", "crowdfit", "flags"], stdout=-1, stderr=-1)
command.stdout.close()
print(command.stderr.read().decode(), "STATUS", command.wait())
"""
    done = python("-c", code)
    assert "STATUS" in done.stdout
    assert "Traceback" not in done.stdout
    assert "Exception ignored" not in done.stdout


def test_refusal_from_within_the_fit(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    def refuse(given):
        raise InputError("psf.fits: its size is even; cut one row and one column")

    fit_image.ending = refuse
    assert main(["fit", str(image), "-o", str(tmp_path), "--psf", "psf.fits"]) == REFUSED
    assert (
        capsys.readouterr().err == "crowdfit: error: psf.fits: its size is even; cut one row and one column\n"
    )


def test_nothing_to_look_for_and_no_list_is_refused(image: Path, tmp_path: Path, fit_image: Fits, capsys):
    """Forced photometry without positions is a mistake, not an empty catalogue."""
    assert main(["fit", str(image), "-o", str(tmp_path), "-c", "forced"]) == REFUSED
    assert "give a list of stars with --positions" in capsys.readouterr().err

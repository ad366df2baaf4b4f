"""The README does what it says: its example runs, its commands exist, its tables are those of the code.

``python tests/test_readme.py`` writes the tables anew.
"""

import re
import sys
from pathlib import Path

import pytest

from crowdfit import __version__, config, simulate
from docs import tables
from tests import pages

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def generated(text):
    """Return the README with its tables made from the code."""
    for name, table in tables.README.items():
        begin, end = (
            re.search(rf"^<!-- {name}: {mark}.*-->\n", text, re.MULTILINE) for mark in ("begin", "end")
        )
        text = text[: begin.end()] + table() + text[end.start() :]
    return text


@pytest.mark.parametrize("name", tables.README)
def test_tables_are_those_of_the_code(name):
    """C042, P076: columns and flags are documented from their definition."""
    assert tables.README[name]() in TEXT, "run: python tests/test_readme.py"


def test_nothing_but_the_tables_is_generated():
    assert generated(TEXT) == TEXT
    assert generated(TEXT.replace("| 1 | `core_masked`", "| 2 | `core_masked`")) == TEXT


def test_example_runs(tmp_path, monkeypatch, capsys):
    """The ten lines of Python on a small field with the name they use (P043)."""
    (example,) = pages.blocks(TEXT, "python")
    assert len(example.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    scene = simulate.named_scene("demo", nx=160, ny=160, n_stars=300)
    field = simulate.simulate(scene)
    field.write("field.fits")
    seen = {}
    exec(compile(example, str(README), "exec"), seen)
    assert 50 < len(seen["stars"]) < 300
    assert 0 < len(seen["good"]) < len(seen["stars"])
    assert seen["result"].psf.fwhm == pytest.approx(4.2, abs=0.3)
    assert "stars, FWHM 4." in capsys.readouterr().out
    written = {path.name for path in Path("results").iterdir()}
    assert written == {"field_catalog.fits", "field_fit.fits", "field_report.html"}


def test_set_up_is_two_commands():
    """C001: word for word what the README promises, one line each."""
    lines = "".join(pages.blocks(TEXT, "sh")).splitlines()
    assert "python -m pip install . && crowdfit demo" in lines
    assert "python -m pip install '.[test]' && python -m pytest" in lines


@pytest.mark.parametrize("words", pages.crowdfit_commands(TEXT), ids=" ".join)
def test_commands_exist(words):
    """Every command of the README is one, with options that it takes and settings that are accepted (P001)."""
    pages.check_command(words)


def test_every_command_is_mentioned():
    assert {words[0] for words in pages.crowdfit_commands(TEXT)} | {"simulate", "columns", "flags"} == set(
        tables.COMMANDS
    )
    assert all(f"`crowdfit {name}" in TEXT for name in ("simulate", "columns", "flags"))


def test_configuration_example_loads(tmp_path):
    """P002: inheritance, a schedule, and another kind of stage, as shown."""
    (text,) = pages.blocks(TEXT, "yaml")
    path = tmp_path / "my.yaml"
    path.write_text(text)
    chosen = config.load_config(path)
    assert chosen.detect.nsigma == (10, 10, 5)
    assert (chosen.sky.kind, chosen.sky.mesh_px, chosen.stop.max_passes) == ("blocks", 64, 8)
    assert chosen.psf_update.max_stars == config.load_config("nircam_lw").psf_update.max_stars


def test_settings_named_in_the_text_exist():
    """Each `stage.field` in code type is a setting; so is every key of the masking table."""
    named = pages.named_settings(TEXT)
    assert len(named) > 12
    assert [setting for setting in named if not pages.is_setting(setting)] == []


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    targets = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert {target[1:] for target in targets if target.startswith("#")} <= anchors
    local = [target for target in targets if not target.startswith(("#", "http"))]
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_changelog_knows_the_version():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{__version__}]" in changes or "[Unreleased]" in changes


if __name__ == "__main__":
    README.write_text(generated(TEXT), encoding="utf-8")
    sys.exit(0)

"""The README does what it says: its example runs, its commands exist, its tables are those of the code.

``python tests/test_readme.py`` writes the tables anew.
"""

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from crowdfit import __version__, catalog, config, config_layers, config_schema, flags, simulate
from crowdfit.calibration.columns import CALIBRATED_COLUMNS
from crowdfit.cli import app
from crowdfit.detectors.destripe import Destripe

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
COMMANDS = get_command(app).commands


def blocks(language):
    """Return the code blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def shell_lines():
    """Return the words of each command in the shell blocks, without comments."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    parts = [part for line in lines for part in line.split("&&")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def crowdfit_commands():
    """Return the arguments of each call of `crowdfit` in the README."""
    return [words[1:] for words in shell_lines() if words[0] == "crowdfit"]


def markdown(heading, rows):
    """Return a Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def described(columns):
    """Return name, unit and meaning of each column."""
    unit = {catalog.IMAGE: "*image*"}
    return [(f"`{c.name}`", unit.get(c.unit, c.unit), c.text) for c in columns]


def columns_table():
    """Return the column table of the README."""
    rows = [
        (*row, f"`{c.alias}`" if c.alias else "")
        for row, c in zip(described(catalog.COLUMNS), catalog.COLUMNS, strict=True)
    ]
    return markdown(("column", "unit", "meaning", "crowdsource"), rows)


def averages_table():
    """Return the table of the columns of `crowdfit average`."""
    return markdown(("column", "unit", "meaning"), described(catalog.AVERAGE_COLUMNS))


def flags_table():
    """Return the flag table of the README."""
    return markdown(
        ("value", "name", "meaning"), [(str(f.value), f"`{f.name}`", f.text) for f in flags.SOURCE_FLAGS]
    )


def aperture_flags_table():
    """Return the table of the bits of `aper_flags`."""
    rows = [(str(f.value), f"`{f.name}`", f.text) for f in flags.APERTURE_FLAGS]
    return markdown(("value", "name", "meaning"), rows)


def stages_table():
    """Return the table of stages and their kinds."""
    rows = [
        (f"`{stage}`" if first else "", f"`{kind}`" if kind else "", config_schema.summary(cls))
        for stage, kinds in config_schema.members(config.Config).items()
        for first, (kind, cls) in zip([True] + [False] * len(kinds), kinds.items(), strict=False)
    ]
    return markdown(("stage", "kind", "what it does"), rows)


def calibrated_table():
    """Return the table of the columns that a calibration adds."""
    return markdown(("column", "unit", "meaning"), described(CALIBRATED_COLUMNS))


TABLES = {
    "columns": columns_table,
    "averages": averages_table,
    "calibrated": calibrated_table,
    "flags": flags_table,
    "aperture_flags": aperture_flags_table,
    "stages": stages_table,
}


def generated(text):
    """Return the README with its tables made from the code."""
    for name, table in TABLES.items():
        begin, end = (
            re.search(rf"^<!-- {name}: {mark}.*-->\n", text, re.MULTILINE) for mark in ("begin", "end")
        )
        text = text[: begin.end()] + table() + text[end.start() :]
    return text


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_code(name):
    """C042, P076: columns and flags are documented from their definition."""
    assert TABLES[name]() in TEXT, "run: python tests/test_readme.py"


def test_nothing_but_the_tables_is_generated():
    assert generated(TEXT) == TEXT
    assert generated(TEXT.replace("| 1 | `core_masked`", "| 2 | `core_masked`")) == TEXT


def test_example_runs(tmp_path, monkeypatch, capsys):
    """The ten lines of Python on a small field with the name they use (P043)."""
    (example,) = blocks("python")
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
    lines = "".join(blocks("sh")).splitlines()
    assert "python -m pip install . && crowdfit demo" in lines
    assert "python -m pip install '.[test]' && python -m pytest" in lines


@pytest.mark.parametrize("words", crowdfit_commands(), ids=" ".join)
def test_commands_exist(words):
    """Every command of the README is one, with options that it takes and settings that are accepted (P001)."""
    command = COMMANDS[words[0]]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known
    names = [words[i + 1] for i, word in enumerate(words) if word == "-c"]
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    if words[0] == "destripe":  # it has settings of its own
        config_layers.resolve(Destripe, {}, None, settings)
        return
    for name in names or [None]:
        config.load_config(None if name == "my.yaml" else name, settings)


def test_every_command_is_mentioned():
    assert {words[0] for words in crowdfit_commands()} | {"simulate", "columns", "flags"} == set(COMMANDS)
    assert all(f"`crowdfit {name}" in TEXT for name in ("simulate", "columns", "flags"))


def test_configuration_example_loads(tmp_path):
    """P002: inheritance, a schedule, and another kind of stage, as shown."""
    (text,) = blocks("yaml")
    path = tmp_path / "my.yaml"
    path.write_text(text)
    chosen = config.load_config(path)
    assert chosen.detect.nsigma == (10, 10, 5)
    assert (chosen.sky.kind, chosen.sky.mesh_px, chosen.stop.max_passes) == ("blocks", 64, 8)
    assert chosen.psf_update.max_stars == config.load_config("nircam_lw").psf_update.max_stars


def test_settings_named_in_the_text_exist():
    """Each `stage.field` in code type is a setting; so is every key of the masking table."""
    stages = config_schema.members(config.Config)
    named = set(re.findall(r"`(?:--set )?([a-z_]+)\.([a-z_]+)(?:[:=][^`]*)?`", TEXT))
    named = {(stage, field) for stage, field in named if stage in stages}
    assert len(named) > 12
    for stage, field in named:
        fields = {name for cls in stages[stage].values() for name in config_schema.options(cls)}
        assert field in fields | {"kind"}, f"{stage}.{field}"


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

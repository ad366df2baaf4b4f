"""The pages of the documentation name what exists: settings, commands, tables, links; building them runs the rest."""

import re
from pathlib import Path

import pytest

import crowdfit
from crowdfit import config, config_schema
from docs import fields, tables
from tests import pages

FOLDER = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(path for path in FOLDER.rglob("*.md") if "_build" not in path.parts)
TEXTS = {path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
NAMES = [name for name, text in TEXTS.items() if "{include}" not in text]


def shell_commands():
    """Return page and arguments of each call of `crowdfit`, in cells that are run and in blocks that are not."""
    return [
        (name, words)
        for name, text in TEXTS.items()
        for language in ("sh", "{code-cell}")
        for words in pages.crowdfit_commands(text, language)
    ]


def inline_commands(text):
    """Return the words of each `crowdfit COMMAND ...` in code type."""
    return [words.split() for words in re.findall(r"`crowdfit ([a-z][^`]*)`", text)]


@pytest.mark.parametrize("name", NAMES)
def test_settings_exist(name):
    found = pages.named_settings(TEXTS[name])
    assert [setting for setting in found if not pages.is_setting(setting)] == []


def test_settings_are_found():
    """The reader of settings is not blind, and knows those that there are not."""
    assert len({name for text in TEXTS.values() for name in pages.named_settings(text)}) > 40
    assert pages.named_settings("`sky.mesh_px: 3`, `--set detect.nsigma=4`, `flags.has`") == [
        "sky.mesh_px", "detect.nsigma",
    ]  # fmt: skip
    assert not pages.is_setting("sky.mesh_width")


@pytest.mark.parametrize("name", NAMES)
def test_values_of_settings_are_accepted(name):
    """`stage.field: value` in code type is a value that the setting takes."""
    stages = config_schema.members(config.Config)
    for stage, field, value in re.findall(r"`([a-z_]+)\.([a-z_]+): ([^`]+)`", TEXTS[name]):
        if stage in stages and (stage, field) != ("sky", "level"):
            kinds = [
                kind for kind, cls in stages[stage].items() if field == "kind" or field in config_schema.options(cls)
            ]  # fmt: skip
            kind = [f"{stage}.kind={kinds[0]}"] if field != "kind" and kinds[0] else []
            config.load_config(None, [*kind, f"{stage}.{field}={value}"])


@pytest.mark.parametrize(
    ("name", "words"),
    shell_commands(),
    ids=[f"{name}: {' '.join(words)}" for name, words in shell_commands()],
)
def test_commands_exist(name, words):
    assert name in TEXTS
    pages.check_command(words)


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_sentences_exist(name):
    for command, *words in inline_commands(TEXTS[name]):
        known = {option for entry in tables.COMMANDS[command].params for option in entry.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_configurations_exist():
    named = {name for text in TEXTS.values() for name in re.findall(r"`-c ([a-z_0-9]+)`", text)}
    assert len(named) > 3
    assert named <= set(config.shipped())


def test_every_page_is_in_the_contents():
    listed = re.findall(r"^(?:[\w ]+<)?([\w/]+)>?$", TEXTS["index.md"], re.MULTILINE)
    assert {f"{name}.md" for name in listed} >= set(TEXTS) - {"index.md"}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    targets = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", TEXTS[name])
    assert [target for target in targets if not (FOLDER / name).parent.joinpath(target).exists()] == []


def test_tables_are_filled():
    asked = {
        table
        for text in TEXTS.values()
        for table in re.findall(r"^<!-- table: (\w+) -->$", text, re.MULTILINE)
    }
    assert asked == set(tables.ALL) - {"stages"}
    filled = tables.filled("before\n<!-- table: flags -->\nafter\n")
    assert filled == f"before\n{tables.flags_table()}\nafter\n"
    with pytest.raises(KeyError):
        tables.filled("<!-- table: nothing -->")


def test_every_setting_is_in_the_reference():
    text = tables.settings_tables()
    for stage, kinds in config_schema.members(config.Config).items():
        assert f"## `{stage}`\n" in text
        for cls in kinds.values():
            assert all(f"| `{name}` |" in text for name in config_schema.options(cls))


def test_every_command_is_in_the_reference():
    text = tables.commands_tables()
    assert all(f"## `crowdfit {name}`\n" in text for name in tables.COMMANDS)
    assert "`-c NAME\\|FILE`" in text


def test_public_names_are_in_the_reference():
    for name in set(crowdfit.__all__) - {"__version__"}:
        assert f":: crowdfit.{name}\n" in TEXTS["reference/api.md"]


def test_fields_of_the_tutorials_are_named():
    used = {name for text in TEXTS.values() for name in re.findall(r"python -m docs\.fields (\w+)", text)}
    assert used == set(fields.FIELDS)


def test_field_is_drawn(tmp_path, monkeypatch):
    """The smallest one; building the documentation draws and fits all."""
    monkeypatch.chdir(tmp_path)
    assert fields.cluster() == [Path("cluster_B.fits"), Path("cluster_V.fits")]
    assert {path.name for path in tmp_path.iterdir()} == {
        "cluster_B.fits",
        "cluster_V.fits",
        "cluster_truth.ecsv",
    }

"""Tables of the documentation, made from the code: columns, flags, settings, commands.

`README` are those of the README, which `python tests/test_readme.py` writes; `ALL` are those that a page of the
documentation asks for by name, in a comment such as ``<!-- table: columns -->``.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from typer.main import get_command

from crowdfit import catalog, config, config_schema, flags
from crowdfit.calibration.columns import CALIBRATED_COLUMNS
from crowdfit.catalog import Column
from crowdfit.cli import app
from crowdfit.colours import COLOUR_COLUMNS
from crowdfit.config_yaml import write_value

COMMANDS: dict[str, Any] = dict(getattr(get_command(app), "commands", {}))
"""The commands of the command line by name, as typer knows them."""


def markdown(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heading, ["---"] * len(heading), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def described(columns: Iterable[Column]) -> list[tuple[str, str, str]]:
    """Return name, unit and meaning of each column."""
    unit = {catalog.IMAGE: "*image*"}
    return [(f"`{c.name}`", unit.get(c.unit, c.unit), c.text) for c in columns]


def columns_table() -> str:
    """Return the columns of a catalogue, with the names of crowdsource."""
    rows = [
        (*row, f"`{c.alias}`" if c.alias else "")
        for row, c in zip(described(catalog.COLUMNS), catalog.COLUMNS, strict=True)
    ]
    return markdown(("column", "unit", "meaning", "crowdsource"), rows)


def averages_table() -> str:
    """Return the columns of `crowdfit average`."""
    return markdown(("column", "unit", "meaning"), described(catalog.AVERAGE_COLUMNS))


def calibrated_table() -> str:
    """Return the columns that a calibration adds."""
    return markdown(("column", "unit", "meaning"), described(CALIBRATED_COLUMNS))


def segments_table() -> str:
    """Return the columns of extended sources."""
    return markdown(("column", "unit", "meaning"), described(catalog.SEGMENT_COLUMNS))


def colours_table() -> str:
    """Return the columns of `crowdfit cmd`."""
    return markdown(("column", "unit", "meaning"), described(COLOUR_COLUMNS))


def flags_table() -> str:
    """Return the bits of the column `flags`."""
    return markdown(
        ("value", "name", "meaning"), [(str(f.value), f"`{f.name}`", f.text) for f in flags.SOURCE_FLAGS]
    )


def aperture_flags_table() -> str:
    """Return the bits of the column `aper_flags`."""
    rows = [(str(f.value), f"`{f.name}`", f.text) for f in flags.APERTURE_FLAGS]
    return markdown(("value", "name", "meaning"), rows)


def stages_table() -> str:
    """Return the stages and their kinds."""
    rows = [
        (f"`{stage}`" if first else "", f"`{kind}`" if kind else "", config_schema.summary(cls))
        for stage, kinds in config_schema.members(config.Config).items()
        for first, (kind, cls) in zip([True] + [False] * len(kinds), kinds.items(), strict=False)
    ]
    return markdown(("stage", "kind", "what it does"), rows)


def settings_tables() -> str:
    """Return every setting of every stage, under a heading for each stage and kind."""
    parts = []
    for stage, kinds in config_schema.members(config.Config).items():
        parts.append(f"## `{stage}`\n")
        for kind, cls in kinds.items():
            title = f"### `{stage}.kind: {kind}`\n\n" if kind else ""
            parts.append(f"{title}{config_schema.summary(cls)}\n")
            if rows := _settings(cls):
                parts.append(markdown(("setting", "default", "takes", "meaning"), rows))
    return "\n".join(parts)


def _settings(cls: type) -> list[tuple[str, str, str, str]]:
    """Return name, default, range and meaning of the settings of a stage."""
    rows = []
    for name, info in config_schema.options(cls).items():
        default = (
            "" if info.is_required() else f"`{write_value(info.get_default(call_default_factory=True))}`"
        )
        rows.append((f"`{name}`", default, config_schema.allowed(cls, name), info.description or ""))
    return rows


def shipped_table() -> str:
    """Return the configurations that come with crowdfit and what they are for."""
    rows = []
    for name, path in config.shipped().items():
        first, *_ = path.read_text(encoding="utf-8").splitlines()
        rows.append((f"`{name}`", first.removeprefix("#").strip()))
    return markdown(("name", "for"), rows)


def commands_tables() -> str:
    """Return the commands with their arguments and options, under a heading each."""
    parts = []
    for name, command in COMMANDS.items():
        arguments = " ".join(
            option.metavar or option.name.upper()
            for option in command.params
            if option.param_type_name == "argument"
        )
        parts.append(f"## `crowdfit {name}`\n")
        parts.append(f"{command.help}\n\n```text\n{f'crowdfit {name} [OPTIONS] {arguments}'.strip()}\n```\n")
        rows = [(_names(option), " ".join((option.help or "").split())) for option in command.params]
        if rows:
            parts.append(markdown(("argument or option", "meaning"), rows))
    return "\n".join(parts)


def _names(option: Any) -> str:
    """Return how an argument or option is written."""
    if option.param_type_name == "argument":
        return f"`{option.metavar or option.name.upper()}`"
    metavar = f" {option.metavar}" if option.metavar else ""
    return ", ".join(f"`{name}{metavar}`" for name in option.opts)


def stage_classes() -> str:
    """Return directives that document the class of every stage and kind, under a heading for each stage."""
    parts = []
    for stage, kinds in config_schema.members(config.Config).items():
        parts.append(f"## `{stage}`\n")
        parts += [
            f"```{{eval-rst}}\n.. autoclass:: {c.__module__}.{c.__name__}\n```\n" for c in kinds.values()
        ]
    return "\n".join(parts)


README: dict[str, Callable[[], str]] = {
    "columns": columns_table,
    "averages": averages_table,
    "calibrated": calibrated_table,
    "flags": flags_table,
    "aperture_flags": aperture_flags_table,
    "stages": stages_table,
}
ALL: dict[str, Callable[[], str]] = {
    **README,
    "segments": segments_table,
    "colours": colours_table,
    "settings": settings_tables,
    "shipped": shipped_table,
    "commands": commands_tables,
    "stage_classes": stage_classes,
}


def filled(text: str) -> str:
    """Return a page with its tables in place of the comments that ask for them.

    Raises
    ------
    KeyError
        A comment names a table that is not in `ALL`.
    """
    return re.sub(r"^<!-- table: (\w+) -->$", lambda match: ALL[match[1]](), text, flags=re.MULTILINE)

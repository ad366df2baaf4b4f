"""What `benchmarks.tune` may change: settings with their ranges, from the configuration or from the command line."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import TypeAdapter

from crowdfit.config import Config, override
from crowdfit.config_layers import to_plain
from crowdfit.config_schema import members, nearest, options
from crowdfit.config_yaml import parse_override, strip_origins, write_value
from crowdfit.errors import ConfigError

DIGITS = 4
"""Significant digits of a number tried: nobody wants more in a file, and no benchmark can tell them apart."""
_KEY = re.compile(r"(?P<stage>\w+)\.(?P<field>\w+)(?:\[(?P<place>-?\d+)\])?")

Suggested: TypeAlias = "float | int | str"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones, or evenly spread in their logarithm."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}{':log' if self.log else ''}"

    def value_of(self, suggested: Suggested) -> object:
        """Return the value of the setting for a suggested number."""
        return int(suggested) if self.whole else float(f"{float(suggested):.{DIGITS}g}")


@dataclass(frozen=True)
class Choices:
    """Values in YAML, one of which is taken."""

    texts: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.texts)

    def value_of(self, suggested: Suggested) -> object:
        """Return the value of the setting for a suggested text."""
        return strip_origins(parse_override(f"value={suggested}"))["value"]


@dataclass(frozen=True)
class Varied:
    """A setting that is varied: `stage.field`, or `stage.field[place]` for one entry of a list."""

    key: str
    domain: Range | Choices

    @property
    def path(self) -> str:
        """The key without the place in a list."""
        return self.key.partition("[")[0]

    def settings(self, config: Config, suggested: Suggested) -> dict[str, object]:
        """Return the dotted setting for a suggestion, of a configuration that says the rest of a list."""
        value = self.domain.value_of(suggested)
        if self.path != self.key:
            stage, _, field = self.path.partition(".")
            entries = list(to_plain(config)[stage][field])
            entries[int(self.key.partition("[")[2][:-1])] = value
            value = entries
        return {self.path: value}


def settings_of(
    space: Sequence[Varied], config: Config, suggested: dict[str, Suggested]
) -> dict[str, object]:
    """Return all settings of a trial; several entries of one list are put together."""
    settings: dict[str, object] = {}
    for varied in space:
        config_now = (
            override(config, {varied.path: settings[varied.path]}) if varied.path in settings else config
        )
        settings |= varied.settings(config_now, suggested[varied.key])
    return settings


def read_space(texts: Iterable[str], config: Config) -> tuple[Varied, ...]:
    """Return what is varied.

    Parameters
    ----------
    texts : iterable of str
        `stage.field=low:high`, `stage.field=low:high:log`, `stage.field=a,b,c`, or `stage.field` alone
        when the configuration bounds it on both sides or lists its values. `stage.field[-1]` is the last
        entry of a list.
    config : Config
        What is started from; its kinds say which fields there are.

    Raises
    ------
    ConfigError
        Unknown settings, ranges that are none or that the configuration refuses, a setting said twice.
    """
    space = tuple(_read(text, config) for text in texts)
    keys = [varied.key for varied in space]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ConfigError(f"--vary {twice[0]}: said twice; keep one")
    kinds = {varied.path.partition(".")[0] for varied in space if varied.path.endswith(".kind")}
    for varied in space:
        stage = varied.path.partition(".")[0]
        if stage in kinds and not varied.path.endswith(".kind"):
            raise ConfigError(
                f"--vary {varied.key}: {stage}.kind varies too, and each kind has fields of its own; "
                "make one study for each kind"
            )
        _check_ends(varied, config)
    return space


def _read(text: str, config: Config) -> Varied:
    """Return one varied setting."""
    key, equals, words = text.partition("=")
    key = key.strip()
    schema = _schema(key, config)
    if not equals:
        return Varied(key, _known(key, schema))
    if re.fullmatch(r"\s*[^\[,:]+:[^\[,:]+(:log)?\s*", words):
        return Varied(key, _range(text, words, schema))
    values = strip_origins(parse_override(f"values=[{words}]"))["values"]
    if len(values) < 2:
        raise ConfigError(f"--vary {text}: one value is no choice; write low:high, or several values")
    return Varied(key, Choices(tuple(write_value(value) for value in values)))


def _schema(key: str, config: Config) -> dict[str, Any]:
    """Return the JSON schema of a setting, or of the entries of a list when the key ends in a place."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise ConfigError(f"--vary {key}: write stage.field, or stage.field[-1] for the last entry of a list")
    stage, name, place = found["stage"], found["field"], found["place"]
    stages = to_plain(config)
    if stage not in stages:
        raise ConfigError(
            f"--vary {key}: no such stage; {nearest(stage, stages)}they are {', '.join(stages)}"
        )
    if name not in stages[stage]:
        raise ConfigError(
            f"--vary {key}: no such field; {nearest(name, stages[stage])}{stage} has {', '.join(stages[stage])}"
        )
    if name == "kind":
        return {"enum": list(members(Config)[stage])}
    schema = _field_schema(type(getattr(config, stage)), name)
    if place is None:
        return schema
    value = stages[stage][name]
    if not isinstance(value, list) or not -len(value) <= int(place) < len(value):
        raise ConfigError(f"--vary {key}: {stage}.{name} is {write_value(value)}, which has no such entry")
    return dict(schema.get("items", {}))


def _field_schema(cls: type, name: str) -> dict[str, Any]:
    """Return the JSON schema of a field; of an optional one that of its value."""
    info = options(cls)[name]
    annotation: Any = info.annotation
    for constraint in info.metadata:
        annotation = Annotated[annotation, constraint]
    schema = TypeAdapter(annotation).json_schema()
    parts = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    return dict(parts[0]) if len(parts) == 1 else {}


def _is_whole(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "integer"


def _known(key: str, schema: dict[str, Any]) -> Range | Choices:
    """Return all values that the configuration allows, when it bounds them.

    Raises
    ------
    ConfigError
        When it does not.
    """
    if schema.get("type") == "boolean":
        return Choices(("false", "true"))
    if len(schema.get("enum", ())) > 1:
        return Choices(tuple(write_value(value) for value in schema["enum"]))
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None or high is None:
        raise ConfigError(f"--vary {key}: the configuration does not bound it; write --vary {key}=LOW:HIGH")
    step = 1.0 if _is_whole(schema) else 1e-3 * (high - low)
    low += step if "minimum" not in schema else 0
    high -= step if "maximum" not in schema else 0
    return Range(low, high, _is_whole(schema))


def _range(text: str, words: str, schema: dict[str, Any]) -> Range:
    """Return a range as written."""
    ends, log = words.strip().removesuffix(":log"), words.strip().endswith(":log")
    try:
        low, high = (float(word) for word in ends.split(":"))
    except ValueError:
        raise ConfigError(f"--vary {text}: {ends} is no range of numbers; write low:high") from None
    if not low < high or (log and low <= 0):
        raise ConfigError(f"--vary {text}: low must be below high{', and above 0 for log' if log else ''}")
    whole = _is_whole(schema)
    if whole and (low % 1 or high % 1):
        raise ConfigError(f"--vary {text}: this setting takes whole numbers; give whole bounds")
    return Range(low, high, whole, log)


def _check_ends(varied: Varied, config: Config) -> None:
    """Refuse values that the configuration refuses, before the first trial."""
    domain = varied.domain
    ends = (domain.low, domain.high) if isinstance(domain, Range) else domain.texts
    for end in ends:
        try:
            override(config, varied.settings(config, end))
        except ConfigError as error:
            raise ConfigError(f"--vary {varied.key}={domain}: {error}") from None

"""What a configuration class accepts, in words: kinds, fields, allowed values, and why a value was refused.

Works on any pydantic dataclass whose fields are stages; a stage is a pydantic dataclass, or a union of them
told apart by `kind` whose first member is the default.
"""

import difflib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from crowdfit.config_yaml import Node, Tree, first_origin, strip_origins, write_value

_NOT_A_MAPPING = ("dataclass_type", "model_attributes_type", "dataclass_exact_type")
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "at least",
    "exclusiveMaximum": "less than",
    "maximum": "at most",
}
_SIMPLE = {"number": "a number", "integer": "an integer", "boolean": "true or false", "null": "null"}


@cache
def members(config_class: type) -> dict[str, dict[str, type]]:
    """Return, for each stage, its classes by `kind` in order; the default comes first.

    A stage without `kind` has the single key "".
    """
    hints = get_type_hints(config_class)
    return {
        field.name: {_kind_of(cls): cls for cls in get_args(hints[field.name]) or (hints[field.name],)}
        for field in fields(config_class)
    }


def _kind_of(cls: type) -> str:
    """Return the `kind` of a stage class, or nothing when it has none."""
    hint = get_type_hints(cls).get("kind")
    return str(get_args(hint)[0]) if get_origin(hint) is Literal else ""


def default_kind(config_class: type, stage: str) -> str:
    """Return the kind a stage has when nothing is said; nothing for a key that is no stage."""
    return next(iter(members(config_class).get(stage, "")), "")


def options(cls: type) -> dict[str, FieldInfo]:
    """Return the fields of a stage class that can be set, in order, without `kind`."""
    described: dict[str, FieldInfo] = vars(cls)["__pydantic_fields__"]
    settable = {field.name for field in fields(cls) if field.init}
    return {name: info for name, info in described.items() if name in settable and name != "kind"}


def summary(cls: type) -> str:
    """Return the first paragraph of a class's documentation on one line."""
    return " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())


@cache
def allowed(cls: type, name: str) -> str:
    """Return what the field `name` of a stage class accepts, in words with the range."""
    info = options(cls)[name]
    annotation: Any = info.annotation
    for constraint in info.metadata:
        annotation = Annotated[annotation, constraint]
    return _in_words(TypeAdapter(annotation).json_schema())


def _in_words(schema: dict[str, Any]) -> str:
    """Return a JSON schema of a field as a phrase that fits after "is not"."""
    if "anyOf" in schema:
        return " or ".join(_in_words(part) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ("one of " if len(values) > 1 else "") + ", ".join(repr(value) for value in values)
    match schema.get("type", "object" if "$ref" in schema else ""):
        case "array":
            return _list_in_words(schema)
        case "object":
            values = schema.get("additionalProperties")
            return f"a mapping, each value {_in_words(values)}" if values else "a mapping"
        case "string":
            return "a path" if schema.get("format") == "path" else "text"
        case name:
            return f"{_SIMPLE.get(name, 'a value of the right type')} {_range_in_words(schema)}".strip()


def _range_in_words(schema: dict[str, Any]) -> str:
    """Return the bounds of a number as a phrase, empty without bounds."""
    if "minimum" in schema and "maximum" in schema:
        return f"from {schema['minimum']:.12g} to {schema['maximum']:.12g}"
    bounds = " and ".join(f"{words} {schema[key]:.12g}" for key, words in _BOUNDS.items() if key in schema)
    return f"of {bounds}" if bounds.startswith("at ") else bounds


def _list_in_words(schema: dict[str, Any]) -> str:
    """Return the schema of a list as a phrase."""
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])}: " + ", ".join(map(_in_words, schema["prefixItems"]))
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    length = f" of at least {least}" if least else ""
    length += f"{' and' if least else ' of'} at most {most}" if most else ""
    return f"a list{length}, each item {_in_words(schema.get('items', {}))}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean ...? " for the known word that is most like `word`, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]}? " if found else ""


def explain(error: ValidationError, tree: Tree, config_class: type) -> list[str]:
    """Return one line for each refused setting, in the order of the configuration.

    Parameters
    ----------
    error : ValidationError
        What pydantic said about the plain values of `tree`.
    tree : dict
        The merged settings, for values and origins.
    config_class : type
        The configuration class the tree was checked against.
    """
    order = {name: i for i, name in enumerate(members(config_class))}
    refused = [_Refused.of(detail, tree, config_class) for detail in error.errors(include_url=False)]
    lines: dict[str, str] = {}
    for item in sorted(refused, key=lambda item: order.get(item.stage, -1)):
        lines.setdefault(item.key, item.line())
    return list(lines.values())


@dataclass(frozen=True)
class _Refused:
    """One refused setting: pydantic's detail, placed in the configuration; `within` a value or all of it."""

    detail: ErrorDetails
    tree: Tree
    config_class: type
    stage: str
    field: str
    within: bool

    @classmethod
    def of(cls, detail: ErrorDetails, tree: Tree, config_class: type) -> "_Refused":
        """Place a detail: its location is stage, tag of the union when there is one, field, part of value."""
        stage, *rest = (str(part) for part in detail["loc"])
        if rest and len(members(config_class).get(stage, {})) > 1:
            rest = rest[1:]
        return cls(detail, tree, config_class, stage, rest[0] if rest else "", len(rest) > 1)

    @property
    def key(self) -> str:
        """The full key path, without the tag of the union."""
        return f"{self.stage}.{self.field}" if self.field else self.stage

    @property
    def kinds(self) -> dict[str, type]:
        """The classes of the stage by kind."""
        return members(self.config_class).get(self.stage, {})

    def found(self, *path: str) -> Node:
        """Return what was written at a path, or an empty tree."""
        item: Node = self.tree
        for part in path:
            item = item.get(part, {}) if isinstance(item, dict) else {}
        return item

    def line(self) -> str:
        """Return the message: key, value, what is wrong, where it was written, what would be right."""
        kind = self.detail["type"]
        if kind in _UNKNOWN:
            return self._unknown_field() if self.field else self._unknown_stage()
        if kind == "union_tag_invalid" or (self.field == "kind" and kind == "literal_error"):
            return self._unknown_kind()
        if kind in _NOT_A_MAPPING and not self.field:
            return self._not_a_mapping()
        if kind == "missing" and not self.within:
            return self._missing()
        if kind in ("value_error", "assertion_error"):
            reason = str(self.detail["msg"]).partition(", ")[2]
            return f"{self.key}: {reason}{_at(self.found(*self.key.split('.')))}"
        return self._wrong_value()

    def _chosen(self) -> tuple[str, type]:
        """Return the kind in force for the stage and its class."""
        kind = strip_origins(self.found(self.stage, "kind"))
        kind = kind if isinstance(kind, str) and kind in self.kinds else next(iter(self.kinds))
        return kind, self.kinds[kind]

    def _unknown_stage(self) -> str:
        written = self.found(self.stage)
        stages = members(self.config_class)
        places = {
            name: f"{stage}.{name}"
            for stage, kinds in stages.items()
            for cls in kinds.values()
            for name in options(cls)
        }
        hint = f"did you mean {places[self.stage]}? " if self.stage in places else nearest(self.stage, stages)
        given = f"unknown key, set to {_shown(written)}{_at(written)}"
        return f"{self.stage}: {given}; {hint}the keys are {', '.join(stages)}"

    def _unknown_field(self) -> str:
        kind, cls = self._chosen()
        others = [name for name, other in self.kinds.items() if self.field in options(other)]
        known = options(cls)
        hint = f"it belongs to kind {others[0]!r}; " if others else nearest(self.field, [*known, "kind"])
        written = self.found(self.stage, self.field)
        takes = ", ".join(known) or "no fields"
        of = f" of {kind!r}" if kind else ""
        return (
            f"{self.key}: unknown field{of}, set to {_shown(written)}{_at(written)}; {hint}it takes {takes}"
        )

    def _unknown_kind(self) -> str:
        written = self.found(self.stage, "kind")
        names = ", ".join(repr(kind) for kind in self.kinds)
        one_of = "one of " if len(self.kinds) > 1 else ""
        hint = nearest(str(strip_origins(written)), self.kinds)
        return (
            f"{self.stage}.kind: {_shown(written)} is not {one_of}{names}{_at(written)}"
            + (f"; {hint}" if hint else "").rstrip()
        )

    def _not_a_mapping(self) -> str:
        written = self.found(self.stage)
        kind, cls = self._chosen()
        value = strip_origins(written)
        example = (
            f"{{kind: {value if value in list(self.kinds) else kind}}}"
            if kind
            else f"{{{next(iter(options(cls)))}: ...}}"
        )
        return (
            f"{self.stage}: {_shown(written)} is not a mapping{_at(written)}; write {self.stage}: {example}"
        )

    def _missing(self) -> str:
        kind, cls = self._chosen()
        of = f" with kind {kind!r}" if kind else ""
        return (
            f"{self.key}: must be given{of}{_at(self.found(self.stage))}; it takes {allowed(cls, self.field)}"
        )

    def _wrong_value(self) -> str:
        _, cls = self._chosen()
        written = self.found(self.stage, self.field)
        value = strip_origins(written)
        words = allowed(cls, self.field)
        hint = ""
        if isinstance(value, str) and "'" in words:
            hint = nearest(value, words.split("'")[1::2])
        elif "text" in words and not isinstance(value, list | dict):
            hint = "put it in quotes"
        return f"{self.key}: {_shown(written)} is not {words}{_at(written)}" + (
            f"; {hint.strip()}" if hint else ""
        )


def _shown(written: Node) -> str:
    """Return a value as a message shows it: text in quotes, not longer than a line."""
    value = strip_origins(written)
    text = repr(value) if isinstance(value, str) else write_value(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _at(written: Node) -> str:
    """Return the origin in brackets, with a space before it, or nothing."""
    origin = first_origin(written)
    return f" ({origin})" if origin else ""

"""Configuration files as trees of settings, each of which remembers where it was written.

YAML is read from its node graph, so nothing but plain values can come out of a file, duplicate keys are
seen, and every value keeps its line. Two traps of YAML 1.1 are closed here: `1e-4` is a number, and
`on`, `off`, `yes`, `no` stay words until the type of the field says whether a switch is meant (P006).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from crowdfit.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """One value and where it came from.

    Parameters
    ----------
    value : None, int, float, str, list or dict
        Plain value; switches are still the word that was written.
    origin : str
        `FILE, line N` or `--set KEY=VALUE`.
    """

    value: Any
    origin: str


LONGEST = 100
"""So many letters of what was written does a message repeat."""

Node: TypeAlias = "Setting | dict[str, Node]"
Tree: TypeAlias = dict[str, Node]

_TAG = "tag:yaml.org,2002:"
_WORDS = "true True TRUE false False FALSE yes Yes YES no No NO on On ON off Off OFF"
_NUMBER_STARTS = list("-+.0123456789")
_IMPLICIT = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(rf"^(?:{_WORDS.replace(' ', '|')})$"), list("tTfFyYnNoO")),
    ("int", re.compile(r"^(?:[-+]?[0-9]+(?:_[0-9]+)*|0x[0-9a-fA-F]+)$"), _NUMBER_STARTS),
    (
        "float",
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        _NUMBER_STARTS,
    ),
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Return PyYAML's table of plain-scalar types, made from `_IMPLICIT` and nothing else."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, pattern, starts in _IMPLICIT:
        for start in starts:
            table.setdefault(start, []).append((_TAG + name, pattern))
    return table


class _Loader(yaml.SafeLoader):
    """Composes nodes with our idea of what a plain scalar means."""

    yaml_implicit_resolvers = _resolvers()


class _Dumper(yaml.SafeDumper):
    """Writes with the same idea, so that text reads back as text."""

    yaml_implicit_resolvers = _resolvers()


def write_value(value: Any) -> str:
    """Return a plain value as YAML on one line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("...\n").strip()


def read_tree(path: Path, label: str) -> Tree:
    """Return the settings of a YAML file.

    Parameters
    ----------
    path : Path
        File to read, UTF-8.
    label : str
        Name of the file in origins and messages.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, is not a mapping, or says a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{label}: cannot read this configuration ({error.strerror}); check the path"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{label}: this is not a text file in UTF-8; a configuration is YAML") from None
    tree = _Source(label).parse(text)
    if isinstance(tree, dict):
        return tree
    if tree.value is not None:
        raise ConfigError(f"{label}: this is not a configuration; write a mapping, stage: {{field: value}}")
    return {}


def parse_override(text: str, label: str = "--set") -> Tree:
    """Return the tree that `a.b=value` stands for; the value is read as YAML.

    Parameters
    ----------
    text : str
        Dotted key, equals sign, value.
    label : str
        What stands before the text in origins and messages.

    Raises
    ------
    ConfigError
        If there is no `=`, a part of the key is empty, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    origin = f"{label} {text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'}"
    if not equals or not all(parts):
        raise ConfigError(f"{origin}: write it as key=value, for example {label} sky.kind=fixed")
    return _nest(parts, _Source(origin, with_lines=False).parse(value))


def parse_values(values: Mapping[str, object]) -> Tree:
    """Return the tree for dotted keys with Python values, as `a.b=value` would have given it."""
    texts = (f"{key}={write_value(plain(value))}" for key, value in values.items())
    return merge_all(parse_override(text, label="argument") for text in texts)


def plain(value: Any) -> Any:
    """Return a Python value as YAML knows it: paths are text, tuples lists, array scalars numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value


def merge(parent: Tree, child: Tree) -> Tree:
    """Return `parent` changed by `child`: mappings merge key by key, anything else replaces."""
    merged = dict(parent)
    for key, value in child.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def merge_all(trees: Iterable[Tree]) -> Tree:
    """Return the trees merged in order; the last one wins."""
    merged: Tree = {}
    for tree in trees:
        merged = merge(merged, tree)
    return merged


def strip_origins(tree: Node) -> Any:
    """Return the plain values of a tree."""
    if isinstance(tree, Setting):
        return tree.value
    return {key: strip_origins(item) for key, item in tree.items()}


def first_origin(tree: Node) -> str:
    """Return where the first value of a tree was written, or nothing when it holds none."""
    if isinstance(tree, Setting):
        return tree.origin
    return next(filter(None, map(first_origin, tree.values())), "")


def _nest(parts: list[str], leaf: Node) -> Tree:
    """Return a tree with `leaf` under the keys `parts`."""
    for part in reversed(parts[1:]):
        leaf = {part: leaf}
    return {parts[0]: leaf}


@dataclass(frozen=True)
class _Source:
    """One text being read, with the name it has in messages."""

    label: str
    with_lines: bool = True

    def parse(self, text: str) -> Node:
        """Return the tree of a text, or the single value it holds."""
        try:
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
            finally:
                loader.dispose()
            if node is None:
                return Setting(None, self.label)
            self._refuse_aliases_and_tags(node)
            return self._tree(node)
        except yaml.MarkedYAMLError as error:
            where = f"{self.label}, line {error.problem_mark.line + 1}" if error.problem_mark else self.label
            raise ConfigError(
                f"{where if self.with_lines else self.label}: not valid YAML: {error.problem}"
            ) from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.label}: not valid YAML: {' '.join(str(error).split())}") from None
        except RecursionError:
            raise ConfigError(f"{self.label}: not a configuration: nested too deeply") from None

    def _where(self, node: yaml.Node) -> str:
        return f"{self.label}, line {node.start_mark.line + 1}" if self.with_lines else self.label

    def _refuse_aliases_and_tags(self, root: yaml.Node) -> None:
        """Refuse a node that is used twice (a value has one place and one origin) and any tag."""
        seen: set[int] = set()
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                raise ConfigError(
                    f"{self._where(node)}: aliases (*name) are not used here; write the value out"
                )
            if node.tag.removeprefix(_TAG) not in ("map", "seq", *_SCALARS):
                raise ConfigError(
                    f"{self._where(node)}: the tag {node.tag} is not allowed; write a plain value"
                )
            seen.add(id(node))
            if isinstance(node, yaml.CollectionNode):
                pairs = node.value if isinstance(node, yaml.MappingNode) else [node.value]
                waiting += [item for pair in pairs for item in pair]

    def _tree(self, node: yaml.Node) -> Node:
        if isinstance(node, yaml.MappingNode):
            return {key: self._tree(item) for key, item in self._pairs(node)}
        return Setting(self._value(node), self._where(node))

    def _pairs(self, node: yaml.MappingNode) -> Iterable[tuple[str, yaml.Node]]:
        seen: dict[str, yaml.Node] = {}
        for key_node, item in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self._where(key_node)}: a key must be a word")
            key = key_node.value
            if key in seen:
                first = f" (first at line {seen[key].start_mark.line + 1})" if self.with_lines else ""
                raise ConfigError(f"{self._where(key_node)}: {key} is said twice{first}; keep one")
            seen[key] = key_node
            yield key, item

    def _value(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return {key: self._value(item) for key, item in self._pairs(node)}
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item) for item in node.value]
        try:
            return _SCALARS[node.tag.removeprefix(_TAG)](node.value)
        except (ValueError, KeyError):
            raise ConfigError(f"{self._where(node)}: {node.value!r} does not fit its tag") from None


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": str,
    "int": lambda text: int(text, 16 if text.startswith("0x") else 10),
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
}

"""From configuration files and overrides to one validated object that knows where each value came from.

The order is: defaults, base of base, base, file, blocks of the filter, overrides; the last one wins (P003).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from textwrap import wrap
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from crowdfit.config_schema import allowed, default_kind, explain, members, nearest, options, summary
from crowdfit.config_yaml import (
    Node,
    Setting,
    Tree,
    first_origin,
    merge,
    merge_all,
    parse_override,
    parse_values,
    plain,
    read_tree,
    strip_origins,
    write_value,
)
from crowdfit.errors import ConfigError

T = TypeVar("T")

SUFFIXES = (".yaml", ".yml")
DEFAULT = "default"


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """A configuration, and where each of its values came from.

    Parameters
    ----------
    config : object
        The configuration.
    origins : mapping
        `stage.field` to `default`, `FILE, line N`, or `--set KEY=VALUE`.
    name : str
        Name or path of the file it was read from; "defaults" without one.
    """

    config: T
    origins: Mapping[str, str]
    name: str


@dataclass(frozen=True)
class Layers:
    """The settings of a chain of files, base first, merged.

    Parameters
    ----------
    common : dict
        Settings for every image.
    filters : dict
        Settings for the images of one filter, by filter name.
    """

    common: Tree
    filters: dict[str, Tree]

    def for_band(self, band: str) -> Tree:
        """Return the block of a filter; FITS headers often add words behind the name, which are ignored."""
        names = {band.casefold(), *band.casefold().split()[:1]}
        return next((tree for name, tree in self.filters.items() if name.casefold() in names), {})


def resolve(
    config_class: type[T],
    shipped: Mapping[str, Path],
    source: str | Path | None,
    overrides: Iterable[str] | Mapping[str, object] = (),
    band: str = "",
) -> Resolved[T]:
    """Return the configuration that a file and overrides make.

    Parameters
    ----------
    config_class : type
        Pydantic dataclass with one field per stage.
    shipped : mapping
        Configurations that are known by name.
    source : str, path or None
        One of those names, or a YAML file.
    overrides : iterable of str, or mapping
        `a.b=value`, or dotted keys with Python values.
    band : str
        Filter of the image, to choose among the `filters:` blocks of the files.

    Raises
    ------
    ConfigError
        With one line for each setting that is refused.
    """
    layers = read_layers(config_class, shipped, source)
    last = _overriding(config_class, overrides)
    tree = stack(config_class, [layers.common, layers.for_band(band), last])
    lines: list[str] = []
    config = _checked(config_class, tree, lines)
    for name, block in layers.filters.items():
        others: list[str] = []
        _checked(config_class, stack(config_class, [layers.common, block, last]), others)
        lines += [f"filters.{name}: {line}" for line in others if line not in lines]
    if config is None or lines:
        raise ConfigError("\n".join(lines))
    return Resolved(config, dict(_origins(config, tree)), str(source or "defaults"))


def _checked(config_class: type[T], tree: Tree, lines: list[str]) -> T | None:
    """Return the configuration of a tree, or None after adding what is wrong with it to `lines`."""
    try:
        return TypeAdapter(config_class).validate_python(_with_kinds(config_class, tree))
    except ValidationError as error:
        lines += explain(error, tree, config_class)
        return None


def _with_kinds(config_class: type, tree: Tree) -> dict[str, Any]:
    """Return the plain values of a tree with the default `kind` written out; pydantic refuses to guess it."""
    values: dict[str, Any] = strip_origins(tree)
    for stage, value in values.items():
        if isinstance(value, dict) and (kind := default_kind(config_class, stage)):
            value.setdefault("kind", kind)
    return values


def _overriding(config_class: type, overrides: Iterable[str] | Mapping[str, object]) -> Tree:
    """Return all overrides as one layer, so that their order matters only for the same key."""
    if isinstance(overrides, Mapping):
        tree = parse_values(overrides)
    else:
        tree = merge_all(parse_override(text) for text in overrides)
    for key, instead in (("base", "choose the configuration with -c"), ("filters", "set the value itself")):
        if key in tree:
            raise ConfigError(f"{key}: cannot be overridden ({first_origin(tree[key])}); {instead}")
    return tree


def stack(config_class: type, trees: Iterable[Tree]) -> Tree:
    """Return the trees merged in order; a stage whose `kind` changes starts afresh.

    The other fields of that stage belong to another class, so what the parents said of them is dropped.
    """
    merged: Tree = {}
    for tree in trees:
        kept = {
            stage: item
            for stage, item in merged.items()
            if not _changes_kind(config_class, stage, merged, tree)
        }
        merged = merge(kept, tree)
    return merged


def _changes_kind(config_class: type, stage: str, parent: Tree, child: Tree) -> bool:
    """Return whether `child` names another kind for a stage than is in force in `parent`."""
    new = _kind(child.get(stage, {}))
    return new is not None and new != (_kind(parent.get(stage, {})) or default_kind(config_class, stage))


def _kind(item: Node) -> Any:
    """Return the `kind` said in the settings of a stage, or None."""
    return strip_origins(item["kind"]) if isinstance(item, dict) and "kind" in item else None


def _stages(tree: Tree) -> Tree:
    """Return a tree without the stages that are named and left empty."""
    return {key: item for key, item in tree.items() if not (isinstance(item, Setting) and item.value is None)}


def read_layers(config_class: type, shipped: Mapping[str, Path], source: str | Path | None) -> Layers:
    """Return the settings of a file and of all its bases.

    Raises
    ------
    ConfigError
        If a file is missing or is not a configuration, or if the bases run in a circle.
    """
    common: list[Tree] = []
    filters: dict[str, list[Tree]] = {}
    for tree in _chain(shipped, source):
        for name, block in _blocks(tree.pop("filters", {})).items():
            filters.setdefault(name, []).append(_stages(block))
        common.append(_stages(tree))
    merged = {name: stack(config_class, blocks) for name, blocks in filters.items()}
    return Layers(stack(config_class, common), merged)


def _blocks(item: Node) -> dict[str, Tree]:
    """Return the `filters:` part of a file as settings by filter name."""
    blocks = _stages(item) if isinstance(item, dict) else {}
    trees = {name: block for name, block in blocks.items() if isinstance(block, dict)}
    empty = isinstance(item, Setting) and item.value is None
    if len(trees) < len(blocks) or not (isinstance(item, dict) or empty):
        where = first_origin(item)
        raise ConfigError(f"filters: not a mapping of mappings ({where}); write filters: {{F444W: {{...}}}}")
    return trees


def _chain(shipped: Mapping[str, Path], source: str | Path | None) -> list[Tree]:
    """Return the trees of a file and its bases, the outermost base first."""
    trees: list[Tree] = []
    seen: list[tuple[Path, str]] = []
    place = None if source is None else locate(shipped, source, Path(), "")
    while place is not None:
        path, label = place
        seen.append((path.resolve(), label))
        tree = read_tree(path, label)
        base = tree.pop("base", Setting(None, ""))
        trees.insert(0, tree)
        if isinstance(base, dict) or not isinstance(base.value, str | None):
            raise ConfigError(f"base: names one configuration ({first_origin(base)}); write base: NAME")
        place = None if base.value is None else locate(shipped, base.value, path.parent, base.origin)
        if place is not None and place[0].resolve() in [path for path, _ in seen]:
            chain = " -> ".join([*(label for _, label in seen), place[1]])
            raise ConfigError(f"base: the bases run in a circle ({base.origin}): {chain}; remove one")
    return trees


def locate(shipped: Mapping[str, Path], source: str | Path, folder: Path, origin: str) -> tuple[Path, str]:
    """Return the file of a configuration and its name in messages.

    Parameters
    ----------
    shipped : mapping
        Configurations that are known by name.
    source : str or path
        One of those names, or a path; text without folder and suffix is a name.
    folder : Path
        Where relative paths start.
    origin : str
        Where `source` was written, for messages; empty when the caller named it.

    Raises
    ------
    ConfigError
        If there is neither such a name nor such a file.
    """
    text = str(source)
    if text in shipped and not isinstance(source, Path):
        return shipped[text], shipped[text].name
    path = folder / Path(text).expanduser()
    if path.is_file():
        return path, str(path)
    key = f"base: {text!r}" if origin else repr(text)
    at = f" ({origin})" if origin else ""
    what = (
        "there is no such file"
        if path.suffix in SUFFIXES
        else "neither a configuration by that name nor a file"
    )
    raise ConfigError(f"{key}: {what}{at}; {nearest(text, shipped)}the shipped ones are {', '.join(shipped)}")


def override(config: T, overrides: Iterable[str] | Mapping[str, object]) -> T:
    """Return a configuration with some values changed; stages that are not named are kept as they are.

    Raises
    ------
    ConfigError
        With one line for each setting that is refused.
    """
    changes = _overriding(type(config), overrides)
    given: Tree = {
        stage: {name: Setting(value, "the given configuration") for name, value in values.items()}
        for stage, values in to_plain(config).items()
        if stage in changes
    }
    lines: list[str] = []
    changed = _checked(type(config), stack(type(config), [given, changes]), lines)
    if changed is None:
        raise ConfigError("\n".join(lines))
    return replace(config, **{stage: getattr(changed, stage) for stage in given})  # type: ignore[type-var]


def _origins(config: Any, tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield the dotted key of every value of a configuration with its origin."""
    for stage, values in to_plain(config).items():
        written = tree.get(stage, {})
        for name in values:
            item = written.get(name, {}) if isinstance(written, dict) else {}
            yield f"{stage}.{name}", first_origin(item) or DEFAULT


def to_plain(config: Any) -> dict[str, dict[str, Any]]:
    """Return a configuration as plain values by stage and field, `kind` first."""
    values: dict[str, dict[str, Any]] = {}
    for field in fields(config):
        stage = getattr(config, field.name)
        if hasattr(type(stage), "__pydantic_fields__"):
            own = {name: plain(getattr(stage, name)) for name in options(type(stage))}
            values[field.name] = ({"kind": stage.kind} if hasattr(stage, "kind") else {}) | own
        else:
            named = stage if hasattr(stage, "__qualname__") else type(stage)
            values[field.name] = {"kind": f"{named.__module__}.{named.__qualname__}"}
    return values


def describe(resolved: Resolved[Any]) -> str:
    """Return a configuration as YAML with the meaning, range and origin of every value in comments."""
    blocks = [f"# {resolved.name}: every value, what it means, what it accepts, and where it came from"]
    for stage, values in to_plain(resolved.config).items():
        cls = type(getattr(resolved.config, stage))
        lines = ["", f"# {summary(cls)}", f"{stage}:"]
        for name, value in values.items():
            lines += [*_documented(resolved, stage, cls, name), _line(resolved, stage, name, value)]
        blocks.append("\n".join(lines))
    return "\n".join(blocks) + "\n"


def _documented(resolved: Resolved[Any], stage: str, cls: type, name: str) -> list[str]:
    """Return the comment lines above a value."""
    if name == "kind":
        config_class: type = type(resolved.config)
        kinds = members(config_class)[stage]
        return [f"  # one of {', '.join(kinds)}"] if len(kinds) > 1 else []
    text = " ".join((options(cls)[name].description or "").split())
    return wrap(f"{text} [{allowed(cls, name)}]", width=100, initial_indent="  # ", subsequent_indent="  # ")


def _line(resolved: Resolved[Any], stage: str, name: str, value: Any) -> str:
    """Return a value with its origin behind it."""
    origin = " ".join(resolved.origins[f"{stage}.{name}"].split())
    return f"  {name}: {write_value(value)}  # {origin}"


def dump(config: Any) -> str:
    """Return a configuration as YAML that loads back to an equal one."""
    lines: list[str] = []
    for stage, values in to_plain(config).items():
        lines += [f"{stage}:", *(f"  {name}: {write_value(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"

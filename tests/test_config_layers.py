"""The machinery of configuration, on a small configuration of its own."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from crowdfit.config_layers import Resolved, describe, dump, override, resolve, to_plain
from crowdfit.config_schema import allowed, members
from crowdfit.config_yaml import parse_override, strip_origins, write_value
from crowdfit.errors import ConfigError
from crowdfit.stages.base import STRICT

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mesh:
    """Background on a mesh."""

    kind: Literal["mesh"] = "mesh"
    box: float = Field(128.0, gt=0, description="mesh size (pix)")
    n_clip: int = Field(3, ge=1, le=9, description="rounds of clipping")
    levels: tuple[Positive, ...] = Field((10.0, 4.0), min_length=1, description="levels by pass")
    limit: float | None = Field(None, gt=0, description="cut")
    plot: bool = Field(False, description="keep the mesh")

    @model_validator(mode="after")
    def _is_consistent(self) -> "Mesh":
        if self.limit is not None and self.limit > self.box:
            raise ValueError(f"limit ({self.limit:g}) must not exceed box ({self.box:g})")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Fixed:
    """A constant."""

    kind: Literal["fixed"] = "fixed"
    value: float = Field(description="level (image unit)")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Reading:
    """How the image is read."""

    band: str = Field("", description="filter")
    mode: Literal["auto", "header", "none"] = Field("auto", description="where the gain comes from")
    size: tuple[int, int] = Field((1, 2), description="two numbers")
    codes: dict[str, int] = Field(default_factory=dict, description="names of bits")
    file: Path | None = Field(None, description="mask")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Toy:
    """Two stages."""

    sky: Annotated[Mesh | Fixed, Field(discriminator="kind")] = Field(default_factory=Mesh)
    input: Reading = Field(default_factory=Reading)


class Files:
    """Configuration files of one test; names without suffix are the shipped ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shipped: dict[str, Path] = {}

    def write(self, name: str, text: str) -> Path:
        path = self.folder / (name if name.endswith(".yaml") else f"{name}.yaml")
        path.write_text(text, encoding="utf-8")
        if path.name != name:
            self.shipped[name] = path
        return path

    def resolve(self, source=None, overrides=(), band="") -> Resolved[Toy]:
        return resolve(Toy, self.shipped, source, overrides, band)

    def refusal(self, source=None, overrides=(), band="") -> str:
        with pytest.raises(ConfigError) as caught:
            self.resolve(source, overrides, band)
        return str(caught.value)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_defaults_come_from_the_classes(files: Files):
    resolved = files.resolve()
    assert resolved.config == Toy()
    assert set(resolved.origins.values()) == {"default"}
    assert {"sky.kind", "sky.box", "input.file"} < set(resolved.origins)


def test_order_is_defaults_base_file_command_line_and_origins_say_so(files: Files):
    """P003: the last one wins, and every value knows where it came from."""
    files.write("ship", "sky:\n  box: 64\n  n_clip: 2\n  levels: [5, 4]\n")
    path = files.write("mine.yaml", "base: ship\nsky:\n  n_clip: 4\n  levels: [9]\n")
    resolved = files.resolve(path, ["sky.levels=[7, 6, 5]"])
    assert resolved.config.sky == Mesh(box=64, n_clip=4, levels=(7, 6, 5))
    assert resolved.origins["sky.kind"] == "default"
    assert resolved.origins["sky.box"] == "ship.yaml, line 2"
    assert resolved.origins["sky.n_clip"] == f"{path}, line 3"
    assert resolved.origins["sky.levels"] == "--set sky.levels=[7, 6, 5]"


def test_base_may_be_a_path_relative_to_the_file(files: Files, tmp_path: Path):
    (tmp_path / "deep").mkdir()
    files.write("root.yaml", "sky: {box: 1}\n")
    files.write("deep/middle.yaml", "base: ../root.yaml\nsky: {n_clip: 2}\n")
    leaf = files.write("leaf.yaml", "base: deep/middle.yaml\ninput: {band: F444W}\n")
    config = files.resolve(leaf).config
    assert (config.sky.box, config.sky.n_clip, config.input.band) == (1, 2, "F444W")


def test_other_kind_drops_what_the_parent_said(files: Files):
    files.write("ship", "sky: {box: 64}\n")
    child = files.write("child.yaml", "base: ship\nsky: {kind: fixed, value: 3}\n")
    assert files.resolve(child).config.sky == Fixed(value=3)
    back = files.write("back.yaml", "base: child.yaml\nsky: {kind: mesh}\n")
    assert files.resolve(back).config.sky == Mesh()


def test_same_kind_keeps_what_the_parent_said(files: Files):
    files.write("ship", "sky: {box: 64}\n")
    child = files.write("child.yaml", "base: ship\nsky: {kind: mesh, n_clip: 1}\n")
    assert files.resolve(child).config.sky == Mesh(box=64, n_clip=1)


def test_kind_is_inherited(files: Files):
    files.write("ship", "sky: {kind: fixed, value: 1}\n")
    assert files.resolve("ship", ["sky.value=2"]).config.sky == Fixed(value=2)


def test_overrides_may_come_in_any_order(files: Files):
    assert files.resolve(None, ["sky.value=2", "sky.kind=fixed"]).config.sky == Fixed(value=2)


def test_python_values_as_overrides(files: Files, tmp_path: Path):
    values = {
        "sky.plot": True,
        "sky.levels": (3, 2),
        "input.file": tmp_path,
        "input.band": "on",
        "sky.limit": None,
    }
    config = files.resolve(None, values).config
    assert config == Toy(sky=Mesh(plot=True, levels=(3, 2)), input=Reading(file=tmp_path, band="on"))
    assert "(argument sky.box=-1)" in files.refusal(None, {"sky.box": -1})


def test_override_of_a_given_configuration_keeps_the_rest():
    config = Toy(sky=Mesh(box=3), input=Reading(band="V"))
    changed = override(config, ["sky.n_clip=5"])
    assert changed == Toy(sky=Mesh(box=3, n_clip=5), input=Reading(band="V"))
    assert changed.input is config.input
    with pytest.raises(ConfigError, match=r"sky.n_clip: 0 is not an integer from 1 to 9"):
        override(config, {"sky.n_clip": 0})


def test_blocks_of_a_filter(files: Files):
    """P002, P003: parameters for one filter go over those of field and instrument, under the command line."""
    files.write("ship", "sky: {box: 64}\nfilters:\n  F444W:\n    sky: {box: 32, n_clip: 1}\n")
    field = files.write(
        "field.yaml", "base: ship\nsky: {box: 50}\nfilters:\n  F444W: {sky: {n_clip: 2}}\n  F200W:\n"
    )
    assert files.resolve(field).config.sky.box == 50
    assert files.resolve(field, band="F200W").config.sky.box == 50
    assert files.resolve(field, band="f444w CLEAR").config.sky == Mesh(box=32, n_clip=2)
    assert files.resolve(field, ["sky.box=9"], band="F444W").config.sky.box == 9
    files.write("bad", "filters:\n  F200W: {sky: {box: 0}}\n")
    wanted = "filters.F200W: sky.box: 0 is not a number greater than 0 (bad.yaml, line 2)"
    assert files.refusal("bad") == wanted
    assert "filters: not a mapping" in files.refusal(files.write("list.yaml", "filters: [F200W]\n"))


MESH = "it takes box, n_clip, levels, limit, plot"
LEVELS = "is not a list of at least 1, each item a number greater than 0 (--set {})"

REFUSED = {
    "skyy.box=1": "skyy: unknown key, set to {box: 1} (--set {}); did you mean sky? the keys are sky, input",
    "n_clip=4": "n_clip: unknown key, set to 4 (--set {}); did you mean sky.n_clip? the keys are sky, input",
    "sky.bax=1": "sky.bax: unknown field of 'mesh', set to 1 (--set {}); did you mean box? " + MESH,
    "sky.qqq=1": "sky.qqq: unknown field of 'mesh', set to 1 (--set {}); " + MESH,
    "sky.value=1": "sky.value: unknown field of 'mesh', set to 1 (--set {}); it belongs to kind 'fixed'; "
    + MESH,
    "sky.kind=mash": "sky.kind: 'mash' is not one of 'mesh', 'fixed' (--set {}); did you mean mesh?",
    "sky.kind=off": "sky.kind: 'off' is not one of 'mesh', 'fixed' (--set {})",
    "sky.kind=[1]": "sky.kind: [1] is not one of 'mesh', 'fixed' (--set {})",
    "sky.kind=fixed": "sky.value: must be given with kind 'fixed' (--set {}); it takes a number",
    "sky=fixed": "sky: 'fixed' is not a mapping (--set {}); write sky: {kind: fixed}",
    "sky=": "sky: null is not a mapping (--set {}); write sky: {kind: mesh}",
    "input=3": "input: 3 is not a mapping (--set {}); write input: {band: ...}",
    "sky.box=-1": "sky.box: -1 is not a number greater than 0 (--set {})",
    "sky.box=": "sky.box: null is not a number greater than 0 (--set {})",
    "sky.box=big": "sky.box: 'big' is not a number greater than 0 (--set {})",
    "sky.box.x=3": "sky.box: {x: 3} is not a number greater than 0 (--set {})",
    "sky.n_clip=10": "sky.n_clip: 10 is not an integer from 1 to 9 (--set {})",
    "sky.n_clip=2.5": "sky.n_clip: 2.5 is not an integer from 1 to 9 (--set {})",
    "sky.limit=0": "sky.limit: 0 is not a number greater than 0 or null (--set {})",
    "sky.levels=[1, -2]": "sky.levels: [1, -2] " + LEVELS,
    "sky.levels=[]": "sky.levels: [] " + LEVELS,
    "sky.limit=200": "sky: limit (200) must not exceed box (128) (--set {})",
    "sky.plot=maybe": "sky.plot: 'maybe' is not true or false (--set {})",
    "input.mode=aut": "input.mode: 'aut' is not one of 'auto', 'header', 'none' (--set {}); "
    "did you mean auto?",
    "input.size=[1]": "input.size: [1] is not a list of 2: an integer, an integer (--set {})",
    "input.codes={a: x}": "input.codes: {a: x} is not a mapping, each value an integer (--set {})",
    "input.band=814": "input.band: 814 is not text (--set {}); put it in quotes",
    "input.file=3": "input.file: 3 is not a path or null (--set {})",
    "nothing": "--set nothing: write it as key=value, for example --set sky.kind=fixed",
    "sky..box=3": "--set {}: write it as key=value, for example --set sky.kind=fixed",
    "base=ship": "base: cannot be overridden (--set {}); choose the configuration with -c",
    "sky.box=[": "--set {}: not valid YAML: expected the node content, but found '<stream end>'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused_and_how(files: Files, text: str):
    """P001, P013: key path, value, origin, allowed values, nearest key."""
    assert files.refusal(None, [text]) == REFUSED[text].replace("{}", text)


def test_unknown_key_in_a_file_names_its_line(files: Files):
    """P001: the style guide's example, with file and line."""
    path = files.write("typo.yaml", "# a comment\nsky:\n  box: 3\n  n_clp: 4\n")
    wanted = f"sky.n_clp: unknown field of 'mesh', set to 4 ({path}, line 4); did you mean n_clip? {MESH}"
    assert files.refusal(path) == wanted


def test_all_errors_come_together_in_the_order_of_the_stages(files: Files):
    path = files.write("many.yaml", "input: {band: 3, mode: x}\nsky:\n  box: -1\n  n_clp: 2\nzzz: 1\n")
    keys = [line.split(":")[0] for line in files.refusal(path, ["sky.n_clip=0"]).splitlines()]
    assert keys == ["zzz", "sky.box", "sky.n_clip", "sky.n_clp", "input.band", "input.mode"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1e5", 1e5), ("1.5E+2", 150.0), (".5", 0.5), ("+3", 3.0),
        ("012", 12.0), ("1_000", 1000.0), ("0x10", 16.0), ("'2.5'", 2.5),
    ],
)  # fmt: skip
def test_numbers_that_yaml_reads_as_text(files: Files, text: str, value: float):
    """P006: 1e-4 is a number, 012 is not octal."""
    assert files.resolve(None, [f"sky.box={text}"]).config.sky.box == value


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "true", "False", "y"])
def test_switch_words_are_not_numbers(files: Files, word: str):
    """P006: never 0 or 1 by accident."""
    assert files.refusal(None, [f"sky.n_clip={word}"]).startswith(f"sky.n_clip: '{word}' is not an integer")
    assert files.refusal(None, [f"sky.box={word}"]).startswith(f"sky.box: '{word}' is not a number")
    assert files.refusal(None, [f"sky.levels=[{word}]"]).startswith(
        f"sky.levels: [{write_value(word)}] is not a list"
    )


@pytest.mark.parametrize(("word", "value"), [("on", True), ("off", False), ("Yes", True), ("no", False)])
def test_switch_words_are_switches_and_names(files: Files, word: str, value: bool):
    """P006: a filter called `no` stays text, a switch that is `no` is off."""
    config = files.resolve(None, [f"sky.plot={word}", f"input.band={word}"]).config
    assert config.sky.plot is value
    assert config.input.band == word


BROKEN = {
    "sky:\n  box: 1\n  box: 2\n": "{}, line 3: box is said twice (first at line 2); keep one",
    "sky: {}\nsky: {}\n": "{}, line 2: sky is said twice (first at line 1); keep one",
    "sky: [1\n": "{}, line 2: not valid YAML: expected ',' or ']', but got '<stream end>'",
    "sky:\n\tbox: 1\n": "{}, line 2: not valid YAML: found character '\\t' that cannot start any token",
    "- sky\n": "{}: this is not a configuration; write a mapping, stage: {field: value}",
    "just words\n": "{}: this is not a configuration; write a mapping, stage: {field: value}",
    "a: 1\n---\nb: 1\n": "{}, line 2: not valid YAML: but found another document",
    "sky: &a {box: 1}\ninput: *a\n": "{}, line 1: aliases (*name) are not used here; write the value out",
    "sky: !!python/name:os.system {}\n": "{}, line 1: the tag tag:yaml.org,2002:python/name:os.system is not",
    "sky: !!int three\n": "{}, line 1: 'three' does not fit its tag",
    "[1, 2]: 3\n": "{}, line 1: a key must be a word",
    "a: \x00\n": "{}: not valid YAML: unacceptable character",
    "base: [a, b]\n": "base: names one configuration ({}, line 1); write base: NAME",
    "base: {a: b}\n": "base: names one configuration ({}, line 1); write base: NAME",
    "base: shp\n": "base: 'shp': neither a configuration by that name nor a file ({}, line 1); "
    "did you mean ship? the shipped ones are ship",
    "base: no.yaml\n": "base: 'no.yaml': there is no such file ({}, line 1); the shipped ones are ship",
}


@pytest.mark.parametrize("text", BROKEN)
def test_broken_files(files: Files, text: str):
    """P001, P006, P013: one line with file, line and remedy."""
    files.write("ship", "")
    path = files.write("broken.yaml", text)
    message = files.refusal(path)
    assert message.startswith(BROKEN[text].replace("{}", str(path), 1))
    assert "\n" not in message


def test_deep_nesting_is_refused(files: Files):
    path = files.write("deep.yaml", "a: " + "[" * 5000)
    assert files.refusal(path) == f"{path}: not a configuration: nested too deeply"


def test_files_that_are_not_text_or_not_there(files: Files, tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes(b"sky: \xe9\n")
    assert "not a text file in UTF-8" in files.refusal(tmp_path / "latin.yaml")
    assert "there is no such file" in files.refusal(tmp_path / "none.yaml")
    assert "neither a configuration by that name nor a file" in files.refusal(tmp_path)


def test_circles_are_refused_with_the_chain(files: Files):
    one = files.write("one", "base: two\n")
    files.write("two", "base: three\n")
    files.write("three", "base: one\n")
    wanted = (
        "base: the bases run in a circle (three.yaml, line 1): one.yaml -> two.yaml -> three.yaml -> one.yaml"
    )
    assert files.refusal("one") == f"{wanted}; remove one"
    one.write_text("base: one\n")
    assert "one.yaml -> one.yaml" in files.refusal("one")


def test_empty_stages_and_files_say_nothing(files: Files):
    path = files.write("empty.yaml", "sky:\n  # box: 3\ninput: {}\nbase:\nfilters:\n")
    assert files.resolve(path).config == Toy()
    path.write_text("# only a comment\n")
    assert files.resolve(path).config == Toy()


@pytest.mark.parametrize("write", [describe, lambda resolved: dump(resolved.config)])
def test_what_is_printed_reads_back_equal(files: Files, write):
    """P003: the resolved configuration is printed as a file that gives it again."""
    overrides = [
        "sky.levels=[1e-7, 3]",
        "sky.limit=1e-5",
        "sky.plot=on",
        "input.band='no'",
        "input.codes={hot: 0x4}",
    ]
    resolved = files.resolve(None, [*overrides, "input.file=a b#c.fits"])
    again = files.resolve(files.write("again.yaml", write(resolved)))
    assert again.config == resolved.config
    assert again.config.input.band == "no"


def test_description_says_meaning_range_and_origin(files: Files):
    """P001, P003."""
    text = describe(files.resolve(None, ["sky.box=3"]))
    assert "# Background on a mesh.\nsky:\n  # one of mesh, fixed\n  kind: mesh  # default\n" in text
    assert "  # mesh size (pix) [a number greater than 0]\n  box: 3.0  # --set sky.box=3\n" in text


def test_text_that_looks_like_something_else_is_quoted():
    assert [write_value(text) for text in ("no", "1e5", "012", "~", "plain")] == [
        "'no'", "'1e5'", "'012'", "'~'", "plain",
    ]  # fmt: skip


SCALARS = st.none() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@given(value=VALUES)
@settings(derandomize=True, max_examples=100, deadline=None)
def test_any_value_is_written_so_that_it_reads_back(value):
    """P006: whatever a text looks like, it comes back as that text, and a number as that number."""
    assert strip_origins(parse_override(f"key={write_value(value)}")) == {"key": value}


def test_classes_by_kind_and_their_words():
    assert members(Toy) == {"sky": {"mesh": Mesh, "fixed": Fixed}, "input": {"": Reading}}
    assert allowed(Mesh, "box") == "a number greater than 0"
    assert to_plain(Toy())["sky"]["kind"] == "mesh"

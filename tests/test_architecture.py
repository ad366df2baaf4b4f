"""Dependencies point one way (design.md, section 3), read from the imports."""

import ast
from pathlib import Path

import pytest

import crowdfit

ROOT = Path(crowdfit.__file__).parent

LAYERS = (
    (
        "errors",
        "robust",
        "flags",
        "exposure",
        "sources",
        "world",
        "mapping",
        "view",
        "neighbours",
        "memory",
        "tiles",
        "unreadable",
        "stages.base",
        "",
    ),
    ("_kernels",),
    ("psf", "render"),
    ("whitening",),
    (
        "frame",
        "counts",
        "stages",
        "photometry",
        "surface",
        "extraction",
        "joint",
        "detectors",
        "io.options",
        "io.dq",
        "calibration.options",
    ),
    ("config", "config_layers", "config_schema", "config_yaml"),
    ("loop",),
    (
        "catalog",
        "calibration",
        "io",
        "report",
        "scene",
        "simulate",
        "pointings",
        "reach",
        "detections",
        "likeness",
        "match",
        "colours",
        "diagrams",
        "astrometry",
    ),
    (
        "api",
        "extended",
        "provenance",
        "result",
        "run",
        "start",
        "joint.begin",
        "joint.columns",
        "joint.result",
        "joint.run",
    ),
    ("job", "joint_job", "cli", "commands", "console", "__main__"),
)
"""What may import what: a module imports its own layer and those above it in this list.

A name stands for the module or package `crowdfit.NAME` and all it holds; the longest name that fits counts, and
"" is the package itself. io and report lie below api, because `fit_image` takes paths and results write
themselves; `stages.base` holds what validated dataclasses anywhere share.
"""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(ROOT.rglob("*.py"))
}


def layer(module):
    """Return the number of a module's layer."""
    found = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or (name and module.startswith(f"{name}."))
    ]
    assert found, f"crowdfit.{module} is in no layer: give it one in LAYERS"
    return max(found)[1]


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node):
    """Yield the nodes below `node`, without those that only a type checker runs."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        yield child
        yield from walk(child)


def imports(path):
    """Return the modules of ours that a file imports, also inside functions; '' for the package."""
    found = set()
    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = (
                [f"{node.module}.{a.name}" for a in node.names]
                if node.module.split(".")[0] == "crowdfit"
                else []
            )
        else:
            continue
        for name in names:
            if name.split(".")[0] == "crowdfit":
                found.add(nearest_module(name.removeprefix("crowdfit").lstrip(".")))
    return found


def nearest_module(name):
    """Return the module that holds an imported name."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def test_imports_are_found():
    """The reader of imports is not blind: in functions and of names in packages, but not for types only."""
    assert {"_kernels.stamps", "errors"} <= imports(MODULES["psf.epsf"])
    assert "report.page" in imports(MODULES["result"])  # inside a function
    assert "_kernels.normal" in imports(MODULES["stages.solve"])  # from crowdfit._kernels import normal
    assert "loop" not in imports(MODULES["stages.stop"])


@pytest.mark.parametrize("module", MODULES)
def test_dependencies_point_one_way(module):
    wrong = [other for other in imports(MODULES[module]) if layer(other) > layer(module)]
    assert not wrong, f"crowdfit.{module} imports {wrong}, which lie above it"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("_kernels")])
def test_kernels_import_nothing_of_ours(module):
    assert all(other.startswith("_kernels") for other in imports(MODULES[module]))


def test_package_imports_only_on_demand():
    """`crowdfit --help` answers at once because `import crowdfit` imports nothing else."""
    top = [
        node
        for node in ast.parse((ROOT / "__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom)
    ]
    assert {node.module for node in top} == {"typing"}

"""The package as a whole: what it requires, ships and imports, and the scripts that check it."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

import crowdfit
from crowdfit.config import shipped

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "crowdfit"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
IMPORT_NAMES = {"pyyaml": "yaml", "pillow": "PIL", "pytest-xdist": "xdist", "pytest-cov": "pytest_cov"}
PLUGINS = {"xdist", "pytest_cov", "pyarrow", "asdf-astropy", "dust_extinction"}
"""Used without being imported: by pytest, by astropy for Parquet, by asdf for gwcs, and by us where they are there."""


def names_of(requirements):
    """Return the import names of requirements."""
    distributions = (re.match(r"[\w-]+", text)[0].lower() for text in requirements)
    return {IMPORT_NAMES.get(name, name) for name in distributions}


def requirements(extra=None):
    """Return the import names of the core requirements, or of an extra."""
    project = PROJECT["project"]
    return names_of(project["optional-dependencies"][extra] if extra else project["dependencies"])


def statements(node):
    """Return the import statements that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.Lambda) and "TYPE_CHECKING" not in ast.dump(child):
            yield from statements(child)


def modules_of(statement):
    """Return the modules that a statement imports; for `from a import b` also a.b."""
    if isinstance(statement, ast.Import):
        return {alias.name for alias in statement.names}
    return {statement.module} | {f"{statement.module}.{alias.name}" for alias in statement.names}


def third_party(folder):
    """Return the packages that the Python files of a folder import, anywhere in the file."""
    found = set()
    for path in folder.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
                found |= {name.partition(".")[0] for name in modules_of(node)}
    local = {path.stem for path in folder.rglob("*.py")} | {"crowdfit", "benchmarks", "docs", folder.name}
    return {name.removesuffix("_core") for name in found - set(sys.stdlib_module_names) - local}


@cache
def imports():
    """Return what each module of the package imports from the package when it is imported itself."""
    files = {
        ".".join(("crowdfit", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in PACKAGE.rglob("*.py")
    }
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    return {
        name: {module for item in statements(tree) for module in modules_of(item)} & files.keys()
        for name, tree in trees.items()
    }


def test_core_requirements_are_what_is_imported():
    """C001: no requirement that nothing uses, none missing, and nothing heavy."""
    assert third_party(PACKAGE) == requirements()
    assert not {"tensorflow", "keras", "torch", "jwst", "stpsf"} & requirements()


def test_extras_hold_what_tests_and_benchmarks_need():
    assert third_party(ROOT / "tests") <= requirements() | requirements("test")
    assert requirements("test") <= third_party(ROOT / "tests") | PLUGINS
    assert third_party(ROOT / "benchmarks") <= requirements() | requirements("bench")
    assert requirements("bench") <= third_party(ROOT / "benchmarks")


def test_extra_of_the_documentation_holds_what_it_is_made_with():
    conf = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    assert third_party(ROOT / "docs") - requirements() == {
        "IPython"
    }  # comes with ipykernel, which runs the pages
    assert requirements("docs") == {"sphinx", "furo", "myst-nb", "ipykernel"}
    assert all(word in conf for word in ('"sphinx.ext.autodoc"', '"furo"', '"myst_nb"'))


def test_no_module_imports_itself_through_others():
    graph, state = imports(), {}

    def visit(module, path):
        assert state.get(module) != "open", f"cycle: {' -> '.join([*path, module])}"
        if module not in state:
            state[module] = "open"
            for other in graph[module]:
                visit(other, [*path, module])
            state[module] = "done"

    for module in graph:
        visit(module, [])


def test_public_names_exist():
    for name in crowdfit.__all__:
        assert getattr(crowdfit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fit_imag'"):
        _ = crowdfit.fit_imag


def test_configurations_are_in_the_wheel():
    """The folder goes into the package, so that `-c nircam_sw` works when installed."""
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"configs": "crowdfit/configs"}
    assert {path.stem for path in (ROOT / "configs").iterdir()} == set(shipped())


def test_ci_runs_the_commands_of_the_readme():
    """The test command is the README's, word for word, and so is what the wheel is tried with."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    test = "python -m pip install '.[test]' && python -m pytest"
    assert f"\n{test}\n" in readme
    assert f"\n    {test}\n" in CI
    for command in (
        "crowdfit demo",
        "crowdfit --help",
        "crowdfit config --show",
        "ruff check .",
        "mypy",
        "python -m sphinx -W",
    ):
        assert f"\n    {command}" in CI


def test_ci_is_a_script_that_bash_reads():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


def test_tools_have_one_version():
    """pre-commit and the extra `dev` format and check alike."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (ruff,) = [repo["rev"] for repo in hooks if repo["repo"].endswith("ruff-pre-commit")]
    (wanted,) = [
        text for text in PROJECT["project"]["optional-dependencies"]["dev"] if text.startswith("ruff")
    ]
    assert wanted == f"ruff~={ruff.removeprefix('v')}"


def test_every_ignored_rule_has_its_reason():
    """A `noqa`, a `type: ignore` or a `pragma` names its rule; the file or line says why."""
    bare = re.compile(r"#\s*(noqa(?!:)|type:\s*ignore(?!\[))")
    files = [path for folder in ("crowdfit", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = [
        f"{path.name}:{n}: {line.strip()}"
        for path in files
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if bare.search(line) and path != Path(__file__)
    ]
    assert found == []

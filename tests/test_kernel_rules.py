"""The rules of kernels: a twin for each, one specialisation, stale caches removed."""

import ast
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import crowdfit._kernels
from crowdfit._kernels import jit
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.photometry.psf_map import star_shapes
from crowdfit.psf.analytic import moffat
from crowdfit.sources import Sources

ROOT = Path(crowdfit._kernels.__file__).parent
MODULES = sorted(m.name for m in pkgutil.iter_modules([str(ROOT)]) if m.name != "jit")
JIT = hasattr(importlib.import_module("crowdfit._kernels.stamps").fill_stamps, "signatures")

FITS = """
import importlib, json, sys
import numpy as np
from crowdfit import fit_image
from crowdfit.psf.analytic import moffat
from crowdfit.render import render
from crowdfit.simulate import simulate, named_scene

scene = named_scene("demo", ny=64, nx=70, n_stars=60, fwhm=3.0, dead_columns=1)
image = simulate(scene)
exposure, psf = image.exposure, moffat(3.0)
fits = [
    dict(),
    dict(centroid__kind="weighted", detect__kind="crowdsource", solve__kind="lsqr", sky__kind="blocks"),
    dict(psf=psf, config="forced", positions=([10.0, 30.5], [20.0, 40.2])),
    dict(psf=psf, detect__kind="sep", centroid__kind="peak", aperture__kind="cleaned"),
    dict(psf=simulate(named_scene("demo", fwhm=2.5, flux_max=2e3, fwhm_gradient=0.1)).psf, psf_update__kind="none"),
]
for options in fits:
    held = options.get("psf_update__kind") == "none"
    settings = {} if held else dict(psf_update__min_stars=3)
    fit_image(exposure, stop__max_passes=3, stop__min_passes=3, **settings, **options)
render(psf, 5, 6, 1, (20, 20))
render(psf, [5, 7], [6, 8], [1, 2], (20, 20), radius=[3, 4])
psf.stamp(3, 4)
kernels = {}
for name in sys.argv[1:]:
    module = importlib.import_module("crowdfit._kernels." + name)
    for key, kernel in vars(module).items():
        if hasattr(kernel, "signatures") and kernel.py_func.__module__ == module.__name__:
            kernels[name + "." + key] = [str(s) for s in kernel.signatures]
print(json.dumps(kernels))
"""


def defined(path):
    """Return the names of the functions of a module."""
    return [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("module", MODULES)
def test_every_kernel_has_a_twin_that_is_compared(module):
    """style.md 2.2, rule 10."""
    tests = Path(__file__).parent
    compared = (tests / f"test_kernels_{module}.py").read_text()
    twins = defined(tests / "reference" / f"{module}.py")
    for kernel in defined(ROOT / f"{module}.py"):
        # the step of one star and that of all are one twin
        assert kernel in twins, f"{kernel} has no twin in tests/reference/{module}.py"
        assert f"kernels.{kernel}" in compared, f"{kernel} is not called in test_kernels_{module}.py"


@pytest.mark.skipif(not JIT, reason="NUMBA_DISABLE_JIT is set: there are no compiled kernels")
def test_one_specialisation_of_every_kernel():
    """style.md 2.2, rule 3: no caller passes another dtype, layout or read-only array than the others.

    In a process of its own, since other tests call kernels as they please. Every kernel that a fit calls from
    Python is among those compared; kernels that only other kernels call show up when nothing is cached yet.
    """
    run = subprocess.run(
        [sys.executable, "-c", FITS, *MODULES], capture_output=True, text=True, check=False,
        cwd=ROOT.parents[1], env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    kernels = json.loads(run.stdout.splitlines()[-1])
    assert sum(bool(s) for s in kernels.values()) > 20
    assert not {name: s for name, s in kernels.items() if len(s) > 1}


@pytest.mark.parametrize(
    ("module", "name", "is_cold"),
    [("stamps", "fill_stamps", jit.cache_is_cold), ("render", "add_stars", jit.drawing_is_cold)],
)
def test_cold_cache_is_told(module, name, is_cold, tmp_path, monkeypatch):
    """The first run says that it compiles; without a compiler there is nothing to say."""

    class Stats:
        cache_path = str(tmp_path)

    def kernel():
        """Stand in for the compiled kernel."""

    monkeypatch.setattr(f"crowdfit._kernels.{module}.{name}", kernel)
    assert not is_cold()
    kernel.stats = Stats
    assert is_cold()
    (tmp_path / "stamps.fill_window-1.py311.nbi").touch()
    assert is_cold()
    (tmp_path / f"{module}.{name}-1.py311.nbi").touch()
    assert not is_cold()


@pytest.mark.skipif(not JIT, reason="nothing is compiled")
def test_names_in_the_cache():
    """The files that are looked for are those that numba writes."""
    psf, stars = moffat(2.0, radius=8), Sources.at([20.0], [20.0], [100.0])
    frame = Frame.start(Exposure.of(np.eye(40), np.ones((40, 40))), psf, StampSizes()).rendered(stars)
    star_shapes(frame, stars, np.zeros(1, np.int64))
    assert not jit.drawing_is_cold()
    assert not jit.cache_is_cold()


def test_stale_kernels_are_removed(tmp_path, request):
    """style.md 2.2, rule 7."""
    conftest = next(p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "remove_stale"))
    sources, cache = tmp_path / "sources", tmp_path / "cache"
    for folder in (sources, cache):
        folder.mkdir()
    now = time.time()
    for path, age in (
        (sources / "a.py", 50),
        (cache / "old.nbi", 100),
        (cache / "new.nbc", 10),
        (cache / "x.pyc", 100),
    ):
        path.touch()
        os.utime(path, (now - age, now - age))
    conftest.remove_stale(cache, sources)
    assert sorted(p.name for p in cache.iterdir()) == ["new.nbc", "x.pyc"]

"""What all tests share: the hypothesis profile, stale kernels removed, small fields, real data where there is some."""

import os

# two threads on any machine, so that "the same bits on 1 and 2 threads" can be asked everywhere;
# numba reads this when it is imported
os.environ.setdefault("NUMBA_NUM_THREADS", "2")

from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import settings

import crowdfit._kernels
from crowdfit._kernels import stamps
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import gaussian, moffat
from crowdfit.render import render
from crowdfit.sources import Sources
from tests.files import SHAPE, sky, write_planes

settings.register_profile("crowdfit", derandomize=True, max_examples=10, deadline=None, database=None)
settings.load_profile("crowdfit")

JIT = not numba.config.DISABLE_JIT


def pytest_configure(config):
    """Let each worker use one thread, and delete compiled kernels that are older than any kernel's source.

    numba looks at the file of a function only, not at those of the functions that it calls (style.md 2.2).
    """
    # the workers of pytest-xdist are as many as there are cores; threads of their own would fight for them
    numba.set_num_threads(1)
    if JIT and not hasattr(config, "workerinput"):
        remove_stale(Path(stamps.fill_stamps.stats.cache_path), Path(crowdfit._kernels.__file__).parent)


def remove_stale(cache, sources):
    """Delete numba's files in folder `cache` that are older than the newest module in folder `sources`."""
    newest = max(path.stat().st_mtime for path in sources.glob("*.py"))
    for path in cache.glob("*.nb[ic]"):
        if path.stat().st_mtime < newest:
            path.unlink(missing_ok=True)


@pytest.fixture
def shared_data():
    """Return the folder of real data, or skip and say so."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}")
    return folder


@pytest.fixture
def triplet(tmp_path):
    """Write a file with SCI, ERR and DQ; DQ has bits 1 and 4 set in two pixels, and bit 31 in a third."""
    dq = np.zeros(SHAPE, np.uint32)
    dq[5, 6], dq[7, 8], dq[9, 10] = 1, 4, 2**31
    return write_planes(tmp_path / "t.fits", SCI=sky(), ERR=np.full(SHAPE, 5, np.float32), DQ=dq)


@pytest.fixture
def same_bits():
    """Return a check that a piece of work returns arrays of the same bits on 1 and on 2 threads."""
    before, most = numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS
    if not JIT:
        pytest.skip("NUMBA_DISABLE_JIT is set: there are no threads")
    if most < 2:
        pytest.skip(f"NUMBA_NUM_THREADS is {most}")

    def check(work):
        results = []
        for threads in (1, 2):
            numba.set_num_threads(threads)
            results.append([np.ascontiguousarray(array).tobytes() for array in work()])
        assert results[0] == results[1]

    yield check
    numba.set_num_threads(before)


@pytest.fixture(scope="session")
def small_psf():
    """Return a Moffat PSF of FWHM 3 px."""
    return moffat(3.0, 3.5, radius=14)


@pytest.fixture(scope="session")
def round_psf():
    """Return a Gaussian PSF of FWHM 2.5 px, the same under flips and transposition."""
    table = gaussian(2.5, radius=10).cube
    table = (table + table[:, ::-1]) / 2
    table = (table + table[:, :, ::-1]) / 2
    table = (table + table.transpose(0, 2, 1)) / 2
    return gaussian(2.5, radius=10).with_cube(table)


@pytest.fixture(scope="session")
def make_frame():
    """Return a maker of frames: stars of known flux on constant noise, without sky, everything rendered in full."""

    def make(psf, sources, shape, *, noise=1.0, seed=None, mask=None, level=1e-9):
        image = render(psf, sources.x, sources.y, sources.flux, shape)
        if seed is not None:
            image = image + np.random.default_rng(seed).normal(0, noise, shape).astype(np.float32)
        ivar = np.full(shape, noise**-2)
        exposure = Exposure.of(image, ivar if mask is None else np.where(mask, 0, ivar))
        return Frame.start(exposure, psf, StampSizes(level=level))

    return make


@pytest.fixture(scope="session")
def crowd():
    """Return a maker of random stars: uniform over an image, power-law fluxes."""

    def make(n, shape, *, seed=1, flux=(100.0, 1e5)):
        rng = np.random.default_rng(seed)
        x, y = rng.uniform(-0.4, shape[1] - 0.6, n), rng.uniform(-0.4, shape[0] - 0.6, n)
        return Sources.at(x, y, 10 ** rng.uniform(*np.log10(flux), n))

    return make

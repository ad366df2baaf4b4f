"""The light of undetected stars: how much of it there is, and errors that know of it."""

import numpy as np
import pytest

from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.render import render
from crowdfit.sources import Sources
from crowdfit.stages.confusion import CountedConfusion, NoConfusion, crowding
from crowdfit.stages.solve import PcgSolve
from crowdfit.stages.system import Columns, Normal
from tests.reference import normal as twins

SIDE = 288
AREA = float(SIDE**2)


def power_law(n, slope, faintest, rng):
    """Return n fluxes with N(>f) ~ f^-slope above `faintest`."""
    return faintest * rng.uniform(size=n) ** (-1 / slope)


def frame_of(psf, data, noise=1.0):
    ivar = np.full(np.shape(data), noise**-2)
    return Frame.start(Exposure.of(data, ivar), psf, StampSizes())


def listed(psf, n, slope, *, seed=1, unit=1.0):
    """Return an empty frame and a list complete down to 5 sigma of an isolated star."""
    rng = np.random.default_rng(seed)
    frame = frame_of(psf, rng.normal(0, unit, (SIDE, SIDE)), unit)
    faintest = 5 * float(frame.isolated_error(np.zeros(1))[0])
    flux = power_law(n, slope, faintest, rng)
    return frame, Sources.at(rng.uniform(0, SIDE, n), rng.uniform(0, SIDE, n), flux)


@pytest.mark.parametrize("slope", [0.5, 0.8, 1.1])
def test_power_law(small_psf, slope):
    """C below the depth of a list with N(>f) ~ f^-a: a N(>d) d^2 / (2 - a) per pixel."""
    frame, sources = listed(small_psf, 4000, slope)
    stage = CountedConfusion()
    depth = np.quantile(sources.flux, stage.depth)
    expected = slope * np.sum(sources.flux > depth) / AREA * depth**2 / (2 - slope)
    assert stage.variance(frame, sources) == pytest.approx(expected, rel=0.3)


def test_twice_the_stars(small_psf):
    """C is per pixel: twice the stars of the same fluxes make twice of it."""
    frame, sources = listed(small_psf, 4000, 0.8)
    half = sources.take(np.arange(0, 4000, 2))
    stage = CountedConfusion()
    assert stage.variance(frame, sources) == pytest.approx(2 * stage.variance(frame, half), rel=0.3)


def test_image_unit(small_psf):
    """In units a million times smaller it is the same light, squared."""
    found = [CountedConfusion().variance(*listed(small_psf, 2000, 0.8, unit=unit)) for unit in (1.0, 1e-6)]
    assert found[0] > 0
    assert found[1] == pytest.approx(1e-12 * found[0], rel=1e-4)


def test_few_stars(small_psf):
    """Below the least number, of stars above the noise, nothing is assumed."""
    frame, sources = listed(small_psf, 100, 0.8)
    stage = CountedConfusion(least_stars=100)
    assert stage.variance(frame, sources) > 0
    assert stage.variance(frame, sources.take(np.arange(99))) == 0
    assert stage.variance(frame, Sources.empty()) == 0
    unseen = sources.changed(flux=np.where(np.arange(100) < 5, 0.1, sources.flux))
    assert stage.variance(frame, unseen) == 0


def test_frames(small_psf):
    """The stages fill the frame, whatever it had before."""
    frame, sources = listed(small_psf, 2000, 0.8)
    stage = CountedConfusion()
    (counted,) = stage((frame,), sources)
    assert counted.confusion == stage.variance(frame, sources) > 0
    (none,) = NoConfusion()((counted,), sources)
    assert none.confusion == 0
    assert none.whitening.kernel is None


def test_crowding():
    """Uniform stars have their mean density around them, those of a cluster that of the cluster."""
    rng, cell, n = np.random.default_rng(2), 40.0, 5000
    x, y = rng.uniform(0, 400, (2, n))
    uniform = n / 400**2
    assert crowding(x, y, cell) == pytest.approx(uniform, rel=0.05)
    inside = rng.uniform(80, 120, (2, n))
    both = crowding(np.append(x, inside[0]), np.append(y, inside[1]), cell)
    # half of the stars live in one cell with all of the cluster, the other half in the field
    assert both == pytest.approx(0.5 * (n / 40**2 + uniform) + 0.5 * uniform, rel=0.1)
    assert crowding(np.array([1.0, 200.0]), np.array([1.0, 1.0]), cell) == 0  # nobody else


@pytest.fixture(scope="module")
def crowded(small_psf):
    """Return a frame of stars above 5 sigma at their true places, on the light of 50 times as many fainter."""
    rng, n, slope, faint = np.random.default_rng(3), 500, 0.8, 0.02
    shape = (192, 192)
    depth = 5 * np.sqrt(small_psf.n_eff)
    flux = power_law(int(n * faint**-slope), slope, faint * depth, rng)
    x, y = rng.uniform(0, shape[1], len(flux)), rng.uniform(0, shape[0], len(flux))
    seen = flux > depth
    data = render(small_psf, x, y, flux, shape) + rng.normal(0, 1, shape)
    data -= flux[~seen].sum() / np.prod(shape)  # the mean of the undetected is sky
    truth = Sources.at(x[seen], y[seen], flux[seen])
    return frame_of(small_psf, data).rendered(truth), truth


def pulls(frame, truth):
    """Return (flux - truth) / error, positions held; the error is that of all fluxes together."""
    fit = PcgSolve()((frame,), truth, shifts=False)
    columns = Columns.of(frame, truth, np.sqrt(frame.fit_ivar))
    eq = Normal.of(columns, frame.exposure.shape)
    matrix = twins.dense(eq.own, eq.first, eq.links, eq.cross)[::3, ::3]
    return (fit.sources.flux - truth.flux) / np.sqrt(np.diag(np.linalg.inv(matrix)))


def width(values):
    low, high = np.quantile(values, [0.16, 0.84])
    return (high - low) / 2


def test_pulls(crowded):
    """With C from the list errors are what the fluxes scatter by; without they are too small."""
    frame, truth = crowded
    (counted,) = CountedConfusion()((frame,), truth)
    assert counted.confusion > 1
    plain, known = width(pulls(frame, truth)), width(pulls(counted, truth))
    assert 0.8 < known < 1.25
    assert plain > 1.3 * known

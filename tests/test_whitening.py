"""The filter that makes the light of undetected stars white: its spectrum, its edges, and fluxes behind it."""

import numpy as np
import pytest
from scipy.signal import convolve2d

from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import gaussian, moffat
from crowdfit.render import render
from crowdfit.sources import Sources
from crowdfit.stages.solve import PcgSolve
from crowdfit.whitening import (
    HALF_RATIO,
    LEAST_RATIO,
    convolve,
    convolved_psf,
    effective,
    unfiltered_share,
    whitening_kernel,
)

SIDE = 256
RATIO = 20.0


@pytest.fixture(scope="module")
def psf():
    return moffat(3.0, 3.5, radius=16)


def frame_of(psf, data, ratio, *, good=None):
    """Return a frame of pixels of noise 1 under confusion of this C / N."""
    ivar = np.ones(np.shape(data)) if good is None else np.asarray(good, float)
    return Frame.start(Exposure.of(data, ivar), psf, StampSizes(level=1e-6)).with_(confusion=ratio)


def power_by_scale(image, n=8):
    """Return the mean power of white noise units in rings of k, without the lowest; edges tapered away."""
    taper = np.hanning(image.shape[0])
    taper = np.outer(taper, taper)
    whole = np.abs(np.fft.fft2((image - image.mean()) * taper)) ** 2 / np.sum(taper**2)
    k = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(image.shape[0])]))
    edges = np.linspace(0.015, 0.5, n + 1)
    return np.array([whole[(k >= a) & (k < b)].mean() for a, b in zip(edges, edges[1:], strict=False)])


def test_faint_stars_become_white(psf):
    """N + C |P|^2 with C = n f^2 in, N out at all scales; rings hold 100 modes or more, so 15 % is 1.5 sigma up."""
    rng = np.random.default_rng(1)
    n = SIDE**2 // 2
    x, y = rng.uniform(-12, SIDE + 12, n), rng.uniform(-12, SIDE + 12, n)
    flux = np.full(n, np.sqrt(RATIO * (SIDE + 24) ** 2 / n))
    data = render(psf, x, y, flux, (SIDE, SIDE)) + rng.normal(0, 1, (SIDE, SIDE))
    data -= data.mean()
    inner = np.s_[16:-16, 16:-16]
    before = power_by_scale(data[inner])
    after = power_by_scale(frame_of(psf, data, RATIO).whitened.resid[inner])
    assert before[0] > 8
    assert after == pytest.approx(1, abs=0.15)
    # the ratio is C / N: with a wrong one the large scales are not those of the small ones
    for wrong in (RATIO / 4, RATIO * 4):
        off = power_by_scale(frame_of(psf, data, wrong).whitened.resid[inner])
        assert abs(np.log(off[0])) > 0.4


@pytest.mark.parametrize("ratio", [0.1, 5.0, 200.0])
def test_kernel(ratio):
    """Symmetric for any PSF, and its transform is 1 / sqrt(1 + C / N |P|^2)."""
    lopsided = gaussian(3.0, 0.3, 25.0, radius=12)
    lopsided = lopsided.with_cube(lopsided.cube + 0.2 * np.roll(lopsided.cube, (5, 3), (1, 2)))
    kernel = whitening_kernel(lopsided, ratio)
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1
    assert np.allclose(kernel, kernel[::-1, ::-1], rtol=0, atol=1e-12)
    stamp = lopsided.native(129).astype(float)
    expected = 1 / np.sqrt(1 + ratio * np.abs(np.fft.fft2(stamp)) ** 2)
    found = np.abs(np.fft.fft2(kernel, stamp.shape))
    assert np.abs(found - expected).max() < 0.05
    assert found[0, 0] < 1 / np.sqrt(1 + ratio * stamp.sum() ** 2) + 0.05


@pytest.mark.parametrize("ratio", [0.0, LEAST_RATIO, 0.2 * HALF_RATIO])
def test_too_little_to_whiten(psf, ratio):
    """PSF and residual are the very same objects, so that nothing is rounded either."""
    frame = frame_of(psf, np.random.default_rng(1).normal(size=(40, 50)), ratio)
    assert frame.whitening.psf is psf
    assert frame.whitened.resid is frame.resid
    assert frame.whitening.kernel is None
    assert frame.whitening.error_ratio == 1
    assert frame_of(psf, frame.resid, 0.5 * HALF_RATIO).whitening.kernel is not None


def test_few_undetected_stars_are_no_noise():
    """The ratio is halved at `HALF_RATIO`, next to nothing far below, and itself far above."""
    assert effective(HALF_RATIO) == pytest.approx(HALF_RATIO / 2)
    assert effective(0.2 * HALF_RATIO) < 0.05 * 0.2 * HALF_RATIO
    assert effective(10 * HALF_RATIO) == pytest.approx(10 * HALF_RATIO, rel=0.02)
    assert effective(0.0) == 0


def test_same_bits_whatever_the_ratio_comes_from(psf):
    """A run that is resumed has read its confusion from a file: a plain number and numpy's have to mean the same."""
    resid = np.random.default_rng(1).normal(size=(40, 50))
    one, other = (frame_of(psf, resid, kind(7.3)) for kind in (float, np.float64))
    brightness = np.random.default_rng(2).uniform(0, 30, resid.shape).astype(np.float32)
    shares = [unfiltered_share(frame.whitening.ratio, brightness) for frame in (one, other)]
    np.testing.assert_array_equal(*shares)
    np.testing.assert_array_equal(one.whitened.resid, other.whitened.resid)
    assert type(one.whitening.ratio) is type(other.whitening.ratio)


def test_convolve_is_a_sum(psf):
    """Zeros beyond the border; odd and even sides."""
    kernel = whitening_kernel(psf, RATIO)
    kernel = kernel + np.random.default_rng(1).normal(0, 0.01, kernel.shape)
    image = np.random.default_rng(2).normal(size=(31, 44)).astype(np.float32)
    assert np.allclose(convolve(image, kernel), convolve2d(image, kernel, mode="same"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("oversample", [1, 3, 4])
def test_convolved_psf(oversample):
    """A star drawn with the convolved PSF is the convolved star, at any phase."""
    psf = gaussian(3.2, 0.2, 30.0, oversample=oversample, radius=16)
    kernel, shape = whitening_kernel(psf, RATIO), (61, 61)
    narrow = convolved_psf(psf, kernel)
    for x, y in ((30.0, 30.0), (30.31, 29.6), (29.5, 30.5)):
        expected = convolve(render(psf, [x], [y], [1.0], shape), kernel)
        error = np.abs(render(narrow, [x], [y], [1.0], shape) - expected).max()
        assert error < 1e-3 * expected.max()


@pytest.mark.parametrize("ratio", [1.0, RATIO, 500.0])
def test_error_ratio(psf, ratio):
    """Above 1, and what the spectra say: 1 / error^2 = mean of |P|^2 / (N + C |P|^2) over all k."""
    power = np.abs(np.fft.fft2(psf.native(33).astype(float), (256, 256))) ** 2
    kappa = effective(ratio)
    expected = np.sqrt(power.mean() / (power / (1 + kappa * power)).mean())
    found = frame_of(psf, np.eye(60), ratio).whitening.error_ratio
    assert found > 1.03
    assert found == pytest.approx(expected, rel=0.03)


def masks(shape=(61, 61)):
    """Return images of usable pixels around a star at (30.3, 29.8)."""
    whole = np.ones(shape, bool)
    through, beside, core = whole.copy(), whole.copy(), whole.copy()
    through[:, 30], beside[:, 32], core[28:32, 29:32] = False, False, False
    return {"whole": whole, "through": through, "beside": beside, "core": core}


@pytest.mark.parametrize("hole", masks())
def test_flux_behind_the_filter(psf, hole):
    """Law: render, then solve at the true position, returns the flux, also where pixels are missing.

    One solve from far off may miss by the light that the filter carries off masked pixels; the next, from a
    model that is nearly right, may not.
    """
    good, truth = masks()[hole], Sources.at([30.3], [29.8], [1000.0])
    start = frame_of(psf, render(psf, truth.x, truth.y, truth.flux, good.shape), RATIO, good=good)
    sources, error = truth.changed(flux=np.array([300.0])), []
    for _ in range(4):
        sources = PcgSolve()((start.rendered(sources),), sources, shifts=False).sources
        error.append(abs(sources.flux[0] / 1000 - 1))
    assert error[0] < (0.005 if hole != "beside" else 0.1)
    assert error[-1] < 5e-4


@pytest.mark.parametrize("at", [(0.2, 29.8), (60.5, -0.5), (2.0, 31.3)])
def test_flux_at_the_border(psf, at):
    """Beyond the border nothing is seen, as behind a masked pixel: the first solve is as good as inside."""
    truth = Sources.at([at[0]], [at[1]], [1000.0])
    start = frame_of(psf, render(psf, truth.x, truth.y, truth.flux, (61, 61)), RATIO)
    sources = truth.changed(flux=np.array([300.0]))
    for error in (0.02, 1e-3):
        sources = PcgSolve()((start.rendered(sources),), sources, shifts=False).sources
        assert abs(sources.flux[0] / 1000 - 1) < error


@pytest.mark.parametrize("shape", [(61, 40), (40, 90), (9, 200)])
def test_large_images_are_convolved_in_bands(shape, monkeypatch):
    """To rounding what one transform gives, to the first and the last row."""
    rng = np.random.default_rng(8)
    image, kernel = rng.normal(size=shape).astype(np.float32), rng.normal(size=(5, 5))
    whole = convolve(image, kernel)
    monkeypatch.setattr("crowdfit.whitening.LARGE", 100)
    monkeypatch.setattr("crowdfit.whitening.BAND", 300)
    assert np.abs(convolve(image, kernel) - whole).max() < 1e-6 * np.abs(whole).max()

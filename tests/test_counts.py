"""Star counts at the faint end of a list, and what they say of peaks near the noise."""

import numpy as np
import pytest

from crowdfit.counts import FAR, NOISY, USUAL_SLOPE, Counts, noise_peaks
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import gaussian
from crowdfit.sources import Sources
from crowdfit.stages.detect import matched_filter, peaks_above

SIDE = 400


@pytest.fixture(scope="module")
def frame():
    """An empty frame of noise 1."""
    data = np.random.default_rng(3).normal(size=(SIDE, SIDE))
    return Frame.start(
        Exposure.of(data, np.ones_like(data)), gaussian(3.0, radius=12), StampSizes(level=1e-6)
    )


def drawn(n, slope, least, sigma):
    """Return n stars with N(>f) ~ f^-slope from `least` sigma on."""
    rng = np.random.default_rng(5)
    flux = sigma * least * rng.uniform(size=n) ** (-1 / slope)
    return Sources.at(rng.uniform(0, SIDE, n), rng.uniform(0, SIDE, n), flux)


@pytest.mark.parametrize("slope", [0.5, 0.8, 1.2])
@pytest.mark.parametrize("least", [3.0, 9.0])
def test_slope_and_density(frame, slope, least):
    """Those of the stars that were drawn, for lists that end in the noise and well above it, within counting noise."""
    sigma = float(frame.isolated_error(np.zeros(1))[0])
    counts = Counts.of(frame, drawn(20_000, slope, least, sigma))
    assert counts.slope == pytest.approx(slope, abs=0.1)
    assert counts.flux >= max(counts.depth, NOISY * sigma * 0.999)
    number = 20_000 * (counts.flux / (least * sigma)) ** -slope
    assert counts.at(np.array(counts.flux)) == pytest.approx(slope * number / SIDE**2, rel=0.06)
    assert counts.depth == pytest.approx(least * sigma * 0.9 ** (-1 / slope), rel=0.02)


def test_variance_below(frame):
    """The sum of f^2 of all stars below the depth, if the counts go on."""
    sigma = float(frame.isolated_error(np.zeros(1))[0])
    stars = drawn(1_000_000, 0.7, 0.01, sigma)
    counts = Counts.of(frame, stars.take(stars.flux > 4 * sigma))
    below = stars.flux[stars.flux < counts.depth]
    assert counts.variance_below() == pytest.approx(np.sum(below**2) / SIDE**2, rel=0.15)


def test_few_stars(frame):
    """Without stars, and with bright ones only, some counts are assumed: never none, and never those of a crowd."""
    sigma = float(frame.isolated_error(np.zeros(1))[0])
    for stars in (Sources.empty(), drawn(30, 0.6, 1000.0, sigma)):
        counts = Counts.of(frame, stars)
        assert counts.slope == USUAL_SLOPE
        assert counts.depth == FAR * sigma
        assert 0 < counts.density * SIDE**2 < 0.2
        assert 4 < counts.pure_above(0.5, 3.0) < 6


def test_noise_peaks():
    """As many maxima as white noise has behind a matched filter: 25 frames, above 3 sigma.

    A quarter less, since maxima of pixels are no higher than those between them."""
    psf, n = gaussian(3.0, radius=12), 0
    for seed in range(25):
        data = np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)
        signif = matched_filter(data, np.ones_like(data), psf.native().astype(np.float32))
        n += len(peaks_above(signif, np.ones(data.shape, bool), 3.0)[0])
    snr = np.arange(3, 9, 0.01) + 0.005
    assert n / 25 / SIDE**2 == pytest.approx(noise_peaks(snr, 3.0).sum() * 0.01, rel=0.3)


def test_limit_of_purity(frame):
    """Lower the more stars there are, higher the purer; just there stars are the share that was asked for."""
    sigma = float(frame.isolated_error(np.zeros(1))[0])
    limits = [Counts.of(frame, drawn(n, 0.7, 3.0, sigma)).pure_above(0.5, 3.0) for n in (10, 300, 5000)]
    assert limits == sorted(limits, reverse=True)
    counts = Counts.of(frame, drawn(1000, 0.7, 3.0, sigma))
    assert counts.pure_above(0.9, 3.0) > counts.pure_above(0.5, 3.0) > counts.pure_above(0.2, 3.0)
    limit = np.array([counts.pure_above(0.7, 3.0)])
    stars = counts.at(limit * sigma) / limit
    assert stars / (stars + noise_peaks(limit, 3.0)) == pytest.approx(0.7, abs=0.02)
    assert counts.pure_above(0.0, 3.0) == 0

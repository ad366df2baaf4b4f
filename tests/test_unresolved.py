"""Light of stars that are not in the list: its distribution against drawn ones, and the errors it makes of fits."""

import numpy as np
import pytest
from scipy.integrate import quad

from crowdfit.counts import Limits
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.photometry.crowd import Crowd
from crowdfit.photometry.unresolved import (
    FLUXES,
    LARGEST,
    Phase,
    Responses,
    Shaken,
    added_width,
    information,
    native_power,
    noise_shares,
    phase_integral,
    single_limit,
    unseen_shift,
    window,
)
from crowdfit.psf.analytic import airy, gaussian, moffat
from crowdfit.psf.epsf import EPSF
from crowdfit.render import render
from crowdfit.sources import Sources
from crowdfit.stages.solve import PcgSolve

SHAPE = (200, 200)


def frame_of(psf, data=None, *, gain=np.inf):
    data = np.random.default_rng(1).normal(size=SHAPE) if data is None else data
    return Frame.start(Exposure.of(data, np.ones(SHAPE), gain=gain), psf, StampSizes())


def sigma_of(frame):
    return float(frame.isolated_error(np.zeros(1))[0])


class TestDistribution:
    @pytest.mark.parametrize("slope", [0.35, 0.75, 0.93])
    @pytest.mark.parametrize("z", [0.01, 1.0, 19.9, 20.1, 60.0])
    def test_phase(self, slope, z):
        """The integral by quadrature; 1 / u^(slope + 1) is integrated away near 0, where the phase is small."""
        least = 1e-3 / (1 + z)

        def part(of, first):
            # below `least` the first term of the series is all there is
            return quad(of, least, 1, limit=2000)[0] + first

        real = part(
            lambda u: u ** (-slope - 1) * (np.cos(z * u) - 1),
            -(z**2) * least ** (2 - slope) / 2 / (2 - slope),
        )
        imag = part(lambda u: u ** (-slope - 1) * np.sin(z * u), z * least ** (1 - slope) / (1 - slope))
        expected = real + 1j * imag
        assert abs(phase_integral(np.array([z]), slope)[0] - expected) < 1e-5 * abs(expected)
        table = Phase.of(slope)
        assert abs(table(np.array([z]))[0] - expected) < 1e-3 * abs(expected)
        assert table(np.array([-z]))[0] == np.conj(table(np.array([z]))[0])

    @pytest.mark.parametrize("width", [0.3, 1.0, 5.0])
    def test_gaussians_add_in_quadrature(self, width):
        assert added_width(lambda t: -0.5 * (width * t) ** 2 + 0j, 1.0) == pytest.approx(width, rel=0.02)

    def test_nothing_adds_nothing(self):
        assert added_width(lambda t: 0j * t, 2.5) == pytest.approx(0, abs=0.15)

    @pytest.mark.parametrize("number", [0.05, 1.0, 20.0])
    def test_drawn_companions(self, number):
        """A Poisson number of companions with fluxes from 0 to 10 by a power law, drawn a hundred thousand times."""
        slope, largest, noise, n = 0.7, 10.0, 1.0, 100_000
        rng, phase = np.random.default_rng(5), Phase.of(slope)
        least = 0.003 * largest  # fainter ones are too faint to widen anything
        several = number * (0.003**-slope - 1) / slope
        total = rng.normal(0, noise, n)
        for chunk in np.array_split(np.arange(n), 20):
            counts = rng.poisson(several, len(chunk))
            u = rng.uniform(size=counts.sum())
            flux = (least**-slope - u * (least**-slope - largest**-slope)) ** (-1 / slope)
            total[chunk] += np.bincount(np.repeat(np.arange(len(chunk)), counts), flux, len(chunk))
        low, high = np.quantile(total, [0.1587, 0.8413])
        drawn = np.sqrt(max(((high - low) / 2) ** 2 - noise**2, 0))
        found = added_width(lambda t: number * phase(largest * t), noise)
        assert found == pytest.approx(drawn, rel=0.05, abs=0.05)


class TestResponses:
    @pytest.fixture(scope="class")
    @staticmethod
    def faint():
        """Return a frame and its responses for stars on white noise."""
        frame = frame_of(moffat(3.6, 3.0, radius=40))
        return frame, Responses.of(frame, Sources.empty(), sigma_of(frame) * np.array([5.0, 50.0]), 3.5)

    def test_overlap(self, faint):
        """On white noise the share of a companion's light is the overlap of the PSFs, sum P P' / sum P^2."""
        frame, found = faint
        for k in (0, 3, 7):
            expected = []
            for angle in (np.arange(4) + 0.5) / 4 * np.pi:
                x, y = found.radius[k] * np.cos(angle), found.radius[k] * np.sin(angle)
                own, other = (window(frame.psf, 14, *at)[0] for at in ((0.25, 0.25), (0.25 + x, 0.25 + y)))
                expected.append(np.sum(own * other) / np.sum(own**2))
            assert found.light[0, k] == pytest.approx(np.mean(expected), abs=0.01)
        np.testing.assert_allclose(found.light[1], found.light[0], rtol=1e-6)

    def test_limits(self, faint):
        """Far away a companion is found as a single star is; on top of a star it never shows."""
        frame, found = faint
        single = 3.5 * sigma_of(frame)
        assert found.limit[0, -1] == pytest.approx(single, rel=0.1)
        assert np.all(np.diff(found.limit, axis=1) < 0)
        assert found.limit[0, 0] > 5 * single
        assert np.all(found.limit[1] >= found.limit[0])

    def test_steps(self, faint):
        """A companion draws the position to itself, in proportion to its share of the light."""
        _, found = faint
        assert np.all(found.shift[0, :6] > 0)
        np.testing.assert_allclose(found.shift[1] * 10, found.shift[0], rtol=1e-6)
        # a companion that nearly coincides moves the centre of light: by its distance times its share
        assert found.shift[0, 0] == pytest.approx(found.radius[0] / found.flux[0], rel=0.1)

    def test_sky(self, faint):
        """A sky too high by one per pixel raises the flux by sum P / sum P^2."""
        frame, found = faint
        stamp = frame.psf.native().astype(float)
        assert found.sky[0] == pytest.approx(stamp.sum() / np.sum(stamp**2), rel=0.1)

    def test_photons_widen(self):
        """Where photons rule, pixels count alike, and a companion farther away adds more of its light."""
        frame = frame_of(moffat(3.6, 3.0, radius=40), gain=1.0)
        found = Responses.of(frame, Sources.empty(), sigma_of(frame) * np.array([5.0, 1e4]), 3.5)
        assert np.all(found.light[1, 3:8] > 1.3 * found.light[0, 3:8])

    @pytest.mark.parametrize(
        "shape", [moffat(2.0, 3.0, radius=8), gaussian(1.5), moffat(9.0, 3.0, radius=30)]
    )
    def test_any_psf(self, shape):
        """Windows of companions stay within the table of the PSF, however small."""
        frame = frame_of(shape)
        found = Responses.of(frame, Sources.empty(), sigma_of(frame) * np.geomspace(3, 1e4, FLUXES), 3.5)
        for values in (found.light, found.shift, found.limit, found.sky, found.psf_flux, found.psf_shift):
            assert np.all(np.isfinite(values))
        assert np.all(np.abs(found.light) < 1.1)

    def test_information(self):
        """Of a companion when flux and steps of the star adjust: the corner of the inverse of the whole matrix."""
        psf = moffat(3.0, 3.0, radius=20)
        own, other = window(psf, 8, 0.0, 0.0), window(psf, 8, 1.5, 0.4)[:1]
        prior = np.array([0.0, 2e-3, 2e-3])
        columns = np.concatenate([own, other])
        matrix = columns @ columns.T + np.diag(np.append(prior, 0.0))
        found = information(own, other, np.ones(own.shape[1]), prior)
        assert found[0] == pytest.approx(1 / np.linalg.inv(matrix)[3, 3], rel=1e-9)


def test_unseen_part_of_the_psf():
    """Nothing of a wide PSF lies beyond the Nyquist frequency, and much of a narrow one."""
    assert unseen_shift(gaussian(4.0)) < 1e-3
    assert unseen_shift(gaussian(1.2)) > 0.02
    # an airy pattern ends at a frequency, and that of 1.95 px there
    assert unseen_shift(airy(1.95)) < 1e-3
    # a flat table is steep at its rim only
    assert unseen_shift(EPSF.from_samples(np.ones((3, 3)))) == 0
    assert unseen_shift(EPSF.from_samples(np.ones((9, 9)), 3)) > 0.02


def test_single_limit(small_psf):
    """With nothing beneath it is `nsigma` errors; crowded it is more, and what lies beneath is then the noise."""
    frame = frame_of(small_psf)
    sigma = sigma_of(frame)
    crowd = Crowd(sigma, 0.7, np.zeros(0))
    assert single_limit(frame, crowd, 1e-9, 3.0) == pytest.approx(3 * sigma, rel=1e-3)
    limit = single_limit(frame, crowd, 0.05, 3.0)
    unseen = 0.05 * (limit / sigma) ** -0.7 * limit**2 / 1.3
    power = native_power(small_psf)
    error = 1 / np.sqrt(np.mean(power / (1 + unseen * power)))
    assert limit == pytest.approx(3 * error, rel=0.01)
    assert limit > 4 * sigma


def isolated(psf, flux, rng):
    """Return a grid of stars far from each other, at all pixel phases."""
    y, x = (g.ravel() for g in np.mgrid[16:190:21, 16:190:21])
    x, y = (v + rng.uniform(-0.5, 0.5, len(v)) for v in (x, y))
    return Sources.at(x, y, np.full(len(x), flux))


def width(values):
    low, high = np.quantile(values, [0.1587, 0.8413])
    return (high - low) / 2


def test_noise_behind_the_filter(small_psf):
    """Of the error of a filtered fit, the share of the pixels' noise is what fluxes scatter by without other light."""
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        stars = isolated(small_psf, 200.0, rng)
        data = render(small_psf, stars.x, stars.y, stars.flux, SHAPE) + rng.normal(size=SHAPE)
        frame = frame_of(small_psf, data).with_(confusion=10.0).rendered(stars)
        fit = PcgSolve(final_tolerance=1e-6)((frame,), stars, shifts=False).sources
        found.append((fit.flux - stars.flux) / fit.flux_err)
    share, shift_share = noise_shares(frame)
    n = len(np.concatenate(found))
    assert np.std(found) == pytest.approx(np.sqrt(share), rel=3 / np.sqrt(2 * n))
    # a slope has less power on the large scales where other light is
    assert 0.2 < share < shift_share < 1
    assert noise_shares(frame.with_(confusion=0.0)) == (1.0, 1.0)


@pytest.mark.parametrize(("density", "flux"), [(0.05, 200.0), (0.01, 60.0)])
def test_injected_stars(small_psf, density, flux):
    """Fluxes and positions of stars on the light of stars that nobody lists scatter as they should.

    Some 500 stars: their width is known to 4 %.
    """
    slope, off = 0.7, []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        stars = isolated(small_psf, flux, rng)
        frame = frame_of(small_psf)
        crowd = Crowd(sigma_of(frame), slope, np.full(len(stars), density))
        depth = single_limit(frame, crowd, density, 3.0)
        least = 0.03 * depth
        number = density / slope * ((least / crowd.sigma) ** -slope - (depth / crowd.sigma) ** -slope)
        n = rng.poisson(number * SHAPE[0] * SHAPE[1])
        u = rng.uniform(size=n)
        faint = (least**-slope - u * (least**-slope - depth**-slope)) ** (-1 / slope)
        sky = np.sum(faint) / (SHAPE[0] * SHAPE[1])
        data = rng.normal(size=SHAPE) - sky
        data += render(small_psf, *rng.uniform(-0.5, 199.5, (2, n)), faint, SHAPE)
        data += render(small_psf, stars.x, stars.y, stars.flux, SHAPE)
        frame = frame_of(small_psf, data).rendered(stars)
        fit = PcgSolve(tolerance=1e-5, shift_sigma=5.0)((frame,), stars, shifts=True)
        off.append([fit.sources.flux - stars.flux, fit.step_x, fit.step_y])
    # no companion of a bright star hides: all are fainter than the limit
    responses = Responses.of(frame, stars, np.geomspace(0.5 * flux, 2 * flux, FLUXES), 1e-9)
    assert depth < LARGEST * flux
    shaken, shift = Shaken.of(frame, responses, crowd, Limits(3.0, 1e-9)).at(stars.flux, crowd.density)
    flux_off, *steps = np.concatenate(off, axis=1)
    noise = sigma_of(frame)
    assert shaken[0] > 0.7 * noise
    assert width(flux_off) == pytest.approx(np.hypot(noise, shaken[0]), rel=0.12)
    noise_shift = 1 / flux / np.sqrt(np.sum(small_psf.planes(0.25, 0.25)[1].astype(float) ** 2))
    assert width(np.concatenate(steps)) == pytest.approx(np.hypot(noise_shift, shift[0]), rel=0.12)


def test_table(small_psf):
    """More stars and brighter ones shake more; without stars around nothing does."""
    frame = frame_of(small_psf)
    sigma = sigma_of(frame)
    crowd = Crowd(sigma, 0.7, np.geomspace(1e-4, 0.05, 20))
    responses = Responses.of(frame, Sources.empty(), sigma * np.geomspace(3, 1e4, FLUXES), 3.5)
    table = Shaken.of(frame, responses, crowd, Limits(2.7, 3.5))
    err, shift = table.at(np.full(20, 50 * sigma), crowd.density)
    assert np.all(np.diff(err) > 0)
    assert np.all(np.diff(shift) > 0)
    faint, bright = table.at(sigma * np.array([10.0, 1000.0]), crowd.density[[10, 10]])[0]
    assert faint < bright
    assert faint / 10 > bright / 1000
    assert np.all(np.array(table.at(np.array([50 * sigma]), np.zeros(1))) == 0)

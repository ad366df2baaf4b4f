"""Kernels between PSFs: what they do to stars, to noise and to bad pixels, and whether the report tells."""

import logging

import numpy as np
import pytest
from scipy.signal import fftconvolve

from crowdfit.errors import InputError
from crowdfit.psf import analytic
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Grid, Polynomial
from crowdfit.psf.homogenize import ENOUGH, REGULARISATIONS, Homogenizer, Kernel, homogenize, kernel_between

SHAPE = (90, 110)


@pytest.fixture(scope="module")
def kernel():
    return kernel_between(analytic.moffat(2.2), analytic.moffat(3.0))


def grid_psf(widths):
    """A PSF whose width changes from the left edge of the image to the right one."""
    planes = [analytic.moffat(width, radius=14).cube[0] for width in widths]
    nodes = np.linspace(0, SHAPE[1] - 1, len(widths))
    return EPSF.from_planes(planes, 4, Grid(tuple(nodes), (0.0,)))


def image_of(psf, x, y, flux, shape=SHAPE):
    """Stars without noise."""
    image = np.zeros((shape[0] + 120, shape[1] + 120))
    for one, other, light in zip(x, y, flux, strict=True):
        stamp = psf.stamp(one, other, 81)
        row, col = int(np.floor(other + 0.5)) + 20, int(np.floor(one + 0.5)) + 20
        image[row : row + 81, col : col + 81] += light * stamp
    return image[60:-60, 60:-60]


def fluxes(image, psf, x, y):
    """Fluxes of stars at known places by least squares, for pixels that are finite."""
    design = np.stack([image_of(psf, [a], [b], [1.0]).ravel() for a, b in zip(x, y, strict=True)], axis=1)
    good = np.isfinite(image.ravel())
    return np.linalg.lstsq(design[good], image.ravel()[good], rcond=None)[0]


def stars(n, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(18, SHAPE[1] - 18, n), rng.uniform(18, SHAPE[0] - 18, n), 10 ** rng.uniform(2, 4, n)


# one kernel


def test_kernel_between_gaussians_is_the_gaussian_of_the_difference():
    """Pixels, which both PSFs hold, cancel: what remains is a Gaussian, whose width and angle are known."""
    found = kernel_between(analytic.gaussian(2.5), analytic.gaussian(4.0, 0.2, 30.0)).image
    half = len(found) // 2
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    angle, sigma2 = np.deg2rad(30), 1 / (8 * np.log(2))
    along = 16 / 0.8 * sigma2 - 2.5**2 * sigma2
    across = 16 * 0.8 * sigma2 - 2.5**2 * sigma2
    u, v = xx * np.cos(angle) + yy * np.sin(angle), yy * np.cos(angle) - xx * np.sin(angle)
    expected = np.exp(-(u**2) / along / 2 - v**2 / across / 2) / (2 * np.pi * np.sqrt(along * across))
    np.testing.assert_allclose(found, expected, atol=1e-2 * expected.max())


def test_report_of_a_kernel_is_what_it_does(kernel):
    """P039: sum, residual, curve of growth and noise, measured again on stamps of the PSF and on a noisy sky."""
    source, target = analytic.moffat(2.2), analytic.moffat(3.0)
    worst, growth = 0.0, []
    for x, y in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)):
        size = len(kernel.image)
        # stamps are centred on the nearest pixel, which is the next one from 0.5 on
        steps = (int(y >= 0.5), int(x >= 0.5))
        one, other = (np.roll(psf.stamp(x, y, size), steps, (0, 1)) for psf in (source, target))
        off = fftconvolve(one, kernel.image, mode="same") - other
        radius = np.hypot(*np.meshgrid(np.arange(size) - size // 2 - x, np.arange(size) - size // 2 - y))
        growth.append([off[radius <= r].sum() for r in range(1, size // 2 + 1)])
        worst = max(worst, np.abs(off).sum())
    assert kernel.total == pytest.approx(1, abs=1e-9)
    assert kernel.residual == pytest.approx(worst, rel=0.1)
    assert kernel.growth_deviation == pytest.approx(np.abs(np.mean(growth, axis=0)).max(), abs=3e-5)
    assert kernel.growth_deviation < 1e-3
    sky = np.random.default_rng(3).normal(size=(400, 400))
    assert np.std(fftconvolve(sky, kernel.image, mode="valid")) == pytest.approx(kernel.noise, rel=0.02)


def test_regularisation_is_the_strongest_that_the_residual_allows(kernel):
    """P038: neither the strongest nor the weakest is taken; a wider target asks for no weaker one, and noise falls."""
    assert kernel.residual <= max(ENOUGH, 2e-3)
    assert REGULARISATIONS[-1] < kernel.regularisation < REGULARISATIONS[0]
    easy = kernel_between(analytic.moffat(2.2), analytic.moffat(4.5))
    assert easy.regularisation >= kernel.regularisation
    assert easy.noise < kernel.noise < 1


def test_same_psf_needs_no_kernel():
    found = kernel_between(analytic.moffat(2.5), analytic.moffat(2.5))
    assert found.noise == pytest.approx(1, abs=0.2)
    assert found.residual < 2 * ENOUGH


def test_sharpening_is_said(caplog):
    """P038: a narrower target is warned of."""
    with caplog.at_level(logging.WARNING):
        found = kernel_between(analytic.moffat(3.0), analytic.moffat(2.0))
    assert found.noise > 1
    assert "match to a wider PSF" in caplog.text


def test_other_pixels():
    """Every second pixel of a star matched from small pixels is that star on pixels twice as large."""
    source, target = analytic.moffat(2.4), analytic.moffat(2.2)
    found = kernel_between(source, target, scale=0.5)
    matched = fftconvolve(source.stamp(0, 0, 81), found.image, mode="same")[40 % 2 :: 2, 40 % 2 :: 2]
    size = len(matched)
    np.testing.assert_allclose(4 * matched, target.stamp(0, 0, size), atol=2e-3 * target.native().max())
    assert found.total == pytest.approx(1, abs=1e-9)


# images


PAIRS = pytest.mark.parametrize(
    ("source", "target"),
    [
        (analytic.moffat(2.2, radius=14), analytic.moffat(3.0, radius=14)),
        (grid_psf([2.0, 2.6]), analytic.moffat(3.2, radius=14)),
        (grid_psf([2.0, 2.3, 2.5]), grid_psf([3.0, 3.6])),
    ],
    ids=["constant", "varying source", "both vary"],
)


@PAIRS
def test_fluxes_of_stars_are_kept(source, target):
    """P041, P042: fluxes are the same to 0.2 %, star by star, wherever they are in their pixels and on the field."""
    rng = np.random.default_rng(1)
    columns, rows = np.meshgrid(np.linspace(20, 90, 6), np.linspace(20, 70, 5))
    x, y = (places.ravel() + rng.uniform(-1, 1, places.size) for places in (columns, rows))
    flux = rng.uniform(1e3, 3e3, x.size)
    kernels = homogenize(source, target, SHAPE)
    matched = kernels.apply(image_of(source, x, y, flux)).image
    assert np.isfinite(matched[15:-15, 15:-15]).all()
    assert np.abs(fluxes(matched, target, x, y) / flux - 1).max() < 2e-3
    # and in a crowd, where a bright star may leave something on a faint one
    x, y, flux = stars(25)
    found = fluxes(kernels.apply(image_of(source, x, y, flux)).image, target, x, y)
    assert np.abs(found / flux - 1)[flux > 0.1 * flux.max()].max() < 2e-3
    assert np.abs(found - flux).max() < 2e-3 * flux.max()
    assert np.sum(found) == pytest.approx(np.sum(flux), rel=5e-4)


def test_unmatched_image_fails_the_same_test():
    """The width of the target matters to fluxes: without a kernel they are off by far more."""
    x, y, flux = stars(25)
    source, target = analytic.moffat(2.2, radius=14), analytic.moffat(3.0, radius=14)
    assert np.abs(fluxes(image_of(source, x, y, flux), target, x, y) / flux - 1).max() > 0.1


def test_polynomial_field_has_nodes():
    """A PSF that varies as a polynomial is matched at nodes over the whole image, and each one is reported."""
    one, other = (analytic.moffat(width, radius=14).cube[0] for width in (2.2, 2.6))
    field = Polynomial(1, (54.5, 44.5), (54.5, 44.5))
    source = EPSF.from_planes([(one + other) / 2, (other - one) / 2, 0 * one], 4, field)
    found = homogenize(source, analytic.moffat(3.2, radius=14), SHAPE)
    report = found.report
    columns = found.grid.x_nodes
    assert len(report) == len(found.kernels) == len(columns) * len(found.grid.y_nodes) >= 9
    np.testing.assert_allclose(report["kernel_sum"], 1, atol=1e-9)
    left, right = (report[report["x"].value == edge]["noise"].mean() for edge in (0, SHAPE[1] - 1))
    assert right > left  # less is left to do where the source is wider
    assert np.all(report["growth_deviation"] < report["residual"])
    np.testing.assert_allclose(found.at(0, 0), found.kernels[0].image)
    between = (found.kernels[0].image + found.kernels[1].image) / 2
    np.testing.assert_allclose(found.at((columns[0] + columns[1]) / 2, 0), between, atol=1e-12)


def test_kernels_are_no_more_than_the_psf_asks_for():
    """Where the PSF changes along x only, more columns of nodes are laid in, and no rows."""
    found = homogenize(grid_psf([2.0, 2.6]), analytic.moffat(3.2, radius=14), SHAPE)
    assert len(found.grid.y_nodes) == 2
    assert len(found.grid.x_nodes) > 2


def test_target_positions():
    """The target is taken where the map of positions points to."""
    source, target = analytic.moffat(2.0, radius=14), grid_psf([3.0, 4.0])
    found = homogenize(source, target, SHAPE, to_target=lambda x, y: (SHAPE[1] - 1 - x, y))
    assert found.at(0, 0).max() < found.at(SHAPE[1] - 1, 0).max()


def test_weights_become_those_of_the_matched_image():
    """Variances by brute force: the response to each pixel, squared; with kernels that vary."""
    rng = np.random.default_rng(5)
    kernels = [Kernel(rng.uniform(-0.1, 1, (3, 3)), 1e-3, 0.0, np.zeros(1)) for _ in range(6)]
    found = Homogenizer(tuple(kernels), Grid((0.0, 5.0, 9.0), (0.0, 7.0)))
    shape = (8, 10)
    ivar = rng.uniform(0.5, 2, shape)
    variance, covered = np.zeros(shape), np.zeros(shape)
    for row, col in np.ndindex(shape):
        response = np.zeros((shape[0] + 2, shape[1] + 2))
        response[row : row + 3, col : col + 3] = found.at(col, row)
        variance += response[1:-1, 1:-1] ** 2 / ivar[row, col]
        covered += response[1:-1, 1:-1]
    matched = found.apply(np.ones(shape), ivar, max_lost=0.9)
    np.testing.assert_allclose(matched.ivar, covered**2 / variance)
    np.testing.assert_allclose(matched.image, 1)


def test_bad_pixels_and_edges(kernel):
    """A sky stays a sky up to where too much is not known; far from a bad pixel nothing changes."""
    found = Homogenizer((kernel,), Grid((0.0,), (0.0,)))
    x, y, flux = stars(10)
    image = image_of(analytic.moffat(2.2), x, y, flux)
    ivar = np.ones(SHAPE)
    bad = ivar.copy()
    bad[40, 50] = 0
    hurt = image.copy()
    hurt[40, 50] = 1e9
    clean, holed = found.apply(image, ivar), found.apply(hurt, bad)
    assert np.isnan(holed.image[40, 50])
    assert holed.ivar[40, 50] == 0
    changed = np.isnan(holed.image) & np.isfinite(clean.image)
    yy, xx = np.nonzero(changed)
    assert 5 <= changed.sum() <= 60
    assert np.hypot(xx - 50, yy - 40).max() < 6
    far = np.hypot(*np.meshgrid(np.arange(SHAPE[1]) - 50, np.arange(SHAPE[0]) - 40)) > 12
    known = far & np.isfinite(clean.image)
    assert np.abs(holed.image - clean.image)[known].max() < 1e-2 * image.max()
    sky = found.apply(np.full(SHAPE, 7.0)).image
    np.testing.assert_allclose(sky[np.isfinite(sky)], 7)
    assert np.isfinite(sky).sum() > 0.7 * sky.size
    assert found.apply(np.full(SHAPE, 7.0)).ivar is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda k: k.apply(np.zeros(5)), "2-D"),
        (lambda k: k.apply(np.zeros((5, 5)), np.ones((4, 5))), "ivar: shape"),
        (lambda k: k.apply(np.zeros((5, 5)), max_lost=1.5), "max_lost: 1.5"),
        (lambda _: kernel_between(analytic.moffat(2), analytic.moffat(3), scale=-1), "scale: -1"),
        (lambda _: homogenize(analytic.moffat(2), analytic.moffat(3), (0, 5)), "shape: "),
    ],
)
def test_refusals(kernel, call, words):
    with pytest.raises(InputError, match=words):
        call(Homogenizer((kernel,), Grid((0.0,), (0.0,))))

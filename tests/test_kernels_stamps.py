"""Stamps from the oversampled spline table, against a sum over all its knots."""

import numpy as np
import pytest

from crowdfit._kernels import stamps as kernels
from crowdfit.psf.analytic import gaussian
from tests.reference import EPS
from tests.reference import stamps as twins
from tests.reference.scenes import ORDERS, make_scene, varying_psf

TAPS = 16
"""Products that make up one stamp pixel; each may be off by EPS of the largest of them."""


def tolerance(psf):
    """Return what value and gradients may be off by, from the number of taps and the size of the coefficients."""
    return TAPS * EPS * np.abs(psf.coef).max() * np.array([1, psf.oversample, psf.oversample])[:, None, None]


@pytest.mark.parametrize(("x", "y"), [(20.3, 20.5), (-3.0, 5.0), (60.0, 60.0), (43.5, 39.5)])
def test_clipped_window(x, y):
    r0, r1, c0, c1 = kernels.clip_window(x, y, 4, 40, 44)
    rows, cols = twins.clip_window(x, y, 4, 40, 44)
    assert list(range(r0, r1)) == list(rows)
    assert list(range(c0, c1)) == list(cols)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1 - 1e-12])
def test_spline_weights(t):
    w, d = np.empty(4), np.empty(4)
    kernels.spline_weights(t, w, d)
    assert np.allclose([w, d], twins.spline_weights(t), rtol=0, atol=1e-14)
    assert w.sum() == pytest.approx(1, abs=1e-15)
    assert d.sum() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("frac", [-0.5, -0.2, 0.0, 1e-9, 0.37, 0.499])
@pytest.mark.parametrize("s", [1, 2, 5])
def test_locate_taps(frac, s):
    phase, shift, w, d = np.empty(4, np.int64), np.empty(4, np.int64), np.empty(4), np.empty(4)
    kernels.locate_taps(frac, s, phase, shift, w, d)
    expected = twins.locate_taps(frac, s)
    assert np.array_equal([phase, shift], expected[:2])
    assert np.allclose([w, d], expected[2:], rtol=0, atol=1e-13 * s)


def test_rows():
    rng = np.random.default_rng(1)
    taps, rows = rng.normal(size=(4, 11)).astype(np.float32), rng.normal(size=(3, 11)).astype(np.float32)
    wx, dx = rng.normal(size=(2, 4))
    value = rows[0].copy()
    kernels.add_row_value(*taps, wx, 0.7, value)
    assert np.allclose(value, twins.add_row_value(taps, wx, 0.7, rows[0]), rtol=0, atol=TAPS * EPS * 4)
    expected = twins.add_row(taps, wx, dx, 0.7, -0.3, *rows)
    kernels.add_row(*taps, wx, dx, 0.7, -0.3, *rows)
    assert np.allclose(rows, expected, rtol=0, atol=TAPS * EPS * 4)


@pytest.mark.parametrize("basis", [[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [1.0, 0.0, -0.5]])
def test_mixed_planes(basis):
    """Planes of weight 0 may hold anything; phases that no tap needs stay as they are."""
    rng, basis = np.random.default_rng(2), np.array(basis)
    coef = rng.normal(size=(3, 5, 5, 9, 9)).astype(np.float32)
    assert kernels.count_used(basis) == twins.count_used(basis)
    expected = twins.mix_planes(coef, basis, 2, 1, 4, 6)
    coef[basis == 0] = np.nan
    out = np.full((5, 5, 4, 6), np.float32(7))
    phase_y, phase_x = np.array([1, 2, 3, 4]), np.array([4, 0, 1, 2])
    kernels.mix_planes(coef, basis, phase_y, phase_x, 2, 1, out)
    assert np.allclose(
        out[np.ix_(phase_y, phase_x)], expected[np.ix_(phase_y, phase_x)], rtol=0, atol=8 * EPS
    )
    assert np.all(out[0] == 7)
    assert np.all(out[:, 3] == 7)
    row = out[1, 0, 0].copy()
    kernels.add_scaled(np.float32(0.3), coef[0, 0, 0, 0, :6], row)
    total = twins.add_scaled(0.3, coef[0, 0, 0, 0, :6], out[1, 0, 0])
    assert np.allclose(row, total, rtol=0, atol=8 * EPS, equal_nan=True)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("x", "y"), [(20.0, 20.0), (20.5, 19.5), (19.9999, 20.0001), (3.27, -1.81)])
def test_window(order, x, y):
    """The window need not be centred on the star."""
    psf = varying_psf(order)
    out = np.full((3, 6, 9), np.float32(7))
    col0, row0 = int(x) - 5, int(y) - 2
    basis = psf.basis(x, y)[0]
    kernels.fill_window(psf.coef, basis, x, y, col0, row0, *out)
    expected = twins.fill_window(psf.coef, basis, x, y, col0, row0, (6, 9))
    assert np.all(np.abs(out - expected) < tolerance(psf))


@pytest.mark.parametrize("order", ORDERS)
def test_window_added_to_an_image(order):
    psf, image = varying_psf(order), np.random.default_rng(1).normal(size=(20, 30)).astype(np.float32)
    x, y, flux, window = 11.3, 8.8, 3.0, (5, 17, 4, 13)
    basis = psf.basis(x, y)[0]
    expected = twins.add_window(psf.coef, basis, x, y, flux, *window, image)
    untouched = image.copy()
    untouched[4:13, 5:17] = 0
    kernels.add_window(psf.coef, basis, x, y, flux, *window, image)
    assert np.allclose(image, expected, rtol=EPS, atol=TAPS * EPS * flux)
    image[4:13, 5:17] = 0
    assert np.array_equal(image, untouched)


@pytest.mark.parametrize("order", ORDERS)
def test_stamps(order):
    """All stamps at once, each of its own size, and one by one: the same numbers."""
    s = make_scene(order)
    out = np.empty((3, s.sizes.sum()), np.float32)
    kernels.fill_stamps(s.coef, s.basis, s.x, s.y, s.half, s.offset, out)
    expected = twins.fill_stamps(s.coef, s.basis, s.x, s.y, s.half)
    assert np.all(np.abs(out - expected) < tolerance(s.psf)[..., 0])
    one = np.empty_like(out)
    for i in range(len(s.x)):
        kernels.fill_one_stamp(s.coef, s.basis[i], s.x[i], s.y[i], s.half[i], s.offset[i], one)
    assert np.array_equal(one, out)


@pytest.mark.parametrize("order", ORDERS)
def test_stars_far_off_the_image(order):
    """Above, below and beside: their stamps stay as they are."""
    s = make_scene(order)
    x, y = np.array([20.0, 20.0, -30.0, 90.0]), np.array([-30.0, 90.0, 20.0, 20.0])
    half, offset = np.full(4, 3), 49 * np.arange(4)
    start = np.random.default_rng(2).normal(size=(3, 196)).astype(np.float32)
    out = start.copy()
    share = np.ones(s.root.shape, np.float32)
    kernels.blend_stamps(s.coef, s.psf.basis(x, y), x, y, half, offset, share, out)
    assert np.array_equal(out, start)
    for rows in ((0, -24), (87, 40), (5, 5)):
        first, end, _, _ = kernels.bounds_above_zero(share, *rows, 3, 9)
        assert first == end


@pytest.mark.parametrize("order", ORDERS)
def test_blended_stamps(order):
    """Two PSFs mixed pixel by pixel: where the share is 0 nothing changes, where it is 1 only the other is left."""
    s = make_scene(order)
    start = np.zeros((3, s.sizes.sum()), np.float32)
    kernels.fill_stamps(s.coef, s.basis, s.x, s.y, s.half, s.offset, start)
    rng = np.random.default_rng(3)
    some = rng.uniform(0, 1, s.root.shape) * (rng.random(s.root.shape) < 0.3)
    for values in (np.zeros(s.root.shape), np.ones(s.root.shape), some):
        share = values.astype(np.float32)
        out = (0.5 * start).astype(np.float32)
        expected = twins.blend_stamps(s.coef, s.basis, s.x, s.y, s.half, s.offset, share, out)
        kernels.blend_stamps(s.coef, s.basis, s.x, s.y, s.half, s.offset, share, out)
        assert np.all(np.abs(out - expected) < tolerance(s.psf)[..., 0])
        box = kernels.bounds_above_zero(share, 1, 9, 2, 7)
        assert box == twins.bounds_above_zero(share, 1, 9, 2, 7) or (
            box[0] == box[1] and not share[1:9, 2:7].any()
        )


@pytest.mark.parametrize("order", ORDERS)
def test_masked_stamps(order):
    """Masked first and filtered then: what lies on masked pixels and beyond the image is spread by nobody."""
    s = make_scene(order)
    rng = np.random.default_rng(4)
    good = rng.random(s.root.shape) > 0.08
    good[:, 12] = False
    filter_ = rng.normal(0, 0.3, (7, 7))
    filter_ += filter_[::-1, ::-1]
    start = rng.normal(size=(3, s.sizes.sum())).astype(np.float32)
    out, one = start.copy(), start.copy()
    expected = twins.mask_stamps(s.coef, s.basis, s.x, s.y, s.half, s.offset, good, 1, filter_, start)
    kernels.mask_stamps(s.coef, s.basis, s.x, s.y, s.half, s.offset, good, 1, filter_, out)
    off = 49 * np.abs(filter_).max() * tolerance(s.psf)[..., 0] + EPS * np.abs(start).max()
    assert np.all(np.abs(out - expected) < off)
    changed = [np.any((out != start)[:, a : a + n]) for a, n in zip(s.offset, s.sizes, strict=True)]
    assert any(changed)
    assert not all(changed)
    i = int(np.flatnonzero(changed)[0])
    kernels.mask_one_stamp(s.coef, s.basis[i], s.x[i], s.y[i], s.half[i], s.offset[i], good, filter_, one)
    here = np.s_[:, s.offset[i] : s.offset[i] + s.sizes[i]]
    assert np.array_equal(one[here], out[here])
    line, row = rng.normal(size=9), rng.normal(size=9).astype(np.float32)
    wanted = twins.take_away(0.3, line, row)
    kernels.take_away(np.float32(0.3), line, row)
    assert np.allclose(row, wanted, rtol=0, atol=10 * EPS)


def test_largest_window_within_the_table():
    """A window out to the last pixel of the support reads zeros there and nothing beyond the table."""
    psf = gaussian(2.0, oversample=2, radius=5)
    reach = psf.coef.shape[3] // 2 - 2
    out = np.empty((3, 2 * reach + 1, 2 * reach + 1), np.float32)
    for x, y in ((0.49, -0.5), (-0.5, 0.49)):
        kernels.fill_window(psf.coef, np.ones(1), x, y, -reach, -reach, *out)
        assert np.abs(out[:, [0, -1]]).max() < 1e-6
        assert out[0].sum() == pytest.approx(1, abs=1e-4)


def test_threads(same_bits):
    s = make_scene(2, n=60)

    def work():
        out = np.empty((3, s.sizes.sum()), np.float32)
        kernels.fill_stamps(s.coef, s.basis, s.x, s.y, s.half, s.offset, out)
        return [out]

    same_bits(work)

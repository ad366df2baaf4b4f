"""How a PSF varies over the field: the forms, and the PSF that is made of them."""

import json

import numpy as np
import pytest

from crowdfit._kernels import stamps as kernels
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.psf.analytic import gaussian
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Constant, Grid, Polynomial, as_values, from_values
from crowdfit.stages.detect import allowed_pixels
from crowdfit.stages.matched import FieldFilter, field_filter, filter_kernel, matched_filter
from crowdfit.whitening import convolved_psf, whitening_kernel

GRID = Grid((0.0, 40.0, 100.0), (10.0, 70.0))
FORMS = (Constant(), Polynomial(2, (50.0, 40.0), (50.0, 40.0)), GRID)


@pytest.mark.parametrize("form", FORMS)
def test_plain_values(form):
    """What a file can hold, and the form again."""
    values = json.loads(json.dumps(as_values(form)))
    assert from_values(values) == form
    assert set(map(type, values.values())) <= {str, int, float, list}


def gridded(widths=(2.4, 2.8, 3.4), *, oversample=3, radius=12):
    """Return a gridded PSF: widths along x, the upper row of nodes 20 % broader than the lower one."""
    planes = [gaussian(w * f, oversample=oversample, radius=radius).cube[0] for f in (1, 1.2) for w in widths]
    return EPSF.from_planes(planes, oversample, GRID)


class TestBasis:
    @pytest.mark.parametrize("field", FORMS)
    def test_shape_and_unity(self, field):
        """The constant 1 lies within every form: at any place one mixture of the planes is the same for all."""
        x, y = np.random.default_rng(1).uniform(-20, 120, (2, 50))
        basis = field.basis(x, y)
        assert basis.shape == (50, field.n_basis)
        assert basis.dtype == np.float64
        assert basis.flags.c_contiguous
        answer, left, *_ = np.linalg.lstsq(basis, np.ones(50))
        assert np.allclose(basis @ answer, 1)
        assert len(field.places) >= field.n_basis
        assert field.basis(*field.middle).shape == (1, field.n_basis)
        assert field.basis([], []).shape == (0, field.n_basis)

    @pytest.mark.parametrize("field", FORMS)
    def test_shifted(self, field):
        x, y = np.random.default_rng(1).uniform(0, 100, (2, 9))
        moved = field.shifted(-30.0, 12.5)
        np.testing.assert_allclose(moved.basis(x - 30, y + 12.5), field.basis(x, y), atol=1e-12)

    def test_terms_of_a_polynomial(self):
        terms = Polynomial(2, (10.0, 20.0), (2.0, 5.0)).basis(14.0, 35.0)
        assert terms[0] == pytest.approx([1, 2, 3, 4, 6, 9])

    def test_grid_runs_along_x_first(self):
        assert np.array_equal(GRID.basis(*GRID.places.T), np.eye(6))
        assert np.array_equal(GRID.places[:3, 0], [0, 40, 100])
        assert np.array_equal(GRID.places[:3, 1], [10, 10, 10])

    def test_grid_is_bilinear_and_constant_beyond(self):
        weights = GRID.basis([10.0, -50.0, 300.0, 70.0], [10.0, 0.0, 90.0, 25.0])
        assert weights[0] == pytest.approx([0.75, 0.25, 0, 0, 0, 0])
        assert weights[1] == pytest.approx([1, 0, 0, 0, 0, 0])
        assert weights[2] == pytest.approx([0, 0, 0, 0, 0, 1])
        assert weights[3] == pytest.approx([0, 0.375, 0.375, 0, 0.125, 0.125])
        assert np.all(np.count_nonzero(weights, axis=1) <= 4)

    def test_grid_of_one_node_along_an_axis(self):
        row = Grid((0.0, 10.0), (5.0,))
        assert row.basis(5.0, 99.0)[0] == pytest.approx([0.5, 0.5])
        assert Grid((3.0,), (5.0,)).basis(5.0, 99.0)[0] == pytest.approx([1])

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Grid((0.0, 0.0), (1.0,)), "x_nodes .* increase"),
            (lambda: Grid((0.0,), ()), "y_nodes .* one or more"),
            (lambda: Grid((0.0, np.nan), (0.0,)), "x_nodes"),
            (lambda: Polynomial(-1, (0.0, 0.0), (1.0, 1.0)), "order -1 .* 0 or more"),
            (lambda: Polynomial(1, (0.0, 0.0), (1.0, 0.0)), "scale positive"),
            (lambda: EPSF(np.ones((3, 3, 3)), 1), "3 planes are refused; .*Constant.* mixes 1"),
            (lambda: EPSF.from_planes(np.ones((6, 4, 5)), 1, GRID), "odd sizes"),
            (lambda: EPSF.from_planes(np.full((6, 5, 5), np.nan), 1, GRID), "NaN"),
            (lambda: EPSF.from_planes(np.ones((5, 5, 5)), 1, GRID), "5 planes are refused"),
            (lambda: EPSF.from_planes(np.arange(6)[:, None, None] * np.ones((6, 5, 5)), 1, GRID), "positive"),
        ],
    )
    def test_refused(self, make, message):
        with pytest.raises(InputError, match=message):
            make()


class TestPsf:
    def test_sums_to_one_everywhere(self):
        planes = np.array([f * gaussian(3.0, oversample=2, radius=10).cube[0] for f in (1.03, 0.05, -0.02)])
        psf = EPSF.from_planes(planes, 2, Polynomial(1, (20.0, 30.0), (20.0, 30.0)))
        for x, y in ((0.0, 0.0), (13.2, 50.7), (40.0, 60.0)):
            assert psf.at(x, y).cube.sum() / 4 == pytest.approx(1, abs=1e-12)
        sums = [plane.sum() for plane in psf.cube]
        assert sums == pytest.approx([4, 0, 0], abs=1e-10)

    def test_one_number_describes_the_middle(self):
        """The middle of the grid is at x = 50: between 2.8 and 3.4, and half way up."""
        psf = gridded()
        here = psf.at(50.0, 40.0)
        assert psf.fwhm == here.fwhm
        assert psf.moments == here.moments
        assert psf.n_eff == here.n_eff
        assert 2.9 < psf.fwhm < 3.5
        assert np.array_equal(psf.native(), here.stamp(0, 0))

    def test_envelope_covers_the_field(self):
        """Far out the broadest PSF rules, in the core the narrowest."""
        psf = gridded()
        for x, y in psf.field.places:
            assert np.all(psf.envelope >= psf.at(x, y).envelope * (1 - 1e-12))
        assert psf.envelope[0] == pytest.approx(psf.at(0, 10).envelope[0])
        assert psf.envelope[6] == pytest.approx(psf.at(100, 70).envelope[6])

    def test_recentred_by_one_step(self):
        shifted = gridded().with_cube(np.roll(gridded().cube, (1, -2), (1, 2)))
        back, (x, y) = shifted.recentred()
        assert (x, y) == pytest.approx((-2 / 3, 1 / 3), abs=2e-3)
        assert np.hypot(*back.centroid()) < 1e-3
        assert np.hypot(*back.at(0, 10).centroid()) < 5e-3

    def test_axes(self):
        """A blob at +x of the PSF at the node of large y: it shines there and nowhere else."""
        plain = gaussian(2.0, oversample=2, radius=6).cube[0]
        blob = plain.copy()
        blob[12, 12 + 8] += plain.max()
        planes = [plain, plain, blob, plain]  # the third is at x = 0, y = 90
        psf = EPSF.from_planes(planes, 2, Grid((0.0, 90.0), (0.0, 90.0)))
        for (x, y), has_blob in zip(
            ((0, 0), (90, 0), (0, 90), (90, 90)), (False, False, True, False), strict=True
        ):
            stamp = psf.stamp(x, y)
            assert (stamp[6, 10] > 5 * stamp[6, 2] + 1e-4) == has_blob
            assert stamp[10, 6] == pytest.approx(stamp[2, 6], abs=1e-6)

    def test_planes_of_weight_0_are_not_read(self):
        """Kernels leave them out: NaN in them changes nothing, so a grid costs four planes."""
        psf = gridded()
        basis = psf.basis(20.3, 30.0)[0]
        unused = psf.coef.copy()
        unused[basis == 0] = np.nan
        out, expected = np.empty((2, 3, 9, 9), np.float32)
        kernels.fill_window(unused, basis, 20.3, 30.0, 16, 26, *out)
        kernels.fill_window(psf.coef, basis, 20.3, 30.0, 16, 26, *expected)
        assert np.array_equal(out, expected)
        image, plain = np.zeros((2, 50, 50), np.float32)
        kernels.add_window(unused, basis, 20.3, 30.0, 5.0, 16, 25, 26, 35, image)
        kernels.add_window(psf.coef, basis, 20.3, 30.0, 5.0, 16, 25, 26, 35, plain)
        assert np.array_equal(image, plain)
        assert image.max() > 0.1

    def test_whitening(self):
        """The filter is one for the whole field; the filtered PSF of a place is the filtered PSF of that place."""
        psf = gridded()
        kernel = whitening_kernel(psf, 5.0)
        filtered = convolved_psf(psf, kernel)
        there = convolved_psf(psf.at(90.0, 60.0), kernel)
        assert np.allclose(filtered.at(90.0, 60.0).cube, there.cube, atol=1e-6 * psf.cube.max())


SHAPE = (81, 101)


def frame_with(psf, mask=None):
    ivar = np.random.default_rng(2).uniform(0.5, 1.5, SHAPE)
    ivar[30:33, 20:60] = 0
    data = np.random.default_rng(3).normal(size=SHAPE)
    return Frame.start(
        Exposure.of(data, ivar if mask is None else np.where(mask, 0, ivar)), psf, StampSizes()
    )


class TestMatchedFilter:
    def test_constant_psf_takes_the_plain_filter(self):
        frame = frame_with(gaussian(3.0))
        filters = field_filter(frame)
        assert np.array_equal(filters.stamps[0, 0], filter_kernel(frame))
        same = matched_filter(frame.resid, frame.fit_ivar, filter_kernel(frame))
        assert np.array_equal(matched_filter(frame.resid, frame.fit_ivar, filters), same)

    @pytest.mark.parametrize("form", ["grid", "polynomial"])
    def test_significance_is_that_of_the_local_psf(self, form):
        """At any pixel the map is what the filter of that very place gives."""
        psf = gridded()
        if form == "polynomial":
            base, wide = (gaussian(w, oversample=3, radius=12).cube[0] for w in (3.0, 3.3))
            step = (wide - base)[np.newaxis] * np.array([1, 0.8, 0.2, 0.3, -0.2])[:, None, None]
            psf = EPSF.from_planes(np.concatenate([base[None], step]), 3, FORMS[1])
        frame = frame_with(psf)
        frame = frame.with_(model=np.zeros(SHAPE, np.float32))
        signif = matched_filter(frame.resid, frame.fit_ivar, field_filter(frame))
        size = field_filter(frame).stamps.shape[2]
        for col, row in ((0, 0), (20, 40), (55, 12), (100, 80), (70, 66)):
            here = psf.at(col, row).stamp(0.0, 0.0, size)
            expected = matched_filter(frame.resid, frame.fit_ivar, here)[row, col]
            assert signif[row, col] == pytest.approx(expected, abs=0.01)
        middle = matched_filter(frame.resid, frame.fit_ivar, psf.native(size))
        assert np.abs(signif - middle).max() > 0.1  # the PSF of the middle is not good enough

    def test_share_of_usable_psf(self):
        """A broad PSF sees over a gap that a narrow one does not see over (C012)."""
        mask = np.zeros(SHAPE, bool)
        mask[:, :] = np.arange(SHAPE[0])[:, None] % 12 < 4
        psf = gridded((1.6, 3.0, 5.0), radius=24)
        frame = frame_with(psf, mask)
        allowed = allowed_pixels(frame, 1, least_qf=0.25)
        inner = np.arange(SHAPE[0]) % 12 == 1
        inner[:5] = inner[-5:] = False
        assert not allowed[inner, 2].any()
        assert allowed[inner, 98].all()
        shares = field_filter(frame).shares()
        assert np.allclose(shares.stamps.sum(axis=(2, 3)), 1)

    def test_threads(self, same_bits):
        frame = frame_with(gridded())
        filters = field_filter(frame)
        assert isinstance(filters, FieldFilter)
        same_bits(lambda: [matched_filter(frame.resid, frame.fit_ivar, filters)])

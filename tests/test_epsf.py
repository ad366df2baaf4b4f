"""The lowered PSF: sums, shifts, shape, how far out it reaches, and what is refused."""

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import shift

from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import StampSizes
from crowdfit.psf.analytic import airy, gaussian, moffat
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.initial import check_fits_image
from crowdfit.psf.readers import psf_from_array, read_psf
from crowdfit.render import render
from tests.reference.scenes import varying_psf

PHASE = st.floats(-0.5, 0.5, exclude_max=True)


class TestSum:
    """P036: the stamp sums to 1 at any sub-pixel position."""

    @given(x=PHASE, y=PHASE)
    @pytest.mark.parametrize("oversample", [1, 2, 4])
    def test_at_any_phase(self, x, y, oversample):
        # a spline on integer knots sums exactly; with more samples each phase is a sum of its own, right to the
        # light beyond the stamp that a shift brings in, which for r^-6 wings cut at 21 px is some 1e-6
        assert gaussian(2.0, oversample=oversample).stamp(x, y).sum(dtype=float) == pytest.approx(1, abs=1e-6)
        assert moffat(2.0, oversample=oversample).stamp(x, y).sum(dtype=float) == pytest.approx(1, abs=1e-5)

    @given(x=PHASE, y=PHASE)
    def test_of_a_pattern_whose_rings_are_cut(self, x, y):
        """Rings of a diffraction pattern beyond the stamp move with the star: r^-3 leaves 2e-4."""
        assert airy(2.0).stamp(x, y).sum(dtype=float) == pytest.approx(1, abs=5e-4)

    @pytest.mark.parametrize("oversample", range(1, 7))
    @pytest.mark.parametrize("side", range(23, 49, 2))
    def test_of_tables_that_end_within_a_pixel(self, oversample, side):
        """An isolated star sums to its flux on the image: each sample is seen from one sub-pixel position.

        The table is cut where it still holds 1 % of its peak, so that a rim too much is seen.
        """
        grid = np.hypot(*np.meshgrid(*2 * [np.arange(side) - side // 2])) / (side // 2)
        psf = EPSF.from_samples((1 + 10 * grid**2) ** -2, oversample)
        phases = np.arange(oversample) / oversample - (oversample // 2) / oversample
        sums = [
            render(psf, [30 + x], [30 + y], [7.0], (61, 61)).sum(dtype=float) for x in phases for y in phases
        ]
        assert np.mean(sums) == pytest.approx(7, rel=1e-6)

    @pytest.mark.parametrize("order", [1, 2])
    def test_everywhere_on_the_field(self, order):
        psf = varying_psf(order)
        for x, y in ((0.0, 0.0), (43.3, 39.2), (20.1, 7.7)):
            assert psf.stamp(x, y).sum(dtype=float) == pytest.approx(1, abs=1e-5)
            assert np.array_equal(psf.stamp(x, y), psf.stamp(x, y))
            # the PSF at a place is the varying one there; its table is prefiltered anew
            assert np.allclose(psf.at(x, y).stamp(x, y), psf.stamp(x, y), rtol=0, atol=1e-6)
        assert not np.allclose(psf.stamp(0, 0), psf.stamp(43, 39), atol=1e-3)


class TestShifts:
    """Stamps of one sub-pixel position are the same bits wherever the star is."""

    @given(
        x=st.integers(-64, 63), y=st.integers(-64, 63), dx=st.integers(-999, 999), dy=st.integers(-999, 999)
    )
    def test_whole_pixels(self, x, y, dx, dy):
        psf, at = moffat(2.5, ellipticity=0.2, angle=30, radius=6), np.array([x, y]) / 128
        assert np.array_equal(psf.planes(*at), psf.planes(*(at + [dx, dy])))

    def test_gradients_have_the_sign_of_the_stars_motion(self):
        """A star that moves to larger x brightens the pixels on its right."""
        _, grad_x, grad_y = gaussian(3.0).planes(0, 0, 5)
        assert grad_x[2, 3] > 0 > grad_x[2, 1]
        assert grad_y[3, 2] > 0 > grad_y[1, 2]

    def test_size(self):
        psf = gaussian(2.0, radius=5)
        assert psf.stamp(0, 0).shape == (11, 11)
        assert np.array_equal(psf.stamp(0, 0, 7), psf.stamp(0, 0)[2:-2, 2:-2])
        assert np.array_equal(psf.stamp(0, 0, 15), np.pad(psf.stamp(0, 0), 2))

    def test_star_halfway_between_pixels(self):
        """Halves go up: the stamp of x = 0.5 is centred on pixel 1, and mirrored in the one before."""
        stamp = gaussian(3.0, radius=6).stamp(0.5, 0.0)[6]
        assert stamp[5] == pytest.approx(stamp[6], rel=1e-5)


class TestShape:
    @pytest.mark.parametrize("fwhm", [1.6, 2.0, 3.0, 5.0, 8.0])
    def test_fwhm(self, fwhm):
        """Width of the pixel-integrated Gaussian: the variance of a pixel, 1/12, adds to its own."""
        expected = 2.3548 * np.hypot(fwhm / 2.3548, 12**-0.5)
        assert gaussian(fwhm).fwhm == pytest.approx(expected, rel=0.01)

    @pytest.mark.parametrize("make", [gaussian, moffat])
    @pytest.mark.parametrize(("ellipticity", "angle"), [(0.3, 20), (0.1, -60), (0.3, 90), (0.2, 45)])
    def test_ellipse(self, make, ellipticity, angle):
        psf = make(6.0, ellipticity=ellipticity, angle=angle)
        assert psf.ellipticity == pytest.approx(ellipticity, abs=0.01)  # the pixel rounds it a little
        assert abs((psf.position_angle - angle + 90) % 180 - 90) < 1.5
        assert psf.fwhm == pytest.approx(6.05, rel=0.01)

    def test_angle_runs_from_x_to_y(self):
        stamp = gaussian(5.0, ellipticity=0.5, angle=30).stamp(0, 0, 21)
        assert stamp[12, 13] > stamp[8, 13]

    def test_effective_area(self):
        """4 pi sigma^2 of a Gaussian that is wide beside a pixel."""
        assert gaussian(8.0).n_eff == pytest.approx(
            4 * np.pi * (8 / 2.3548) ** 2 * (1 + (2.3548 / 8) ** 2 / 12), rel=0.01
        )


class TestReach:
    """C017: how far out a star is rendered follows from its flux and the noise."""

    def test_envelope(self):
        psf = moffat(3.0, ellipticity=0.3, angle=30)
        stamp = psf.planes(0, 0)[0]
        yy, xx = np.indices(stamp.shape) - psf.radius
        assert len(psf.envelope) == psf.radius + 1
        assert np.all(np.diff(psf.envelope) <= 0)
        for radius in (0, 3, 9):
            assert psf.envelope[radius] >= stamp[np.hypot(xx, yy) >= radius].max() * (1 - 1e-3)

    def test_half_sizes(self):
        """Beyond its stamp a star is fainter than the level; one pixel less would not do."""
        psf, flux = moffat(3.0), np.array([10.0, 1e3, 1e4, -1e4])
        half = psf.half_sizes(flux, 0.1, 4)
        assert half.dtype == np.int64
        assert list(half[[0, 2]] == half[[0, 3]]) == [True, True]
        for f, h in zip(flux[1:3], half[1:3], strict=True):
            assert f * psf.envelope[h] <= 0.1 < f * psf.envelope[h - 1]
        assert half[0] == 4
        assert psf.half_sizes(np.array([1e12]), 0.1, 4) == psf.radius
        assert psf.half_sizes(np.array([0.0]), 0.1, 10**6) == psf.radius

    def test_level_is_in_sigma(self):
        """The same stamps in electrons and in units a million times smaller."""
        psf, flux = moffat(3.0), np.geomspace(10, 1e6, 9)
        sizes = StampSizes()
        assert np.array_equal(sizes.half(psf, flux, 2.0), sizes.half(psf, flux * 1e-6, 2e-6))

    @pytest.mark.parametrize(
        "psf", [gaussian(1.5, radius=2), moffat(6.0, radius=8), EPSF.from_samples(np.eye(3))]
    )
    def test_windows_stay_within_the_table(self, psf):
        """However wide a window is asked for, kernels do not read beyond the coefficients."""
        half = psf.window(1e3)
        assert half == psf.support
        assert half >= psf.radius
        assert psf.window(2.0) >= min(2 * psf.fwhm, half)
        assert psf.planes(0.3, -0.2, 2 * half + 1).shape == (3, 2 * half + 1, 2 * half + 1)


class TestCentre:
    @pytest.mark.parametrize("step", [(0.3, -0.7), (1.2, 0.4), (0.0, 0.0)])
    @pytest.mark.parametrize("make", [gaussian, moffat])
    def test_recentred(self, make, step):
        """C025: the PSF's own offset is taken out, once for all stars."""
        psf = make(3.0)
        moved = EPSF.from_samples(shift(psf.cube[0], (step[1] * 4, step[0] * 4), order=3), 4)
        centred, found = moved.recentred()
        assert found == pytest.approx(step, abs=2e-3)
        assert np.hypot(*centred.centroid()) < 1e-3
        assert centred.cube[0].sum() / 16 == pytest.approx(1, abs=1e-9)
        assert np.abs(centred.stamp(0, 0) - psf.stamp(0, 0)).max() < 2e-3 * psf.stamp(0, 0).max()

    def test_arguments_are_not_changed(self):
        table = gaussian(3.0).cube[0] * 7
        before = table.copy()
        psf_from_array(table, oversample=4)
        assert np.array_equal(table, before)


class TestRefused:
    """Clear messages for PSFs that cannot be used."""

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.ones((4, 5)), r"shape \(4, 5\) is refused; give a 2-D array with odd sizes"),
            (np.ones((3, 3, 3)), r"shape \(3, 3, 3\) is refused"),
            (-np.ones((5, 5)), "the sum is -25; it must be positive"),
            (np.zeros((5, 5)), "the sum is 0; it must be positive"),
            (np.where(np.eye(5), np.nan, 1), "NaN or infinite"),
            (np.full((3, 3), np.inf), "NaN or infinite"),
        ],
    )
    def test_array(self, array, message, tmp_path):
        with pytest.raises(InputError, match=message):
            psf_from_array(array)
        path = tmp_path / "psf.fits"
        fits.PrimaryHDU(array).writeto(path)
        with pytest.raises(InputError, match=f"{path.name}.*{message}"):
            read_psf(path)

    def test_larger_than_the_image(self):
        exposure = Exposure.of(np.eye(30), np.ones((30, 30)), name="small.fits")
        check_fits_image(gaussian(2.0, radius=14), exposure)
        with pytest.raises(
            InputError, match=r"31 px on a side is larger than the image small.fits \(30, 30\)"
        ):
            check_fits_image(gaussian(2.0, radius=15), exposure)

    def test_file(self, tmp_path):
        path = tmp_path / "psf.fits"
        with pytest.raises(InputError, match="psf.fits"):
            read_psf(path)
        path.write_text("no FITS file")
        with pytest.raises(InputError, match="psf.fits: cannot be read as a FITS file"):
            read_psf(path)
        fits.HDUList([fits.PrimaryHDU()]).writeto(path, overwrite=True)
        with pytest.raises(InputError, match="psf.fits: no image extension"):
            read_psf(path)


class TestFiles:
    """What the file says about its own grid."""

    @pytest.mark.parametrize(
        ("cards", "given", "expected"),
        [({}, None, 1), ({"OVERSAMP": 4}, None, 4), ({"OVERSAMP": 4}, 2, 2), ({"DET_SAMP": 4}, None, 1)],
    )
    def test_sampling(self, tmp_path, cards, given, expected):
        path = tmp_path / "psf.fits"
        hdu = fits.ImageHDU(gaussian(3.0).cube[0].astype(">f4"), fits.Header(cards))
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
        assert read_psf(path, oversample=given).oversample == expected

    def test_not_square_and_off_centre(self, tmp_path):
        path = tmp_path / "psf.fits"
        table = shift(gaussian(3.0, oversample=1, radius=9).cube[0], (0.3, -0.2), order=3)[:, 3:-3]
        fits.PrimaryHDU(5 * table).writeto(path)
        psf = read_psf(path)
        assert psf.cube.shape == (1, 19, 19)
        assert np.hypot(*psf.centroid()) < 0.01
        assert psf.stamp(0, 0).sum(dtype=float) == pytest.approx(1, abs=1e-3)

    def test_detector_sampling_of_the_nircam_psf(self, shared_data):
        """DET_SAMP = 4 speaks of the calculation behind the file; its pixels are detector pixels."""
        path = shared_data / "jwst_nircam_ngc346" / "psf.fits"
        assert fits.getval(path, "DET_SAMP") == 4
        psf = read_psf(path)
        assert (psf.oversample, psf.radius) == (1, 39)
        assert psf.fwhm == pytest.approx(2.4, abs=0.15)
        assert psf.cube.sum() == pytest.approx(1)

"""The first PSF: blind from the image, or from a file."""

import logging

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import binary_dilation, maximum_filter

from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.psf.analytic import airy, gaussian, moffat
from crowdfit.psf.initial import (
    BATCH,
    BlindPsf,
    GivenPsf,
    Maxima,
    agreed_fwhm,
    best_widths,
    check_fits_image,
    fwhm_on_pixels,
    in_rings,
    measure_fwhm,
    moffat_designs,
    typical,
)
from crowdfit.render import render


def exposure_of(data, ivar=1.0):
    return Exposure.of(data, np.broadcast_to(ivar, np.shape(data)))


def field(psf, n, shape=(200, 200), *, seed=1, rays=0, hot=0, snr=3):
    """Return noise 1 on sky 50 with n stars, N(>f) ~ f^-0.7 from S/N `snr`, and defects that are not masked."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-5, shape[1] + 5, n), rng.uniform(-5, shape[0] + 5, n)
    least = snr * np.sqrt(psf.n_eff)
    flux = np.minimum(least * rng.uniform(size=n) ** (-1 / 0.7), 1e3 * least)
    data = 50 + render(psf, x, y, flux, shape) + rng.normal(0, 1, shape)
    for _ in range(rays):  # short tracks a pixel wide
        r, c, angle = rng.integers(5, shape[0] - 5), rng.integers(5, shape[1] - 5), rng.uniform(0, np.pi)
        steps = np.arange(0, rng.uniform(1, 6), 0.5)
        rows = np.clip(np.round(r + steps * np.sin(angle)).astype(int), 0, shape[0] - 1)
        cols = np.clip(np.round(c + steps * np.cos(angle)).astype(int), 0, shape[1] - 1)
        data[rows, cols] += rng.uniform(50, 2000)
    data[rng.integers(0, shape[0], hot), rng.integers(0, shape[1], hot)] += rng.uniform(50, 5000, hot)
    return data


SHAPES = {"gaussian": gaussian, "moffat": lambda w: moffat(w, 2.5), "airy": airy}


@pytest.mark.parametrize("density", ["sparse", "dense"])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("width", [1.5, 3.0, 8.0])
def test_blind_fwhm(width, kind, density):
    """C003: within 15 % of the width on the pixels, for any shape and density, beside defects.

    Sparse is 40 stars above S/N 60, dense one star above S/N 3 in 12 FWHM^2; 15 cosmic rays and 15 hot pixels
    are brighter than most stars.
    """
    psf = SHAPES[kind](width)
    side = 300 if width > 5 else 200
    n, snr = (40, 60) if density == "sparse" else (int(np.clip(side**2 / width**2 / 12, 40, 2000)), 3)
    data = field(psf, n, (side, side), seed=int(10 * width), rays=15, hot=15, snr=snr)
    assert measure_fwhm(exposure_of(data)) == pytest.approx(psf.fwhm, rel=0.15)


@pytest.mark.parametrize("unit", [1e-3, 1e6])
def test_width_does_not_depend_on_the_unit(unit):
    """Nothing in counts."""
    data = field(moffat(3.0, 2.5), 300)
    assert measure_fwhm(exposure_of(unit * data, unit**-2)) == pytest.approx(
        measure_fwhm(exposure_of(data)), rel=1e-3
    )


def test_first_psf_is_a_round_moffat_of_that_width():
    data = field(moffat(3.0, 2.5), 300)
    psf = BlindPsf()(exposure_of(data))
    assert psf.ellipticity < 0.01
    assert psf.cube[0].sum() / psf.oversample**2 == pytest.approx(1, abs=1e-9)
    # what is measured is the width on the pixels
    assert psf.fwhm == pytest.approx(measure_fwhm(exposure_of(data)), rel=0.01)


def test_width_can_be_given():
    """Then the image is not looked at."""
    psf = BlindPsf(fwhm=6.0, beta=4.0)(exposure_of(field(moffat(3.0), 100)))
    assert psf.fwhm == pytest.approx(moffat(6.0, 4.0).fwhm, rel=1e-6)
    assert psf.oversample == 2


def test_table_stays_within_a_small_image():
    """A wide guess on a small image does not make a table larger than the image needs."""
    psf = BlindPsf(fwhm=15.0)(exposure_of(np.random.default_rng(1).normal(size=(40, 60))))
    assert psf.radius <= 60


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_peaks(n, caplog):
    """Assumes 3 px and says so; the update of the PSF has the word after that."""
    data = 50 + np.random.default_rng(2).normal(0, 0.01, (80, 80))
    data += render(moffat(2.0), [40.0] * n, [40.0] * n, [1e4] * n, (80, 80))
    with caplog.at_level(logging.WARNING):
        assert measure_fwhm(exposure_of(data)) == 3.0
    assert "fewer than 3 bright peaks; assuming a FWHM of 3 px" in caplog.text


def test_fainter_peaks_are_taken_when_bright_ones_are_few():
    """P022: below 20 peaks above the limit it falls to 5 and to 3 sigma."""
    psf = gaussian(3.0)
    rng = np.random.default_rng(4)
    x, y = (g.ravel() for g in np.meshgrid(np.arange(20.0, 190, 30), np.arange(20.0, 190, 30)))
    flux = 7 / psf.native()[psf.radius, psf.radius]
    data = render(psf, x, y, np.full(len(x), flux), (200, 200)) + rng.normal(0, 1, (200, 200))
    assert len(Maxima.of(exposure_of(data)).peaks(5, 300, 10.0).rows) >= 30
    assert measure_fwhm(exposure_of(data)) == pytest.approx(3.0, rel=0.25)


class TestAgreedFwhm:
    """What a given width is judged by: said only where most bright peaks are of one width."""

    @pytest.mark.parametrize("density", [60, 2000])
    @pytest.mark.parametrize("width", [1.5, 4.0])
    def test_stars(self, width, density):
        psf = moffat(width, 2.5)
        data = field(psf, density if width > 2 else 2 * density, rays=5, hot=5, snr=20)
        assert agreed_fwhm(exposure_of(data)) == pytest.approx(psf.fwhm, rel=0.15)
        assert agreed_fwhm(exposure_of(data)) == measure_fwhm(exposure_of(data))

    def test_galaxies(self):
        """Peaks of many widths have a mode, but do not agree on it; a few stars among them do not either."""
        data = field(moffat(2.5), 10, snr=20)
        rng = np.random.default_rng(3)
        for width in rng.uniform(3, 10, 60):
            x, y = rng.uniform(0, 200, 2)
            data += render(gaussian(width), [x], [y], [rng.uniform(100, 1000) * width**2], (200, 200))
        assert agreed_fwhm(exposure_of(data)) is None
        assert np.isfinite(measure_fwhm(exposure_of(data)))

    def test_noise(self):
        assert agreed_fwhm(exposure_of(np.random.default_rng(0).normal(size=(200, 200)))) is None

    @pytest.mark.parametrize(("n", "is_enough"), [(0, False), (2, False), (6, False), (16, True)])
    def test_number_of_stars(self, n, is_enough):
        """Eight peaks of one width are the least."""
        x, y = (10.0 + 20 * k for k in np.divmod(np.arange(n), 4))
        data = render(moffat(3.0), x, y, np.full(n, 1e6), (90, 90))
        data = data + np.random.default_rng(2).normal(0, 1e-3, (90, 90))
        assert (agreed_fwhm(exposure_of(data)) is not None) == is_enough


def test_rings_of_a_bright_star_are_no_peaks():
    """One star at S/N 1e4 has dozens of peaks in its diffraction rings; nine others show the width."""
    psf = airy(6.0, radius=90)
    rng = np.random.default_rng(8)
    x, y = (g.ravel() + 0.3 for g in np.meshgrid([40.0, 100.0, 160.0], [40.0, 100.0, 160.0]))
    flux = np.full(9, 400 * np.sqrt(psf.n_eff))
    flux[4] *= 25
    exposure = exposure_of(render(psf, x, y, flux, (200, 200)) + rng.normal(0, 1, (200, 200)))
    peaks = Maxima.of(exposure).peaks(7, 300, 5.0)
    widths = best_widths(peaks, np.geomspace(1, 16, 33), 5.0, 6.0)
    rings = in_rings(peaks, widths)
    gap = np.hypot(peaks.cols[:, None] - x, peaks.rows[:, None] - y).min(axis=1)
    assert np.sum(gap > 5) > 10
    assert not rings[gap < 2].any()
    assert rings[gap > 5].mean() > 0.8
    assert measure_fwhm(exposure) == pytest.approx(psf.fwhm, rel=0.15)


class TestPeaks:
    def test_brightest_first_off_masks_and_edges(self):
        """No peak beside a masked pixel (a saturated core) nor with its cutout off the image."""
        psf = moffat(3.0)
        x, y, flux = (
            np.array([50.0, 20.0, 80.0, 3.0]),
            np.array([50.0, 20.0, 30.0, 50.0]),
            np.array([1e4, 2e4, 5e4, 9e4]),
        )
        data = render(psf, x, y, flux, (100, 100)) + np.random.default_rng(1).normal(0, 1, (100, 100))
        ivar = np.ones((100, 100))
        ivar[31, 81] = 0
        peaks = Maxima.of(Exposure.of(data, ivar)).peaks(5, 300, 30.0)
        np.testing.assert_array_equal(peaks.cols[:2], [20, 50])
        np.testing.assert_array_equal(peaks.rows[:2], [20, 50])
        assert peaks.data.shape == (len(peaks.rows), 11, 11)
        assert (np.diff(peaks.data[:, 5, 5]) <= 0).all()
        assert not np.any((np.abs(peaks.cols - 80) < 2) & (np.abs(peaks.rows - 30) < 2))
        assert not np.any(peaks.cols < 5)

    def test_most(self):
        data = field(moffat(3.0), 500)
        assert len(Maxima.of(exposure_of(data)).peaks(4, 25, 5.0).rows) == 25

    @pytest.mark.parametrize(("half", "most"), [(3, 300), (5, 7), (12, 5000)])
    def test_highest_within_half_of_the_cutout(self, half, most):
        """The same peaks, in the same order, as a maximum filter over the whole image finds; also beyond one batch."""
        rng = np.random.default_rng(7)
        exposure = Exposure.of(
            rng.normal(0, 9, (240, 200)), (rng.uniform(size=(240, 200)) > 1e-3).astype(float)
        )
        image = np.where(exposure.good, exposure.data - np.median(exposure.data[exposure.good]), 0)
        highest = image == maximum_filter(image, 2 * max(half // 2, 1) + 1)
        highest &= (image > 10) & ~binary_dilation(~exposure.good, iterations=2)
        highest[:half] = highest[-half:] = highest[:, :half] = highest[:, -half:] = False
        rows, cols = np.nonzero(highest)
        order = np.argsort(-image[rows, cols], kind="stable")[:most]
        maxima = Maxima.of(exposure)
        assert len(maxima.rows) > 2 * BATCH
        peaks = maxima.peaks(half, most, 10.0)
        np.testing.assert_array_equal(peaks.rows, rows[order])
        np.testing.assert_array_equal(peaks.cols, cols[order])
        np.testing.assert_array_equal(peaks.data[:, half, half], image[rows[order], cols[order]])

    def test_no_maximum_at_all(self):
        """A ramp has none inside; that is for `measure_fwhm` to say."""
        ramp = exposure_of(np.arange(900.0).reshape(30, 30))
        assert len(Maxima.of(ramp).peaks(3, 300, 10.0).rows) == 0
        assert measure_fwhm(ramp) == 3.0

    def test_width_of_each_peak(self):
        """On isolated stars the width is right to the step of 9 %; beyond the range it is unknown."""
        psf = moffat(3.0)
        x, y = np.array([30.0, 60.3, 30.4]), np.array([30.0, 30.2, 60.5])
        data = render(psf, x, y, np.full(3, 1e4), (90, 90)) + np.random.default_rng(1).normal(
            0, 0.01, (90, 90)
        )
        exposure = exposure_of(data, 1e4)
        peaks = Maxima.of(exposure).peaks(5, 3, 100.0)
        np.testing.assert_allclose(best_widths(peaks, np.geomspace(1, 16, 33), 3.0, 4.0), 3.0, rtol=0.09)
        assert np.isnan(best_widths(peaks, np.geomspace(4, 16, 9), 3.0, 4.0)).all()


@pytest.mark.parametrize("width", [1.0, 2.0, 7.0])
def test_profiles_on_pixels(width):
    """Those of the table that the fit uses, over its highest pixel: value, derivatives, and a constant."""
    yy, xx = np.mgrid[-5:6, -5:6]
    ((value, slope_x, slope_y, constant),) = moffat_designs(np.array([width]), 5.0, xx.ravel(), yy.ravel())
    planes = moffat(width, 5.0, radius=30).planes(0.0, 0.0, 11).reshape(3, -1).astype(float)
    for found, plane in zip((value, slope_x, slope_y), planes / planes[0].max(), strict=True):
        np.testing.assert_allclose(found, plane, atol=4e-3 / width)  # sampling and spline of the table
    assert (constant == 1).all()


@pytest.mark.parametrize(("width", "beta"), [(1.0, 5.0), (2.4, 2.5), (4.3, 2.5), (12.0, 5.0)])
def test_width_on_pixels_needs_no_wings(width, beta):
    assert fwhm_on_pixels(width, beta) == moffat(width, beta, oversample=4 if width < 4 else 2).fwhm
    assert fwhm_on_pixels(width, beta) > width


def test_typical_is_the_mode():
    """Two thirds at 3, the rest in a broad and a sharp tail, with unknown ones: the middle of the densest half."""
    rng = np.random.default_rng(3)
    widths = np.concatenate(
        [rng.normal(3, 0.1, 60), rng.uniform(4, 12, 25), rng.uniform(1, 1.3, 15), [np.nan] * 9]
    )
    assert typical(widths) == pytest.approx(3.0, rel=0.03)
    assert typical(np.full(5, np.nan)) == 3.0


class TestGiven:
    """P043: a PSF from a file."""

    def write(self, path, table, **cards):
        fits.writeto(path, table, fits.Header(cards))
        return path

    def test_plain_and_oversampled(self, tmp_path):
        """At detector sampling by default; OVERSAMP of the header, or the setting, says otherwise."""
        table = moffat(8.0, radius=40, oversample=1).cube[0]
        image = exposure_of(np.random.default_rng(1).normal(size=(100, 100)))
        plain = GivenPsf(path=self.write(tmp_path / "a.fits", table))(image)
        header = GivenPsf(path=self.write(tmp_path / "b.fits", table, OVERSAMP=2))(image)
        setting = GivenPsf(path=self.write(tmp_path / "c.fits", table, OVERSAMP=2), oversample=4)(image)
        assert [p.oversample for p in (plain, header, setting)] == [1, 2, 4]
        assert [p.fwhm / plain.fwhm for p in (header, setting)] == pytest.approx([0.5, 0.25], rel=0.02)
        for psf in (plain, header, setting):
            assert psf.cube[0].sum() / psf.oversample**2 == pytest.approx(1)

    def test_larger_than_the_image(self, tmp_path):
        table = moffat(3.0, radius=30, oversample=1).cube[0]
        image = exposure_of(np.random.default_rng(1).normal(size=(40, 50)))
        with pytest.raises(
            InputError, match=r"61 px on a side is larger than the image image \(40, 50\); cut the PSF"
        ):
            GivenPsf(path=self.write(tmp_path / "a.fits", table))(image)

    def test_cube_of_one_plane(self, tmp_path):
        """Some libraries write a single PSF as a cube."""
        table = moffat(3.0, radius=12, oversample=1).cube
        image = exposure_of(np.random.default_rng(1).normal(size=(60, 60)))
        assert table.ndim == 3
        assert GivenPsf(path=self.write(tmp_path / "a.fits", table))(image).fwhm == pytest.approx(
            3.1, rel=0.05
        )

    def test_as_large_as_the_image_is_taken(self):
        image = exposure_of(np.random.default_rng(1).normal(size=(40, 61)))
        check_fits_image(moffat(3.0, radius=30), image)

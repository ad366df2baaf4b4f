"""Copies of files with another PSF: star fluxes, noise, what else is in the file, and what is refused."""

import logging

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import map_coordinates

from crowdfit.cli import main
from crowdfit.errors import InputError
from crowdfit.io.fits import read_exposure
from crowdfit.io.homogenized import Target, _to_target, homogenize_file, moffat_target, read_target
from crowdfit.job import DONE, REFUSED
from crowdfit.psf.analytic import moffat
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Grid
from crowdfit.psf.stored import psf_hdu
from crowdfit.render import render

SHAPE = (120, 140)
SKY, NOISE = 20.0, 2.0
NARROW, WIDE = moffat(2.2, 3.0, radius=16), moffat(3.2, 3.0, radius=20)
X, Y = (where.ravel() for where in np.meshgrid([30.3, 70.0, 110.6], [30.5, 88.2]))
FLUX = np.array([3e4, 1e5, 5e4, 8e4, 2e4, 6e4])


def wcs_cards(scale=1.0, angle=0.0):
    """A WCS with pixels of 0.03 arcsec times `scale`, all of them with the same sky at the lower left corner."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0, "CUNIT1": "deg", "CUNIT2": "deg",
        "CRPIX1": 0.5, "CRPIX2": 0.5, "CDELT1": -scale / 1.2e5, "CDELT2": scale / 1.2e5, "PC1_1": cos, "PC1_2": -sin,
        "PC2_1": sin, "PC2_2": cos,
    }  # fmt: skip


def write_image(path, *, psf=NARROW, flux=FLUX, noise=0.0, planes=("ERR",), seed=1):
    """Write an image of lonely stars with planes of its noise, and extensions that nothing reads."""
    data = SKY + render(psf, X, Y, flux, SHAPE) + np.random.default_rng(seed).normal(0, noise or 1e-3, SHAPE)
    power = {"ERR": 1, "VAR": 2, "VAR_POISSON": 2, "VAR_RNOISE": 2, "WHT": -2}
    dq = np.zeros(SHAPE, np.uint32)
    dq[60, 20:23] = 1
    data[60, 20:23] = 1e6
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(data.astype(np.float32), fits.Header(wcs_cards()), name="SCI")]
    hdus += [fits.ImageHDU(np.full(SHAPE, NOISE ** power[name], np.float32), name=name) for name in planes]
    hdus += [fits.ImageHDU(dq, name="DQ"), fits.ImageHDU(np.arange(6.0).reshape(2, 3), name="OTHER")]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def write_psf(path, psf, cards=None):
    """Write a PSF as a fit does, beside a MODEL with a WCS."""
    model = fits.ImageHDU(np.zeros(SHAPE, np.float32), fits.Header(cards or {}), name="MODEL")
    fits.HDUList([fits.PrimaryHDU(), model, psf_hdu(psf)]).writeto(path, overwrite=True)
    return path


def sums(path, radius):
    """Return the light of each star within a radius (pix), over the sky."""
    data = fits.getdata(path, "SCI").astype(float) - SKY
    yy, xx = np.indices(SHAPE)
    return np.array([data[np.hypot(xx - x, yy - y) <= radius].sum() for x, y in zip(X, Y, strict=True)])


def of(psf):
    return lambda exposure: psf


def test_star_fluxes_stay(tmp_path):
    """P041, P042: what a star gives is the same to 0.2 %; a small aperture now holds what it holds of the target."""
    image = write_image(tmp_path / "a.fits")
    done = homogenize_file(image, tmp_path / "b.fits", of(NARROW), Target(WIDE, "wide"))
    whole = [sums(path, 20) for path in (image, done.file)]
    np.testing.assert_allclose(whole[1] / whole[0], 1, atol=2e-3)
    target = tmp_path / "target.fits"
    write_image(target, psf=WIDE)
    for radius in (3, 5):
        assert abs(np.median(sums(image, radius) / sums(target, radius)) - 1) > 0.03
        np.testing.assert_allclose(sums(done.file, radius) / sums(target, radius), 1, atol=5e-3)


@pytest.mark.parametrize("name", ["ERR", "VAR", "WHT"])
def test_noise_of_a_pixel_is_what_the_plane_says(tmp_path, name):
    """P042: the scatter of an empty image after over that before, and what the plane of its noise became."""
    image = write_image(tmp_path / "a.fits", flux=0 * FLUX, noise=NOISE, planes=(name,))
    done = homogenize_file(image, tmp_path / "b.fits", of(NARROW), Target(WIDE, "wide"))
    after = fits.getdata(done.file, "SCI")
    plane = fits.getdata(done.file, name)
    with np.errstate(divide="ignore"):
        error = {"ERR": plane, "VAR": np.sqrt(plane), "WHT": plane**-0.5}[name]
    inside = np.zeros(SHAPE, bool)
    inside[30:-30, 30:-30] = True
    inside &= np.isfinite(after)
    # pixels are correlated over some five pixels: the scatter of 4000 of them is known to about 4 %
    assert np.std(after[inside]) == pytest.approx(np.median(error[inside]), rel=0.12)
    assert np.median(error[inside]) == pytest.approx(NOISE * float(done.report["noise"][0]), rel=1e-3)
    assert float(done.report["noise"][0]) < 0.6


def test_parts_of_the_variance_are_convolved_too(tmp_path):
    """The reader of JWST files takes the noise from them, beside ERR."""
    image = write_image(tmp_path / "a.fits", planes=("ERR", "VAR_POISSON", "VAR_RNOISE"))
    done = homogenize_file(image, tmp_path / "b.fits", of(NARROW), Target(WIDE, "wide"))
    with fits.open(done.file) as hdus:
        for name in ("VAR_POISSON", "VAR_RNOISE"):
            np.testing.assert_allclose(hdus[name].data, hdus["ERR"].data ** 2, rtol=1e-4)
        assert np.nanmedian(hdus["VAR_POISSON"].data) < 0.4 * NOISE**2


def test_the_copy_holds_all_that_was_in_the_file(tmp_path):
    image = write_image(tmp_path / "a.fits")
    done = homogenize_file(image, tmp_path / "b.fits", of(NARROW), Target(WIDE, "folder/wide.fits"))
    with fits.open(image) as before, fits.open(done.file, checksum=True) as after:
        assert [hdu.name for hdu in after] == [hdu.name for hdu in before]
        for name in ("DQ", "OTHER"):
            np.testing.assert_array_equal(after[name].data, before[name].data)
        header = after["SCI"].header
        assert header["CRVAL1"] == 10
        assert header["CFHTO"] == "wide.fits"
        assert header["CFHNODES"] == 1
        assert header["CFHSUM"] == pytest.approx(1, abs=1e-6)
        assert header["CFHNOISE"] == pytest.approx(float(done.report["noise"][0]))
        assert "share their noise" in str(header["COMMENT"])
        lost = np.isnan(after["SCI"].data)
        assert lost[60, 21]
        assert 0.001 < lost.mean() < 0.2
        assert f"{100 * lost.mean():.1f} % of the pixels" in done.text


def test_pixels_of_another_size_by_the_wcs(tmp_path):
    """Detector pixels half as large as those of the target: the target is twice as wide on them, where it is."""
    target = read_target(write_psf(tmp_path / "wide.fits", moffat(1.7, 3.0, radius=12), wcs_cards(2.0)))
    image = write_image(tmp_path / "a.fits")
    found = homogenize_file(image, tmp_path / "b.fits", of(NARROW), target)
    given = homogenize_file(image, tmp_path / "c.fits", of(NARROW), Target(target.psf, "x"), scale=0.5)
    np.testing.assert_allclose(found.report["residual"], given.report["residual"], rtol=1e-3)
    assert f"to {2 * target.psf.fwhm:.2f} pix" in found.text
    np.testing.assert_allclose(sums(found.file, 20) / sums(image, 20), 1, atol=2e-3)


def varying(widths, nx, radius):
    """A PSF whose width changes from left to right."""
    planes = [moffat(width, 4.0, oversample=2, radius=radius).cube[0] for width in widths]
    return EPSF.from_planes(planes, 2, Grid(tuple(np.linspace(0, nx - 1, len(widths))), (0.0,)))


def test_kernels_vary_with_the_psf(tmp_path):
    """P040: the target widens to the right of its own field; here, where pixels are half as large, it does so too."""
    narrow, wide = varying([2.0, 2.1], SHAPE[1], 10), varying([1.6, 1.7], SHAPE[1] / 2, 6)
    target = read_target(write_psf(tmp_path / "wide.fits", wide, wcs_cards(2.0)))
    image = write_image(tmp_path / "a.fits", psf=narrow)
    done = homogenize_file(image, tmp_path / "b.fits", of(narrow), target)
    assert len(done.report) >= 4
    assert "places" in done.text
    np.testing.assert_allclose(sums(done.file, 16) / sums(image, 16), 1, atol=2e-3)
    data = fits.getdata(done.file, "SCI").astype(float) - SKY
    for x, y, flux in zip(X, Y, FLUX, strict=True):
        there = wide.at((x + 0.5) / 2 - 0.5, (y + 0.5) / 2 - 0.5)
        # one sample of the target is one pixel here
        where = [there.cube.shape[1] // 2 + offset for offset in offsets(x, y)]
        expected = flux * map_coordinates(there.cube[0], where, order=3) / 4
        window = np.s_[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9]
        np.testing.assert_allclose(data[window], expected, atol=0.01 * expected.max())


def test_places_without_a_wcs_go_with_the_scale(tmp_path):
    """Both images begin at the same corner of the sky: its pixels are at -0.5 in each."""
    exposure = read_exposure(write_image(tmp_path / "a.fits"))
    ratio, there = _to_target(exposure, Target(WIDE, "wide"), 0.5)
    x, y = there(np.array([-0.5, 99.5]), np.array([-0.5, 49.5]))
    assert ratio == 0.5
    np.testing.assert_allclose([x, y], [[-0.5, 49.5], [-0.5, 24.5]])
    assert _to_target(exposure, Target(WIDE, "wide"), None) == (1.0, None)


def offsets(x, y, half=8):
    """Rows and columns of the window around the pixel of a star, from the star (pix)."""
    cols, rows = np.meshgrid(np.arange(-half, half + 1) + int(x) - x, np.arange(-half, half + 1) + int(y) - y)
    return rows, cols


def test_a_turned_target_is_said(tmp_path, caplog):
    target = read_target(write_psf(tmp_path / "wide.fits", WIDE, wcs_cards(1.0, 20.0)))
    with caplog.at_level(logging.WARNING):
        homogenize_file(write_image(tmp_path / "a.fits"), tmp_path / "b.fits", of(NARROW), target, scale=1.2)
    assert "turned by" in caplog.text
    assert "20.0 deg" in caplog.text
    assert "a scale of 1.2 is taken" in caplog.text


def test_command(tmp_path, capsys):
    image, narrow = write_image(tmp_path / "a.fits"), write_psf(tmp_path / "narrow.fits", NARROW)
    wide, out = write_psf(tmp_path / "wide.fits", WIDE), tmp_path / "b.fits"
    words = ["homogenize", str(image), "--psf", str(narrow), "-o", str(out)]
    assert main([*words, "--to", str(wide)]) == DONE
    said = capsys.readouterr().out
    for part in ("kernel sum 1.00000", "curve of growth within", "noise of a pixel times", str(out)):
        assert part in said
    assert fits.getheader(out, "SCI")["CFHTO"] == "wide.fits"
    assert main([*words, "--fwhm", "3.4", "--beta", "3.5", "-q"]) == DONE
    assert capsys.readouterr().out == ""
    assert fits.getheader(out, "SCI")["CFHTO"] == "Moffat of FWHM 3.4 pix, exponent 3.5"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either --to FILE or --fwhm PIX"),
        (["--to", "wide.fits", "--fwhm", "3"], "either --to FILE or --fwhm PIX"),
        (["--to", "wide.fits", "--beta", "3"], "--beta goes with --fwhm"),
        (["--to", "no.fits"], "no.fits: cannot be read"),
        (["--to", "a.fits"], "a.fits"),
        (["--fwhm", "0"], "fwhm: 0.0 is refused"),
        (["--fwhm", "3", "--beta", "1"], "beta: 1.0 is refused"),
        (["--fwhm", "3", "--scale", "-1"], "scale: -1.0 is refused"),
        (["--fwhm", "3", "--max-lost", "1.5"], "max_lost: 1.5 is refused"),
        (["--fwhm", "3", "--set", "input.sci_ext=NOPE"], "NOPE"),
        (["--fwhm", "3", "-o", "a.fits"], "would be overwritten"),
    ],
)
def test_refusals_leave_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    image, _ = write_image(tmp_path / "a.fits"), write_psf(tmp_path / "narrow.fits", NARROW)
    write_psf(tmp_path / "wide.fits", WIDE)
    before = image.read_bytes()
    out = [] if "-o" in words else ["-o", "out.fits"]
    assert main(["homogenize", "a.fits", "--psf", "narrow.fits", *out, *words]) == REFUSED
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fits", "narrow.fits", "wide.fits"]
    assert image.read_bytes() == before


def test_targets_out_of_range():
    for width in (0.5, np.nan, 51.0):
        with pytest.raises(InputError, match="above 0.5 and up to 50"):
            moffat_target(width)

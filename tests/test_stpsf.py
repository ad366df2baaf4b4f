"""Single PSFs of STPSF: which extension, the integration over the pixel, and the centre of even and odd arrays."""

import numpy as np
import pytest
from astropy.io import fits

from crowdfit.errors import InputError
from crowdfit.psf.readers import read_psf
from crowdfit.psf.resample import centred, over_pixel


def optical(fov, oversample, fwhm=2.0, blob=0.05):
    """Return the light on squares of 1 / oversample pixels, (n, n), with a blob at +x, centred on the array."""
    n = fov * oversample
    grid = (np.arange(n) - (n - 1) / 2) / oversample
    x, y = np.meshgrid(grid, grid)
    psf = np.exp(-(x**2 + y**2) * 4 * np.log(2) / fwhm**2) + blob * np.exp(-((x - 3) ** 2 + y**2) * 3)
    return psf / psf.sum()


def binned(table, oversample):
    n = table.shape[0] // oversample
    return table.reshape(n, oversample, n, oversample).sum(axis=(1, 3))


def write(path, oversample=4, fov=21, names=("OVERSAMP", "DET_SAMP", "OVERDIST", "DET_DIST"), **cards):
    """Write what `calc_psf` writes: distorted PSFs are broader here. Every extension is named."""
    hdus = []
    for name in names:
        table = optical(fov, oversample, fwhm=2.4 if "DIST" in name else 2.0)
        is_fine = name.startswith("OVER")
        header = fits.Header({"DET_SAMP": oversample, "OVERSAMP": oversample if is_fine else 1, **cards})
        header["EXTNAME"] = name
        kind = fits.ImageHDU if hdus else fits.PrimaryHDU
        hdus.append(kind(table if is_fine else binned(table, oversample), header))
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize("fov", [20, 21])
@pytest.mark.parametrize("oversample", [1, 2, 3, 4, 5])
def test_stamps_are_the_binned_extension(tmp_path, oversample, fov):
    """Every sub-pixel position that the squares can make: the PSF moved by them and binned, as the program does.

    The middle of an array of even sides is a corner of pixels when its pixels are even in number.
    """
    psf = read_psf(write(tmp_path / "p.fits", oversample, fov))
    assert psf.oversample == oversample
    fine = optical(fov, oversample, fwhm=2.4)
    assert np.hypot(*np.subtract(psf.centroid(), (0.0, 0.0))) < 0.1  # the blob moves it a little
    for k in range(oversample):
        moved = binned(np.roll(fine, (0, k), (0, 1)), oversample)
        # the star: at the middle of the array, k squares to the right; pixel 0 is the first of the array
        x, y = (fov - 1) / 2 + k / oversample, (fov - 1) / 2
        stamp = psf.stamp(x, y, 15)
        col, row = int(np.floor(x + 0.5)) - 7, int(np.floor(y + 0.5)) - 7
        expected = moved[row : row + 15, col : col + 15]
        # odd pieces of an even number of pixels are half a piece off the middle, and interpolated
        tolerance = {1: 4e-2, 3: 1e-3, 5: 2e-4}[oversample] if oversample % 2 and fov % 2 == 0 else 2e-6
        assert np.abs(stamp - expected).max() < tolerance * expected.max()


def test_axes(tmp_path):
    psf = read_psf(write(tmp_path / "p.fits"))
    stamp, middle = psf.stamp(0, 0), psf.radius
    assert stamp[middle, middle + 3] > 2 * stamp[middle, middle - 3]
    assert stamp[middle + 3, middle] == pytest.approx(stamp[middle - 3, middle], rel=1e-4)


@pytest.mark.parametrize(
    ("names", "width", "oversample"),
    [
        (("OVERSAMP", "DET_SAMP", "OVERDIST", "DET_DIST"), 2.4, 4),
        (("OVERSAMP", "DET_SAMP"), 2.0, 4),
        (("DET_SAMP", "DET_DIST"), 2.4, 1),
        (("DET_SAMP",), 2.0, 1),
    ],
)
def test_best_extension(tmp_path, names, width, oversample):
    """With distortion before without, oversampled before detector-sampled. The pixel adds to the width."""
    psf = read_psf(write(tmp_path / "p.fits", names=names))
    assert psf.oversample == oversample
    on_pixels = 2.3548 * np.hypot(width / 2.3548, 12**-0.5)
    assert psf.fwhm == pytest.approx(on_pixels, rel=0.03)
    assert psf.cube.sum() / oversample**2 == pytest.approx(1, abs=1e-9)


def test_poor_sampling_is_said(tmp_path, caplog):
    read_psf(write(tmp_path / "p.fits", names=("DET_SAMP", "DET_DIST")))
    assert "there are detector-sampled PSFs only (DET_DIST, DET_SAMP)" in caplog.text


def test_sampling_can_be_given(tmp_path):
    path = write(tmp_path / "p.fits", names=("OVERSAMP",), DET_SAMP="four")
    with pytest.raises(
        InputError, match=r"p.fits\[OVERSAMP\]: DET_SAMP is 'four'; a whole number from 1 to 20"
    ):
        read_psf(path)
    assert read_psf(path, oversample=4).oversample == 4


def test_contradiction_is_refused(tmp_path):
    path = write(tmp_path / "p.fits", DET_SAMP=3)
    with pytest.raises(
        InputError, match=r"p.fits\[OVERDIST\]: 3 samples a pixel do not make the shape \(21, 21\)"
    ):
        read_psf(path)


@pytest.mark.parametrize(
    ("change", "message"), [(np.zeros((3, 9, 9)), "2-D PSF is needed"), (np.full((8, 8), np.nan), "NaN")]
)
def test_bad_tables(tmp_path, change, message):
    hdu = fits.PrimaryHDU(change, fits.Header({"EXTNAME": "OVERDIST", "DET_SAMP": 2}))
    hdu.writeto(tmp_path / "p.fits")
    with pytest.raises(InputError, match=rf"p.fits\[OVERDIST\].*{message}"):
        read_psf(tmp_path / "p.fits")


def test_real_file(shared_data):
    """Only the detector-sampled extension is there; DET_SAMP = 4 speaks of the calculation."""
    psf = read_psf(shared_data / "jwst_nircam_ngc346" / "psf.fits")
    assert (psf.oversample, psf.radius) == (1, 39)
    assert psf.fwhm == pytest.approx(2.4, abs=0.15)


class TestResample:
    def test_centred(self):
        """An even side grows by one, and what was between two samples is on one."""
        table = optical(10, 2, blob=0)
        result = centred(table[np.newaxis])[0]
        assert result.shape == (21, 21)
        assert result[10, 10] == result.max()
        assert np.allclose(result, result[::-1, ::-1], atol=1e-12)
        assert result.sum() == pytest.approx(1, abs=1e-6)
        odd = optical(7, 3)[np.newaxis]
        assert centred(odd) is odd

    def test_over_pixel(self):
        table = np.zeros((1, 5, 5))
        table[0, 1, 2] = 1
        result = over_pixel(table, 3)[0]
        assert result.shape == (7, 7)
        assert np.array_equal(np.argwhere(result).min(axis=0), [1, 2])
        assert np.array_equal(np.argwhere(result).max(axis=0), [3, 4])
        assert result.sum() == 9

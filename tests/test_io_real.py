"""The reader on real files; skipped, visibly, where the folder of real data is absent."""

import numpy as np
import pytest

from crowdfit.io.fits import InputOptions, read_exposure
from crowdfit.world import pixel_to_sky


def noise(exposure):
    return float(1 / np.sqrt(np.median(exposure.ivar[exposure.good])))


def test_nircam(shared_data):
    """P007, P010: SCI, ERR, DQ; time and unit from SCI; the photons per MJy/sr follow from ERR."""
    path = shared_data / "jwst_nircam_ngc346" / "image.fits"
    strict = read_exposure(path, InputOptions(dq_good="strict"))
    assert np.count_nonzero(~strict.good) == 18 + 161
    exposure = read_exposure(path)  # UNRELIABLE_BIAS is harmless
    assert np.count_nonzero(~exposure.good) == 18
    assert exposure.gain == pytest.approx(105, rel=0.02)
    assert noise(exposure) == pytest.approx(0.12, rel=0.05)
    assert (exposure.unit, exposure.band, exposure.meta["EXPTIME"]) == ("MJy/sr", "F444W", 42.947)
    assert exposure.meta["CRDS_CTX"] == "jwst_1046.pmap"
    assert any("AREA 1.0235 to 1.0274" in note for note in exposure.notes)
    assert any(
        "gwcs" in note or "asdf" in note for note in exposure.notes
    )  # of the whole frame, or not readable here
    brightest = np.unravel_index(np.argmax(exposure.data), exposure.shape)
    local = np.median(exposure.ivar)
    assert exposure.ivar[brightest] == pytest.approx(local, rel=0.5)  # no source photons left in the noise
    ra, dec = pixel_to_sky(exposure.wcs, [50], [50])
    assert ra[0] == pytest.approx(14.8, abs=1)  # NGC 346
    assert dec[0] == pytest.approx(-72.2, abs=0.5)


@pytest.mark.parametrize(
    ("stem", "n_bad", "sigma", "gain"),
    [("c4d_170316_062107_{}_z_ls9.N2", 177, 28.4, 3.877), ("c4d_171113_060340_{}_r_ls9.N6", 0, 7.23, 3.716)],
)
def test_decam_triplets(shared_data, stem, n_bad, sigma, gain):
    """Weights and integer codes in files of their own, one triplet tile-compressed; TPV distortion."""
    image, weight, quality = (
        shared_data / "decam" / f"{stem.format(kind)}.fits" for kind in ("ooi", "oow", "ood")
    )
    options = InputOptions(err_kind="ivar", dq="codes", dq_ignore=(7,))
    exposure = read_exposure(image, options, err=weight, dq=quality)
    assert np.count_nonzero(~exposure.good) == n_bad
    assert set(np.unique(exposure.dq)) <= {0, 5}
    assert noise(exposure) == pytest.approx(sigma, rel=0.01)
    assert exposure.gain == pytest.approx(gain, rel=1e-3)
    assert exposure.band in ("z", "r")
    assert exposure.wcs is not None
    # the header's gain and read noise tell the same without the weights
    assert noise(read_exposure(image)) == pytest.approx(sigma, rel=0.04)


def test_spitzer(shared_data):
    """N003: a Galactic WCS; a header gain that does not apply; cores with a central dip."""
    path = shared_data / "spitzer_glimpse" / "spitzer_example_image.fits"
    exposure = read_exposure(path)
    assert np.argwhere(~exposure.good).tolist() == [[107, 591], [292, 740], [292, 741]]
    assert np.isinf(exposure.gain)
    ra, dec = pixel_to_sky(exposure.wcs, [512], [256])
    assert ra[0] == pytest.approx(276, abs=1.5)  # l 18, b 0
    assert dec[0] == pytest.approx(-13.2, abs=1.5)
    configured = read_exposure(path, InputOptions(gain=68.0, rdnoise=32.6, saturate=2000.0))
    assert noise(configured) == pytest.approx(0.53, rel=0.05)
    assert configured.saturated[209, 693]


def test_wfpc2(shared_data):
    path = shared_data / "hst_wfpc2_ngc1261" / "ubai2502m_c0m_aligned_F555W.fits"
    options = InputOptions(
        gain=14.0,
        rdnoise=7.8,
        saturate=3500.0,
        bad_below=-10.0,
        mask_regions=((0, 800, 0, 58), (0, 52, 0, 800), (60, 61, 0, 800), (0, 800, 799, 800)),
    )
    exposure = read_exposure(path, options)
    assert (exposure.unit, exposure.band) == ("ct", "F555W")
    assert not exposure.good[:58].any()
    assert not exposure.good[:, 60].any()
    assert exposure.good[100, 61]
    assert noise(exposure) == pytest.approx(0.6, rel=0.1)
    assert 11 <= exposure.saturated.sum() <= 11 * 9
    assert any("14 as configured, not 15" in note for note in exposure.notes)


@pytest.mark.parametrize(("band", "sky"), [("V", 48), ("B", 45)])
def test_kpno(shared_data, band, sky):
    """An old plain CCD: old-style date, no WCS, no gain."""
    exposure = read_exposure(shared_data / "kpno_m92" / f"m92_{band}1_cal.fits", InputOptions(bad_below=15.0))
    assert exposure.wcs is None
    assert exposure.band == band
    assert noise(exposure) == pytest.approx(7.5, rel=0.05)
    assert np.count_nonzero(~exposure.good) == {"V": 31, "B": 40}[band]
    assert np.median(exposure.data) == pytest.approx(sky, abs=3)


def test_k2(shared_data):
    """Blank GAIN and READNOIS, electrons per second, blocks without data, bleeding columns."""
    for path in sorted((shared_data / "k2_lagoon").glob("*.fits")):
        exposure = read_exposure(path, InputOptions(saturate=1.7e5))
        assert exposure.gain == pytest.approx(1625.3, rel=1e-4)
        assert not exposure.good[:10, :110].any()
        assert exposure.saturated.sum() > 100
        assert exposure.wcs is not None

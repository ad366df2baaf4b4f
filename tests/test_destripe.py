"""Copies of files without stripes: what is taken out, what stays, and what is refused."""

import numpy as np
import pytest
from astropy.io import fits

from crowdfit.cli import main
from crowdfit.detectors.destripe import Destripe, LineSearch
from crowdfit.detectors.source_mask import SourceMask
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.destriped import destripe_file
from crowdfit.simulate import named_scene, simulate

SCENE = named_scene("sparse", ny=200, nx=256, n_stars=150, dead_columns=1, seed=3, stripes=1.0)
MEAN_ERROR = 1 / np.sqrt(SCENE.nx)


@pytest.fixture(scope="module")
def field():
    """A field with stripes of one sigma and few stars."""
    return simulate(SCENE)


@pytest.fixture
def image(field, tmp_path):
    """The file of it, with extensions that nothing reads."""
    path = field.write(tmp_path / "f_cal.fits")
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].header["A_ORDER"] = (2, "a SIP term")
        hdus.append(fits.ImageHDU(np.arange(6.0).reshape(2, 3), name="AREA"))
        variance = np.square(hdus["ERR"].data)
        hdus.append(fits.ImageHDU(variance, name="VAR_POISSON"))
    return path


def missed(field, stripes):
    """Return what is left of the stripes, rms over the lines in noise of a pixel, without level and trend."""
    lines = (stripes - field.stripes).mean(axis=1)
    number = np.arange(len(lines))
    return np.std(lines - np.polyval(np.polyfit(number, lines, 1), number)) / SCENE.noise


def test_stripes_are_found_between_the_stars(field):
    """R012: to the error of a mean."""
    found = Destripe()(field.exposure)
    assert missed(field, found.stripes) < 1.4 * MEAN_ERROR
    assert found.usable > 0.8


def test_both_directions(field):
    waves = (2 * SCENE.noise * np.sin(np.arange(SCENE.nx))).astype(np.float32)
    e = field.exposure
    exposure = Exposure.of(e.data + waves, e.ivar, gain=e.gain)
    found = Destripe(lines=LineSearch(along="both"))(exposure)
    assert [stripes.along_rows for stripes in found.found] == [True, False]
    columns = found.found[1].offset[:, 0]
    assert np.std(columns - waves) < 0.1 * SCENE.noise


def test_the_copy_holds_all_that_was_in_the_file(field, image, tmp_path):
    """R014, R016, R017: image and errors changed, all else as it was."""
    done = destripe_file(image, tmp_path / "out")
    (copy,) = done.files
    assert copy.name == "f_cal_rowbgsub.fits"
    with fits.open(image) as before, fits.open(copy, checksum=True) as after:
        assert [hdu.name for hdu in after] == [hdu.name for hdu in before]
        for name in ("DQ", "TRUTH", "AREA", "VAR_POISSON"):
            assert np.array_equal(after[name].data, before[name].data)
        assert after["SCI"].header["A_ORDER"] == 2
        assert after["SCI"].header["CFSTROW"] == pytest.approx(SCENE.noise, rel=0.4)
        taken = before["SCI"].data - after["SCI"].data
        assert np.array_equal(np.isnan(taken), np.isnan(before["SCI"].data))
        assert missed(field, np.where(np.isfinite(taken), taken, field.stripes)) < 1.5 * MEAN_ERROR
        added = np.sqrt(np.square(after["ERR"].data) - np.square(before["ERR"].data))
        assert np.median(added) == pytest.approx(MEAN_ERROR * SCENE.noise, rel=0.2)
    assert "sigma along rows" in done.text


def test_masks_are_written_when_asked_for(image, tmp_path):
    """R010, R011: numbers of the sources, and the image without them."""
    done = destripe_file(image, tmp_path / "out", masks=True)
    assert [path.name for path in done.files[1:]] == ["detections_segm_f_cal.fits", "f_cal_masked.fits"]
    labels, masked = (fits.getdata(path) for path in done.files[1:])
    assert labels.dtype == np.uint32
    assert labels.max() > 20
    assert np.isnan(masked[labels > 0]).all()
    assert fits.getheader(done.files[1], 1)["A_ORDER"] == 2


@pytest.mark.parametrize(("name", "power"), [("VAR", 2), ("IVAR", -2)])
def test_variance_and_weight_get_the_error_too(field, tmp_path, name, power):
    noise = np.full(field.data.shape, SCENE.noise)
    path = tmp_path / "v.fits"
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(field.data, name="SCI"), fits.ImageHDU(noise**power, name=name)]
    fits.HDUList(hdus).writeto(path)
    (copy,) = destripe_file(path, tmp_path / "out").files
    after = np.median(fits.getdata(copy, name)) ** (1 / power)
    assert after == pytest.approx(SCENE.noise * np.hypot(1, MEAN_ERROR), rel=1e-3)


def test_whole_numbers_become_fractions(field, tmp_path):
    path = tmp_path / "i.fits"
    fits.writeto(path, np.nan_to_num(field.data).clip(0, 30000).astype(np.int16))
    (copy,) = destripe_file(path, tmp_path / "out").files
    assert fits.getdata(copy).dtype.kind == "f"


def test_a_file_without_stripes_any_more_is_left_alone(image, tmp_path):
    fits.setval(image, "S_CLNFNS", value="COMPLETE", ext=0)
    done = destripe_file(image, tmp_path / "out")
    assert done.files == ()
    assert "left alone" in done.text


def test_a_crowded_field_is_sent_to_the_fit():
    """R016: too little sky is refused."""
    field = simulate(named_scene("dense", ny=128, nx=128, n_stars=1500, dead_columns=0))
    strict = Destripe(lines=LineSearch(least_usable=0.9))
    with pytest.raises(InputError, match=r"free of sources.*stripes.kind=lines"):
        strict(field.exposure)


def test_sources_that_sep_cannot_tell_apart_are_a_clear_refusal(field, monkeypatch):
    import sep  # noqa: PLC0415

    def overflow(*_, **__):
        raise Exception("object deblending overflow")  # noqa: TRY002 - as sep does

    monkeypatch.setattr(sep, "extract", overflow)
    with pytest.raises(InputError, match=r"mask.nsigma"):
        Destripe()(field.exposure)


def test_mask_without_smoothing_and_without_growth(field):
    mask = SourceMask(smooth_px=0, grow_px=0)
    found = mask.segments(field.exposure, field.exposure.data)
    assert np.array_equal(mask.grown(found), found.labels > 0)


def test_command(image, tmp_path, capsys):
    other = tmp_path / "broken.fits"
    other.write_bytes(b"no")
    status = main(
        ["destripe", str(image), str(other), "-o", str(tmp_path / "out"), "--set", "lines.rounds=1"]
    )
    said = capsys.readouterr()
    assert status == 2
    assert "broken.fits" in said.err
    assert "f_cal_rowbgsub.fits" in said.out
    assert (
        main(["destripe", str(tmp_path / "out" / "f_cal_rowbgsub.fits"), "-o", str(tmp_path / "two"), "-q"])
        == 0
    )


def test_command_does_not_write_over_its_input(image, tmp_path, capsys):
    target = tmp_path / "g_rowbgsub.fits"
    image.rename(target.with_name("g.fits"))
    target.symlink_to(target.with_name("g.fits"))
    assert main(["destripe", str(tmp_path / "g.fits"), "-o", str(tmp_path)]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_command_lists_its_settings(capsys):
    assert main(["destripe", "--list"]) == 0
    assert "deblend_contrast" in capsys.readouterr().out
    assert main(["destripe"]) == 2
    assert "which images" in capsys.readouterr().err

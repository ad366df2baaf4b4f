"""The files of a fit: names, extensions, WCS, metadata, and folders that cannot be written."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from crowdfit.catalog import build_catalog
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.atomic import atomic_path, check_writable, clear_leftovers
from crowdfit.io.products import check_output, product_path, write_products
from crowdfit.io.tables import read_catalog
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Constant, Grid, Polynomial
from crowdfit.psf.readers import read_psf

METADATA = {"crowdfit": "0.1.0", "config": "sky:\n  kind: mesh\n", "input_sha256": "0" * 64}


@pytest.fixture
def result():
    """Stand in for a finished fit."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 150.0, 2.0
    wcs.wcs.crpix = 3.0, 4.0
    wcs.wcs.cdelt = -1e-4, 1e-4
    rng = np.random.default_rng(0)
    exposure = Exposure.of(
        rng.normal(9, 1, (20, 30)), np.ones((20, 30)), wcs=wcs, unit="MJy/sr", name="m92.v1"
    )
    columns = {"id": [0, 1], "x": [1.0, 2], "y": [3.0, 4], "flux": [5.0, 6], "flux_err": [1.0, 1]}
    samples = np.exp(-(np.linspace(-3, 3, 25)[:, None] ** 2) - np.linspace(-3, 3, 25) ** 2)
    plane = rng.normal(0, 1, (3, 20, 30)).astype(np.float32)
    return SimpleNamespace(
        exposure=exposure,
        catalog=build_catalog({key: np.array(value) for key, value in columns.items()}, exposure, METADATA),
        psf=EPSF.from_samples(samples, oversample=4),
        model=plane[0],
        sky=plane[1],
        residual=plane[2],
        structure=None,
        segments=None,
        metadata=METADATA,
    )


def test_files_and_their_names(tmp_path, result):
    written = write_products(result, tmp_path / "out", ("fits", "csv"))
    assert [path.name for path in written] == ["m92.v1_catalog.fits", "m92.v1_catalog.csv", "m92.v1_fit.fits"]
    assert all(path.is_file() for path in written)
    assert sorted(tmp_path.joinpath("out").iterdir()) == sorted(written)
    assert product_path("o", "a.fits.gz", "run").name == "a_run.h5"
    assert product_path("o", "a", "report").name == "a_report.html"
    assert len(read_catalog(written[0])) == 2


def test_fit_image(tmp_path, result):
    """P076: model, sky, residual and PSF with WCS, unit and metadata; checksums hold."""
    path = write_products(result, tmp_path)[-1]
    with fits.open(path, checksum=True) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "MODEL", "SKY", "RESIDUAL", "PSF"]
        for name in ("MODEL", "SKY", "RESIDUAL"):
            np.testing.assert_array_equal(hdus[name].data, getattr(result, name.lower()))
            assert hdus[name].header["BUNIT"] == "MJy/sr"
            ours = WCS(hdus[name].header).pixel_to_world_values(10, 10)
            np.testing.assert_allclose(ours, result.exposure.wcs.pixel_to_world_values(10, 10))
        assert hdus["PSF"].header["OVERSAMP"] == 4
        assert hdus["PSF"].data.shape == result.psf.cube.shape[1:]
        assert hdus["PSF"].data.sum() == pytest.approx(result.psf.cube[0].sum(), rel=1e-5)
        primary = hdus[0].header
        assert primary["CROWDFIT"] == "0.1.0"
        assert primary["CONF0002"] == "  kind: mesh"


def test_structure_noise_is_written_where_there_is_such(tmp_path, result):
    result.structure = np.full((20, 30), 2.5, np.float32)
    with fits.open(write_products(result, tmp_path)[-1]) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "MODEL", "SKY", "RESIDUAL", "STRUCTURE", "PSF"]
        np.testing.assert_array_equal(hdus["STRUCTURE"].data, result.structure)
        assert hdus["STRUCTURE"].header["BUNIT"] == "MJy/sr"


def test_without_wcs(tmp_path, result):
    bare = Exposure.of(result.exposure.data, result.exposure.ivar, name="bare")
    result.exposure = bare
    header = fits.getheader(write_products(result, tmp_path)[-1], "MODEL")
    assert "CTYPE1" not in header
    assert "BUNIT" not in header


@pytest.mark.parametrize(
    "field", [Polynomial(1, (10.5, 20.0), (11.0, 21.0)), Grid((0.0, 12.5, 30.0), (4.0,)), Constant()]
)
def test_psf_is_read_as_it_was_written(tmp_path, result, field):
    """The fit image is a PSF file too, also of a PSF that varies over the field."""
    result.psf = EPSF(np.concatenate([result.psf.cube] * field.n_basis), result.psf.oversample, field)
    path = write_products(result, tmp_path)[-1]
    psf = read_psf(path)
    assert psf.field == field
    assert psf.oversample == result.psf.oversample
    np.testing.assert_array_equal(psf.cube, result.psf.cube.astype(np.float32))
    with pytest.raises(InputError, match="psf.oversample 2 is refused"):
        read_psf(path, oversample=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PSFORDER": 2}, "3 planes are refused"),
        ({"PSFFORM": "spline"}, "PSFFORM is 'spline'; 'polynomial' or 'grid' is known"),
        ({"PSFX0": "left"}, "the keywords do not say how the planes mix"),
    ],
)
def test_psf_with_wrong_keywords(tmp_path, result, change, message):
    field = Polynomial(1, (10.5, 20.0), (11.0, 21.0))
    result.psf = EPSF(np.concatenate([result.psf.cube] * 3), result.psf.oversample, field)
    path = write_products(result, tmp_path)[-1]
    with fits.open(path, mode="update") as hdus:
        hdus["PSF"].header.update(change)
    with pytest.raises(InputError, match=rf"{path.name}\[PSF\].*{message}"):
        read_psf(path)


def test_output_is_checked_before_the_fit(tmp_path):
    """P103: a folder that cannot be written, and a format that does not exist."""
    assert check_output(tmp_path / "a" / "b", ("fits",)).is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write there .*choose another folder"):
        check_writable(tmp_path / "file")
    with pytest.raises(InputError, match="not a catalogue format"):
        check_output(tmp_path, ("docx",))


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write there"):
        check_writable(tmp_path)
    tmp_path.chmod(0o700)


def test_check_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def interrupted_write(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_atomic_path(tmp_path):
    path = tmp_path / "a.fits"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.suffix == ".fits"
    assert path.read_text() == "new"
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_refusals(tmp_path):
    with pytest.raises(InputError, match="cannot write there"), atomic_path(tmp_path / "no" / "a"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"), atomic_path(tmp_path / "folder") as temporary:
        temporary.write_text("x")


def test_leftovers_of_a_kill_are_cleared(tmp_path):
    """P100: what lies beside a file that was being written; that of other files, and the file itself, stays."""
    path = tmp_path / "a_run.h5"
    path.write_text("whole")
    left = []
    for name in ("a_run.h5", "other_a_run.h5", "a_run.h5.old"):
        writing = atomic_path(tmp_path / name)
        temporary = writing.__enter__()  # and the process is killed
        temporary.write_text("half")
        left.append((writing, temporary))
    (tmp_path / ".a_run.h5.mine").mkdir()
    clear_leftovers(path)
    assert [temporary.exists() for _, temporary in left] == [False, True, True]
    assert path.read_text() == "whole"
    assert (tmp_path / ".a_run.h5.mine").is_dir()
    clear_leftovers(tmp_path / "no folder" / "a_run.h5")
    for writing, temporary in left:
        temporary.parent.mkdir(exist_ok=True)
        temporary.write_text("half")
        writing.__exit__(None, None, None)

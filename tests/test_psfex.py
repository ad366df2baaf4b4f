"""PSFEx models: terms, positions, step and interpolation, against the images that PSFEx makes of its own models."""

import shutil
import subprocess

import numpy as np
import pytest
from astropy.io import fits

from crowdfit.errors import InputError
from crowdfit.psf.readers import read_psf
from crowdfit.simulate import named_scene, simulate

SNAPSHOTS = 3
TILE = 35


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Return a folder with the catalogue of Source Extractor of a field whose PSF varies; skip without the programs."""
    for program in ("source-extractor", "psfex"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("psfex")
    scene = named_scene(
        "sparse", ny=500, nx=600, n_stars=350, flux_min=8000.0, flux_max=2e5, wing_fraction=0.0, fwhm=4.0,
        fwhm_gradient=0.3, fwhm_angle=20.0, ellipticity_bowl=0.1, dead_columns=0, bad_pixels=0.0, saturation=None,
        sky_gradient=0.0, seed=8,
    )  # fmt: skip
    made = simulate(scene)
    fits.writeto(folder / "field.fits", made.data)
    columns = [
        "X_IMAGE",
        "Y_IMAGE",
        "FLUX_RADIUS",
        "FLUX_APER(1)",
        "FLUXERR_APER(1)",
        "ELONGATION",
        "FLAGS",
        "SNR_WIN",
    ]
    (folder / "field.param").write_text("\n".join([*columns, f"VIGNET({TILE},{TILE})"]))
    run(
        folder, "source-extractor", "field.fits", c="default.sex", CATALOG_NAME="field.cat", CATALOG_TYPE="FITS_LDAC",
        PARAMETERS_NAME="field.param", FILTER="N", PHOT_APERTURES="20", DETECT_THRESH="5", ANALYSIS_THRESH="5",
        GAIN="1", SATUR_LEVEL="1e6",
    )  # fmt: skip
    return folder, made


def run(folder, program, target, **settings):
    """Run a program of astromatic in a folder, with settings."""
    words = [word for key, value in settings.items() for word in (f"-{key}", value)]
    (folder / "default.sex").touch()
    done = subprocess.run([program, target, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def model_of(folder, name, **settings):
    """Run PSFEx; return the path of the model and its snapshots at detector sampling, (rows, cols, s, s)."""
    run(
        folder, "psfex", "field.cat", PSF_SIZE="41,41", CHECKIMAGE_TYPE="SNAPSHOTS_IMRES",
        CHECKIMAGE_NAME=f"{name}.fits", CHECKPLOT_TYPE="NONE", WRITE_XML="N", PSF_SUFFIX=f"_{name}.psf",
        PSFVAR_NSNAP=str(SNAPSHOTS), **settings,
    )  # fmt: skip
    image = fits.getdata(folder / f"{name}_field.fits").astype(float)
    tiles = image.reshape(image.shape[0] // TILE, TILE, image.shape[1] // TILE, TILE).swapaxes(1, 2)
    return folder / f"field_{name}.psf", tiles


def places(path, n=SNAPSHOTS):
    """Return the positions of the snapshots: the values of the first variable, and of the second."""
    header = fits.getheader(path, 1)
    steps = (np.arange(n) + 0.5) / n - 0.5
    return [header[f"POLZERO{i}"] + header[f"POLSCAL{i}"] * steps - 1 for i in (1, 2)]


def departure(tile, stamp):
    """Return the largest difference, over the peak, of a snapshot and a stamp scaled to it."""
    scaled = stamp * np.sum(tile * stamp) / np.sum(np.square(stamp))
    return np.abs(tile - scaled).max() / tile.max()


@pytest.mark.slow
@pytest.mark.peer
class TestAgainstPsfex:
    def test_interpolation(self, catalogue):
        """A constant model of a step that is no whole fraction of a pixel: PSFEx's own Lanczos kernel."""
        path, tiles = model_of(catalogue[0], "step", PSF_SAMPLING="0.83", PSFVAR_DEGREES="0")
        psf = read_psf(path)
        assert psf.cube.shape[0] == 1
        assert departure(tiles[0, 0], psf.stamp(0, 0, TILE)) < 2e-6

    @pytest.mark.parametrize("sampling", ["0.0", "0.5"])
    def test_over_the_field(self, catalogue, sampling):
        """Snapshots run along x first. What is left comes from scaling to unit sum all over the field."""
        path, tiles = model_of(catalogue[0], f"field{sampling}", PSF_SAMPLING=sampling, PSFVAR_DEGREES="2")
        psf = read_psf(path)
        assert psf.cube.shape[0] == 6
        x, y = places(path)
        for row, col in np.ndindex(SNAPSHOTS, SNAPSHOTS):
            here = psf.at(x[col], y[row])
            assert departure(tiles[row, col], here.stamp(0, 0, TILE)) < 2e-3
            assert here.cube.sum() / psf.oversample**2 == pytest.approx(1, abs=1e-9)
            others = [psf.at(x[c], y[r]) for r, c in np.ndindex(SNAPSHOTS, SNAPSHOTS) if (r, c) != (row, col)]
            assert min(departure(tiles[row, col], other.stamp(0, 0, TILE)) for other in others) > 4e-3

    def test_groups_and_other_order(self, catalogue):
        """Two groups are a product, and the first variable may be y."""
        path, tiles = model_of(
            catalogue[0], "groups", PSF_SAMPLING="1.0", PSFVAR_KEYS="Y_IMAGE,X_IMAGE", PSFVAR_GROUPS="1,2",
            PSFVAR_DEGREES="1,2",
        )  # fmt: skip
        psf = read_psf(path)
        assert psf.field.order == 3
        y, x = places(path)
        for row, col in np.ndindex(SNAPSHOTS, SNAPSHOTS):
            here = psf.at(x[row], y[col])
            assert departure(tiles[row, col], here.stamp(0, 0, TILE)) < 3e-3

    def test_the_model_is_the_truth(self, catalogue):
        """Width over the field: that of the stars."""
        folder, made = catalogue
        path, _ = model_of(folder, "truth", PSF_SAMPLING="0.5", PSFVAR_DEGREES="2")
        psf = read_psf(path)
        for x, y in ((100, 100), (300, 250), (500, 400), (100, 400)):
            assert psf.at(x, y).fwhm == pytest.approx(made.psf.at(x, y).fwhm, rel=0.035)
        assert np.hypot(*psf.centroid()) < 0.03


def planes_of(n=6, side=25, step=1.0):
    """Return planes of a model: a Gaussian, and for every further term a blob at a place of its own."""
    grid = (np.arange(side) - side // 2) * step
    x, y = np.meshgrid(grid, grid)
    planes = [np.exp(-(x**2 + y**2) / 4)]
    for k in range(1, n):
        planes.append(0.05 * np.exp(-((x - 3 * np.cos(k)) ** 2 + (y - 3 * np.sin(k)) ** 2) / 3))
    return np.array(planes, np.float32)


CARDS = {
    "POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": 101.0, "POLSCAL1": 200.0, "POLGRP2": 1,
    "POLNAME2": "Y_IMAGE", "POLZERO2": 51.0, "POLSCAL2": 100.0, "POLNGRP": 1, "POLDEG1": 2, "PSF_SAMP": 1.0,
}  # fmt: skip
POWERS = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2)]


def write(path, planes=None, count=1, **changes):
    """Write a model in the layout of PSFEx."""
    planes = planes_of() if planes is None else planes
    shape = f"({','.join(str(n) for n in planes.shape[::-1])})"
    cards = {key: value for key, value in {**CARDS, **changes}.items() if value is not None}
    column = fits.Column("PSF_MASK", f"{planes.size}E", dim=shape, array=planes[np.newaxis])
    tables = [fits.BinTableHDU.from_columns([column], fits.Header(cards)) for _ in range(count)]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)
    return path


class TestLayout:
    """Without the programs: terms, positions from 1, axes, step, and the tables of the Legacy Surveys."""

    @staticmethod
    def expected(planes, x, y):
        u, v = (x + 1 - 101) / 200, (y + 1 - 51) / 100
        here = sum(u**a * v**b * plane for (a, b), plane in zip(POWERS, planes.astype(float), strict=True))
        return here / here.sum()

    def test_terms(self, tmp_path):
        psf = read_psf(write(tmp_path / "m.psf"))
        assert psf.field.middle == (100.0, 50.0)
        assert psf.field.scale == (100.0, 50.0)
        for x, y in ((0.0, 0.0), (200.0, 0.0), (0.0, 100.0), (150.0, 30.0)):
            stamp = psf.at(x, y).stamp(0, 0, 25)
            assert np.allclose(stamp, self.expected(planes_of(), x, y), atol=2e-4)
            assert stamp.sum(dtype=float) == pytest.approx(1, abs=1e-5)

    def test_constant(self, tmp_path):
        for i, (planes, cards) in enumerate(
            ((planes_of(1), {"POLDEG1": 0}), (planes_of(1)[0], {"POLNAXIS": 0, "POLDEG1": None}))
        ):
            psf = read_psf(write(tmp_path / f"{i}.psf", planes, **cards))
            assert psf.cube.shape[0] == 1
            assert np.allclose(psf.stamp(0, 0, 25), planes_of(1)[0] / planes_of(1)[0].sum(), atol=1e-6)

    @pytest.mark.parametrize("step", [0.3, 0.73, 1.0])
    def test_step_is_in_pixels(self, tmp_path, step):
        psf = read_psf(write(tmp_path / "m.psf", planes_of(1, 61, step), PSF_SAMP=step, POLDEG1=0))
        assert psf.fwhm == pytest.approx(2.3548 * np.sqrt(2), rel=0.01)
        assert np.hypot(*psf.centroid()) < 1e-3

    def test_even_sizes(self, tmp_path):
        """PSFEx centres on sample s // 2 whatever the size."""
        psf = read_psf(write(tmp_path / "m.psf", planes_of(1, 40), POLDEG1=0))
        assert np.hypot(*psf.centroid()) < 1e-3

    def test_between_pixels_as_psfex_does(self, tmp_path):
        """The spline through our finer samples is the Lanczos kernel to 1e-3 of the peak, also for a sharp PSF."""
        side, step = 41, 0.9
        grid = (np.arange(side) - side // 2) * step
        sharp = np.exp(-(grid**2 + grid[:, None] ** 2) / 1.6).astype(np.float32)  # FWHM 2.1 px
        psf = read_psf(write(tmp_path / "m.psf", sharp[np.newaxis], PSF_SAMP=step, POLDEG1=0))
        for x, y in ((0.31, -0.22), (0.5, 0.1), (-0.4, -0.45)):
            pixels = np.arange(-6, 7) + np.floor([[x + 0.5], [y + 0.5]])
            weights = []
            for place in (pixels - [[x], [y]]) / step:
                gap = place[:, None] - (np.arange(side) - side // 2)
                weight = np.where(np.abs(gap) < 3, np.sinc(gap) * np.sinc(gap / 3), 0)
                weights.append(weight / weight.sum(axis=1, keepdims=True))
            expected = weights[1] @ sharp @ weights[0].T
            assert departure(expected, psf.stamp(x, y, 13)) < 1e-3

    def legacy(self, path, names=("N4", "S29"), planes=None, **changes):
        """Write models as rows of one table."""
        planes = planes_of() if planes is None else planes
        rows = {key.lower(): [value] * len(names) for key, value in {**CARDS, **changes}.items()}
        columns = [
            fits.Column(key, {int: "K", float: "D"}.get(type(value[0]), "20A"), array=value)
            for key, value in rows.items()
        ]
        shape = f"({','.join(str(n) for n in planes.shape[::-1])})"
        stack = np.array([planes * (1 + i) for i in range(len(names))])
        columns += [
            fits.Column("psf_mask", f"{planes.size}E", dim=shape, array=stack),
            fits.Column("ccdname", "5A", array=list(names)),
        ]
        fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)
        return path

    def test_rows_of_a_table(self, tmp_path):
        one = read_psf(write(tmp_path / "m.psf"))
        same = read_psf(self.legacy(tmp_path / "t.fits"), detector="S29")
        np.testing.assert_allclose(same.cube, one.cube, atol=1e-6)
        assert same.field == one.field
        single = read_psf(self.legacy(tmp_path / "s.fits", names=("N4",)))
        np.testing.assert_allclose(single.cube, one.cube, atol=1e-6)

    def test_choice_of_several(self, tmp_path):
        path = write(tmp_path / "m.psf", count=3)
        with pytest.raises(
            InputError, match="m.psf: the file holds 3 models and psf.detector is not set; give 1 to 3"
        ):
            read_psf(path)
        assert read_psf(path, detector=2).cube.shape[0] == 6
        with pytest.raises(InputError, match="psf.detector '4' is not there; give 1 to 3"):
            read_psf(path, detector=4)
        table = self.legacy(tmp_path / "t.fits")
        with pytest.raises(InputError, match="2 models .* or one of N4, S29"):
            read_psf(table)
        with pytest.raises(
            InputError, match="psf.detector 'N5' is not there; give 1 to 2, or one of N4, S29"
        ):
            read_psf(table, detector="N5")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"PSF_SAMP": None}, "m.psf: PSF_SAMP is None; a number is needed beside PSF_MASK"),
            ({"PSF_SAMP": -1.0}, "m.psf: PSF_SAMP is -1; a step above 0 and up to 4 pixels"),
            ({"PSF_SAMP": 9.0}, "m.psf: PSF_SAMP is 9"),
            (
                {"POLDEG1": 3},
                r"m.psf: PSF_MASK has shape \(6, 25, 25\), and the POL.. keywords ask for 10 planes",
            ),
            ({"POLDEG1": 99}, r"m.psf: POLDEG is \[99\]; degrees from 0 to 10"),
            (
                {"POLNAME1": "MAG_AUTO"},
                "m.psf: POLNAME1 is 'MAG_AUTO', which is no position on the image; .*PSFVAR_KEYS",
            ),
            ({"POLNAME2": "XWIN_IMAGE"}, "m.psf: POLNAME1 and POLNAME2 are the same axis"),
            ({"POLSCAL1": 0.0}, "m.psf: POLSCAL1 is 0; a range above 0 pixels is needed"),
            ({"POLZERO2": "middle"}, "m.psf: POLZERO2 is 'middle'; a number is needed"),
        ],
    )
    def test_refused(self, tmp_path, changes, message):
        with pytest.raises(InputError, match=message):
            read_psf(write(tmp_path / "m.psf", **changes))

    def test_sampling_cannot_be_given(self, tmp_path):
        with pytest.raises(
            InputError, match="psf.oversample 2 is refused, since PSF_SAMP of the PSFEx model says it"
        ):
            read_psf(write(tmp_path / "m.psf"), oversample=2)


@pytest.mark.parametrize(
    ("name", "fwhm", "size"),
    [("c4d_170316_062107_ooi_z_ls9", 3.69, (251, 245)), ("c4d_171113_060340_ooi_r_ls9", 4.02, (375, 280))],
)
def test_real_models_of_decam(shared_data, name, fwhm, size):
    """Models of the Legacy Surveys, shifted to cutouts: planes evaluated by hand at their corners."""
    path = shared_data / "decam" / f"{name}-psfex.fits"
    psf, row = read_psf(path), fits.getdata(path, 1)[0]
    assert psf.cube.shape[0] == 6
    ny, nx = size
    assert psf.at(nx / 2, ny / 2).fwhm == pytest.approx(fwhm, rel=0.1)
    for x, y in ((0, 0), (nx - 1, 0), (0, ny - 1), (nx - 1, ny - 1)):
        u, v = (x + 1 - row["polzero1"]) / row["polscal1"], (y + 1 - row["polzero2"]) / row["polscal2"]
        here = sum(
            u**a * v**b * plane for (a, b), plane in zip(POWERS, row["psf_mask"].astype(float), strict=True)
        )
        stamp = psf.at(x, y).stamp(0, 0, 31)
        assert np.abs(stamp - (here / here.sum())[16:47, 16:47]).max() < 1e-3 * stamp.max()

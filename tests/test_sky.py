"""The sky stages, each with a known sky: constant, sloping, with holes, and under stars nobody has found."""

import dataclasses

import numpy as np
import pytest

from crowdfit.api import fit_image
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.render import render
from crowdfit.scene import LADDER
from crowdfit.simulate import SCENES, Scene, simulate
from crowdfit.sources import Sources
from crowdfit.stages.sky import (
    BlockSky,
    FixedSky,
    MeshSky,
    block_medians,
    fill_holes,
    fill_sparse_cells,
    global_median,
    interpolate_blocks,
    mesh_pixels,
    scatter_error,
    usable_for_sky,
    without_faint,
)

SHAPE = (120, 160)
NOISE = 5.0
LEVEL = 100.0
CELL = 40
# a median of n pixels scatters by 1.25 sigma / sqrt(n); sep's mode, 2.5 median - 1.5 mean, by about twice that
CELL_ERROR = 2 * 1.25 * NOISE / CELL
IMAGE_ERROR = 2 * 1.25 * NOISE / np.sqrt(SHAPE[0] * SHAPE[1])
LATE = 5


def noise(seed=1, shape=SHAPE):
    return np.random.default_rng(seed).normal(0, NOISE, shape)


def plane(rise):
    """Return a sky of mean LEVEL that rises by `rise` from the left to the right edge, and half of it upwards."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return LEVEL + rise * (x / SHAPE[1] - 0.5) + rise / 2 * (y / SHAPE[0] - 0.5)


@pytest.fixture
def make(small_psf):
    """A maker of frames from an image, a model of its stars, and a mask."""

    def make(data, model=None, mask=None):
        ivar = np.full(np.shape(data), NOISE**-2)
        exposure = Exposure.of(data, ivar if mask is None else np.where(mask, 0, ivar))
        frame = Frame.start(exposure, small_psf, StampSizes())
        return frame if model is None else frame.with_(model=np.asarray(model, np.float32))

    return make


def sky_of(stage, frame, sources=None, pass_no=LATE):
    (new,) = stage((frame,), Sources.empty() if sources is None else sources, pass_no=pass_no)
    assert new.sky.dtype == np.float32
    assert new.sky.shape == frame.exposure.shape
    assert new.exposure is frame.exposure
    assert new.model is frame.model
    return new.sky


@pytest.mark.parametrize("stage", [MeshSky(mesh_px=CELL), BlockSky(mesh_px=CELL)], ids=["mesh", "blocks"])
class TestBoth:
    """What the mesh and the blocks have in common."""

    def test_constant(self, stage, make):
        """5 sigma of the mean over the image, and 5 sigma of a cell anywhere."""
        sky = sky_of(stage, make(LEVEL + noise()))
        assert abs(sky.mean() - LEVEL) < 5 * IMAGE_ERROR
        assert np.abs(sky - LEVEL).max() < 5 * CELL_ERROR

    def test_known_stars_are_taken_out_first(self, stage, make, small_psf):
        """C006: the sky is that of image - model, so a model that is right leaves no trace in it."""
        rng = np.random.default_rng(3)
        x, y, flux = rng.uniform(0, 160, 60), rng.uniform(0, 120, 60), 10 ** rng.uniform(3, 5, 60)
        model = render(small_psf, x, y, flux, SHAPE)
        assert model.mean() > 20 * CELL_ERROR
        sky = sky_of(stage, make(LEVEL + noise() + model, model))
        assert abs(sky.mean() - LEVEL) < 5 * IMAGE_ERROR
        assert np.abs(sky - LEVEL).max() < 5 * CELL_ERROR

    def test_slope_is_followed(self, stage, make):
        """P018, P021: within half a cell of the edge both continue as a constant, so that is left out."""
        truth = plane(80.0)
        sky = sky_of(stage, make(truth + noise()))
        inside = (slice(CELL // 2, -CELL // 2),) * 2
        assert np.abs(sky - truth)[inside].max() < 5 * CELL_ERROR
        assert np.abs(sky - truth).max() < 5 * CELL_ERROR + 1.5 * 80 * CELL / 2 / SHAPE[0]

    def test_diffuse_light_is_followed(self, stage, make):
        """C007: light that is smooth over two cells goes into the sky, to a tenth of its height."""
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        bump = 60 * np.exp(-0.5 * ((x - 80) ** 2 + (y - 60) ** 2) / (2.2 * CELL) ** 2)
        sky = sky_of(stage, make(LEVEL + bump + noise()))
        inside = (slice(CELL // 2, -CELL // 2),) * 2
        assert np.abs(sky - LEVEL - bump)[inside].max() < 0.1 * 60 + 5 * CELL_ERROR

    @pytest.mark.parametrize("sign", [-1, 1])
    def test_exponential_gradient_is_followed(self, stage, make, sign):
        """M012: as a notebook draws it, of either sign: up to 5 in a noise of 1, over 3 widths and 2 heights.

        What is left of the curvature inside a cell adds to the noise of the cell.
        """
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        gradient = sign * 5 * NOISE * np.exp(x / (3 * SHAPE[1])) * np.exp(-y / (2 * SHAPE[0]))
        assert np.ptp(gradient) > 5 * CELL_ERROR
        sky = sky_of(stage, make(LEVEL + gradient + noise()))
        inside = (slice(CELL // 2, -CELL // 2),) * 2
        assert np.abs(sky - LEVEL - gradient)[inside].max() < 5 * CELL_ERROR

    def test_masked_pixels_do_not_matter(self, stage, make):
        """A hole larger than a cell is filled from around it, whatever its pixels hold."""
        mask = np.zeros(SHAPE, bool)
        mask[30:90, 50:125] = True
        mask |= np.random.default_rng(5).uniform(size=SHAPE) < 0.2
        truth = plane(20.0)
        data = truth + noise()
        sky = sky_of(stage, make(np.where(mask, 1e30, data), mask=mask))
        np.testing.assert_array_equal(sky, sky_of(stage, make(np.where(mask, -7, data), mask=mask)))
        assert np.isfinite(sky).all()
        # cells half or wholly masked: their errors, and the departure of a constant fill from the slope
        assert np.abs(sky - truth).max() < 5 * CELL_ERROR * np.sqrt(3) + 20

    def test_first_passes_are_flat(self, stage, make):
        """C005: two passes with one median of data - model over the usable pixels."""
        mask = np.zeros(SHAPE, bool)
        mask[:, :30] = True
        model = np.full(SHAPE, 3.0)
        frame = make(plane(80.0) + noise(), model, mask)
        expected = np.median((frame.exposure.data - frame.model)[~mask])
        for pass_no in (0, 1):
            np.testing.assert_array_equal(sky_of(stage, frame, pass_no=pass_no), np.full(SHAPE, expected))
        assert np.ptp(sky_of(stage, frame, pass_no=2)) > 40

    def test_scales_with_the_image(self, stage, make):
        """Nothing in counts: an image in other units has the sky in those units (float32: 1e-5 of the level)."""
        data, mask = plane(30.0) + noise(), noise(8) > 2 * NOISE
        once = sky_of(stage, make(data, mask=mask))
        for unit in (1e-3, 1e6):
            scaled = Frame.start(
                Exposure.of(unit * data, np.where(mask, 0, (unit * NOISE) ** -2)),
                make(data).psf, StampSizes(),
            )  # fmt: skip
            np.testing.assert_allclose(sky_of(stage, scaled) / unit, once, rtol=2e-5)

    def test_no_flat_passes(self, stage, make):
        """For nebulosity the first pass may follow the sky already."""
        curved = type(stage)(mesh_px=CELL, flat_passes=0)
        assert np.ptp(sky_of(curved, make(plane(80.0) + noise()), pass_no=0)) > 40


def test_global_median_is_of_data_minus_model(make):
    """C005 on numbers that can be done by hand: 1..9 less a model of 1, with one pixel masked."""
    data = np.arange(1.0, 10.0).reshape(3, 3)
    mask = np.zeros((3, 3), bool)
    mask[2, 2] = True
    frame = make(data, np.ones((3, 3)), mask)
    np.testing.assert_array_equal(global_median(frame), np.full((3, 3), 3.5))


def test_bright_model_pixels_tell_nothing_about_the_sky(make):
    """A model wrong by 20 % under bright stars leaves residuals there, and the mesh does not look at them."""
    model = np.zeros(SHAPE)
    model[:, ::3] = 50 * NOISE
    frame = make(LEVEL + noise() + 1.2 * model, model)
    sky = sky_of(MeshSky(mesh_px=CELL), frame)
    assert np.abs(sky - LEVEL).max() < 5 * CELL_ERROR * np.sqrt(1.5)
    looked_at = usable_for_sky(frame, 3.0)
    assert not looked_at[:, ::3].any()
    assert looked_at[:, 1::3].all()


@pytest.mark.parametrize("share", [0.55, 0.8, 0.95])
def test_mesh_in_a_field_full_of_bright_stars(make, share):
    """C006: SEP ignores cells that are less than half usable, and says 0 when all are; the rest still tells the sky."""
    rng = np.random.default_rng(6)
    model = np.where(rng.uniform(size=SHAPE) < share, 50 * NOISE, 0)
    truth = plane(20.0)
    sky = sky_of(MeshSky(mesh_px=CELL), make(truth + noise() + 1.3 * model, model))
    assert np.abs(sky - truth).max() < 5 * CELL_ERROR / np.sqrt(1 - share) + 6


def test_sparse_cells_are_filled_with_their_own_pixels():
    """Half a cell and less is repeated, more is left alone, next to nothing is dropped; arguments stay as they are."""
    image = np.arange(60.0 * 20).reshape(20, 60).astype(np.float32)
    usable = np.zeros((20, 60), bool)
    usable[:10, :20] = usable[:15, 20:40] = usable[0, 40:45] = True
    before = image.copy(), usable.copy()
    filled, after = fill_sparse_cells(image, usable, 20)
    np.testing.assert_array_equal(filled[10:, :20], image[:10, :20])
    assert after[:, :20].all()
    np.testing.assert_array_equal(filled[:, 20:], image[:, 20:])
    np.testing.assert_array_equal(after[:, 20:40], usable[:, 20:40])
    assert not after[:, 40:].any()
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(usable, before[1])


def test_mesh_without_a_usable_cell_is_the_median(make):
    """Ten good pixels in all: one level for the whole image."""
    mask = np.ones(SHAPE, bool)
    mask[5, 5:15] = False
    frame = make(LEVEL + noise(), mask=mask)
    np.testing.assert_array_equal(sky_of(MeshSky(mesh_px=CELL), frame), global_median(frame))


def test_sky_of_an_image_full_of_model(make):
    """When bright model covers all but 2 % of the pixels the rest is too little, and all are taken again."""
    frame = make(LEVEL + noise(), np.full(SHAPE, 100 * NOISE))
    np.testing.assert_array_equal(usable_for_sky(frame, 3.0), frame.exposure.good)


def test_fixed_sky_is_what_it_says(make):
    np.testing.assert_array_equal(sky_of(FixedSky(level=12.5), make(noise())), np.full(SHAPE, 12.5))


@pytest.mark.parametrize(
    ("fwhm_size", "px_size", "expected"),
    [(10.0, None, 30), (1e4, None, 120), (0.1, None, 4), (10.0, 17.4, 17)],
)
def test_mesh_size(make, fwhm_size, px_size, expected):
    """In FWHM, or pixels when given; at most the image, at least 4 px (the PSF is 3.0 px wide, to 4 %)."""
    size = mesh_pixels(make(noise()), fwhm_size, px_size)
    assert size == pytest.approx(expected, abs=2 if expected == 30 else 0)


def test_block_medians_are_medians():
    """C006: plain medians of the blocks; a block with too few usable pixels is empty."""
    values = np.random.default_rng(2).normal(size=(40, 60)).astype(np.float32)
    values[0:20, 0:20] = np.nan
    values[3, :5] = 1.0
    values[25, 25] = np.nan
    found = block_medians(values, 20, 20)
    assert found.shape == (2, 3)
    assert np.isnan(found[0, 0])
    assert found[0, 1] == np.median(values[:20, 20:40])
    assert found[1, 1] == np.nanmedian(values[20:, 20:40])


def test_blocks_cover_an_image_that_is_no_multiple_of_them():
    """Every pixel belongs to one block: a median of all ones is one everywhere."""
    np.testing.assert_array_equal(block_medians(np.ones((41, 59), np.float32), 20, 20), np.ones((3, 3)))


def test_holes_are_filled_from_their_neighbours():
    """Inside the range of what is known, nearer to the nearest, and known cells stay."""
    grid = np.full((9, 9), np.nan)
    grid[:, 0], grid[:, 8] = 10.0, 20.0
    filled = fill_holes(grid)
    assert (filled[:, 0] == 10).all()
    assert (filled[:, 8] == 20).all()
    assert (filled > 10 - 1e-9).all()
    assert (filled < 20 + 1e-9).all()
    assert (np.diff(filled[4]) >= -1e-9).all()
    assert filled[4, 4] == pytest.approx(15, abs=0.1)


def test_nothing_known_is_sky_zero():
    np.testing.assert_array_equal(fill_holes(np.full((3, 4), np.nan)), np.zeros((3, 4)))


def test_blocks_are_joined_linearly():
    """A plane sampled at the block centres comes back exactly between the outermost centres."""
    grid = np.add.outer(np.arange(4) * 10.0, np.arange(5) * 3.0)
    image = interpolate_blocks(grid, (40, 50))
    y, x = np.mgrid[5:35, 5:45]
    np.testing.assert_allclose(image[5:35, 5:45], (y - 4.5) + (x - 4.5) * 0.3, atol=1e-5)
    np.testing.assert_allclose(image[:5, 20], image[4, 20], atol=0.5)


def sky_bias(n_stars, stage, shape=(256, 256)):
    """Return sky - truth in units of the noise of a pixel, when all stars above S/N 5 are known exactly.

    The rest are what a mesh takes for sky: their mean surface brightness, in the same unit, comes second.
    """
    scene = Scene(
        ny=shape[0],
        nx=shape[1],
        n_stars=n_stars,
        fwhm=3.0,
        flux_min=30,
        flux_max=1e5,
        slope=0.7,
        sky=400,
        seed=4,
    )
    field = simulate(scene)
    x, y, flux = (np.asarray(field.truth[name]) for name in ("x", "y", "flux"))
    known = flux > 5 * scene.noise * np.sqrt(field.psf.n_eff)
    model = render(field.psf, x[known], y[known], flux[known], shape)
    frame = Frame.start(field.exposure, field.psf, StampSizes()).with_(model=model)
    (frame,) = stage((frame,), Sources.empty(), pass_no=LATE)
    unknown = float(flux[~known].sum() / ((shape[0] + 20) * (shape[1] + 20)))
    return float(np.mean(frame.sky - field.sky)) / scene.noise, unknown / scene.noise


def test_wide_mesh_takes_no_more_than_the_unseen_stars():
    """C041: the bias of the default mesh rises with density, but stays below the light of stars never found.

    That light is in the image and no sky estimate can tell it from sky, so it is the bound; below it, minus
    the statistical error of the mode (about 2.5 / sqrt(256^2) sigma).
    """
    error = 2.5 / 256
    biases = [sky_bias(n, MeshSky()) for n in (200, 1000, 4000)]
    for bias, unseen in biases:
        assert -5 * error < bias < unseen + 5 * error
    assert biases[0][0] < 0.03 + 5 * error


def test_fine_mesh_takes_the_light_of_faint_stars():
    """P019: stars of S/N 4 to 30 that are not yet modelled lose more of their light to a mesh of 4 FWHM.

    What a mesh takes from one star is the mean of sky with it minus sky without it.
    """
    scene = Scene(ny=240, nx=240, n_stars=0, fwhm=3.0, sky=400, seed=6)
    field = simulate(scene)
    x, y = (g.ravel() for g in np.meshgrid(np.arange(30.0, 220, 60) + 0.3, np.arange(30.0, 220, 60) - 0.2))
    flux = 25 * scene.noise * np.sqrt(field.psf.n_eff)
    stars = render(field.psf, x, y, np.full(len(x), flux), (240, 240))

    def taken(stage):
        """Return the share of the stars' flux that a matched filter would miss."""
        skies = []
        for data in (field.data, field.data + stars):
            exposure = Exposure.of(data, np.full(data.shape, scene.noise**-2))
            skies.append(sky_of(stage, Frame.start(exposure, field.psf, StampSizes())))
        at = (np.round(y).astype(int), np.round(x).astype(int))
        return float(np.mean((skies[1] - skies[0])[at])) * field.psf.n_eff / flux

    fine, wide = taken(MeshSky(mesh_fwhm=4, filter_cells=1)), taken(MeshSky())
    assert wide < 0.01
    assert fine > 5 * max(wide, 0.002)


@pytest.mark.slow
@pytest.mark.parametrize("pixels", LADDER)
def test_fitted_sky_is_unbiased_as_density_rises(pixels):
    """C041, P019: whole fits along the density ladder, true PSF given, constant sky: what is added to the sky is light.

    The bound is the mean light of the stars that cannot be found, which is in the image and which no sky estimate
    tells from sky: those below S/N 7, the threshold of 4 raised by crowding, and a fifth more for chance; for one
    star on 50 pixels and fewer, those below S/N 5. To that and to 0 comes 5 times the statistical error of the sky,
    2.5 / sqrt(256^2) of the noise of a pixel. In units of that noise the sky is 0.06 high at 200 pixels per star,
    0.31 at 50, 0.65 at 25 and 1.3 at 12.
    """
    ladder = SCENES[f"ladder{pixels}"]
    n_stars = round((256 + 2 * ladder.margin) ** 2 / pixels)
    scene = dataclasses.replace(
        ladder, ny=256, nx=256, n_stars=n_stars, sky_gradient=0.0, bad_pixels=0.0, dead_columns=0
    )
    made = simulate(scene)
    result = fit_image(made.exposure, psf=made.psf, psf_update__kind="none")
    bias = float(np.mean(result.sky - made.sky)) / scene.noise
    flux = np.asarray(made.truth["flux"])
    snr = flux / np.sqrt(made.psf.n_eff * scene.noise**2 + flux / scene.gain)
    area = (256 + 2 * scene.margin) ** 2
    unseen = flux[snr < (5 if pixels >= 50 else 7)].sum() / area / scene.noise
    error = 2.5 / 256
    assert -5 * error < bias < 1.2 * unseen + 5 * error


class TestFaintStars:
    """Stars near the limit belong to the image whose sky is taken."""

    SNR = np.array([50.0, 20.0, 8.01, 7.99, 3.0, -2.0])

    @pytest.fixture
    def known(self, make):
        """Return a frame with six stars of the S/N above in its model, and the stars."""
        error = 11.0
        stars = Sources.at(20.0 * np.arange(1, 7), np.full(6, 60.0), error * self.SNR)
        stars = stars.changed(flux_err=np.full(6, error))
        return make(LEVEL + noise()).rendered(stars), stars

    @pytest.mark.parametrize(("limit", "n_left"), [(0.0, 5), (2.0, 5), (8.0, 3), (30.0, 1), (1e3, 0)])
    def test_model_without_them(self, known, limit, n_left):
        frame, stars = known
        model = without_faint(frame, stars, limit).model
        kept = frame.rendered(stars.take(np.arange(n_left)))
        np.testing.assert_allclose(model, kept.model, rtol=0, atol=1e-4 * frame.model.max())

    def test_errors_are_those_without_confusion(self, known):
        """Confusion widens the errors and takes no star below the limit for that."""
        frame, stars = known
        confused = frame.with_(confusion=10.0 * NOISE**2)
        ratio = confused.whitening.error_ratio
        assert ratio > 1.2
        wide = stars.changed(flux_err=stars.flux_err * ratio)
        kept = without_faint(frame, stars, 8.0).model
        np.testing.assert_allclose(without_faint(confused, wide, 8.0).model, kept, rtol=0, atol=1e-3)

    def test_none_are_faint(self, known):
        frame, stars = known
        assert without_faint(frame, stars.take(np.arange(3)), 8.0) is frame
        assert without_faint(frame, Sources.empty(), 8.0) is frame

    @pytest.mark.parametrize("stage", [MeshSky, BlockSky])
    def test_their_light_is_sky(self, make, small_psf, stage):
        """With the limit at 0 the model counts whole; above it the mean of the faint light goes to the sky."""
        rng, n, error = np.random.default_rng(6), 3000, NOISE * 4.0
        stars = Sources.at(rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n), np.full(n, 3.0 * error))
        stars = stars.changed(flux_err=np.full(n, error))
        light = render(small_psf, stars.x, stars.y, stars.flux, SHAPE)
        frame = make(LEVEL + noise() + light, light)
        whole = sky_of(stage(mesh_px=CELL, least_snr=0), frame, stars)
        np.testing.assert_array_equal(whole, sky_of(stage(mesh_px=CELL), frame))
        assert whole.mean() == pytest.approx(LEVEL, abs=5 * IMAGE_ERROR)
        lifted = sky_of(stage(mesh_px=CELL), frame, stars).mean() - LEVEL
        assert 0.5 * light.mean() < lifted < 1.1 * light.mean()
        early = [sky_of(stage(mesh_px=CELL, least_snr=snr), frame, stars, pass_no=0) for snr in (0, 8)]
        np.testing.assert_array_equal(*early)  # passes with one median for all


class TestError:
    """P063: how wrong the sky is, by the scatter of the image it is taken from."""

    @pytest.mark.parametrize(
        ("stage", "faint"),
        [
            (MeshSky(mesh_px=CELL, filter_cells=1, flat_passes=0), 0.0),
            (MeshSky(mesh_px=CELL, filter_cells=1, flat_passes=0), 0.05),
            (BlockSky(mesh_px=CELL, flat_passes=0), 0.0),
            (BlockSky(mesh_px=CELL, flat_passes=0), 0.05),
        ],
        ids=["mesh", "mesh, faint stars", "blocks", "blocks, faint stars"],
    )
    def test_against_many_images(self, make, small_psf, stage, faint):
        """The sky of 40 images of one field scatters by its error; `faint` stars a pixel below the noise or none.

        Interpolation between cells lets it scatter less, clipping more: by a third at most.
        """
        skies, errors = [], []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            data = LEVEL + noise(seed)
            n = rng.poisson(faint * data.size)
            x, y = rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)
            data += render(small_psf, x, y, np.full(n, 3 * NOISE), SHAPE)
            (frame,) = stage((make(data),), Sources.empty(), pass_no=LATE)
            skies.append(frame.sky[CELL // 2 :: CELL, CELL // 2 :: CELL])
            errors.append(stage.error(frame, Sources.empty()))
        scatter = np.sqrt(np.mean(np.var(skies, axis=0)))
        assert np.shape(errors)[1:] == (3, 4)
        assert 0.7 < scatter / np.sqrt(np.mean(np.square(errors))) < 1.4

    def test_more_cells(self, make):
        """A sky that is the mean of four cells is half as uncertain, and one of cells twice as wide too."""
        frame = make(noise(3, (480, 480)))
        one = np.median(scatter_error(frame, 3.0, 40, 1.0))
        assert np.median(scatter_error(frame, 3.0, 40, 0.25)) == pytest.approx(one / 2, rel=0.2)
        assert np.median(scatter_error(frame, 3.0, 80, 1.0)) == pytest.approx(one / 2, rel=0.15)

    def test_hidden_cells(self, make):
        """A cell without pixels is as uncertain as the worst; without any pixel the sky is as uncertain as a pixel."""
        mask = np.zeros(SHAPE, bool)
        mask[:40, :40] = True
        error = scatter_error(make(noise(), mask=mask), 3.0, CELL, 1.0)
        assert error[0, 0] == error.max()
        assert np.all(error < NOISE)
        tiny = make(noise()[:6, :6])
        assert np.all(scatter_error(tiny, 3.0, 6, 1.0) == pytest.approx(NOISE))

    def test_given_sky(self, make):
        assert np.all(FixedSky(level=3.0).error(make(noise()), Sources.empty()) == 0)

"""The report: what the page says and shows, the numbers behind its pictures, and odd fits it must survive."""

import io
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable
from astropy.wcs import WCS, Sip
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image as Pillow

from crowdfit import flags
from crowdfit.config import load_config
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, PsfQuality
from crowdfit.io.products import write_fit_image
from crowdfit.loop import PassStats
from crowdfit.photometry.psf_map import PsfMap
from crowdfit.photometry.segments import Segments
from crowdfit.psf.analytic import gaussian, moffat
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Grid
from crowdfit.render import render
from crowdfit.report import canvas, curves, facts, images, picture, pixels, places, plot, sky
from crowdfit.report.page import write_report
from crowdfit.report.panel import ORANGE, palette
from crowdfit.report.pixels import Planes
from crowdfit.report.psf import psf_pictures, shape_text
from crowdfit.report.sheet import around
from crowdfit.result import FitResult
from crowdfit.sources import Sources
from tests.files import write_planes

SKY = 100.0


def make_exposure(shape, stars, **facts_):
    """Noise of sky and stars; a masked column, and a saturated core where the image exceeds 20,000."""
    rng = np.random.default_rng(1)
    data = rng.poisson(stars + SKY) + rng.normal(0, 3, shape)
    ivar = np.full(shape, 1 / (SKY + 9))
    ivar[:, shape[1] // 3] = 0
    saturated = data > 20_000
    ivar[saturated] = 0
    settings_ = {"name": "field <1>.fits", "unit": "electron", "band": "F115W"} | facts_
    return Exposure.of(data, ivar, saturated=saturated, gain=1.0, **settings_)


def make_pass(pass_no, n):
    seconds = {"solve": 1.0, "detect": 0.5, "sky": 0.1}
    return PassStats(
        pass_no=pass_no,
        n_sources=n,
        n_new=n // (pass_no + 1),
        n_removed={"faint": pass_no, "merged": 0},
        chi=1 + 0.5**pass_no,
        fwhm=3.0,
        max_step=0.1,
        psf_stars=min(n, 50),
        solver_iterations=20,
        seconds=1.6,
        stage_seconds=seconds,
        stage_memory_mb={"solve": 250.0 + pass_no, "detect": 200.0},
        memory_mb=300.0 + pass_no,
    )


def make_catalog(flux, rng):
    """The catalogue columns that the report draws."""
    n = len(flux)
    err = np.sqrt(30 * SKY + np.abs(flux))
    return QTable(
        {
            "flux": flux * u.electron,
            "flux_err": 1.3 * err * u.electron,
            "flux_err_isolated": err * u.electron,
            "mag": -2.5 * np.log10(flux) * u.mag,
            "fracflux": rng.uniform(0.2, 1, n),
            "rchi2": rng.chisquare(30, n) / 30,
        }
    )


def make_fit(n=300, shape=(120, 160), *, passes=3, **facts_):
    """A finished fit that knows the truth, without running one."""
    rng = np.random.default_rng(n)
    psf = moffat(3.0, 3.0, 0.1, 30.0, radius=12)
    x, y = rng.uniform(0, shape[1] - 1, n), rng.uniform(0, shape[0] - 1, n)
    flux = 300 * rng.uniform(1e-4, 1, n) ** -0.8
    stars = render(psf, x, y, flux, shape)
    frame = Frame(make_exposure(shape, stars, **facts_), psf, np.full(shape, SKY, np.float32), stars)
    return FitResult(
        catalog=make_catalog(flux, rng),
        sources=Sources.at(x, y, flux).flagged("psf_star", np.arange(n) < n // 3),
        frame=frame,
        history=tuple(make_pass(i, n) for i in range(passes)),
        config=load_config(),
        stop_reason="settled",
        seconds=75.4,
        stage_seconds={"read": 0.2, "solve": 60.0, "detect": 12.0},
        peak_memory_mb=1234.0,
        metadata={"numpy": "2.4.6", "sha256": "0f" * 32, "config": "sky: {kind: mesh}"},
    )


class Page(HTMLParser):
    """Tags, targets and pictures of a page; fails on tags that do not close in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.ids, self.links, self.words = [], [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.links += [attrs[key] for key in ("href", "src") if key in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def fit():
    return make_fit(notes=("noise from sky, gain and read noise", "DQ: every non-zero value is masked"))


@pytest.fixture(scope="module")
def html(fit, tmp_path_factory):
    return write_report(fit, tmp_path_factory.mktemp("report") / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_page_is_self_contained_and_well_formed(page):
    """Nothing is fetched, everything closes, and the table of contents leads somewhere."""
    assert not page.open
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert len(targets) == 9
    assert targets <= set(page.ids)


def test_page_fetches_nothing_through_its_style_sheet(html):
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_page_says_what_was_fitted_and_how_it_ended(page):
    """File name (escaped), size, band, unit, why it ended, time, memory, assumptions (P015, P016)."""
    for words in (
        "field <1>.fits", "160 × 120 pix", "F115W", "electron", "1 min 15 s", "1.23 GB",
        "The fit ended after 3 passes: hardly any new sources were found, and width and wings of the PSF "
        "hardly changed.",
        "noise from sky, gain and read noise", "DQ: every non-zero value is masked", "0f0f0f",
    ):  # fmt: skip
        assert words in page.text, words


def test_page_holds_the_resolved_configuration_and_all_flags(page):
    """P003: what was run can be read from the report; every flag is explained."""
    for stage in ("sky:", "detect:", "solve:", "centroid:", "psf_update:", "prune:", "stop:"):
        assert stage in page.text
    for flag in flags.SOURCE_FLAGS:
        assert flag.name in page.text
        assert flag.text in page.text


def test_every_figure_is_there_and_described(page):
    """Issue item 5: each figure asked for, with words for those who cannot see it."""
    names = {
        "image", "model", "residual", "significance", "psf-core", "psf-wings", "psf-profile",
        "passes-sources", "passes-chi", "passes-seconds", "passes-memory", "mag-error", "fracflux", "rchi2",
        "residual-histogram",
    }  # fmt: skip
    assert names <= set(page.ids)
    assert sum(name.startswith("zoom-") for name in page.ids) >= 4
    assert len(page.images) == len([name for name in page.ids if name in names or name.startswith("zoom-")])
    for tag in page.images:
        assert len(tag["alt"]) > 10
        assert int(tag["width"]) <= 1100


def test_page_is_the_same_twice(fit, html, tmp_path):
    """Nothing in it depends on the clock or on chance."""
    assert write_report(fit, tmp_path / "again.html").read_text("utf-8") == html


def test_extended_sources_are_outlined(fit):
    """N011: orange lines where the outlines are, and none where nothing was found; no picture without a search."""
    outline = np.zeros(fit.exposure.shape, np.int32)
    outline[20:60, 90:130] = 1
    planes = Planes.of(fit.frame)
    assert images.segment_pictures(planes, "e", None) == []
    orange = []
    for found in (outline, 0 * outline):
        with canvas.look():
            (drawn,) = images.segment_pictures(planes, "e", Segments({}, found, found > 0))
        dots = np.asarray(Pillow.open(io.BytesIO(drawn.png)).convert("RGB"), int)
        orange.append(np.mean((dots[..., 0] - dots[..., 2] > 100) & (dots[..., 1] < 130)))
    assert "1 in all" in images.segment_pictures(planes, "e", Segments({}, outline, outline > 0))[0].caption
    assert orange[0] > 10 * orange[1]
    assert orange[0] > 1e-3


def test_level_and_noise_of_the_sky_are_said(fit):
    """M011: median of the sky and noise of a pixel."""
    values = {fact.label: fact.value for fact in facts.image_facts(fit)}
    assert values["median sky"] == "100 electron"
    assert values["noise of a pixel (median)"] == f"{np.sqrt(SKY + 9):.3g} electron"


@pytest.mark.parametrize(
    ("n", "shape", "passes"),
    [(0, (30, 30), 1), (1, (30, 30), 1), (2, (40, 900), 0), (3500, (61, 50), 2)],
    ids=["no source", "one source", "strip without passes", "more sources than pixels"],
)
def test_odd_fits_get_a_page(n, shape, passes, tmp_path):
    """P103: a fit without sources, with one, on a tiny image or a strip still has a valid report."""
    page = Page(write_report(make_fit(n, shape, passes=passes), tmp_path / "r.html").read_text("utf-8"))
    assert not page.open
    assert "nan" not in page.text.split()
    assert ("There is no source on the image" in page.text) == (n == 0)


def test_columns_without_a_finite_value_leave_a_note(fit):
    """All columns NaN: the plots say so."""
    table = fit.catalog.copy()
    for name in table.colnames:
        table[name] = np.nan * table[name]
    with canvas.look():
        drawn = curves.catalogue_pictures(table, Planes.of(fit.frame))
    assert len({p.png for p in drawn}) == 4
    assert all(p.png.startswith(b"\x89PNG") for p in drawn)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-1.5, "−1.5"),
        (2.8e-4, "2.8 × 10⁻⁴"),
        (1e-5, "1 × 10⁻⁵"),
        (3e7, "3 × 10⁷"),
        (0.001, "0.001"),
        (120, "120"),
    ],
)
def test_numbers_of_ticks(value, text):
    assert canvas.number(value) == text


def test_masked_columns_become_nan():
    table = QTable({"a": np.ma.masked_array([1.0, 2.0], [False, True])})
    np.testing.assert_array_equal(curves.column(table, "a"), [1, np.nan])


def test_folder_that_does_not_exist_is_refused(fit, tmp_path):
    """P013: one clear error and nothing half-written."""
    with pytest.raises(InputError, match="nowhere"):
        write_report(fit, tmp_path / "nowhere" / "report.html")
    assert not list(tmp_path.iterdir())


def test_drawing_leaves_the_settings_of_matplotlib_alone(fit):
    """M008: the user's settings, LaTeX among them, neither reach the figures nor are changed."""
    with mpl.rc_context({"text.usetex": True, "font.size": 33}):
        with canvas.look():
            plain = curves.pass_pictures(fit.history)
        assert mpl.rcParams["text.usetex"]
    with canvas.look():
        again = curves.pass_pictures(fit.history)
    assert [p.png for p in plain] == [p.png for p in again]


def test_sky_position_and_scale_come_from_the_wcs():
    """R004, N003: size in both axes and in angle; the middle of the image where the WCS puts it."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150.0, -30.0], [80.5, 60.5], [-1e-4, 2e-4]
    result = make_fit(3, wcs=wcs)
    values = {fact.label: fact.value for fact in facts.image_facts(result)}
    assert values["size"] == "160 × 120 pix (x, y), 57.6 arcsec × 86.4 arcsec"
    assert values["centre (RA, Dec)"] == "150.00000 deg, -30.00000 deg"
    assert "centre (RA, Dec)" not in {fact.label for fact in facts.image_facts(make_fit(3))}


def sky_wcs(ctype=("RA---TAN", "DEC--TAN"), crval=(150.0, -30.0), cdelt=(-1e-4, 2e-4), sip=0.0):
    """A WCS for the image of `make_fit`."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt, wcs.wcs.crpix = ctype, crval, cdelt, [80.5, 60.5]
    if sip:
        terms = np.zeros((3, 3))
        terms[2, 0] = sip
        wcs.sip = Sip(terms, terms.T.copy(), None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize(
    ("wcs", "frame"),
    [
        (sky_wcs(), "icrs"),
        (sky_wcs(("GLON-CAR", "GLAT-CAR"), (359.999, 1.0)), "galactic"),
        (sky_wcs(crval=(10.0, 90.0)), "icrs"),
        (sky_wcs(("GLON-AIT", "GLAT-AIT"), (0.0, 0.0), (-3.0, 3.0)), "galactic"),
        (sky_wcs(("RA---TAN-SIP", "DEC--TAN-SIP"), sip=1e-2), "icrs"),
        (sky_wcs(("DEC--TAN", "RA---TAN"), (-30.0, 150.0)), "icrs"),
    ],
    ids=["equatorial", "Galactic", "pole", "whole sky", "wild distortion", "axes swapped"],
)
def test_field_is_shown_on_the_sky(wcs, frame):
    """N003: with any WCS there is a picture in its sky coordinates, and nothing warns."""
    result = make_fit(30, wcs=wcs)
    with canvas.look():
        (drawn,) = sky.sky_pictures(result.exposure, Planes.of(result.frame))
    assert drawn.name == "sky"
    assert f"({frame})" in drawn.caption
    dots = np.asarray(Pillow.open(io.BytesIO(drawn.png)).convert("RGB"), int)
    assert np.mean(dots[..., 0] - dots[..., 2] > 100) > 1e-3  # the grid is orange over greys; sand is less so


def test_sky_axes_put_pixels_where_the_wcs_puts_them():
    """N003: 0-based, centre of the first pixel = (0, 0): the grid is drawn in pixels of the image, blocks or not."""
    wcs = sky_wcs(cdelt=(-1e-3, 1e-3))
    for factor, shape in ((1, (120, 160)), (3, (1000, 1500))):
        panel = images.whole(np.zeros(shape, np.float32), factor, images.sigma_scale())
        sheet, corner = around(panel, sky.LEFT * panel.dpi)
        with canvas.look():
            axes = sky.sky_axes(wcs, "icrs", panel, sheet.size, corner)
            drawing = canvas.draw(axes.figure)
        assert drawing.size == sheet.size
        assert (*axes.get_xlim(), *axes.get_ylim()) == panel.extent
        assert panel.extent == (-0.5, shape[1] * factor - 0.5, -0.5, shape[0] * factor - 0.5)
        labels = [coordinate.get_axislabel() for coordinate in axes.coords]
        assert labels == ["RA, ICRS", "Dec, ICRS"]
        sheet.cover(panel, corner, drawing)
        column, row = (int(at) for at in panel.place(79.5, 59.5))  # where the WCS has 150, -30 deg
        assert np.mean(panel.colours[row, column - 15 : column + 15] >= ORANGE) > 0.99
        assert np.mean(panel.colours[row - 15 : row + 15, column] >= ORANGE) > 0.99
        assert np.mean(panel.colours >= ORANGE) < 0.1


def test_field_without_a_sky_has_no_sky_picture(caplog):
    """N003, P103: no WCS, a spectral one, or one that fails while drawing: the report is made without."""

    class Failing:
        """A WCS that has no sky where it is asked."""

        def pixel_to_world(self, x, y):
            raise ValueError("no sky here")

    spectral = WCS(naxis=2)
    spectral.wcs.ctype = ["WAVE", "LINEAR"]
    for wcs in (None, spectral):
        result = make_fit(3, wcs=wcs)
        assert sky.sky_pictures(result.exposure, Planes.of(result.frame)) == []
    assert not caplog.records
    result = make_fit(3, wcs=Failing())
    assert sky.sky_pictures(result.exposure, Planes.of(result.frame)) == []
    assert "no picture in sky coordinates: no sky here" in caplog.text


def test_report_shows_the_field_on_the_sky(tmp_path):
    """N003: with a WCS the page has one picture more."""
    page = Page(write_report(make_fit(30, wcs=sky_wcs()), tmp_path / "r.html").read_text("utf-8"))
    assert "sky" in page.ids
    assert "The catalogue holds ICRS positions." in page.text


def quality(**facts_):
    """A report on a PSF."""
    made = {
        "n_stars": 120, "refused": {"faint": 500, "crowded": 30, "masked": 0}, "core_error": 0.0123,
        "fwhm": 3.0, "ellipticity": 0.1, "position_angle": 30.0,
    }  # fmt: skip
    return PsfQuality(**(made | facts_))


def test_page_says_how_the_psf_was_made_and_whether_to_trust_it(tmp_path):
    """P033, P035: stars used and refused by reason; pass, or fail with the reasons."""
    result = make_fit(30)
    said = {}
    for name, made in {
        "good": quality(), "bad": quality(n_stars=3, problems=("3 PSF stars; too few",)), "none": None,
        "kept": quality(n_stars=0, problems=("only 2 PSF stars",)),
    }.items():  # fmt: skip
        fitted = replace(result, frame=result.frame.with_(psf_quality=made))
        said[name] = Page(write_report(fitted, tmp_path / "r.html").read_text("utf-8")).text
    assert (
        "Fitted to 120 stars, whose cores depart from it by 1.2 %. Nothing speaks against it." in said["good"]
    )
    assert "Sources that were not used for it: 500 faint, 30 crowded." in said["good"]
    assert "Fitted to 3 stars" in said["bad"]
    assert "should not be trusted blindly: 3 PSF stars; too few" in said["bad"]
    assert "The last pass kept the PSF of the one before: only 2 PSF stars" in said["kept"]
    assert "no pass has changed it" in said["none"]
    assert "were not used for it" not in said["none"]


def psf_map(*, right=2.9, cells=(3, 3), shape=(120, 160), ratio=2.5, chi=1.0):
    """A map whose cells in the last column have another width; one cell is empty."""
    fwhm = np.full(cells, 2.5)
    fwhm[:, -1] = right
    if fwhm.size > 1:
        fwhm[0, 0] = np.nan
    count = np.where(np.isnan(fwhm), 2, 20)
    return PsfMap(
        count, fwhm, 0.01 * np.ones(cells), np.full(cells, 0.05), np.full(cells, 30.0), fwhm / ratio, chi * fwhm / 2.5,
        shape,
    )  # fmt: skip


class TestPsfMap:
    """P037: width and shape of the stars over the field."""

    @pytest.mark.parametrize("right", [2.5, 2.9])
    def test_page(self, tmp_path, right):
        """The panel with its numbers, and a sentence when one PSF is not enough."""
        result = replace(make_fit(30), psf_map=psf_map(right=right))
        page = Page(write_report(result, tmp_path / "r.html").read_text("utf-8"))
        assert "psf-map" in page.ids
        assert f"in 3 x 3 cells: FWHM 2.500 to {right:.3f} pix (difference known to 0.014)" in page.text
        assert ("varies over the field from 2.50 to 2.90 px" in page.text) == (right > 2.5)

    def test_colours_are_those_of_the_widths(self):
        """The last column is darker than the others, the empty cell has the colour of masked pixels."""
        picture = psf_pictures(make_fit(30).frame, psf_map(shape=(160, 160)))[-2]
        dots = np.asarray(Pillow.open(io.BytesIO(picture.png)).convert("RGB")).astype(int)
        is_masked = np.abs(dots - np.round(255 * np.array(to_rgb(canvas.MASKED)))).max(axis=2) < 12
        rows, cols = (np.flatnonzero(is_masked.sum(axis=axis) > 100) for axis in (1, 0))
        side = np.ptp(cols)
        assert np.mean(is_masked[rows.min() : rows.max(), cols.min() : cols.max()]) > 0.95
        # the empty cell is the lower left one: to its right the second and the third column
        quarter = rows.min() + np.ptp(rows) // 6
        second, third = (dots[quarter, cols.min() + int(side * (k + 0.15))].sum() for k in (1, 2))
        assert third < second - 100

    def test_one_cell_and_none(self):
        frame = make_fit(30).frame
        one, chi = (picture.caption for picture in psf_pictures(frame, psf_map(cells=(1, 1)))[-2:])
        assert "1.160 to 1.160, on pixels where the stars are brighter" in chi
        assert "in 1 x 1 cells: FWHM 2.900 pix; that of the PSF is" in one
        none, dark = (p.caption for p in psf_pictures(frame, psf_map(right=np.nan, cells=(1, 1)))[-2:])
        assert none.startswith("No cell of the field holds 5 bright uncrowded stars")
        assert dark.startswith("No cell of the field has 100 pixels on which stars outshine the noise")

    @pytest.mark.parametrize(
        ("right", "varies", "follows", "says"),
        [
            (2.5, False, True, "Nothing here asks for more than one PSF."),
            (2.9, False, False, "The pattern means that one PSF is not enough."),
            (2.9, True, True, "The PSF follows the stars; a pattern is no fault."),
            (2.9, True, False, "The PSF does not follow the stars as far as they vary."),
        ],
    )
    def test_caption_says_what_the_map_means(self, right, varies, follows, says):
        """Of a PSF that varies it is the ratio of widths that counts, and not the widths."""
        frame = make_fit(30).frame
        if varies:
            two = np.repeat(frame.psf.cube, 2, axis=0)
            frame = frame.with_(psf=EPSF(two, frame.psf.oversample, Grid((0.0, 159.0), (0.0,))))
        made = psf_map(right=right)
        caption = psf_pictures(frame, replace(made, ratio=made.fwhm / made.fwhm) if follows else made)[
            -2
        ].caption
        assert says in caption
        assert ("the PSF varies too" in caption) == varies


def test_memory_is_given_by_stage():
    """P016: the most that was held by a stage in any pass; a dash where it was not measured."""
    rows = {row.name: row.memory for row in facts.stage_rows({"solve": 2.0, "read": 1.0}, {"solve": 252.0})}
    assert rows == {"solve": "252 MB", "read": "–"}


# numbers behind the panels


def plain_blocks(plane, factor):
    """Blocks as lists of pixels, one by one."""
    ny, nx = plane.shape
    return [
        [plane[r : r + factor, c : c + factor].ravel() for c in range(0, nx, factor)]
        for r in range(0, ny, factor)
    ]


@given(st.integers(1, 13), st.integers(1, 17), st.integers(1, 5), st.integers(0, 10))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_block_mean_equals_plain_loops(ny, nx, factor, seed):
    """Any size, also where the last blocks are cut; masked pixels take no part whatever they hold (N002)."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(0, 1, (ny, nx)).astype(np.float32)
    good = rng.uniform(size=(ny, nx)) < 0.7
    wild = np.where(good, plane, np.float32(1e30))
    got = pixels.block_mean(wild, good, factor)
    for row, masks, values in zip(got, plain_blocks(good, factor), plain_blocks(plane, factor), strict=True):
        for value, mask, pixel in zip(row, masks, values, strict=True):
            if mask.mean() < 0.5:
                assert np.isnan(value)
            else:
                assert value == pytest.approx(pixel[mask].mean(), abs=1e-5)


def test_block_noise_keeps_white_noise_at_one_sigma():
    """10,000 blocks: the rms is known to 0.7 %, the bound is 5 times that."""
    rng = np.random.default_rng(2)
    ivar = rng.uniform(0.1, 10, (500, 500)).astype(np.float32)
    ivar[rng.uniform(size=ivar.shape) < 0.1] = 0
    resid = np.where(ivar > 0, rng.normal(0, 1, ivar.shape) / np.sqrt(np.maximum(ivar, 0.1)), 0)
    blocks = pixels.block_noise(resid.astype(np.float32), ivar, 5)
    assert np.nanstd(blocks) == pytest.approx(1, abs=0.035)


def test_block_extreme_keeps_every_peak():
    plane = np.zeros((9, 9), np.float32)
    plane[4, 4], plane[8, 0], plane[0, 8] = 7, -6, 50
    good = np.ones_like(plane, bool)
    good[:4, 8] = False
    good[4, 8] = False
    plane[4, 8] = 90
    got = pixels.block_extreme(plane, good, 4)
    assert got[1, 1] == 7
    assert got[2, 0] == -6
    assert np.isnan(got[0, 2])
    assert got[1, 2] == 0


@pytest.mark.parametrize(
    ("shape", "factor"), [((30, 30), 1), ((700, 10), 1), ((701, 10), 2), ((4096, 2048), 6)]
)
def test_large_images_are_reduced_to_the_panel(shape, factor):
    assert pixels.block_factor(shape) == factor
    assert max(pixels.block_mean(np.zeros(shape, np.float32), np.ones(shape, bool), factor).shape) <= 700


def test_panel_shows_pixels_whole_and_in_true_coordinates():
    """A panel of a reduced image covers the pixels of the full one, at a whole number of dots a block."""
    values = np.random.default_rng(7).uniform(-6, 6, (350, 500)).astype(np.float32)
    panel = images.whole(values, 3, images.sigma_scale())
    assert panel.extent == (-0.5, 1499.5, -0.5, 1049.5)
    assert panel.colours.shape == (700, 1000)
    blocks = panel.colours[::-1].reshape(350, 2, 500, 2)
    assert np.all(blocks == blocks[:, :1, :, :1])
    shown = palette("RdBu_r")[blocks[:, 0, :, 0]]
    expected = 255 * colormaps["RdBu_r"]((values + 5) / 10)[..., :3]
    assert np.abs(shown - expected).max() < 8  # a step of the scale of 112 colours
    x, y = panel.place([0, 1499.5], [0, 1049.5])
    np.testing.assert_allclose([*x, *y], [1 / 3, 1000, 700 - 1 / 3, 0])


@given(st.floats(0.5, 10), st.floats(0.5, 10), st.floats(20, 300))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_figures_of_any_size_are_encoded(width, height, dpi):
    """Widths that fall just short of a whole dot, too (0.1 inch is no binary fraction)."""
    png, dots_x, dots_y = plot.encode(canvas.new_figure(width, height, dpi))
    assert Pillow.open(io.BytesIO(png)).size == (dots_x, dots_y)
    assert abs(dots_x - width * dpi) <= 1


def test_stretch_ignores_unusable_pixels_and_keeps_order():
    """N002: pixels without data change nothing; brighter is always drawn darker; ticks lie on the scale."""
    rng = np.random.default_rng(3)
    data = rng.normal(50, 2, (80, 80)).astype(np.float32)
    data[40, 40] = 5e4
    good = np.ones(data.shape, bool)
    good[:, 7] = False
    stretch = pixels.sky_stretch(np.where(good, data, np.float32(-1e9)), good)
    assert stretch == pixels.sky_stretch(data, good)
    assert 44 < stretch.low < 48
    drawn = stretch.norm(np.linspace(stretch.low, stretch.high, 50))
    assert np.all(np.diff(drawn) > 0)
    assert (drawn[0], drawn[-1]) == (0, pytest.approx(1))
    ticks = stretch.ticks()
    assert len(ticks) >= 3
    assert np.all((ticks >= stretch.low) & (ticks <= stretch.high))


def test_stretch_of_a_nearly_constant_image_is_usable():
    """Clipping leaves no width: the range still is one."""
    data = np.ones((40, 40), np.float32)
    data[3, 3] = 2
    stretch = pixels.sky_stretch(data, np.ones(data.shape, bool))
    assert stretch.high > stretch.low
    assert np.isfinite(stretch.norm(data)).all()


@given(st.floats(-50, 300), st.floats(-50, 300), st.floats(3, 90), st.integers(10, 200), st.integers(10, 200))
@settings(derandomize=True, deadline=None)
def test_close_ups_lie_inside_the_image(x, y, side, ny, nx):
    rows, columns = places.box_around(places.Place(x, y, ""), side, (ny, nx))
    for cut, length in ((rows, ny), (columns, nx)):
        assert 0 <= cut.start < cut.stop <= length
        assert cut.stop - cut.start == min(round(side), length)


def test_close_ups_show_the_densest_the_brightest_and_the_worst_place():
    """A clump, bright stars, a spot in the residual; no overlaps; stars off the image do not count."""
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, 399, 200), rng.uniform(0, 399, 200)
    x[:40], y[:40] = rng.uniform(205, 225, 40), rng.uniform(85, 105, 40)
    flux = rng.uniform(10, 20, 200)
    x[100], y[100], flux[100] = 30, 350, 5000
    x[101], y[101], flux[101] = 33, 352, 4000
    x[102], y[102], flux[102] = 350, 300, 3000
    x[103], flux[103] = -20, 1e6
    flux[104] = np.nan
    left = rng.normal(0, 1, (400, 400)).astype(np.float32)
    left[152, 61] = -40
    side = 40
    found = places.places(Sources.at(x, y, flux), left, side)
    assert "dense" in found[0].why
    assert abs(found[0].x - 215) < side
    assert abs(found[0].y - 95) < side
    bright = [place for place in found if "bright" in place.why]
    assert [(place.x, place.y) for place in bright] == [(30, 350), (350, 300)]
    assert (found[-1].x, found[-1].y) == (61, 152)
    assert "−40" in found[-1].why
    for i, a in enumerate(found):
        for b in found[:i]:
            assert max(abs(a.x - b.x), abs(a.y - b.y)) >= side


def test_a_residual_of_noise_has_no_worst_place():
    """The chance that 40,000 pixels of noise reach 5 sigma is 2 %; with this seed they do not."""
    left = np.random.default_rng(6).normal(0, 1, (200, 200)).astype(np.float32)
    assert np.abs(left).max() < places.LARGE
    assert places.places(Sources.empty(), left, 30) == []


def test_chi_summary_is_robust():
    """Quartiles of 100,000 draws: 1 % of outliers move the rms by 1 %, and are counted."""
    rng = np.random.default_rng(5)
    chi = rng.normal(0.5, 2, 100_000)
    chi[:1000] = 1e6
    middle, rms, outside = curves.chi_summary(chi)
    assert middle == pytest.approx(0.5, abs=0.08)
    assert rms == pytest.approx(2, rel=0.03)
    assert outside == pytest.approx(0.01 + 0.0152, abs=0.003)


def test_planes_cut_every_array():
    frame = make_fit(5).frame
    planes = Planes.of(frame)
    cut = planes.cut((slice(10, 20), slice(30, 50)))
    assert {getattr(cut, field.name).shape for field in fields(Planes)} == {(10, 20)}
    np.testing.assert_array_equal(cut.chi, planes.chi[10:20, 30:50])
    assert np.all(planes.chi[~frame.exposure.good] == 0)


# words


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (facts.duration(0.0123), "12 ms"), (facts.duration(1.26), "1.3 s"),
        (facts.duration(119.7), "2 min 0 s"), (facts.duration(3700), "1 h 1 min"),
        (facts.duration(np.nan), "–"), (facts.memory(830.4), "830 MB"),
        (facts.memory(1500), "1.50 GB"), (facts.percent(1, 3), "33 %"), (facts.percent(1, 700), "0.14 %"),
        (facts.percent(0, 0), "–"), (facts.count(1234567), "1\u202f234\u202f567"),
        (facts.plural(1, "pass", "passes"), "1 pass"), (facts.plural(2, "pass", "passes"), "2 passes"),
        (canvas.number(-2.5), "−2.5"), (canvas.number(12345.0), "12345"), (canvas.number(3e6), "3 × 10⁶"),
    ],
)  # fmt: skip
def test_numbers_have_digits_and_units_for_reading(text, value):
    assert text == value


def test_flags_are_counted():
    """Each bit on its own, the most frequent first."""
    values = np.array([1, 1 | 128, 128, 128, 0], np.uint32)
    rows = facts.flag_rows(values)
    assert [(row.name, row.n, row.share) for row in rows[:2]] == [
        ("close_pair", 3, "60 %"),
        ("core_masked", 2, "40 %"),
    ]
    assert len(rows) == len(flags.SOURCE_FLAGS)
    assert sum(row.n for row in rows) == 5


def test_pass_rows_have_a_cell_for_every_heading():
    (row,) = facts.pass_rows((make_pass(2, 1000),))
    cells = dict(zip(facts.PASS_HEADINGS, row, strict=True))
    assert cells["removed"] == "2 faint"
    assert cells["sources"] == "1\u202f000"


# the picture for a README


def test_picture_is_small_and_shows_three_panels():
    """Pure noise compresses worst: 256 x 256 pixels of it stay below 200 kB."""
    result = make_fit(800, (400, 400))
    png = picture.picture(result)
    assert len(png) < 200_000
    width, height = Pillow.open(io.BytesIO(png)).size
    assert width > 2.8 * height


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A fit in memory, its fit image, and the image with its noise and mask."""
    folder = tmp_path_factory.mktemp("files")
    result = make_fit(60, (90, 110))
    exposure = result.exposure
    write_fit_image(result, folder / "a_fit.fits")
    planes = {
        "SCI": exposure.data,
        "ERR": 1 / np.sqrt(np.maximum(result.frame.fit_ivar, 1e-4)),
        "DQ": (~exposure.good).astype(np.int32),
    }
    write_planes(folder / "a.fits", **planes)
    write_planes(folder / "b.fits", SCI=planes["SCI"][:50])
    return result, folder


def test_picture_from_files_equals_the_picture_in_memory(files):
    """Same data, model and mask; the noise read back agrees to the gain that the reader finds."""
    result, folder = files
    names = [str(folder / name) for name in ("a_fit.fits", "a.fits", "a.png")]
    picture.main([*names, "--size", "40", "--centre", "50", "60"])
    from_file = Pillow.open(folder / "a.png").convert("L")
    in_memory = Pillow.open(io.BytesIO(picture.picture(result, 40, (50, 60)))).convert("L")
    assert from_file.size == in_memory.size
    difference = np.abs(np.asarray(from_file, float) - np.asarray(in_memory, float))
    assert np.median(difference) == 0
    assert np.mean(difference > 20) < 0.02


@pytest.mark.parametrize(
    ("fit_name", "image", "message"),
    [
        ("a.fits", "a.fits", "a.fits: no extension MODEL, SKY, RESIDUAL; give the file"),
        ("nowhere.fits", "a.fits", "nowhere.fits: cannot be read"),
        ("a_fit.fits", "b.fits", "b.fits has (50, 110); give the image fitted"),
    ],
)
def test_pictures_of_other_files_are_refused(files, capsys, fit_name, image, message):
    """P013: one line names file and remedy, exit status 2, nothing written."""
    _, folder = files
    with pytest.raises(SystemExit) as stop:
        picture.main([str(folder / fit_name), str(folder / image), str(folder / "no.png")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (folder / "no.png").exists()


def test_psf_text_leaves_out_an_angle_without_meaning():
    """P037: width, ellipticity and angle; a round PSF has no position angle."""
    assert "position angle 30 deg" in shape_text(moffat(4.0, 3.0, 0.2, 30.0))
    assert "angle" not in shape_text(gaussian(4.0))

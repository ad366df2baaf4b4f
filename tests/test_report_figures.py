"""The figures of the report, dot by dot: colours, lines and marks, ticks and numbers, and room for every word."""

import io
from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image as Pillow
from PIL import ImageDraw

from crowdfit.report import canvas, figures, plot
from crowdfit.report.panel import GREYS, INK, MASKED, ORANGE, RAMP, Panel, Scale, palette
from crowdfit.report.sheet import Sheet, ticks
from tests.test_report import make_fit, make_pass, psf_map, sky_wcs

GREY = Scale.linear(0, 1, GREYS, 3, "value")
BLUES = Scale.linear(-2, 2, "RdBu_r", 3, "sigma")


def blank(height=100, width=150, value=0.0, scale=GREY):
    """A panel of one colour with two dots a pixel, 72 of them an inch."""
    values = np.full((height // 2, width // 2), value)
    return Panel(values, (-0.5, width / 2 - 0.5, -0.5, height / 2 - 0.5), scale, width / 72, width)


# colours


def test_palette_holds_both_scales_the_masked_colour_and_orange():
    colours = palette("YlGnBu")
    assert colours[0].tolist() == [255, 255, 255]
    assert colours[RAMP - 1].tolist() == [0, 0, 0]
    assert np.all(np.diff(colours[:RAMP].astype(int), axis=0) < 0)
    assert np.all(np.diff(colours[RAMP : 2 * RAMP].astype(int).sum(axis=1)) < 0)
    for number, name in ((MASKED, canvas.MASKED), (ORANGE, canvas.ORANGE)):
        np.testing.assert_allclose(colours[number], 255 * np.array(to_rgb(name)), atol=0.5)


def test_scale_clips_and_shows_what_is_not_finite_as_masked():
    values = np.array([-9.0, 0, 0.5, 1, 7, np.nan, np.inf])
    last = RAMP - 1
    assert GREY.colours(values).tolist() == [0, 0, round(last / 2), last, last, MASKED, MASKED]
    assert BLUES.colours(values).tolist() == [
        RAMP, RAMP + round(last / 2), RAMP + round(last * 2.5 / 4), RAMP + round(last * 3 / 4), 2 * RAMP - 1,
        MASKED, MASKED,
    ]  # fmt: skip


def test_panel_shows_row_zero_at_the_bottom():
    panel = Panel(np.array([[0.0, 1.0], [np.nan, 0.5]]), (-0.5, 1.5, -0.5, 1.5), GREY, 1, 6)
    dark, half = RAMP - 1, round((RAMP - 1) / 2)
    assert panel.colours[0].tolist() == [MASKED] * 3 + [half] * 3
    assert panel.colours[-1].tolist() == [0] * 3 + [dark] * 3


# lines and marks


def test_marks_are_crosses_at_the_sources():
    """Equal arms about the position; cut at the edge; none for a source outside or without a position."""
    panel = blank()
    panel.mark(np.array([20.0, 40.0]), np.array([10.0, -0.4]), ORANGE)
    panel.mark(np.array([-5.0, 30.0, np.nan]), np.array([10.0, 99.0, 20.0]), INK)
    rows, columns = np.nonzero(panel.colours == ORANGE)
    assert not np.any(panel.colours == INK)
    upper = rows < 90
    x, y = (float(at) for at in panel.place(20.0, 10.0))
    assert np.mean(columns[upper]) + 0.5 == pytest.approx(x, abs=0.6)
    assert np.mean(rows[upper]) + 0.5 == pytest.approx(y, abs=0.6)
    assert np.ptp(columns[upper]) == np.ptp(rows[upper]) == 3
    assert rows.max() == 99


def test_contour_of_a_cone_is_a_circle():
    """Radius to a quarter of a dot, width as asked for, all of it."""
    at = np.arange(60) - 29.5
    cone = 1 - np.hypot(at[:, None], at) / 40
    panel = Panel(cone, (-30, 30, -30, 30), Scale.linear(0, 1, GREYS, 3, ""), 2, 600)
    panel.draw_level(cone, 0.5, 1.3)
    rows, columns = np.nonzero(panel.colours >= ORANGE)
    radius = np.hypot(rows + 0.5 - 300, columns + 0.5 - 300) / 10
    assert radius.mean() == pytest.approx(20, abs=0.03)
    assert np.ptp(radius) < 1.5 * 1.3 * panel.dpi / 72 / 10
    turns = np.histogram(np.arctan2(rows - 300, columns - 300), 36)[0]
    assert turns.min() > 0.7 * turns.mean()


def test_lines_run_from_end_to_end():
    """A horizontal line of 10 points: its length and width in dots, within the smoothing of its edge."""
    panel = blank(value=1.0)
    panel.draw_lines(np.array([[10.0, 40.0]]), np.array([[20.0, 20.0]]), 10)
    rows, columns = np.nonzero(panel.colours >= ORANGE)
    assert np.ptp(rows) + 1 == pytest.approx(10, abs=1)
    assert np.ptp(columns) + 1 == pytest.approx(60, abs=1)
    assert rows.mean() + 0.5 == pytest.approx(float(panel.place(0, 20.0)[1]), abs=0.6)


def test_edges_of_lines_are_between_orange_and_the_ground():
    """A slanted line over white: each dot on the way from orange to white, and some of them well between."""
    panel = blank(value=0.0)
    panel.draw_lines(np.array([[5.0, 65.0]]), np.array([[10.0, 40.0]]), 3)
    shown = palette(GREYS)[np.unique(panel.colours[panel.colours >= ORANGE])]
    orange = 255 * np.array(to_rgb(canvas.ORANGE))
    share = (shown - orange) / (255 - orange)
    assert np.ptp(share, axis=1).max() < 0.02
    assert len(share) == 3
    assert np.sort(share.mean(axis=1)) == pytest.approx([0, 0.3, 0.6], abs=0.01)


# ticks and numbers


@given(st.floats(-500, 20_000), st.floats(2, 5000), st.floats(0.05, 5))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_ticks_of_panels_are_whole_pixels_inside(start, length, aspect):
    low, high = start, start + length * aspect
    panel = Panel(np.zeros((40, 40)), (start, start + length, low, high), GREY, 5, 400)
    for values, (first, last) in zip(ticks(panel), ((start, start + length), (low, high)), strict=True):
        assert all(first <= value <= last for value in values)
        assert len(values) <= 8
        if last - first > 20:
            assert len(values) >= 2
            assert all(value == round(value) for value in values)


@given(st.floats(-9, 6), st.floats(0.05, 12), st.sampled_from([0.9, 1.4, 2.7]))
@settings(derandomize=True, deadline=None)
def test_logarithmic_axes_always_have_numbers(start, decades, length):
    """From a fraction of a decade to many: at least two numbers, all different, inside and not too close."""
    low, high = 10.0**start, 10.0 ** (start + decades)
    numbers = plot.log_numbers(low, high, length)
    assert len(numbers) >= 2
    assert len(set(numbers.values())) == len(numbers)
    assert all(low * 0.999 <= value <= high * 1.001 for value in numbers)
    if decades > 2:
        at = np.log10(list(numbers)) * length / decades
        assert np.diff(at).min() > 0.1  # the height of a number


def test_powers_of_ten_are_written_with_superscripts():
    assert plot.log_numbers(0.5e-3, 2.0, 3) == {1e-3: "10⁻³", 1e-2: "10⁻²", 0.1: "10⁻¹", 1.0: "10⁰"}
    assert plot.log_numbers(0.4, 6.0, 3) == {0.5: "0.5", 1.0: "1", 2.0: "2", 3.0: "3", 5.0: "5"}


def test_linear_axes_are_numbered_in_full():
    """Neither an offset nor a common factor that a reader would have to look for."""
    with canvas.look():
        figure, axes = plot.new_plot()
        axes.set(xlim=(-12.4, -12.2), ylim=(0, 1.3e6))
        plot.lay_out(figure)
    written = {text.get_text() for text in axes.texts}
    assert {"−12.400", "−12.375", "−12.200", "0", "200000", "1200000"} <= written


def test_grid_and_ticks_are_where_the_numbers_are():
    """The dots of the encoded plot: a line of the grid across at 2, a tick to the left of it."""
    with canvas.look():
        figure, axes = plot.new_plot()
        axes.set(xlim=(0, 4), ylim=(0, 4), xticks=[1, 3], yticks=[2])
        png = plot.finish(figure, "name", "alt", "caption").png
    dots = np.asarray(Pillow.open(io.BytesIO(png)).convert("RGB"), int)
    left, middle = (round(at) for at in axes.transData.transform((0, 2)))
    grid, quiet = (np.round(255 * np.array(to_rgb(name))) for name in (canvas.GRID, canvas.QUIET))
    row = dots[len(dots) - middle - 2 : len(dots) - middle + 2]
    assert np.abs(row[:, left + 20] - grid).sum(axis=-1).min() < 30
    assert np.abs(row[:, left - 5] - quiet).sum(axis=-1).min() < 60
    assert np.all(dots[len(dots) - middle + 40, left + 20 : left + 100] == 255)


# room for every word


@pytest.fixture
def written(monkeypatch):
    """All that is written on figures while the test runs: a list of (size of the figure, words, their box)."""
    found = {}

    def record(figure, size, words, box):
        found.setdefault(id(figure), (figure, size, []))[2].append((words, box))

    encode, write, write_up = plot.encode, Sheet.write, Sheet.write_up

    def record_plot(figure):
        encoded = encode(figure)  # legends find their place while they are drawn
        renderer, (_, height) = figure.canvas.get_renderer(), figure.bbox.size
        unseen = {axis.label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)}
        for text in set(figure.findobj(Text)) - unseen:
            if text.get_text():
                x0, y0, x1, y1 = text.get_window_extent(renderer).extents
                record(figure, figure.bbox.size, text.get_text(), (x0, height - y1, x1, height - y0))
        return encoded

    def record_write(self, x, y, words, anchor, *, title=False):
        font = canvas.font(canvas.TITLE if title else canvas.SIZE, self.dpi, bold=title)
        box = ImageDraw.Draw(Pillow.new("L", (1, 1))).textbbox((x, y), words, font, anchor)
        record(self, self.size, words, box)
        write(self, x, y, words, anchor, title=title)

    def record_write_up(self, x, y, words):
        font = canvas.font(canvas.SIZE, self.dpi)
        half = font.getlength(words) / 2
        record(self, self.size, words, (x, y - half, x + sum(font.getmetrics()), y + half))
        write_up(self, x, y, words)

    monkeypatch.setattr(plot, "encode", record_plot)
    monkeypatch.setattr(Sheet, "write", record_write)
    monkeypatch.setattr(Sheet, "write_up", record_write_up)
    return found


ODD = {
    "usual": lambda: replace(make_fit(300, wcs=sky_wcs()), psf_map=psf_map()),
    "no source": lambda: make_fit(0, (30, 30), passes=1),
    "strip": lambda: make_fit(40, (24, 12_400), passes=1),
    "upright strip": lambda: make_fit(40, (12_400, 24), passes=1),
    "many": lambda: replace(
        make_fit(9000, (300, 300)),
        history=tuple(make_pass(i, 1_234_567) for i in range(31)),
        psf_map=psf_map(right=np.nan, cells=(1, 1)),
    ),
}
"""Fits with long numbers, narrow panels and empty plots."""


@pytest.mark.parametrize("name", ODD)
def test_every_word_has_its_room(written, name):
    """No word leaves its figure or lies over another, and nothing is drawn up to the edge."""
    drawn = figures.draw(ODD[name]())
    pictures = [picture for part in fields(drawn) for picture in getattr(drawn, part.name)]
    assert len(written) == len(pictures)
    for _, (width, height), texts in written.values():
        for words, (x0, y0, x1, y1) in texts:
            assert min(x0, y0, width - x1, height - y1) > 0, words
        for (one, a), (other, b) in combinations(texts, 2):
            across, along = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
            assert min(across, along) < 3, (one, other)
    for picture in pictures:
        dots = np.asarray(Pillow.open(io.BytesIO(picture.png)).convert("RGB"))
        for edge in (dots[0], dots[-1], dots[:, 0], dots[:, -1]):
            assert np.all(edge == 255), picture.name


def test_words_that_do_not_fit_are_noticed(written):
    """The fixture is not blind: a label beyond the edge and two numbers in one place are found."""
    with canvas.look():
        figure, axes = plot.new_plot()
        axes.set(title="t" * 200)
        plot.finish(figure, "name", "alt", "caption")
    ((_, (width, _), texts),) = written.values()
    assert max(box[2] for _, box in texts) > width
    a_sheet = Sheet(100, 50, 200)
    a_sheet.write(95, 20, "beyond", "ls")
    a_sheet.write_up(10, 60, "below")
    beyond, below = list(written.values())[-1][2]
    assert beyond[1][2] > 100
    assert below[1][3] > 50

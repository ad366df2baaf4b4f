"""Tables and plots of benchmark runs, from records written by hand."""

import json

import pytest

from benchmarks import groups, plots, report
from benchmarks.groups import by_density, fact, grouped, read_records, scored
from crowdfit.errors import InputError


def record(field="dense", code="crowdfit", seed=1, f1=0.8, **facts):
    """Return a record with figures that follow from `f1`."""
    bins = [
        {"snr": label, "n": 9, "f1": f1, "scatter": 0.1 - f1 / 10, "pull_mad": 2.0, "pull_med": 0.1}
        for label in groups.SNR_LABELS[1:]
    ]
    densities = [{"density": "0-0.05", "n": 9, "f1": f1, "pull_med": 0.0, "pull_mad": 1.0 + f1}]
    score = {"f1_snr10": f1, "f1_snr5": f1 - 0.1, "zp_mmag": None, "bins": bins, "density_bins": densities}
    cost = {"wall_s": 10 * f1, "cpu_s": 20 * f1, "peak_mb": 100.0} if code != "floor" else {}
    about = {"field": field, "code": code, "seed": seed, "status": 0, "time": "2030-01-01T00:00:00"}
    where = {"commit": "abc", "host": {"cpu": "Z80", "cores": 2}, "versions": {"python": "3.11.7"}}
    return about | where | cost | {"score": score} | facts


FAILED = {"field": "dense", "code": "starfinder", "seed": 1, "status": 1, "message": "boom\nno | licence"}


def write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


class TestGroups:
    def test_medians_over_seeds(self):
        (group,) = grouped([record(seed=seed, f1=f1) for seed, f1 in ((1, 0.7), (2, 0.8), (3, 0.876))])
        assert group.median(scored("f1_snr10")) == 0.8
        assert group.median(fact("wall_s")) == 8.0
        assert group.median(scored("f1", "20-50")) == 0.8
        assert group.median(by_density("pull_mad", "0-0.05")) == 1.8
        assert group.seeds == "1, 2, 3"

    def test_what_is_not_there_is_nan(self):
        (group,) = grouped([record(code="floor")])
        values = (
            fact("wall_s"),
            scored("f1", "5-10"),
            by_density("f1", "0.4-0.8"),
            scored("zp_mmag"),
            scored("no"),
        )
        assert all(value != value for value in map(group.median, values))  # noqa: PLR0124 - NaN

    def test_newest_run_of_a_seed_counts(self):
        runs = [record(f1=0.9, time="2030-01-02T00:00:00"), record(f1=0.5)]
        for order in (runs, runs[::-1]):
            (group,) = grouped(order)
            assert group.median(scored("f1_snr10")) == 0.9

    def test_failure_does_not_hide_a_run_that_worked(self):
        failed = {"field": "dense", "seed": 1, "status": 2, "time": "2030-01-09", "message": "no"}
        (group,) = grouped([record(), {"code": "crowdfit"} | failed])
        assert not group.failure
        (group,) = grouped([{"code": "crowdfit"} | failed])
        assert group.failure == "no"

    def test_order_is_rivals_us_limit(self):
        codes = [
            g.code for g in grouped([record(code=c) for c in ("floor", "crowdfit", "daophot", "crowdsource")])
        ]
        assert codes == ["crowdsource", "daophot", "crowdfit", "floor"]

    def test_settings_and_threads_are_not_mixed(self):
        runs = [
            record(),
            record(threads=2),
            record(settings=["solve.kind=lsqr"]),
            record(config="a/nebula.yaml"),
        ]
        assert {(g.code, g.threads) for g in grouped(runs)} == {
            ("crowdfit", None),
            ("crowdfit", 2),
            ("crowdfit (solve.kind=lsqr)", None),
            ("crowdfit (nebula)", None),
        }


class TestReading:
    def test_several_files(self, tmp_path):
        paths = [
            write(tmp_path / "a.jsonl", [record()]),
            write(tmp_path / "b.jsonl", [record(seed=2), record(seed=3)]),
        ]
        assert [r["seed"] for r in read_records(paths)] == [1, 2, 3]

    def test_older_records_are_ours(self, tmp_path):
        old = {key: value for key, value in record().items() if key != "code"}
        assert read_records([write(tmp_path / "a.jsonl", [old])])[0]["code"] == "crowdfit"

    @pytest.mark.parametrize("line", ["{", '{"field": "dense"}', "[1, 2]"])
    def test_no_record(self, tmp_path, line):
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps(record()) + "\n" + line + "\n")
        with pytest.raises(InputError, match=r"a\.jsonl, line 2: no record"):
            read_records([path])

    def test_no_file(self, tmp_path):
        with pytest.raises(InputError, match="absent"):
            read_records([tmp_path / "absent.jsonl"])


class TestTables:
    def test_rival_us_and_limit(self):
        runs = [
            record(f1=0.8),
            record(code="floor", f1=0.97),
            record(code="crowdsource", f1=0.7, version="0.5.9"),
        ]
        lines = report.markdown(grouped(runs)).splitlines()
        assert (
            lines[0]
            == "Medians over the seeds; made 2030-01-01; commit abc; host Z80, 2 cores; Python 3.11.7."
        )
        heads = [cell.strip() for cell in lines[2].split("|")]
        rows = [dict(zip(heads, (c.strip() for c in line.split("|")), strict=True)) for line in lines[4:7]]
        assert [row["code"] for row in rows] == ["crowdsource 0.5.9", "crowdfit", "floor"]
        assert [row["F1 > 10"] for row in rows] == ["0.700", "0.800", "0.970"]
        assert [row["wall s"] for row in rows] == ["7.0", "8.0", "-"]
        assert rows[0]["scatter > 200"] == "0.0300"

    def test_bins(self):
        text = report.markdown(grouped([record(f1=0.8)]))
        assert "F1 by S/N:" in text
        assert "| `dense` | crowdfit | - | 0.800 | 0.800 | 0.800 | 0.800 |" in text
        assert "Pull, width by density" in text
        assert "| `dense` | crowdfit | 1.80 | - | - | - | - | - | - |" in text
        assert "Position error" not in text  # these records have none

    def test_failed_run_is_named(self):
        text = report.markdown(grouped([record(), FAILED]))
        assert "| `dense` | starfinder | 1 | - | failed: no / licence |" in text

    def test_field_without_truth(self):
        bare = {key: value for key, value in record(field="spitzer", seed=0).items() if key != "score"}
        bare |= {"counts": {"n_cat": 5000, "n_snr10": 4000}, "fit": {"chi": 1.1, "passes": 9, "fwhm": 1.8}}
        text = report.markdown(grouped([record(), bare]))
        assert "Real images" in text
        assert "| `spitzer` | crowdfit | 0 | - | 8.0 | 16.0 | 100 | 5000 | 4000 | 9 | 1.80 | 1.100 |" in text

    def test_between_markers(self, tmp_path):
        path = tmp_path / "README.md"
        begin, end = report.MARKERS
        path.write_text(f"# Head\n\n{begin}\nold\n{end}\n\ntail\n")
        runs = write(tmp_path / "runs.jsonl", [record()])
        for _ in range(2):
            assert report.main([str(runs), "--into", str(path)]) == 0
        text = path.read_text()
        assert text.startswith(f"# Head\n\n{begin}\nMedians over the seeds")
        assert text.endswith(f"|\n{end}\n\ntail\n")
        assert "old" not in text

    @pytest.mark.parametrize("text", ["no markers", "{1}\n{0}\n", "{0}\n{0}\n"])
    def test_without_markers_nothing_is_written(self, tmp_path, text, capsys):
        path = tmp_path / "README.md"
        path.write_text(text.format(*report.MARKERS))
        before = path.read_text()
        assert report.main([str(write(tmp_path / "r.jsonl", [record()])), "--into", str(path)]) == 2
        assert "must be there once" in capsys.readouterr().err
        assert path.read_text() == before

    def test_our_readme_has_the_markers(self, tmp_path):
        copy = tmp_path / "README.md"
        copy.write_text(report.README.read_text(encoding="utf-8"), encoding="utf-8")
        report.write_between_markers(copy, "table\n")
        assert "table" in copy.read_text(encoding="utf-8")

    def test_errors(self, tmp_path, capsys):
        """Pulls by S/N, those that are out of range in bold; fields without truth have none."""
        good = {"pull_mad": 0.9, "pull_med": -0.2, "pos_pull": 1.151}
        bins = [{"snr": label, **good} for label in groups.SNR_LABELS[1:]]
        bins[1] |= {"pull_mad": 0.89, "pull_med": 0.21, "pos_pull": 1.16}
        bare = {"field": "real", "code": "crowdfit", "seed": 0, "status": 0}
        path = write(tmp_path / "a.jsonl", [record(score={"bins": bins}), bare])
        assert report.main([str(path), "--errors"]) == 0
        head, _, line = capsys.readouterr().out.splitlines()
        assert head.split(" | ")[3:] == [
            *(f"flux {label}" for label in groups.SNR_LABELS[1:]),
            *(f"position {label}" for label in groups.SNR_LABELS[1:4]),
            f"position {groups.SNR_LABELS[4]} |",
        ]
        assert line == (
            "| `dense` | crowdfit | 1 | 0.90 (-0.20) | **0.89** (**+0.21**) | 0.90 (-0.20) | 0.90 (-0.20) "
            "| 1.15 | **1.16** | 1.15 | 1.15 |"
        )

    def test_fields_are_chosen(self, tmp_path, capsys):
        runs = write(tmp_path / "r.jsonl", [record(), record(field="sparse")])
        assert report.main([str(runs), "--fields", "sparse"]) == 0
        out = capsys.readouterr().out
        assert "`sparse`" in out
        assert "`dense`" not in out
        assert report.main([str(runs), "--fields", "cluster"]) == 2
        assert "no runs to report" in capsys.readouterr().err


class TestPlots:
    RUNS = (
        *(record(code=code, f1=f1) for code, f1 in (("crowdfit", 0.8), ("floor", 0.97), ("crowdsource", 0.7))),
        *(record(field=f"ladder{n}", f1=1 - 1 / n) for n in (8, 200, 50)),
    )  # fmt: skip

    def test_files(self, tmp_path, capsys):
        runs = write(tmp_path / "r.jsonl", self.RUNS)
        assert report.main([str(runs), "--plots", str(tmp_path / "plots")]) == 0
        written = {path.name for path in (tmp_path / "plots").iterdir()}
        assert {"dense_snr.png", "dense_time.png", "dense_density.png", "ladder.png"} <= written
        assert all((tmp_path / "plots" / name).read_bytes()[:4] == b"\x89PNG" for name in written)
        assert "ladder.png" in capsys.readouterr().out

    def test_lines_are_the_figures(self):
        dense = [g for g in grouped(self.RUNS) if g.field == "dense"]
        f1, scatter = plots.plot_snr(dense).axes
        ours = next(line for line in f1.lines if line.get_label() == "crowdfit")
        assert list(ours.get_ydata())[1:] == [0.8] * 4
        assert len(f1.lines) == 3
        assert list(scatter.lines[0].get_ydata())[1:] == pytest.approx([0.03] * 4)
        time, _ = plots.plot_time(dense).axes
        assert list(time.lines[1].get_xdata()) == [8.0]
        assert list(time.lines[2].get_ydata()) == [0.97, 0.97]  # the limit takes no time
        _, width = plots.plot_density(dense).axes
        assert list(width.lines[0].get_ydata())[0] == pytest.approx(1.7)

    def test_ladder_is_in_order(self):
        f1, *_ = plots.plot_ladder([g for g in grouped(self.RUNS) if g.field != "dense"]).axes
        (line,) = f1.lines
        assert list(line.get_xdata()) == [8, 50, 200]
        assert list(line.get_ydata()) == pytest.approx([0.875, 0.98, 0.995])

    def test_limit_alone_can_be_drawn(self, tmp_path):
        """It has no times, so some panels stay empty."""
        runs = [record(field="ladder8", code="floor"), record(field="ladder50", code="floor")]
        written = plots.plot_all(grouped(runs), tmp_path)
        assert tmp_path / "ladder.png" in written
        *_, time = plots.plot_ladder(grouped(runs)).axes
        assert len(time.lines) == 0

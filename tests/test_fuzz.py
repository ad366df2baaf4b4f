"""A fixed sample of what `python -m tests.fuzz` does by the thousand."""

import numpy as np
import pytest

from crowdfit.job import DONE, REFUSED
from tests import fuzz, fuzz_cases

OF_EACH = 6
"""So many cases of every kind, in one process that has compiled and imported everything."""


@pytest.mark.filterwarnings("default")  # `run` looks at what would be seen on the terminal
@pytest.mark.parametrize("maker", fuzz_cases.MAKERS, ids=lambda maker: maker.__name__)
def test_sample(tmp_path, maker):
    """Status 0 or 2, one clear line, no traceback, no warning of numpy, nothing half written, no hang, no flood."""
    ended = set()
    for number in fuzz_cases.numbers_of(maker, 5, OF_EACH):
        folder = tmp_path / str(number)
        folder.mkdir()
        case, outcome = fuzz.run_number(5, number, folder)
        assert case.story[0] == maker.__name__
        # memory is that of the process, and other tests run in it
        problems = [text for text in outcome.problems if not text.startswith("memory")]
        assert not problems, fuzz_cases.told(case)
        ended.add(outcome.status)
    assert ended <= {DONE, REFUSED}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("seed", "number"), [(3, 125), (3, 254), (3, 644), (6, 324), (6, 445), (6, 446)])
def test_what_once_broke(tmp_path, seed, number):
    """Fluxes of -1e30, a gain of 1e300, a PSF of zeros, 65535 axes, a model error of 1e300, a file of 14 TiB."""
    case, outcome = fuzz.run_number(seed, number, tmp_path)
    assert not [text for text in outcome.problems if not text.startswith("memory")], fuzz_cases.told(case)


def test_cases_follow_from_their_number(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    cases = [fuzz_cases.make(3, 7, tmp_path / name) for name in "ab"]
    assert cases[0].story == cases[1].story
    assert fuzz_cases.make(3, 8, tmp_path / "a").story != cases[0].story


def test_judge(tmp_path):
    """What is looked for is found."""
    assert fuzz.judged(1, "crowdfit: error: x\n", tmp_path) == ["status 1"]
    assert fuzz.judged(2, "", tmp_path) == ["refused without saying why"]
    assert "a traceback on stderr" in fuzz.judged(0, "Traceback (most recent call last):\n", tmp_path)
    (stray,) = fuzz.judged(0, "crowdfit: warning: RuntimeWarning: overflow\n", tmp_path)
    assert stray.startswith("stray line")
    assert fuzz.judged(0, "crowdfit: warning: f: fewer than 3 bright peaks\n", tmp_path) == []
    (tmp_path / "f_fit.fits").write_bytes(b"SIMPLE")
    (tmp_path / "f.tmp").write_bytes(b"")
    problems = fuzz.judged(2, "crowdfit: error: x\n", tmp_path)
    assert any("left" in problem for problem in problems)
    assert any("f_fit.fits" in problem for problem in problems)
    assert any("should not be there" in problem for problem in problems)


def test_crash_and_hang_are_reported(tmp_path, monkeypatch):
    def crash(arguments):
        raise KeyError("oh")

    monkeypatch.setattr(fuzz, "main", crash)
    outcome = fuzz.run(fuzz_cases.Case(["x"], []), tmp_path)
    assert outcome.status is None
    assert "KeyError" in outcome.problems[0]

    def hang(arguments):
        while True:
            np.zeros(3)

    monkeypatch.setattr(fuzz, "main", hang)
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    assert "more than 1 s" in fuzz.run(fuzz_cases.Case(["x"], []), tmp_path).problems[0]

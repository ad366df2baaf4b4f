"""How much memory the process holds (P016)."""

import subprocess
import sys

import numpy as np

from crowdfit import memory


def test_an_array_is_seen():
    """64 MB more than before, to 20 %, once they are written to; the peak does not fall when they are given back."""
    before = memory.resident_mb()
    block = np.ones(8 * 2**20)
    held = memory.resident_mb()
    assert 0.8 * 64 < held - before < 1.2 * 64 + 20
    assert memory.peak_mb() >= 0.98 * held
    peak = memory.peak_mb()
    del block
    assert memory.peak_mb() >= peak


def test_systems_that_do_not_tell(tmp_path, monkeypatch):
    """Without /proc, or with something else there, the peak is the best answer."""
    monkeypatch.setattr(memory, "_STATM", tmp_path / "none")
    assert memory.resident_mb() >= 10
    (tmp_path / "odd").write_text("no numbers here")
    monkeypatch.setattr(memory, "_STATM", tmp_path / "odd")
    assert memory.resident_mb() >= 10


def test_system_without_resource():
    """On Windows there is no such module: nothing is known, and nothing fails."""
    code = """
import sys
sys.modules["resource"] = None
from pathlib import Path
from crowdfit import memory
memory._STATM = Path("none")
print(memory.peak_mb(), memory.resident_mb())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("nan nan\n", "")

"""How much memory the process holds (P016)."""

import subprocess
import sys

import numpy as np
import pytest

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
    assert memory.peak_mb() >= 0.99 * peak  # the kernel counts in batches


def test_systems_that_do_not_tell(tmp_path, monkeypatch):
    """Without /proc, or with something else there, the peak is the best answer."""
    monkeypatch.setattr(memory, "_STATM", tmp_path / "none")
    assert memory.resident_mb() >= 10
    (tmp_path / "odd").write_text("no numbers here\nVmHWM: none")
    monkeypatch.setattr(memory, "_STATM", tmp_path / "odd")
    assert memory.resident_mb() >= 10
    for odd in ("none", "odd"):
        monkeypatch.setattr(memory, "_STATUS", tmp_path / odd)
        assert memory.peak_mb() >= 10


def test_peak_is_of_this_process_alone():
    """Linux begins one of its figures with the memory of the process that started a command."""
    block = np.ones(40 * 2**20)
    code = "from crowdfit.memory import peak_mb, resident_mb; print(peak_mb(), resident_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, held = map(float, done.stdout.split())
    assert memory.resident_mb() > block.nbytes / 2**20 > 300 > peak
    assert held <= 1.02 * peak


class TestFree:
    """What the process could still take: the least of what the machine and its control groups leave."""

    @pytest.fixture
    def system(self, tmp_path, monkeypatch):
        """Return a function that lays out the files of a system with 8000 MB available."""
        (tmp_path / "meminfo").write_text("MemTotal: 16384000 kB\nMemFree: 1 kB\nMemAvailable: 8192000 kB\n")
        monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
        monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")

        def lay(groups, **files):
            (tmp_path / "cgroup").write_text(groups)
            for path, text in files.items():
                file = tmp_path / "groups" / path.replace("__", "/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)

        return lay

    def test_no_groups(self, system):
        assert memory.free_mb() == 8000

    def test_second_version(self, system):
        """The limit of a parent holds too; file cache of a group can be given back; "max" is no limit."""
        files = {
            "a__b__memory.max": "max",
            "a__b__memory.current": "1",
            "a__b__memory.stat": "inactive_file 0",
            "a__memory.max": str(3000 * 2**20),
            "a__memory.current": str(1500 * 2**20),
            "a__memory.stat": f"anon 7\ninactive_file {500 * 2**20}",
        }
        system("0::/a/b\n", **files)
        assert memory.free_mb() == 2000

    def test_first_version(self, system):
        """In a container the files lie at the top, whatever path is named."""
        files = {
            "memory__memory.limit_in_bytes": str(1000 * 2**20),
            "memory__memory.usage_in_bytes": str(400 * 2**20),
            "memory__memory.stat": "total_inactive_file 0",
        }
        system("9:name=systemd:/\n4:memory:/outside/path\n1:cpu:/", **files)
        assert memory.free_mb() == 600

    def test_other_systems(self, monkeypatch, tmp_path):
        """Half of the memory of the machine, or not known."""
        monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
        sizes = {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 2**14}
        monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__, raising=False)
        assert memory.free_mb() == 8192
        monkeypatch.delattr(memory.os, "sysconf")
        assert np.isnan(memory.free_mb())

    def test_this_system(self):
        assert memory.free_mb() > 10


def test_system_without_resource():
    """On Windows there is no such module: nothing is known, and nothing fails."""
    code = """
import sys
sys.modules["resource"] = None
from pathlib import Path
from crowdfit import memory
memory._STATM = memory._STATUS = Path("none")
print(memory.peak_mb(), memory.resident_mb())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("nan nan\n", "")

"""Run one command and write what the operating system says it cost.

    python timed.py RESULT.json LOG COMMAND [ARGUMENT ...]

A process of its own, with nothing imported: Linux counts the memory of the process that starts a command
into the command's peak, so it must be started by a small one.
"""

import json
import os
import sys
import time
from pathlib import Path


def run(command: list[str], log: str) -> dict[str, float]:
    """Return exit status, wall and CPU seconds, and peak resident memory (MB) of a command.

    Parameters
    ----------
    command : list of str
        Program and arguments.
    log : str
        File that receives standard output and standard error.
    """
    with open(log, "wb") as out:
        files = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
        begin = time.perf_counter()
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=files)
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - begin
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "status": os.waitstatus_to_exitcode(status),
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / unit, 1),
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(run(sys.argv[3:], sys.argv[2])))

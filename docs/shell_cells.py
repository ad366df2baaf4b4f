"""What `%%bash` does in the pages: a cell that fails ends the build, and its output comes in one piece.

IPython's own reads the output in pieces that become lines of their own in the page. `conf.py` copies this file into the
start-up folder of the kernels.
"""

import subprocess

from IPython.core.magic import register_cell_magic


@register_cell_magic
def bash(_line: str, cell: str) -> None:
    """Run a cell in bash, up to the first command that fails; errors stand among the output, in order."""
    done = subprocess.run(
        ["bash", "-e", "-c", cell], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    print(done.stdout, end="")
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {done.stdout}")

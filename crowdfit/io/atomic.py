"""Files that appear whole or not at all, and the check that they can be written, made before work starts."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crowdfit.errors import InputError

__all__ = ["atomic_path", "check_writable", "clear_leftovers"]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and rename it when the block ends well.

    Parameters
    ----------
    path : str or Path
        The file that shall exist in the end; an older one is replaced in one step.

    Yields
    ------
    Path
        A path in the same folder that does not exist yet, with the same suffixes; it is removed when the
        block raises, and then `path` is left as it was.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written to.
    """
    path = Path(path)
    try:
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    except OSError as exc:
        raise _unwritable(path.parent, exc) from exc
    with folder as name:
        temporary = Path(name) / path.name
        yield temporary
        # a folder is in the way, or the disk filled up: say so rather than show a traceback
        try:
            os.replace(temporary, path)
        except OSError as exc:
            raise InputError(f"{path}: cannot be written ({exc.strerror}); choose another name") from exc


def clear_leftovers(path: str | Path) -> None:
    """Remove what a process that was killed while it wrote `path` has left beside it; `path` stays as it is.

    Call it when no other process can be writing the same file.
    """
    path = Path(path)
    ours = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}")  # as tempfile makes them
    for folder in path.parent.glob(".*"):
        if ours.fullmatch(folder.name) and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def check_writable(directory: str | Path) -> Path:
    """Make the folder if needed and prove that files can be created in it (P103).

    Call it before a long fit, not after.

    Parameters
    ----------
    directory : str or Path
        Output folder; missing parents are made.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If it cannot be made or written to.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"crowdfit")
    except OSError as exc:
        raise _unwritable(directory, exc) from exc
    return directory


def _unwritable(directory: Path, exc: OSError) -> InputError:
    reason = exc.strerror or str(exc)
    return InputError(f"{directory}: cannot write there ({reason}); choose another folder with -o")

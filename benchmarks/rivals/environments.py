"""Environments of the Python rivals, and the packages of the others."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rivals.base import output_of


@dataclass(frozen=True)
class Environment:
    """A virtual environment for one rival: the packages it takes, and those to install without their own."""

    name: str
    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()

    def python(self, folder: Path) -> Path:
        """Return the interpreter of the environment, which need not exist."""
        return folder / self.name / "bin" / "python"

    def make(self, folder: Path) -> None:
        """Make the environment and install its packages; what is there already is kept.

        Raises
        ------
        subprocess.CalledProcessError
            The environment could not be made, or pip failed.
        """
        python = self.python(folder)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder / self.name)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *self.packages], check=True)
        if self.alone:
            subprocess.run([*pip, "--no-deps", *self.alone], check=True)

    def version_of(self, distribution: str, folder: Path) -> str:
        """Return the version of a distribution in the environment; empty if it is not there."""
        code = f"from importlib.metadata import version; print(version({distribution!r}))"
        python = self.python(folder)
        return output_of([str(python), "-W", "ignore", "-c", code]).strip() if python.exists() else ""

    def missing(self, module: str, folder: Path) -> tuple[str, ...]:
        """Return what is missing before a module can be imported in the environment."""
        python = self.python(folder)
        if not python.exists():
            return (f"{python}",)
        said = output_of([str(python), "-W", "ignore", "-c", f"import {module}; print('imported')"])
        return () if said.strip().endswith("imported") else (f"module {module} in {python}",)


def apt_command(packages: tuple[str, ...]) -> list[str]:
    """Return the command that installs Debian packages, with sudo unless we are root."""
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    return [*sudo, "apt-get", "install", "-y", "--no-install-recommends", *packages]

"""How Sphinx makes the documentation: ``python -m sphinx -W -b html docs docs/_build``.

Pages are Markdown; those with code cells are run anew in every build, and one that fails ends it. Tables come from the
code (`docs.tables`).
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from crowdfit import __version__  # noqa: E402 - found by the line above
from docs import tables  # noqa: E402

# pages run the command `crowdfit` and modules of the checkout, each in a folder of its own
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["PYTHONPATH"] = str(ROOT)
_PROFILE = tempfile.TemporaryDirectory(prefix="crowdfit-docs-")
_STARTUP = Path(_PROFILE.name) / "profile_default" / "startup"
_STARTUP.mkdir(parents=True)
shutil.copy(ROOT / "docs" / "shell_cells.py", _STARTUP)
os.environ["IPYTHONDIR"] = _PROFILE.name

project = "crowdfit"
author = "the crowdfit developers"
copyright = author  # noqa: A001 - Sphinx wants this name
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True
# types in numpydoc are words for readers ("array (ny, nx)"), not names of classes
nitpick_ignore_regex = [("py:class", ".*"), ("py:obj", ".*")]
default_role = "code"
smartquotes = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 1800  # seconds for a cell: the first one compiles, and machines may be busy
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "myst"

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"crowdfit {__version__}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False


def _fill_tables(_app: Any, _page: str, source: list[str]) -> None:
    """Put tables made from the code in place of the comments that ask for them."""
    source[0] = tables.filled(source[0])


def _unlink_files(_app: Any, _path: Path, _page: str, source: list[str]) -> None:
    """Name the files of the repository that the README links to, which are no pages here."""
    source[0] = re.sub(r"\[[^]]+\]\((?!http|#|docs/)([^)]+)\)", r"`\1`", source[0])


def setup(app: Any) -> None:
    """Connect what this documentation does differently."""
    app.connect("source-read", _fill_tables)
    app.connect("include-read", _unlink_files)

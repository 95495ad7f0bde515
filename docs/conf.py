"""How the site is built: `make docs` turns the pages of this folder into runs/docs/html.

The pages are Markdown that is read in the repository too; `docs/building/` has what makes the difference. A page that
begins with `file_format: mystnb` is a notebook: its cells run when the site is built.
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs.building.sources import digest  # noqa: E402
from lopt.version import __version__  # noqa: E402

# What the kernels of the notebooks inherit: the checkout, the one style of all figures, and quiet progress.
os.environ["PYTHONPATH"] = str(ROOT)
os.environ["MATPLOTLIBRC"] = str(ROOT / "docs" / "matplotlibrc")
os.environ["TQDM_DISABLE"] = "1"

project, author, version, release = "lopt", "The lopt authors", __version__, __version__
project_copyright = "the lopt authors, Apache 2.0"
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "sphinx_copybutton",
    "docs.building.docstrings",
    "docs.building.links",
    "docs.building.mocked",
    "docs.building.directives",
    "docs.building.notebooks",
]
exclude_patterns = ["building", "requirements.txt"]
highlight_language = "none"
templates_path = ["_templates"]
suppress_warnings = ["mystnb.unknown_mime_type"]
nitpicky = False

# Pages.
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_block", "attrs_inline", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Notebooks: their outputs are kept until a page or the code changes. An error in one fails the build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "runs" / "docs" / "cache" / digest(ROOT))
nb_execution_timeout = 900  # seconds per cell, for busy machines; a page takes below 60 where nothing else runs
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_excludepatterns: list[str] = []
nb_merge_streams = True
nb_output_stderr = "remove"  # progress of meta-trainings

# The reference: every public name has a page, from its docstring.
autosummary_generate = ["api.md"]
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["torch"] if importlib.util.find_spec("torch") is None else []
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False

# What a page loads lies beside it: no request goes to any other host.
MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / "tex-svg.js"  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
mathjax_path = MATHJAX.name
mathjax3_config = {"options": {"enableMenu": False}, "chtml": {"scale": 0.95}}
html_static_path = ["_static", str(MATHJAX)]
html_css_files = ["site.css"]
html_theme = "sphinx_book_theme"
html_title = "lopt"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_issues_button": False,
    "use_edit_page_button": False,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

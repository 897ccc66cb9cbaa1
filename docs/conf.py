"""Configures the site: `python -m sphinx -W --keep-going -b html docs site`."""

import pathlib
import sys

DOCS = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from sphinx.errors import ConfigError  # noqa: E402

import cnn_jax  # noqa: E402

project = "cnn_jax"
author = "The cnn_jax authors"
version = release = cnn_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.katex",
    "repository",
    "derivations",
]
exclude_patterns = ["history", "node_modules", "pictures", "**/.ipynb_checkpoints"]
root_doc = "index"

# Notebooks are shown as they were committed, outputs included.
nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
# `site:` is a file of the repository that is copied into the site (see `_ext`).
myst_url_schemes = ["http", "https", "mailto", "site"]

# Formulas become HTML while the site is built: no script, and no network. That needs
# Node, and KaTeX from npm.
KATEX = DOCS / "node_modules" / "katex" / "dist"
if not KATEX.is_dir():
    raise ConfigError("KaTeX is not there: run `npm install --prefix docs` first.")
katex_prerender = True
katex_js_path = str(KATEX / "katex.min.js")
katex_css_path = "katex.min.css"

# In docstrings a single backtick marks code, as it does in Markdown.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "sphinx_book_theme"
html_title = f"cnn_jax {release}"
html_static_path = ["_static", str(KATEX)]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    # The theme has a search of its own in its sidebar.
    "navbar_persistent": [],
}

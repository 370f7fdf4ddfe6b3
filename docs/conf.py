"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

project = "lightning_sdft"
author = "the authors of lightning_sdft"
release = metadata.version("lightning-sdft")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "extension",
]
exclude_patterns = ["_build", "extension", "jupyter_execute"]

html_theme = "furo"
html_title = "lightning_sdft"
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_theme_options = {"navigation_with_keys": True}
html_show_copyright = False

# Pages are read on a code host too, so that they stay with what is plain Markdown there.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the tests run the notebooks

nitpicky = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Names of other packages become links where their inventories are given: a strict build needs no network.
INVENTORIES = {
    "python": "https://docs.python.org/3",
    "torch": "https://docs.pytorch.org/docs/stable",
    "lightning": "https://lightning.ai/docs/pytorch/stable",
    "transformers": "https://huggingface.co/docs/transformers/main/en",
}
intersphinx_mapping = {name: (url, None) for name, url in INVENTORIES.items()}
if os.environ.get("DOCS_LINK_OTHERS"):
    extensions.append("sphinx.ext.intersphinx")

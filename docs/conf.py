"""Sphinx configuration: MyST pages, the furo theme, an API reference generated from the package."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from docutils import nodes

sys.path.insert(0, str(Path(__file__).parent))
import commands
from formulas import mathml

project = "Reverie"
author = "the Reverie authors"
copyright = "2026, the Reverie authors"
version = release = installed_version("reverie")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

html_theme = "furo"
html_title = "Reverie"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["reverie.css"]

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"
suppress_warnings = ["ref.python"]  # a short name that two rooms share links to either
autosummary_generate = True
autosummary_ignore_module_all = True
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def setup(app: Any) -> None:
    app.connect("builder-inited", commands.write)

    def write(block: bool) -> Any:
        def visit(translator: Any, node: nodes.Node) -> None:
            translator.body.append(mathml(node.astext(), block))
            raise nodes.SkipNode

        return visit, None

    app.add_html_math_renderer("mathml", write(False), write(True))

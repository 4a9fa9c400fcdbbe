"""Configuration of Sphinx. Build with: sphinx-build -W docs build/docs"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

project = 'resnet-hub'
copyright = 'the authors of resnet-hub'
release = version = metadata.version('resnet-hub')

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.intersphinx']
default_role = 'literal'  # `name` in docstrings
myst_enable_extensions = ['deflist']
myst_heading_anchors = 3
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_typehints = 'description'
autodoc_member_order = 'bysource'
intersphinx_mapping = {}

html_theme = 'furo'
html_title = f'resnet-hub {release}'
html_theme_options = {
    'source_repository': 'https://github.com/org/repo/',
    'source_branch': 'main',
    'source_directory': 'docs/',
}


def setup(app: Any) -> None:
    """Keep a star inside a word, as in train-*.parquet, from beginning an emphasis."""
    app.connect('autodoc-process-docstring', _escape_stars, priority=100)


def _escape_stars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [re.sub(r'(?<=[^\s*\\])\*(?=[^\s*])', r'\\*', line) for line in lines]

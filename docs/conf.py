"""Configuration of Sphinx. Build with: sphinx-build -W docs build/docs"""

from importlib import metadata

project = 'resnet-hub'
copyright = 'the authors of resnet-hub'
release = version = metadata.version('resnet-hub')

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.intersphinx']
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

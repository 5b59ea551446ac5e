"""Sphinx configuration: MyST Markdown, as rosdoc2 builds it."""

project = "grids_ros"
author = "The grids_ros authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["misc.highlighting_failure"]
html_static_path = ["_static"]
html_css_files = ["tables.css"]

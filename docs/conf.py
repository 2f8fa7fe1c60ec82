"""How Sphinx builds the site. ``make docs`` runs it; nothing here needs the network."""

import optuna_dstn


project = "optuna-dstn"
author = "The optuna-dstn developers"
copyright = "The optuna-dstn developers"
release = version = optuna_dstn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]

# Pages are Markdown, so that they can be read in the repository too.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The reference is made from the docstrings.
autosummary_generate = True
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 78

# A reference within the package must lead somewhere. Others have no inventory without a network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(optuna|torch|pandas|plotly|numpy|nn|go|os|pd|np|collections|typing)(\..*)?"),
    (r"py:class", r"Base(Storage|Sampler|Pruner)|Optimizer|LRScheduler|ReduceLROnPlateau"),
    # Aliases and base classes that are not public; their name in a signature says enough.
    (r"py:class", r"optuna_dstn\.(\w+\.)*_.*|\w+Function|\w+Factory"),
]

html_theme = "furo"
html_title = f"optuna-dstn {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b34700", "color-brand-content": "#b34700"},
    "dark_css_variables": {"color-brand-primary": "#f08c4a", "color-brand-content": "#f08c4a"},
}
copybutton_prompt_text = r"^(>>>|\.\.\.|\$) "
copybutton_prompt_is_regexp = True

"""How Sphinx builds the documentation: ``make docs``."""

from typing import Any

from docutils.nodes import Element
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from micro_rm import __version__

project = "micro-rm"
author = "The micro-rm maintainers"
copyright = "the micro-rm maintainers, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["tutorial"]
nitpicky = True
# No inventory of another project is fetched, so that the pages are built without a network. Types
# of other libraries are shown by their names, without a link.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(collections|pathlib|pandas|pd|numpy|np|jax|torch|matplotlib|Figure|Array|Path)(\..*)?",
    ),
    ("py:class", r"micro_rm\.api\.method\.Fit"),  # a type variable, which has no page
]

# Commands whose quotation goes on over lines are no valid shell session for the highlighter.
suppress_warnings = ["misc.highlighting_failure"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Fields of a dataclass as one list; the signature has their types and defaults.
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
add_module_names = False
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

html_theme = "alabaster"
html_title = f"micro-rm {release}"
html_theme_options = {
    "description": "Reward models for different people",
    "page_width": "1100px",
    "fixed_sidebar": True,
}
html_show_sourcelink = False


# Stands for a colon while napoleon reads a property's docstring.
COLON = "\N{RATIO}"


def setup(app: Sphinx) -> None:
    """Corrections of what the extensions make of our signatures and docstrings."""
    app.connect("autodoc-process-signature", write_factories)
    app.connect("autodoc-process-docstring", hide_colon, priority=400)
    app.connect("autodoc-process-docstring", show_colon, priority=600)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("missing-reference", link_by_last_name)


def write_factories(
    _app: Sphinx, _what: str, _name: str, _obj: object, _: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any]:
    """``<factory>``, the default of a dataclass field that is made anew, as valid Python."""
    return signature and signature.replace("<factory>", "..."), returns


def hide_colon(_app: Sphinx, what: str, _name: str, _obj: object, _: Any, lines: list[str]) -> None:
    """Keep "(N, D): ..." together: napoleon takes what precedes a colon there for a type."""
    if what in ("property", "attribute", "data"):
        lines[:1] = [line.replace(":", COLON) for line in lines[:1]]


def show_colon(
    _app: Sphinx, _what: str, _name: str, _obj: object, _: Any, lines: list[str]
) -> None:
    """Undo ``hide_colon``."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def skip_tuple_fields(
    _app: Sphinx, _what: str, _name: str, obj: object, _skip: bool, _: Any
) -> bool | None:
    """Leave out "Alias for field number 0"; the class says what its fields are."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def link_by_last_name(app: Sphinx, env: BuildEnvironment, node: Element, contnode: Element) -> Any:
    """Link ``StoreError`` in a "Raises" section, whose module it does not name."""
    if node.get("refdomain") != "py":
        return None
    last = node["reftarget"].rpartition(".")[2]
    objects = env.domains.python_domain.objects
    found = [
        (name, entry)
        for name, entry in objects.items()
        if name.rpartition(".")[2] == last and entry.objtype in ("class", "exception")
    ]
    targets = {(entry.docname, entry.node_id) for _, entry in found}
    if len(targets) != 1:
        return None
    name, entry = found[0]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)

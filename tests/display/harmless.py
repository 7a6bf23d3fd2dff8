"""What a page holds, and that nothing of it runs or loads."""

from __future__ import annotations

import re
from html.parser import HTMLParser

FOLLOWED = {"src", "href", "xlink:href", "srcset", "action", "formaction", "data", "poster"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
ALLOWED = {"html", "head", "meta", "title", "style", "body", "header", "section", "h1", "h2", "h3"}
ALLOWED |= {"p", "ul", "ol", "li", "strong", "small", "em", "code", "pre", "div", "br", "details"}
ALLOWED |= {"summary", "table", "caption", "thead", "tbody", "tr", "th", "td", "i", "b", "span"}
ALLOWED |= {"main", "nav", "a", "figure", "figcaption", "label", "input", "sub", "svg", "g", "defs"}
ALLOWED |= {"path", "text", "use", "clippath", "rect", "metadata", "tspan", "line", "circle"}


class Page(HTMLParser):
    """Every tag, attribute and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def text(self) -> str:
        """The words of a reader, however they are broken into lines."""
        return " ".join(self.words.split())


def require_harmless(text: str) -> Page:
    """No element that runs or loads, no handler, no address, a policy that forbids all of them."""
    text.encode("utf-8")
    page = Page(text)
    drawn = {tag for tag in page.tags if tag.startswith(("rdf:", "cc:", "dc:"))}
    assert sorted(set(page.tags) - ALLOWED - drawn) == []
    for name, value in page.attributes:
        assert not name.startswith("on"), (name, value)
        assert name not in FOLLOWED or value.startswith("#"), (name, value)
    styles = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
    styles += [value for name, value in page.attributes if name == "style"]
    for style in styles:
        assert "url(" not in style.replace("url(#", "") and "@import" not in style
    assert ("content", POLICY) in page.attributes
    assert not re.search("[\x00\x1b\u202e\ud800-\udfff]", text)
    return page

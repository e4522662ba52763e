"""Hooks of the documentation's build."""

import re


def on_page_content(html, **_):
    """Drop the roles of docstrings (``:class:`` and its like) from a page: Markdown does not know them."""
    return re.sub(r":(?:attr|class|func|meth|mod):(?=<code>)", "", html)

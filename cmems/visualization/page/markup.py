"""HTML and SVG as trees: every text and attribute is escaped when they are written, whatever it holds."""

import xml.etree.ElementTree as ET

from cmems.errors import printable


def tag(name, *children, **attributes):
    """Return an element.

    Args:
        name (str): Of HTML or SVG.
        *children (Element | str | None): What it holds, in order; None is nothing.
        **attributes: Their values; None leaves one out. ``class_`` is ``class``, ``aria_label`` ``aria-label``.
    """
    found = {k.rstrip("_").replace("_", "-"): printable(v) for k, v in attributes.items() if v is not None}
    element = ET.Element(name, found)
    for child in children:
        if child is None:
            continue
        if ET.iselement(child):
            element.append(child)
            continue
        text = "\n".join(map(printable, str(child).split("\n")))
        if len(element):
            element[-1].tail = (element[-1].tail or "") + text
        else:
            element.text = (element.text or "") + text
    return element


def written(*elements):
    """Return elements as HTML."""
    return "\n".join(ET.tostring(each, encoding="unicode", method="html") for each in elements)


def table(caption, columns, rows, **attributes):
    """Return a table that scrolls by itself where it is too wide; the first column names its row.

    Args:
        caption (str): What it shows.
        columns (sequence[str | Element]): Headings.
        rows (sequence[sequence]): Cells: text, or elements ``td`` and ``th``.
        **attributes: Of the table.
    """
    head = [each if ET.iselement(each) else tag("th", each, scope="col") for each in columns]
    body = []
    for row in rows:
        cells = [each if ET.iselement(each) and each.tag in ("td", "th") else tag("td", each) for each in row]
        if cells[0].tag == "td":
            cells[0].tag = "th"
            cells[0].set("scope", "row")
        body.append(tag("tr", *cells))
    whole = tag(
        "table", tag("caption", tag("span", caption)), tag("thead", tag("tr", *head)), tag("tbody", *body), **attributes
    )
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)

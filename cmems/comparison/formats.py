"""The forms of a comparison's report: Markdown, a page, the terminal's tables, a picture."""

import base64
import html
import io
import re

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from prettytable import PrettyTable

from cmems.comparison.entries import paper_cell

_OURS, _PAPER = "#0072B2", "#D55E00"
_STYLE = """body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto }
td, th { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }"""


def terminal(table):
    """Draw a table, the paper's figure on a second line of its cell so that eight organs fit a wide terminal."""
    drawn = PrettyTable(table["columns"])
    for row in table["rows"]:
        drawn.add_row([cell.replace(" (", "\n(") if i else cell for i, cell in enumerate(row)])
    drawn.align = "r"
    drawn.align[table["columns"][0]] = "l"
    return drawn.get_string()


def markdown(blocks):
    """Write blocks, pairs of a kind and its content, as Markdown."""
    lines = []
    for kind, content in blocks:
        if kind == "heading":
            lines += [f"{'#' if not lines else '##'} {escaped(content)}", ""]
        elif kind in ("text", "plain"):
            lines += [content if kind == "text" else escaped(content), ""]
        elif kind == "picture":
            lines += ["![Mean DSC of every row, and the paper's](report.png)", ""]
        else:
            heading, *rows = (
                "| " + " | ".join(map(escaped, row)) + " |" for row in (content["columns"], *content["rows"])
            )
            lines += [heading, "|" + "---|" * len(content["columns"]), *rows]
            lines.append("")
    return "\n".join(lines)


def escaped(text):
    """Return text that Markdown shows as it is: names of cases, folders and classes, and what a failed run said."""
    text = re.sub(r"([\\`*\[\]|~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d*)([#>+.)-])(?=[#\s])", r"\1\\\2", text)


def page(title, blocks):
    """Write a page that needs no other file."""
    body = []
    for kind, content in blocks:
        if kind == "heading":
            body.append(f"<{'h2' if body else 'h1'}>{html.escape(content)}</{'h2' if body else 'h1'}>")
        elif kind in ("text", "plain"):
            body.append(f"<p>{html.escape(content)}</p>")
        elif kind == "picture":
            data = base64.b64encode(content).decode()
            body.append(f'<img alt="Mean DSC of every row, and the paper\'s" src="data:image/png;base64,{data}">')
        else:
            rows = ["".join(f"<th>{html.escape(c)}</th>" for c in content["columns"])]
            rows += ["".join(f"<td>{html.escape(c)}</td>" for c in row) for row in content["rows"]]
            body.append("<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")
    page = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{page}</head><body>' + "\n".join(body) + "</body></html>\n"


def picture_of(suite, by_dataset):
    """Draw mean DSC: bars of every row, or a curve per swept parameter; return the PNG's bytes."""
    sweeps = list(dict.fromkeys(row.sweep[0] for row in suite.rows if row.sweep)) or [None]
    height = 3.6 if sweeps != [None] else 1.2 + 0.42 * len(suite.rows)
    figure = Figure(figsize=(5.5 * max(len(sweeps), 1.4), height * len(by_dataset)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(by_dataset), len(sweeps), squeeze=False)
    for (dataset, group), line in zip(by_dataset.items(), grid, strict=True):
        for sweep, axes in zip(sweeps, line, strict=True):
            if sweep is None:
                _bars(axes, group)
            else:
                _curve(axes, [e for e in group if e["sweep"] and e["sweep"][0] == sweep])
                axes.set_xlabel(sweep)
            axes.set_title(dataset)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=9, framealpha=0.8, edgecolor="none")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _bars(axes, group):
    series = (
        (_OURS, "here", 1, [e["cells"]["DSC"].get("mean") for e in group]),
        (_PAPER, "paper", 0.45, [paper_cell(e, "DSC", "mean") for e in group]),
    )
    series = series[: 2 if any(series[1][3]) else 1]
    for n, (color, label, alpha, cells) in enumerate(series):
        places = [y + 0.4 * n - 0.2 * (len(series) - 1) for y in range(len(group))]
        axes.barh(places, [cell[0] if cell else 0 for cell in cells], 0.38, color=color, label=label, alpha=alpha)
        for place, cell in zip(places, cells, strict=True):
            if cell and cell[1] is not None:
                axes.errorbar(cell[0], place, xerr=cell[1], color="#222222", capsize=3, linewidth=1)
    axes.set_yticks(range(len(group)), [e["label"] for e in group])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean DSC")


def _curve(axes, group):
    ours = [(e["sweep"][1], *cell[:2]) for e in group if (cell := e["cells"]["DSC"].get("mean"))]
    theirs = [(e["sweep"][1], cell[0]) for e in group if (cell := paper_cell(e, "DSC", "mean"))]
    axes.errorbar(
        [x for x, _, _ in ours],
        [y for _, y, _ in ours],
        yerr=[sd or 0 for _, _, sd in ours],
        color=_OURS,
        marker="o",
        capsize=3,
        label="here",
    )
    if theirs:
        axes.plot([x for x, _ in theirs], [y for _, y in theirs], "*", color=_PAPER, markersize=12, label="paper")
    axes.set_ylabel("mean DSC")

"""`make charts`: the figures of docs/understand/speed.md as pictures, in docs/understand/charts/.

Drawn from that page's own tables, so that a chart never says anything else than the page: measure (`make
bench`), put the figures into the tables, draw. The same tables give the same files, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAGE = Path(__file__).resolve().parents[1] / "docs" / "understand" / "speed.md"
CHARTS = PAGE.parent / "charts"
COLOURS = ("#93a1b0", "#3a6ea5", "#3b7d3a", "#b58900", "#b0413e")
STABLE: Any = {
    "svg.hashsalt": "hsm-signer",
    "svg.fonttype": "none",  # text stays text: it diffs, and can be searched
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def table(header: str) -> list[dict[str, str]]:
    """The rows of the page's table whose header begins so, by the header's words."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {header}"))
    rows = []
    for line in (lines[start], *lines[start + 2 :]):
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def number(cell: str) -> float:
    """The first number of a cell."""
    found = re.search(r"[\d.]+", cell)
    assert found, cell
    return float(found[0])


def bars(axes: Axes, names: Sequence[str], series: Sequence[tuple[str, Sequence[str]]], unit: str) -> None:
    """Groups of bars, one group a name, one bar a series, each with its figure as the page has it."""
    width = 0.8 / len(series)
    for place, (label, cells) in enumerate(series):
        left = [group + (place - (len(series) - 1) / 2) * width for group in range(len(names))]
        drawn = axes.bar(
            left, [number(cell) for cell in cells], width * 0.92, label=label, color=COLOURS[place]
        )
        figures = [re.sub(r" ms$", "", cell) for cell in cells]
        axes.bar_label(drawn, figures, fontsize=8, padding=1)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(unit)
    axes.legend(fontsize=8, frameon=False)


def signature() -> None:
    """What one signature costs, against the bare calls."""
    rows = table("key | (a)")
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    series = [(column, [row[column] for row in rows]) for column in rows[0] if column != "key"]
    bars(axes, [row["key"] for row in rows], series, "milliseconds")
    axes.set_title("One signature, scheme rolling")
    save(figure, "signature")


def service() -> None:
    """Throughput over HTTPS against the same in process: single signatures and batches."""
    rows = table("key | digests a request")
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axes, digests in zip(panels, ("1", "50"), strict=True):
        chosen = [row for row in rows if row["digests a request"] == digests]
        columns = [column for column in rows[0] if column.endswith(("a second", "1 worker", "2 workers"))]
        series = [(column.removesuffix(", a second"), [row[column] for row in chosen]) for column in columns]
        bars(axes, [row["key"] for row in chosen], series, "signatures a second")
        axes.set_title(f"{digests} digest{'s' * (digests != '1')} a request")
    save(figure, "service")


def million() -> None:
    """The same signature with ten credentials in the store and with a million."""
    rows = table("database | ten")
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    series = [(column, [row[column] for row in rows]) for column in ("ten", "a million")]
    bars(axes, [row["database"] for row in rows], series, "milliseconds a signature")
    axes.set_title("Credentials in the store")
    save(figure, "million")


def save(figure: Figure, name: str) -> None:
    """As SVG without the date."""
    CHARTS.mkdir(exist_ok=True)
    figure.savefig(CHARTS / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """All of them."""
    with mpl.rc_context(STABLE):
        for draw in (signature, service, million):
            draw()


if __name__ == "__main__":
    main()

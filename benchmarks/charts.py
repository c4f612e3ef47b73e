"""One picture for a run of the service's benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot


def draw(result: dict[str, Any], path: Path) -> None:
    """Throughput against the same cycle in process, latencies, and latency against the size of the store."""
    rows = result["throughput"]
    figure, (rates, latencies, sizes) = pyplot.subplots(1, 3, figsize=(16, 5), layout="constrained")
    names = [f"{row['key']}\n{row['digests']} digest{'s' * (row['digests'] > 1)}" for row in rows]
    places = range(len(rows))
    series = (("in process", "in process"), ("1 worker", "1"), ("2 workers", "2"))
    for shift, (label, field) in enumerate(series):
        values = [row[field]["signatures a second"] for row in rows]
        bars = rates.bar([place + (shift - 1) * 0.27 for place in places], values, 0.25, label=label)
        rates.bar_label(bars, fmt="%.0f", fontsize=8)
    rates.set_xticks(list(places), names)
    rates.set_ylabel("signatures a second")
    rates.set_title(f"HTTPS, {result['connections']} clients, {result['machine']}")
    rates.legend()

    for shift, workers in enumerate(("1", "2")):
        for field, marker in (("p50", "o"), ("p99", "^")):
            latencies.plot(
                [place + (shift - 0.5) * 0.2 for place in places],
                [row[workers][field] for row in rows],
                marker,
                label=f"{field}, {workers} worker{'s' * (workers == '2')}",
            )
    latencies.set_xticks(list(places), names)
    latencies.set_yscale("log")
    latencies.set_ylabel("milliseconds a request")
    latencies.set_title("Latency at full load")
    latencies.legend()

    for database, points in result["store"].items():
        sizes.plot(
            [point["credentials"] for point in points],
            [point["milliseconds"] for point in points],
            "o-",
            label=database,
        )
    sizes.set_xscale("log")
    sizes.set_ylim(bottom=0)
    sizes.set_xlabel("credentials in the store")
    sizes.set_ylabel("milliseconds a signature, in process")
    sizes.set_title("Does it grow?")
    sizes.legend()
    figure.savefig(path)
    pyplot.close(figure)

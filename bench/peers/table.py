"""The results as a Markdown table and as plots (SVG, written by hand)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from journal import Journal

BASE = "FastAPI on uvicorn"
_TITLES = {
    "tiny": "Linear 10→1",
    "mlp": "MLP 784-1024-1024-10",
    "cnn": "CNN as large as ResNet-18, 3x224x224",
}
_BAR, _GAP, _LABEL, _WIDTH = 18, 6, 190, 760

Result = Mapping[str, object]


def line(result: Result) -> str:
    """One measurement, for the terminal."""
    return (
        f"{result['peer']:20} {result['model']:5} {result['format']:6} c={result['connections']:<3} "
        f"{result['requests_per_s']:9.1f}/s  p50 {result['p50_ms']:.2f} ms  p99 {result['p99_ms']:.2f} ms  "
        f"cpu {result['cpu_us']:.0f} µs  pss {result['pss_bytes'] / 1e6:.0f} MB  "
        f"failed {result['failures']}  wrong {result['wrong']}/{result['checked']}"
    )


def medians(results: Iterable[Result]) -> dict[tuple[str, str, str, int], dict[str, float]]:
    """The median of each figure over the rounds, by model, format, peer and connections; failures are added up."""
    groups: dict[tuple[str, str, str, int], list[Result]] = {}
    for result in results:
        groups.setdefault((result["model"], result["format"], result["peer"], result["connections"]), []).append(result)
    keys = ("requests_per_s", "p50_ms", "p99_ms", "cpu_us", "pss_bytes")
    return {
        group: {
            **{key: statistics.median(each[key] for each in members) for key in keys},
            "failures": sum(member["failures"] + member["wrong"] for member in members),
        }
        for group, members in groups.items()
    }


def write(journal: Journal, output: Path) -> None:
    """Write the table and one plot for each model."""
    facts, found = journal.facts, medians(journal.results)
    lines = [f"# Servers side by side, {facts['date']}", "", f"{facts['machine']}; load average {facts['load']}.", ""]
    rounds = "One round" if journal.rounds == 1 else f"Medians of {journal.rounds} interleaved rounds"
    lines.append(
        f"{rounds}, {facts['workers']} processes with the model; the load's wrk "
        f"has the same cores. In brackets the ratio to {BASE} in the same column. CPU is processor time of all the "
        "server's processes for each request, the model's included; PSS is their memory. Failed counts errors and "
        f"wrong answers of all rounds. While these were taken, others on the host took at most {_stolen(journal):.1%} "
        f"of the processors' time; what lost over 1 % was measured once more. Repeat: `{facts['command']}`."
    )
    for model in dict.fromkeys(key[0] for key in found):
        for format in dict.fromkeys(key[1] for key in found if key[0] == model):
            lines += ["", f"## {_TITLES[model]}, {format}", ""]
            lines += _table({key[2:]: value for key, value in found.items() if key[:2] == (model, format)})
        lines += ["", *_bare(journal, model)]
        output.with_name(f"{output.name}-{model}.svg").write_text(_plot(model, found))
    lines += ["", *(_left_out(each) for each in journal.left_out)]
    output.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))


def _stolen(journal: Journal) -> float:
    return max((result["stolen"] for result in journal.results), default=0.0)


def _bare(journal: Journal, model: str) -> list[str]:
    rates = [each["requests_per_s"] for each in journal.bare if each["model"] == model]
    if not rates:
        return []
    rate = statistics.median(rates)
    return [
        f"The model alone, `model(x)` of one row in {journal.facts['workers']} processes and nothing else: "
        f"{rate:.0f} a second."
        if rate >= 20
        else f"The model alone: {rate:.1f} a second."
    ]


def _left_out(each: Result) -> str:
    return f"Left out from round {each['round'] + 1} on: {each['peer']} with {each['model']} ({each['reason']})."


def _table(found: Mapping[tuple[str, int], Mapping[str, float]]) -> list[str]:
    connections = sorted({key[1] for key in found})
    most = connections[-1]
    heads = [f"requests/s, c={count}" for count in connections] + [f"p99 ms, c={count}" for count in connections]
    lines = ["| server | " + " | ".join(heads) + f" | CPU µs, c={most} | PSS MB | failed |"]
    lines.append("|---" * (len(heads) + 4) + "|")
    for peer in sorted({key[0] for key in found}, key=lambda name: -found[name, most]["requests_per_s"]):
        cells = [_rate(found, peer, count) for count in connections]
        cells += [f"{found[peer, count]['p99_ms']:.1f}" for count in connections]
        last = found[peer, most]
        failures = sum(int(found[peer, count]["failures"]) for count in connections)
        cells += [f"{last['cpu_us']:.0f}", f"{last['pss_bytes'] / 1e6:.0f}", str(failures)]
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return lines


def _rate(found: Mapping[tuple[str, int], Mapping[str, float]], peer: str, count: int) -> str:
    rate = found[peer, count]["requests_per_s"]
    base = found.get((BASE, count))
    shown = f"{rate:.0f}" if rate >= 20 else f"{rate:.1f}"
    return f"{shown} ({rate / base['requests_per_s']:.2f}x)" if base else shown


def _plot(model: str, found: Mapping[tuple[str, str, str, int], Mapping[str, float]]) -> str:
    most = max(key[3] for key in found)
    bars = [
        (f"{peer}, {format}", value["requests_per_s"])
        for (of, format, peer, count), value in found.items()
        if (of, count) == (model, most)
    ]
    bars.sort(key=lambda bar: -bar[1])
    scale = (_WIDTH - _LABEL - 90) / max(rate for _, rate in bars)
    height = 50 + len(bars) * (_BAR + _GAP)
    title = f"{_TITLES[model]}: requests a second, {most} connections"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" role="img" '
        f'font-family="sans-serif" font-size="12" fill="#333">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="24" font-size="15">{escape(title)}</text>',
    ]
    for number, (label, rate) in enumerate(bars):
        y, width = 40 + number * (_BAR + _GAP), max(1.0, rate * scale)
        color = "#2a6f97" if label.startswith("envserve") else "#a9b4bd"
        parts += [
            f'<text x="{_LABEL - 6}" y="{y + 13}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{color}"/>',
            f'<text x="{_LABEL + width + 6:.1f}" y="{y + 13}">{rate:.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"

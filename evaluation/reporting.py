"""Reports of a result: one HTML page that opens offline, and the same as JSON."""

import base64
import html
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..core.files import write_json, write_text
from ..processing import VideoDecodeError
from .measures import LEVEL, Evaluation
from .metrics import is_share
from .pictures import film_strip
from .provenance import software_versions

SHOWN = 20
"""How many of the best and of the worst samples are shown."""


@dataclass(frozen=True)
class Report:
    """
    The contents of a report.

    Attributes:
        title: names benchmark and model.
        task: one of `training.TASKS`.
        evaluation: the numbers, and what was said to each row.
        settings: everything that decided the result, in JSON's types.
        origin: what was measured, by name: `checkpoint`, `checkpoint sha256` (see `provenance.weights_hash`), `split`,
            `split sha256` (`data.rows_digest`), `seed`.
        published: the numbers to compare with, by the metric's name and in its unit.
        headline: the metrics to show first; by default those with a published number, or the first four.
        apart: how the names of metrics begin that have a table of their own, and what is said above it.
    """

    title: str
    task: str
    evaluation: Evaluation
    settings: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    headline: Sequence[str] = ()
    apart: Mapping[str, str] = field(default_factory=dict)

    def metrics_apart(self) -> dict[str, list[str]]:
        """What is said of them -> the names of the metrics that stand apart, if there are some."""
        names = {
            said: [name for name in self.evaluation.metrics if name.startswith(start)]
            for start, said in self.apart.items()
        }
        return {said: of_table for said, of_table in names.items() if of_table}


def write_report(
    folder: str | os.PathLike, report: Report, frames_of: Callable[[str], np.ndarray] | None = None
) -> Path:
    """
    Writes `report.json`, `samples.jsonl` (one line per sample, see `Evaluation.samples`) and `report.html`, a page
    with everything in it.

    Args:
        frames_of: a sample's `video` -> (frames, height, width, 3) uint8, what the model saw; without it, the page has
            no pictures. A video that cannot be read any more is said so.

    Returns:
        The page.
    """
    folder = Path(folder)
    facts = report_facts(report)
    rows = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in report.evaluation.samples)
    page = _page(report, facts, frames_of)
    write_text(folder / "samples.jsonl", rows)
    write_json(folder / "report.json", facts)
    return write_text(folder / "report.html", page)


def report_facts(report: Report) -> dict[str, Any]:
    """What `report.json` holds: each number with its interval, level, and published counterpart; where it is from."""
    evaluation = report.evaluation
    intervals = evaluation.intervals()
    metrics = {
        name: {
            "value": value,
            "interval": list(intervals[name]) if name in intervals else None,
            "published": report.published.get(name),
        }
        for name, value in evaluation.metrics.items()
    }
    unknown = sorted(set(report.published) - set(metrics))
    if unknown:
        raise ValueError(f"Published numbers of {', '.join(unknown)}, but the metrics are {', '.join(metrics)}.")
    return {
        "title": report.title,
        "task": report.task,
        "metrics": metrics,
        "interval_level": LEVEL,
        "samples": len(evaluation.samples),
        "samples_failed": evaluation.failed,
        "notes": dict(evaluation.notes),
        "origin": dict(report.origin),
        "settings": dict(report.settings),
        "software": software_versions(),
    }


def best_and_worst(
    samples: Sequence[Mapping[str, Any]], count: int = SHOWN
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The samples with the highest scores, and the others with the lowest, `count` of either at most."""
    order = sorted(samples, key=lambda sample: -sample["score"])
    best = order[: min(count, (len(order) + 1) // 2)]
    worst = order[len(best) :][::-1][:count]
    return best, worst


STYLE = """
:root { --ink:#1d2330; --dim:#667085; --line:#e4e7ec; --paper:#fff; --ground:#f6f7f9; --violet:#6b3fa0; --soft:#d9cbea;
  --good:#1f7a4d; --bad:#b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink:#e8eaf0; --dim:#98a2b3; --line:#323846; --paper:#1a1e27;
  --ground:#12151c; --violet:#b794f4; --soft:#4a3a66; --good:#5fd19a; --bad:#ff8a80; } }
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--ink); font:15px/1.5 system-ui,"Segoe UI",Roboto,sans-serif }
main { max-width:1180px; margin:0 auto; padding:32px 24px 64px }
h1 { font-size:28px; margin:0 0 4px } h2 { font-size:18px; margin:40px 0 12px }
.dim { color:var(--dim) } .warn { color:var(--bad); font-weight:600 }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(220px,1fr)); gap:14px; margin-top:20px }
.card,.panel { background:var(--paper); border:1px solid var(--line); border-radius:12px; padding:16px }
.card b { display:block; font-size:30px; line-height:1.2; color:var(--violet); font-variant-numeric:tabular-nums }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
td,th { text-align:left; padding:6px 10px; border-bottom:1px solid var(--line); vertical-align:top }
th { font-weight:600; color:var(--dim); font-size:13px } tr:last-child > * { border-bottom:0 }
table.facts th { width:32% }
td.number,th.number { text-align:right; white-space:nowrap } td { overflow-wrap:anywhere }
.two { display:grid; align-items:start; grid-template-columns:repeat(auto-fit,minmax(420px,1fr)); gap:14px }
.sheet { display:grid; grid-template-columns:repeat(auto-fill,minmax(340px,1fr)); gap:14px }
.sample { background:var(--paper); border:1px solid var(--line); border-left:4px solid var(--bad); border-radius:10px;
  padding:12px; font-size:14px } .sample.right { border-left-color:var(--good) }
.sample img { width:100%; display:block; border-radius:6px; margin:0 0 6px; background:#000 }
.sample p { margin:3px 0 } .sample .dim { font-size:12.5px }
svg text { fill:var(--ink); font:12px system-ui,sans-serif } svg .dimmed { fill:var(--dim) }
"""


def _page(report: Report, facts: Mapping[str, Any], frames_of: Callable[[str], np.ndarray] | None) -> str:
    evaluation, metrics = report.evaluation, facts["metrics"]
    failed = f' · <span class="warn">{evaluation.failed} rows could not be read</span>' if evaluation.failed else ""
    headline = list(report.headline) or list(report.published) or list(evaluation.measures)[:4]
    best, worst = best_and_worst(evaluation.samples)
    apart = {said: {name: metrics[name] for name in names} for said, names in report.metrics_apart().items()}
    plain = {name: one for name, one in metrics.items() if not any(name in names for names in apart.values())}
    parts = [
        f"<h1>{_text(report.title)}</h1>",
        f'<div class="dim">{_text(report.task)} · {len(evaluation.samples)} samples{failed}</div>',
        f'<div class="cards">{"".join(_card(name, metrics[name]) for name in headline)}</div>',
        f"<h2>Every number</h2><div class=panel>{_metrics_table(plain)}</div>",
        *(f"<h2>{_text(said)}</h2><div class=panel>{_metrics_table(ones)}</div>" for said, ones in apart.items()),
        f'<p class="dim">Intervals hold {LEVEL:.0%} of the numbers that samples drawn again give (bootstrap; rows of '
        "one video are drawn together). A mark is a published number.</p>",
    ]
    if evaluation.samples:
        scores = [sample["score"] for sample in evaluation.samples]
        parts.append(f"<h2>Scores of the samples</h2><div class=panel>{_histogram(scores)}</div>")
    tables = {"Notes": facts["notes"], "Where it is from": facts["origin"], "Software": facts["software"]}
    panels = "".join(
        f"<div class=panel><b>{name}</b>{_table(values)}</div>" for name, values in tables.items() if values
    )
    parts.append(f'<h2>How it was made</h2><div class="two">{panels}</div>')
    if report.settings:
        parts.append(f"<h2>Settings</h2><div class=panel>{_table(report.settings)}</div>")
    strips = _Strips(frames_of)
    for title, chosen in (("worst", worst), ("best", best)):
        if chosen:
            sheet = "".join(_sample(sample, strips) for sample in chosen)
            parts.append(f'<h2>The {len(chosen)} {title} samples</h2><div class="sheet">{sheet}</div>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(report.title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _number(name: str, value: float) -> str:
    """A share in percent, other numbers with four digits."""
    return f"{100 * value:.1f} %" if is_share(name) else f"{value:.4g}"


def _title(name: str) -> str:
    return _text(name.replace("_", " "))


def _card(name: str, metric: Mapping[str, Any]) -> str:
    lines = []
    if metric["interval"]:
        lines.append(" to ".join(_number(name, end) for end in metric["interval"]))
    if metric["published"] is not None:
        lines.append(f"published: {_number(name, metric['published'])}")
    under = "<br>".join(lines)
    return (
        f'<div class="card"><span class="dim">{_title(name)}</span><b>{_number(name, metric["value"])}</b>'
        f'<span class="dim">{under}</span></div>'
    )


def _metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        "<tr><th>metric</th><th class=number>value</th><th class=number>interval</th><th class=number>published</th>"
        "<th></th></tr>"
    ]
    for name, metric in metrics.items():
        interval = " – ".join(_number(name, end) for end in metric["interval"]) if metric["interval"] else ""
        published = _number(name, metric["published"]) if metric["published"] is not None else ""
        bar = _bar(metric) if is_share(name) else ""
        rows.append(
            f"<tr><td>{_title(name)}</td><td class=number>{_number(name, metric['value'])}</td>"
            f"<td class=number>{interval}</td><td class=number>{published}</td><td>{bar}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _bar(metric: Mapping[str, Any], width: int = 300) -> str:
    """A share on a line from 0 to 1: its interval as a band, the value as a dot, the published number as a mark."""
    drawn = [f'<rect x=0 y=8 width={width} height=4 rx=2 fill="var(--line)"/>']
    if metric["interval"]:
        low, high = (width * end for end in metric["interval"])
        drawn.append(f'<rect x={low:.1f} y=5 width={max(high - low, 1):.1f} height=10 rx=5 fill="var(--soft)"/>')
    drawn.append(f'<circle cx={width * metric["value"]:.1f} cy=10 r=5 fill="var(--violet)"/>')
    if metric["published"] is not None:
        drawn.append(f'<rect x={width * metric["published"] - 1:.1f} y=1 width=2 height=18 fill="var(--ink)"/>')
    return f'<svg width={width + 12} height=20 viewBox="-6 0 {width + 12} 20">{"".join(drawn)}</svg>'


def _histogram(scores: Sequence[float], width: int = 1080, height: int = 150, bins: int = 40) -> str:
    counts, edges = np.histogram(scores, bins=bins)
    step, most = width / bins, max(int(counts.max()), 1)
    bars = "".join(
        f"<rect x={number * step:.1f} y={height - height * count / most:.1f} width={step - 2:.1f} "
        f'height={height * count / most:.1f} rx=2 fill="var(--violet)"><title>{int(count)} samples from '
        f"{edges[number]:.3g} to {edges[number + 1]:.3g}</title></rect>"
        for number, count in enumerate(counts)
    )
    labels = "".join(
        f'<text class=dimmed x={place * width:.0f} y={height + 18} text-anchor="{anchor}">{value:.3g}</text>'
        for place, value, anchor in (
            (0, edges[0], "start"),
            (0.5, (edges[0] + edges[-1]) / 2, "middle"),
            (1, edges[-1], "end"),
        )
    )
    return (
        f'<svg width="100%" viewBox="0 -14 {width} {height + 36}">{bars}{labels}'
        f"<text class=dimmed x=0 y=-3>highest bar: {most} samples</text></svg>"
    )


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{_text(str(name))}</th><td>{_text(value)}</td></tr>" for name, value in values.items())
    return f"<table class=facts>{rows}</table>"


class _Strips:
    """The frames of a video as HTML, each video read once."""

    def __init__(self, frames_of: Callable[[str], np.ndarray] | None):
        self.frames_of = frames_of
        self.done: dict[str, str] = {}

    def __call__(self, video: str) -> str:
        if self.frames_of is None:
            return ""
        if video not in self.done:
            try:
                picture = base64.b64encode(film_strip(self.frames_of(video))).decode()
                self.done[video] = f'<img alt="frames" src="data:image/jpeg;base64,{picture}">'
            except (VideoDecodeError, OSError) as error:
                self.done[video] = f'<p class="warn">no picture: {_text(str(error))}</p>'
        return self.done[video]


def _sample(sample: Mapping[str, Any], strips: _Strips) -> str:
    lines = [strips(sample["video"])]
    if sample.get("question"):
        lines.append(f"<p><b>{_text(sample['question'])}</b></p>")
    found = sample.get("found")
    if found is not None and found != sample["video"]:
        lines.append(f'<p class="dim">found in its place:</p>{strips(found)}')
    elif found is None:
        lines.append(f"<p>said: {_text(sample['prediction'])}</p>")
        if not sample["right"]:
            lines.append(f"<p>truth: {_text(sample['truth'])}</p>")
    name = PurePosixPath(sample["video"]).name
    lines.append(f'<p class="dim">score {sample["score"]:.3g} · row {sample["row"]} · {_text(name)}</p>')
    return f'<div class="sample{" right" if sample["right"] else ""}">{"".join(lines)}</div>'

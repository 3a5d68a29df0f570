"""The parts of a page that need no more than layers, times and pictures: they are of any two models."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from compress.details import Details, Layer
from compress.disagreement import Choice, Disagreement, Disagreements
from compress.html.page import Card, Chart, Made, Section, Table, Thumbnail, shown
from compress.html.pictures import Bar, bars, distributions, end_of_scale
from compress.int8 import Stage
from compress.measure import OutputError
from compress.measurement import Measurement
from compress.report import measurement_rows, percent, quantity, stage_rows
from compress.timing import Latency

THUMBNAIL = 128  # pixels
SMALL = 64  # pictures up to this size are enlarged without blur
BOTH = (("before", "before"), ("after", "after"))
STYLES = ("before", "after", "third")
ENDS = ("input", "output")


def names_of(details: Details) -> Callable[[str], str]:
    """Return what turns the name of a node's first output into what people know the node by."""
    return lambda node: shown(details.names.get(node, node))


def cards(before: Measurement, after: Measurement, error_of: str = "") -> tuple[Card, ...]:
    """Return the figures that matter most, each with what it was."""
    found = []
    counts = (("MACs", "macs", ""), ("parameters", "params", ""), ("file", "file_bytes", "B"))
    for title, name, unit in counts:
        old, new = getattr(before, name), getattr(after, name)
        if old and new is not None:
            said = f"of {quantity(old)}{unit}: {percent(new / old)} left"
            found.append(Card(title, f"{quantity(new)}{unit}", said, min(new / old, 1.0), new > old))
    if (time := after.latency_ms) is not None:
        ratio = time.ratio
        said = f"of the original’s time: {ratio.low:.3f} to {ratio.high:.3f}"
        found.append(Card("latency", f"× {ratio.value:.3f}", said, min(ratio.value, 1.0), time.slower))
    if after.top1 is not None and before.top1 is not None:
        lost = f"{100 * (after.top1 - before.top1):+.1f} points of {percent(before.top1)}"
        found.append(Card("top-1", percent(after.top1), lost, after.top1))
    if after.agreement is not None:
        found.append(Card("agreement", percent(after.agreement), "same class as the original", after.agreement))
    if after.metric is not None and before.metric is not None:
        found.append(Card("metric", f"{after.metric:.4g}", f"of {before.metric:.4g}"))
    if after.agreement is None and after.relative_error is not None:
        found.append(Card("relative error", f"{after.relative_error:.3g}", error_of or "largest of an output"))
    return tuple(found)


def figures(
    before: Measurement,
    after: Measurement,
    text: Sequence[str] = (),
    outputs: Sequence[OutputError] = (),
    tables: Sequence[Table] = (),
    stages: Sequence[Stage] = (),
) -> Section:
    """Return the table of all figures, of more models than two where there are `stages`, and of the outputs' errors."""
    table = Table(("", "before", "after", "change"), measurement_rows(before, after))
    if stages:
        table = Table(("", *(stage.name for stage in stages)), stage_rows(stages))
        text = (*text, *(f"{stage.name}: {stage.said}." for stage in stages if stage.said))
    rows = tuple((shown(each.name), _error(each)) for each in outputs)
    errors = (Table(("output", "relative error"), rows),) if rows else ()
    return Section("figures", "Before and after", tuple(text), tables=(table, *errors, *tables))


def _error(output: OutputError) -> str:
    return shown(output.reason) if output.relative_error is None else f"{output.relative_error:.3g}"


def notes(sentences: Sequence[str]) -> tuple[Section, ...]:
    """Return what was said on the way, whole: no note may be lost."""
    return (Section("notes", "Notes", points=tuple(sentences)),) if sentences else ()


def macs(details: Details) -> tuple[Section, ...]:
    """Return where the multiply-accumulates are, layer by layer."""
    layers = details.layers
    if not layers:
        return ()
    name = names_of(details)
    columns, rows = [], []
    for layer in layers:
        old, new = layer.before or 0, layer.after or 0
        said = f"{name(layer.node)}\n{quantity(old)} → {quantity(new)} MACs"
        columns.append(Bar((("before", old), ("after", new)), said))
        counts = ("–" if count is None else quantity(count) for count in (layer.before, layer.after))
        rows.append((name(layer.node), layer.op_type, *counts, percent(new / old) if old else ""))
    head: tuple[str, ...] = ("layer", "operator", "MACs before", "after", "left")
    if details.followed:
        head = (*head, "error of its input")
        errors = ("" if layer.error is None else f"{100 * layer.error:.3g} %" for layer in layers)
        rows = [(*row, error) for row, error in zip(rows, errors, strict=True)]
    caption = "MACs of each layer in its order: before, and after in front of it"
    picture = bars(columns, caption, quantity)
    table = Table(head, tuple(rows), f"all {len(rows)} layers as a table")
    chart = Chart(picture, caption, BOTH, ENDS)
    return (Section("macs", "Where the MACs went", _most(layers, name), (chart,), (table,)),)


def _most(layers: Sequence[Layer], name: Callable[[str], str]) -> tuple[str, ...]:
    """Say which layer gave most, and how much of all that went came from the five that did."""
    gone = sorted(((layer.before or 0) - (layer.after or 0), layer.node) for layer in layers)[::-1]
    total = sum(lost for lost, _ in gone)
    if total <= 0:
        return ()
    lost, node = gone[0]
    said = f"{quantity(total)} went, most of them at {name(node)}: {quantity(lost)} or {percent(lost / total)}"
    few = sum(lost for lost, _ in gone[:5])
    return (said + (f"; at the five layers that lost most, {percent(few / total)}" if len(gone) > 5 else "") + ".",)


def latency(times: Mapping[str, Latency | None]) -> tuple[Section, ...]:
    """Return how the times of the rounds lie, and what they were taken on; the original is the first, by name."""
    known = [(name, time) for name, time in times.items() if time is not None]
    if len(known) < 2:
        return ()
    charts: tuple[Chart, ...] = ()
    drawn = [(style, name, time.quantiles_ms) for style, (name, time) in zip(STYLES, known, strict=False)]
    if all(quantiles for _, _, quantiles in drawn):
        end = end_of_scale([quantiles for _, _, quantiles in drawn])
        late = float(np.mean([time > end for _, _, quantiles in drawn for time in quantiles]))
        caption = f"times of {known[0][1].rounds} rounds each, in turn; the lines are the medians"
        caption += f"; {percent(late)} of the rounds took longer than is shown" if late else ""
        picture = distributions([(style, quantiles) for style, _, quantiles in drawn], caption)
        legend = tuple((f"ink {style}", name) for style, name, _ in drawn)
        charts = (Chart(picture, caption, legend),)
    head = ("", "p50", "p90", "p99", "mean", "shortest", "variation", "samples/s", "ratio, of runs in turn")
    rows = tuple(
        (
            name,
            *(f"{value:.3g} ms" for value in (each.p50_ms, each.p90_ms, each.p99_ms, each.mean_ms, each.min_ms)),
            percent(each.variation),
            f"{each.samples_per_second:.4g}",
            f"{each.ratio.value:.3f} ({each.ratio.low:.3f} … {each.ratio.high:.3f})",
        )
        for name, each in known
    )
    machine = known[0][1].environment
    threads = f"{machine.threads} thread" + ("s" if machine.threads != 1 else "")
    text = (
        f"ONNX Runtime {machine.onnxruntime}, {machine.provider}, {threads}, on {machine.cpu}. A ratio is to the first"
        f" model in the same round, by the {machine.clock} clock, with its 95 % confidence; the times are what a user"
        " waits.",
    )
    return (Section("latency", "Latency", text, charts, (Table(head, rows),)),)


def disagreements(found: Disagreements | None) -> tuple[Section, ...]:
    """Return the pictures on which the two models disagree."""
    if found is None:
        return ()
    if not found.count:
        text = f"The two models choose the same class on all {found.samples} pictures."
    else:
        text = f"On {found.count} of {found.samples} pictures the two models choose different classes."
        if found.count > len(found.shown):
            text += f" These are the {len(found.shown)} of which the original was surest."
    thumbnails = tuple(map(_thumbnail, found.shown))
    return (Section("pictures", "Where they disagree", (text,), thumbnails=thumbnails),)


def _thumbnail(found: Disagreement) -> Thumbnail:
    height, width, channels = found.picture.shape
    seen = found.picture if channels in (3, 4) else found.picture[..., 0]  # of bands that are no colours, the first
    image = Image.fromarray(seen)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    image.save(content, format="PNG")
    address = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")
    lines = [("before", _choice(found.original, found.label)), ("after", _choice(found.other, found.label))]
    if found.label is not None:
        lines.append(("label", f"class {found.label}"))
    alternative = f"sample {found.sample}: before {lines[0][1]}, after {lines[1][1]}"
    return Thumbnail(address, alternative, tuple(lines), max(height, width) <= SMALL)


def _choice(choice: Choice, label: int | None) -> str:
    right = " ✓" if choice.number == label else ""
    return f"class {choice.number}{right} ({100 * choice.probability:.0f} %)"


def how(made: Made, facts: Mapping[str, str], seconds: Mapping[str, float]) -> Section:
    """Return the command, the versions and whatever else is needed to do it again."""
    rows = (*facts.items(), *made.versions)
    tables = [Table(("", ""), rows)]
    if seconds:
        spent = tuple((stage, f"{time:.1f} s") for stage, time in seconds.items())
        tables.append(Table(("stage", "time"), spent, f"{sum(seconds.values()):.0f} s, by stage"))
    return Section("how", "How it was made", tables=tuple(tables), code=made.command)

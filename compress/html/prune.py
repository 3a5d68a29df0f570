"""The page of `compress prune`: what was asked and reached, and where it came from."""

from collections.abc import Callable, Sequence
from pathlib import PurePath

from compress.conclusion import verdicts_of
from compress.details import Details
from compress.drop import Drop
from compress.html.page import Chart, Made, Page, Section, Table, shown
from compress.html.pictures import Bar, Series, bars, errors
from compress.html.sections import (
    BOTH,
    ENDS,
    cards,
    disagreements,
    figures,
    how,
    latency,
    macs,
    names_of,
    notes,
)
from compress.repair import Repair
from compress.report import Report, Width, percent, refined
from compress.timing import Latency
from graph.channels import Frozen

NAMED = 40  # nodes with one and the same reason
EXACT = 1e-8  # shares of variance below this are rounding

Names = Callable[[str], str]


def page_of(report: Report, details: Details, made: Made) -> Page:
    """Return the page of a run."""
    name, (after, outputs) = names_of(details), report.shipped
    return Page(
        kind="compress prune",
        title=shown(PurePath(report.model).name),
        subtitle=shown(PurePath(report.output or "").name),
        verdicts=verdicts_of(report),
        cards=cards(report.before, after),
        sections=(
            figures(report.before, after, _measured_on(report), outputs, _tried(report.drop), report.stages),
            *_widths(report.widths),
            *macs(details),
            *_losses(report, details),
            *_travel(report.repairs, details, name),
            *latency(_times(report)),
            *disagreements(details.disagreements),
            *_left_alone(report, name),
            *notes(report.notes),
            how(made, _facts(report), report.seconds),
        ),
    )


def _tried(drop: Drop | None) -> tuple[Table, ...]:
    if drop is None:
        return ()
    rows = (
        (str(number), percent(each.macs), f"{each.drop:.4f}", "passed" if each.passed else "failed")
        for number, each in enumerate(drop.candidates, 1)
    )
    return (Table(("candidate", "MACs left", "drop", ""), tuple(rows), f"{drop.sentence()}: what was tried"),)


def _measured_on(report: Report) -> tuple[str, ...]:
    refinement = () if report.refinement is None else (refined(report.refinement, report.closed_form),)
    said = (report.measured_on, report.used_for, *refinement)
    return tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said if sentence)


def _times(report: Report) -> dict[str, Latency | None]:
    """Return the latency of the original, of the pruned model, and of what was made of that: it is drawn third."""
    if not report.stages:
        return {"before": report.before.latency_ms, "after": report.after.latency_ms}
    found = {stage.name: None if stage.figures is None else stage.figures.latency_ms for stage in report.stages}
    first, second, *middle, last = found
    return {name: found[name] for name in (first, second, last, *middle)}


def _widths(widths: Sequence[Width]) -> tuple[Section, ...]:
    """Return how many channels each group has and had."""
    if not widths:
        return ()
    cut = sum(width.after < width.before for width in widths)
    before, after = (sum(sizes) for sizes in zip(*((each.before, each.after) for each in widths), strict=True))
    text = (
        f"{cut} of {len(widths)} groups lost channels; of {before:,} channels {after:,} are left. A group is what has"
        " to be cut together, because one number stands for the same channel in all of its layers."
    )
    columns = [
        Bar((("before", each.before), ("after", each.after)), f"{shown(each.group)}\n{each.before} → {each.after}")
        for each in widths
    ]
    rows = tuple(
        (shown(each.group), str(each.before), str(each.after), percent(each.after / each.before)) for each in widths
    )
    caption = "channels of each group in the order of the network: before, and after in front of it"
    return (
        Section(
            "widths",
            "Widths",
            (text,),
            (Chart(bars(columns, caption, "{:g}".format), caption, BOTH, ENDS),),
            (Table(("group", "before", "after", "kept"), rows, f"all {len(rows)} groups as a table"),),
        ),
    )


def _losses(report: Report, details: Details) -> tuple[Section, ...]:
    """Return what each group's cut was expected to cost."""
    losses = {width.group: details.losses.get(width.group, 0.0) for width in report.widths}
    if not any(losses.values()):
        return ()
    unit = "of the values that read it" if report.search == "uniform" else "of the network’s outputs"
    text = (
        f"What the search went by: the squared error {unit}, as a share of their variance, when this group alone is"
        " cut to its new width and what reads it is fitted again."
    )
    columns = [Bar((("third", loss),), f"{shown(group)}\n{_small(loss)}") for group, loss in losses.items()]
    rows = tuple((shown(group), _small(loss)) for group, loss in losses.items())
    caption = "expected loss of each group, in the order of the network"
    return (
        Section(
            "loss",
            "What each cut was expected to cost",
            (text,),
            (Chart(bars(columns, caption, _small), caption, (), ENDS),),
            (Table(("group", "expected loss"), rows, f"all {len(rows)} groups as a table"),),
        ),
    )


def _travel(repairs: Sequence[Repair], details: Details, name: Names) -> tuple[Section, ...]:
    """Return how the error goes through the network: at each repair, and in what each layer reads at the end."""
    charts, tables = [], []
    if repairs:
        pairs = [tuple(error if error > EXACT else None for error in (r.slice_error, r.error)) for r in repairs]
        said = [f"{name(r.node)}\n{_small(r.slice_error)} → {_small(r.error)}" for r in repairs]
        caption = "error of each layer that was fitted again, in order: with the weights as they were, and refitted"
        series = [
            Series(style, column) for style, column in zip(("before", "after"), zip(*pairs, strict=True), strict=True)
        ]
        legend = (("ink before", "weights as they were"), ("after", "refitted"))
        charts.append(Chart(errors(series, said, caption), caption, legend, ENDS))
        rows = tuple(
            (name(r.node), _small(r.slice_error), _small(r.error), "–" if r.ridge is None else f"{r.ridge:g}", r.note)
            for r in repairs
        )
        head = ("layer", "as it was", "refitted", "ridge", "")
        tables.append(Table(head, rows, f"all {len(rows)} repairs as a table"))
    read = [(name(layer.node), layer.error) for layer in details.layers]
    if any(error for _, error in read):
        caption = "how far what each layer reads is from the original’s, in the finished model"
        said = [f"{node}\n{'unknown' if error is None else _small(error)}" for node, error in read]
        drawn = errors([Series("third", [error for _, error in read])], said, caption)
        charts.append(Chart(drawn, caption, (), ENDS))
    if not charts:
        return ()
    text = (
        "The layers were fitted again one after another, from the input on, so that each makes good what the ones"
        " before it have lost. The first picture shows squared errors as shares of the variance, on samples kept apart"
        f" from the fit; the second, relative errors in the end, on {details.followed} samples of this report.",
    )
    return (Section("errors", "How the error travels", text if repairs else (), tuple(charts), tuple(tables)),)


def _left_alone(report: Report, name: Names) -> tuple[Section, ...]:
    """Return what kept its channels, by reason, and what is not in the MACs."""
    by_reason: dict[tuple[str, str], list[Frozen]] = {}
    for each in report.frozen:
        by_reason.setdefault((each.op_type, each.reason), []).append(each)
    rows = tuple((op, str(len(nodes)), shown(reason), _named(nodes, name)) for (op, reason), nodes in by_reason.items())
    whole = [shown(width.group) for width in report.widths if width.after == width.before]
    points = [f"These groups could have lost channels and lost none: {', '.join(whole)}."] if whole else []
    if report.uncounted:
        counts = ", ".join(f"{count} × {op_type}" for op_type, count in report.uncounted.items())
        points.append(f"Not in the MACs, for want of a formula: {counts}.")
    if not rows and not points:
        return ()
    tables = (Table(("operator", "nodes", "reason", "names"), rows),) if rows else ()
    return (Section("left", "What was left alone, and why", tables=tables, points=tuple(points)),)


def _named(nodes: Sequence[Frozen], name: Names) -> str:
    names = ", ".join(name(each.node) for each in nodes[:NAMED])
    return names if len(nodes) <= NAMED else f"{names} and {len(nodes) - NAMED} more"


def _facts(report: Report) -> dict[str, str]:
    samples = ", ".join(f"{count} {use}" for use, count in report.samples.items())
    facts = {
        "model": report.model,
        "written to": report.output or "–",
        "data": report.data,
        "samples": samples,
        "seed": str(report.seed),
        "search": report.search,
        "criterion": report.criterion,
        "compensation": report.compensation,
    }
    if report.law is not None:
        facts["self-check"] = f"outputs within {report.law.relative_difference:.1e} of the masked original"
    return {title: shown(text) for title, text in facts.items() if text}


def _small(value: float) -> str:
    return "0" if value < EXACT else f"{100 * value:.3g} %"

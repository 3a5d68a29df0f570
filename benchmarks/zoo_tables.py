"""The tables of benchmarks/zoo.py in Markdown."""

from collections import Counter
from typing import Any

CHECKS = ("checker", "runs", "interface")
NEAR = 0.02  # shares of MACs that count as the same target

Row = dict[str, Any]


def our_table(rows: list[Row]) -> list[str]:
    """Write what happened to each model."""
    head = "model | opset | nodes (operators) | groups | prunable | frozen | MACs | error | analysis s | whole s"
    lines = [f"| {head} | GiB | law | bridge | checks |", "|---" * 14 + "|"]
    for row in rows:
        seen, done, torch = row["look"], row["prune"], row["bridge"]
        cells = [
            row["model"],
            show(seen.get("opset"), "d"),
            f"{show(seen.get('nodes'), 'd')} ({show(seen.get('operators'), 'd')})",
            show(seen.get("groups"), "d"),
            show(seen.get("prunable"), ".3f"),
            frozen(seen),
            show(done.get("share"), ".3f") if "share" in done else refusal(done),
            show(done.get("error"), ".2g"),
            show(seen.get("analysis_seconds"), ".1f"),
            show(done.get("seconds"), ".0f"),
            show(done.get("peak_gib"), ".2f"),
            show(done.get("law"), ".0e"),
            f"{show(torch.get('bridge'), '.0e')} ({show(torch.get('fallbacks'), 'd')})"
            if "bridge" in torch
            else refusal(torch),
            checks(row.get("checks")),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def their_table(rows: list[Row], name: str = "onnxsim") -> list[str]:
    """Write the rival's results beside ours."""
    head = f"model | our MACs | {name}'s MACs | {name}'s result | {name}'s checks | {name}'s error"
    lines = [f"| {head} | our error at its MACs or fewer | ahead |", "|---" * 8 + "|"]
    for row in rows:
        rival, done = row["rival"], row["prune"]
        same = (rival.get("ours_again") or done).get("error")
        cells = [
            row["model"],
            show(done.get("share"), ".3f") if "share" in done else refusal(done),
            show(rival.get("share"), ".3f"),
            rival["result"] + ("" if rival["result"] in ("equal", "no effect") else f": {rival.get('why', '')[:80]}"),
            checks(rival.get("checks")),
            show(rival.get("error"), ".2g"),
            show(same, ".2g"),
            ahead(row, same),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def ahead(row: Row, same: float | None) -> str:
    """Say in what we are ahead: the rival fails, or keeps more MACs than the target, or has the larger error."""
    rival, done = row["rival"], row["prune"]
    if rival["result"] not in ("equal", "not decidable"):
        return "yes" if "share" in done else "neither"
    if "share" not in done and rival["share"] < 1 - (row["look"].get("prunable") or 0):
        return "no: reaches fewer MACs"
    theirs = rival.get("error")
    if theirs is not None and same is not None:
        if same > theirs:
            return "no: larger error"
        return "yes: error" + (" and MACs" if "share" in done and rival["share"] > done["share"] + NEAR else "")
    return "yes: MACs" if "share" in done and rival["share"] > done["share"] + NEAR else "not decided"


def frozen(seen: Row) -> str:
    """Return how many nodes were left alone and the two most frequent reasons."""
    reasons = Counter(reason[:90] + ("…" if len(reason) > 90 else "") for reason in seen.get("frozen", []))
    return "; ".join([str(reasons.total()), *(f"{count} × {reason}" for reason, count in reasons.most_common(2))])


def refusal(done: Row) -> str:
    """Return the exit code and the sentence of a step that made nothing."""
    if "crash" in done:
        return f"CRASH {done['crash'][:120]}"
    return f"exit {done.get('exit')}: {done.get('sentence', '')[:160]}"


def checks(done: Row | None) -> str:
    """Return ok, or what is not."""
    if done is None:
        return "—"
    if "crash" in done:
        return f"CRASH {done['crash'][:80]}"
    return "; ".join(f"{name}: {done[name][:80]}" for name in CHECKS if done[name] is not True) or "ok"


def show(value: float | None, form: str) -> str:
    """Format a number, a dash where there is none."""
    return "—" if value is None else format(value, form)

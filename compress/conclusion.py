"""How a command ends where something was asked for: PASSED or FAILED, for a person, a script and a pipeline."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from compress import markdown
from compress.files import same_file, write_file
from compress.gates import Verdict
from compress.measurement import Measurement
from compress.report import Report, measurement_rows, print_notes, printable
from compress.targets import METRICS

SUMMARY = "GITHUB_STEP_SUMMARY"  # names the file that GitHub shows on the page of a run; each step adds to it


@dataclass(frozen=True)
class Conclusion:
    """What a command found: `subject` says of which models, the measurements are None where there is no result."""

    command: str
    subject: str
    verdicts: tuple[Verdict, ...]
    before: Measurement | None = None
    after: Measurement | None = None

    @property
    def missed(self) -> tuple[Verdict, ...]:
        """The verdicts on what was not met."""
        return tuple(verdict for verdict in self.verdicts if not verdict.met)

    @property
    def line(self) -> str:
        """PASSED or FAILED and of what; "" where nothing was asked."""
        if not self.verdicts:
            return ""
        total, missed = len(self.verdicts), self.missed
        if not missed:
            return f"PASSED: {total} of {total} met"
        return f"FAILED: {len(missed)} of {total} missed: {', '.join(verdict.name for verdict in missed)}"


def concluded(conclusion: Conclusion, junit: Path | None, summary: Path | None) -> int:
    """Write what was asked for, say what was missed, and return the exit code. Raises OptionError for a file."""
    if junit is not None:
        write_file(junit_xml(conclusion), junit)
    text, added = job_summary(conclusion), os.environ.get(SUMMARY)
    if summary is not None and not (added and same_file(summary, Path(added))):
        write_file(text.encode(), summary)
    if added:
        _append(f"\n{text}", added)
    for verdict in conclusion.missed:
        print(printable(f"compress: {verdict.kind} missed: {verdict.sentence}"), file=sys.stderr)
    if conclusion.line:
        print(conclusion.line)
    return int(bool(conclusion.missed))


def verdicts_of(report: Report) -> tuple[Verdict, ...]:
    """Return the verdicts on the targets of a run, on the drop that was allowed, and on its gates."""
    targets = tuple(
        Verdict(
            METRICS[target.metric].option.removeprefix("--"),
            "target",
            target.limit,
            target.reached,
            target.met,
            "{}, asked for at most {}".format(*map(METRICS[target.metric].written, (target.reached, target.limit))),
        )
        for target in report.targets
    )
    drop = report.drop
    if drop is None:
        return targets + report.gates
    said = f"{drop.judged} fell by {drop.lost:.6g} on {drop.samples} samples, asked for at most {drop.max_drop:g}"
    return (*targets, Verdict("max-drop", "target", drop.max_drop, drop.lost, True, said), *report.gates)


def out_of_reach(reason: str) -> tuple[Verdict, ...]:
    """Return the verdict where no model was made."""
    return (Verdict("target", "target", 0.0, None, False, reason),)


def junit_xml(conclusion: Conclusion) -> bytes:
    """Return one test case for each verdict, as JUnit XML; control characters, which XML lacks, are written out."""
    counts = {"tests": len(conclusion.verdicts), "failures": len(conclusion.missed), "errors": 0, "skipped": 0}
    numbers = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", {"name": "compress", **numbers})
    suite = ElementTree.SubElement(root, "testsuite", {"name": f"compress {conclusion.command}", **numbers})
    subject = printable(conclusion.subject)
    for verdict in conclusion.verdicts:
        case = ElementTree.SubElement(suite, "testcase", {"classname": subject, "name": verdict.name})
        said = printable(verdict.sentence)
        if verdict.met:
            ElementTree.SubElement(case, "system-out").text = said
        else:
            failure = ElementTree.SubElement(case, "failure", {"message": said, "type": verdict.kind})
            failure.text = said
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def job_summary(conclusion: Conclusion) -> str:
    """Return the verdicts, and what was measured of either model, as Markdown."""
    line = conclusion.line.partition(":")[0]
    parts = [f"### compress {conclusion.command}{line and f': {line}'}\n\n{_escaped(conclusion.subject)}\n"]
    if conclusion.verdicts:
        parts.append(markdown.table(("asked", "", ""), _verdict_rows(conclusion.verdicts), figures_from=3))
    if conclusion.before is not None and conclusion.after is not None:
        rows = measurement_rows(conclusion.before, conclusion.after)
        parts.append(markdown.table(("", "before", "after", "change"), rows))
    return "\n".join(parts)


def _verdict_rows(verdicts: Sequence[Verdict]) -> list[tuple[str, str, str]]:
    return [(each.name, "met" if each.met else "MISSED", printable(each.sentence)) for each in verdicts]


def _escaped(text: str) -> str:
    return markdown.escaped(printable(text))


def _append(text: str, path: str) -> None:
    """Add to the summary of a step; nobody asked for it, so that it costs a note where that cannot be."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        print_notes([f"{SUMMARY}: {path} cannot be added to: {error.strerror or error}"])

"""A page as data, and how it is set: one file with its style and its pictures inside, and nothing from elsewhere.

Whatever is text is escaped as the template is filled in; only pictures are markup, and they come from
`compress.html.pictures`. The same page is the same bytes.
"""

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from compress.files import write_file
from compress.gates import Verdict
from compress.html.pictures import Picture
from compress.report import printable

PACKAGES = ("compress-onnx", "onnx", "onnxruntime", "torch")
LONGEST_NAME = 120


@dataclass(frozen=True)
class Card:
    """One figure in large print; `share` of the bar below it is left of what was, `bad` is red."""

    title: str
    value: str
    said: str
    share: float | None = None
    bad: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first cell of a row is its heading. With a `summary` it is folded away under that."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    summary: str = ""
    bad: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Chart:
    """A picture with its caption, the colours of its legend by class, and what its two ends are."""

    picture: Picture
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    ends: tuple[str, str] | None = None


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data: address, what is said below it, and what stands for it where it cannot be seen."""

    address: str
    alternative: str
    lines: tuple[tuple[str, str], ...]
    small: bool


@dataclass(frozen=True)
class Section:
    """A part of the page under a title; `anchor` is its address within the page, `code` what was typed."""

    anchor: str
    title: str
    text: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    thumbnails: tuple[Thumbnail, ...] = ()
    points: tuple[str, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Made:
    """How a page came about: the command line, and the versions of what took part."""

    command: str
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """All that is on a page: the kind of run, the models, the verdicts on what was asked, and the figures."""

    kind: str
    title: str
    subtitle: str
    verdicts: tuple[Verdict, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]

    @property
    def met(self) -> bool:
        """Whether all that was asked was reached."""
        return all(verdict.met for verdict in self.verdicts)

    @property
    def verdict(self) -> str:
        """What came of all that was asked, in short; "" where nothing was."""
        total, missed = len(self.verdicts), sum(not verdict.met for verdict in self.verdicts)
        if total < 2:
            return "" if not total else "missed" if missed else "reached"
        return f"{missed} of {total} missed" if missed else f"all {total} reached"


def made(arguments: Sequence[str]) -> Made:
    """Return how this process came to make a page; `arguments` are those of `compress`."""
    versions = [(package, version(package)) for package in PACKAGES]
    return Made(shlex.join(["compress", *arguments]), (*versions, ("python", platform.python_version())))


def shown(name: str) -> str:
    """Return a name from a model without what cannot be seen, and the middle of one that has no end."""
    visible = printable(name)
    if len(visible) <= LONGEST_NAME:
        return visible
    return f"{visible[: LONGEST_NAME // 2]} … {visible[-LONGEST_NAME // 2 :]}"


def rendered(page: Page) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("compress.html", "."),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = lambda picture: Markup(picture.svg)  # ElementTree has escaped it
    return environment.get_template("page.html.j2").render(page=page)


def _visible(value: object) -> object:
    """Write out what cannot be seen in any text: a file cannot hold all that a name can."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def write_page(page: Page, path: Path) -> None:
    """Write the page in one piece. Raises OptionError where that is not possible."""
    write_file(rendered(page).encode("utf-8"), path)

"""Tables in Markdown, of any text."""

from collections.abc import Iterable, Sequence

_MEANINGFUL = str.maketrans({mark: f"\\{mark}" for mark in "\\|<>&`*[]"})


def escaped(text: str) -> str:
    """Return text as Markdown that shows it as it is: a name in a model must not be a link or a picture."""
    return text.translate(_MEANINGFUL)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], figures_from: int = 1) -> str:
    """Return a table of one-line texts; the columns from `figures_from` on are aligned to the right."""
    rule = ["---:" if column >= figures_from else "---" for column in range(len(titles))]
    lines = ([*map(escaped, titles)], rule, *([*map(escaped, row)] for row in rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

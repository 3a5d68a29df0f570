"""What the pages of the project show: their fenced blocks, and the command lines in them."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from compress.cli import compress

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page that are of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def command_lines(text: str) -> list[list[str]]:
    """Return the words of every line that calls `compress`, without that; comments go, lines that go on are joined."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("compress ")]
    return [each[1:] for each in words]


def understood(words: Sequence[str]) -> None:
    """Raise click's UsageError where our command line would not take these words."""
    name, *arguments = words
    compress.commands[name].make_context(name, list(arguments), parent=click.Context(compress))

"""README.md keeps up with the code: its options, its exit codes, its example in Python."""

import re

import pytest
from markdown_blocks import README, blocks, command_lines, understood

import compress as package
from compress import cli
from compress.cli import compress


@pytest.mark.parametrize("command", ["bench", "prune", "sweep"])
def test_every_option_is_explained(command: str) -> None:
    options = {name for parameter in compress.commands[command].params for name in parameter.opts if name[:2] == "--"}
    assert options - {"--help"} <= set(re.findall(r"--[a-z0-9-]+", README))


@pytest.mark.parametrize("words", command_lines(README), ids=" ".join)
def test_every_command_line_is_understood(words: list[str]) -> None:
    understood(words)


def test_exit_codes_are_those_of_the_command_line() -> None:
    in_readme = re.findall(r"^\| ([0-9]+) \| (.+?)[ ]*\|$", README, re.MULTILINE)
    in_code = re.findall(r"^([0-9]+) +(.+)$", str(cli.__doc__), re.MULTILINE)
    assert [code for code, _ in in_readme] == [code for code, _ in in_code] == ["0", "1", "2", "3", "4", "130"]
    assert dict(in_readme)["2"] == dict(in_code)["2"]


def test_the_example_in_python_uses_names_that_there_are() -> None:
    for example in blocks(README, "python"):
        compile(example, "README.md", "exec")
        assert set(re.findall(r"\bcompress\.(\w+)", example)) <= set(package.__all__)

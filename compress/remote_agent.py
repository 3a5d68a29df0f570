"""What runs on a board while something is measured there: it takes files in, runs Python with them, sends the result.

`compress/remote.py` sends this file over ssh as text, followed by a call of `main`: the standard library alone, nothing
of this project, Python 3.9 or later. What it says are lines of JSON after a mark, for a login shell may print, too:

    {"ready": true}             it has what is needed: now the bytes of the files are read from stdin
    {"alive": true}             every few seconds
    {"step": true}              the program printed a line of that word
    {"failed": …, "code": …}    a sentence, and the exit code of the program
    {"result": …}               the text of the file that the program wrote

Everything lies in one folder of its own, and is gone before the last word is said; so it is too when the connection
closes or nothing was heard for a while (the workstation sends a byte every few seconds), and on a signal. Signals only
leave a note, which is read between two steps: so nothing can be interrupted half-way, not even the removing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

MARK = "compress-agent "
STEP = b"step"
NEEDED = ("numpy", "onnxruntime")
MOST_ANSWER = 2**26  # bytes
_CHUNK = 2**20
_TAIL = 2**12  # bytes kept of what a program says


class Cut(Exception):
    """Nobody is at the other end any more, or the system wants this process to end."""


class Failed(Exception):
    """Something cannot be done: a sentence, and the exit code of the program where it was one that ended."""

    def __init__(self, sentence: str, code: int | None = None) -> None:
        """Say what, and the exit code."""
        super().__init__(sentence)
        self.code = code


class Link:
    """The connection to the workstation: bytes from it, messages to it."""

    def __init__(self, beat_s: float) -> None:
        """Take notes of signals from now on; something is said every `beat_s`."""
        self._beat_s, self._silence_s = beat_s, float("inf")
        self._heard = self._said = time.monotonic()
        self._signalled = False
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, *_: object) -> None:
        self._signalled = True

    def listen(self, silence_s: float) -> None:
        """Expect to hear something every `silence_s` from now on: the workstation has its turn."""
        self._heard, self._silence_s = time.monotonic(), silence_s

    def say(self, **message: Any) -> None:
        """Send a message. Raises Cut where nobody takes it."""
        line = memoryview((MARK + json.dumps(message) + "\n").encode())
        self._said = time.monotonic()
        try:
            while line:
                line = line[os.write(1, line) :]
        except OSError as error:
            raise Cut from error

    def wait(self, *others: IO[bytes]) -> list[Any]:
        """Wait for the workstation (0) or others to have something to read, for some seconds; return which have.

        Raises Cut after a signal, and where nothing was heard for long.
        """
        watched: list[Any] = [0, *others]
        readable = select.select(watched, [], [], self._beat_s)[0]
        now = time.monotonic()
        if 0 in readable:
            self._heard = now
        if self._signalled or now - self._heard > self._silence_s:
            raise Cut
        if now - self._said >= self._beat_s:
            self.say(alive=True)
        return readable

    def read(self, most: int) -> bytes:
        """Return the next bytes, at most so many and one at least. Raises Cut where there will be none."""
        while 0 not in self.wait():
            pass
        found = os.read(0, most)
        if not found:
            raise Cut
        return found


def main(request: Mapping[str, Any]) -> None:
    """Do what is asked: {"files": {name: bytes}, "arguments": […], "result": name} and the times of `remote.py`."""
    link = Link(request["beat_s"])
    folder = ""
    try:
        folder = os.path.join(tempfile.gettempdir(), "compress-" + secrets.token_hex(8))
        answer: dict[str, Any] = {"result": _measured(link, request, folder)}
    except Cut:
        return
    except Failed as error:
        answer = {"failed": str(error), "code": error.code}
    except OSError as error:
        answer = {"failed": f"{error.filename or folder or 'temporary files'}: {error.strerror}", "code": None}
    finally:
        _remove(folder)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process: the rest may find no reader
    signal.alarm(int(request["silence_s"]) + 1)
    link.say(**answer)


def _measured(link: Link, request: Mapping[str, Any], folder: str) -> str:
    os.mkdir(folder, 0o700)
    _check(link, folder)
    link.listen(request["silence_s"])
    _receive(link, request["files"], folder)
    code, said = _run(link, request["arguments"], folder, request["limit_s"])
    if code:
        raise Failed(said or _ending(code), code)
    path = os.path.join(folder, request["result"])
    if os.path.getsize(path) > MOST_ANSWER:
        raise Failed(f"the result is larger than {MOST_ANSWER:,} bytes")
    with open(path, encoding="utf-8") as file:
        return file.read()


def _check(link: Link, folder: str) -> None:
    """Raise Failed where the packages are missing, or there but broken."""
    missing = " ".join(name for name in NEEDED if importlib.util.find_spec(name) is None)
    if missing:
        raise Failed(
            f"{sys.executable} there has no {missing.replace(' ', ' and no ')}: install it there with"
            f" {sys.executable} -m pip install {missing}"
        )
    code, said = _run(link, ["-c", f"import {', '.join(NEEDED)}"], folder, 600.0)
    if code:
        raise Failed(f"{sys.executable} there cannot import {' and '.join(NEEDED)}: {said or _ending(code)}")


def _receive(link: Link, files: Mapping[str, int], folder: str) -> None:
    """Write the files that come in, where there is room for them."""
    free, needed = shutil.disk_usage(folder).free, sum(files.values())
    if free < needed:
        raise Failed(f"{needed:,} bytes do not fit in {os.path.dirname(folder)}: {free:,} are free ($TMPDIR moves it)")
    link.say(ready=True)
    for name, size in files.items():
        try:
            with open(os.path.join(folder, name), "wb") as file:
                while size:
                    chunk = link.read(min(size, _CHUNK))
                    file.write(chunk)
                    size -= len(chunk)
        except OSError as error:
            raise Failed(f"{name} cannot be written to {folder}: {error.strerror}") from error


def _run(link: Link, arguments: Sequence[str], folder: str, limit_s: float) -> tuple[int, str]:
    """Run Python in the folder; return its exit code, and the last line that it said. Raises Failed after `limit_s`."""
    own = {"TMPDIR": folder, "ORT_DISABLE_TELEMETRY": os.environ.get("ORT_DISABLE_TELEMETRY", "1")}
    end, last, rest = time.monotonic() + limit_s, b"", b""
    program = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a group of its own, to be ended with all that it started
    )
    assert program.stdout is not None
    try:
        while True:
            readable = link.wait(program.stdout)
            if 0 in readable:
                link.read(_CHUNK)  # what shows that somebody is there
            if program.stdout in readable:
                said = os.read(program.stdout.fileno(), _CHUNK)
                if not said:
                    break
                *lines, rest = (rest[-_TAIL:] + said).split(b"\n")
                for line in filter(None, lines):
                    if line == STEP:
                        link.say(step=True)
                    last = line
            if time.monotonic() > end:
                raise Failed(f"it was stopped after {limit_s:g} s")
        return program.wait(), (rest or last)[-_TAIL:].decode(errors="replace").strip()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        program.stdout.close()


def _ending(code: int) -> str:
    """Say how a program ended that said nothing."""
    if code == -signal.SIGKILL:
        return "it was killed, as the system does where memory runs out"
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"


def _remove(folder: str) -> None:
    """Remove the folder; what was killed a moment ago may still be writing to it."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.1)

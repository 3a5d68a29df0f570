"""Measuring on another machine, over the system's own ssh: nothing is installed there, and nothing stays.

One connection does it all. Its command is python3, which reads `remote_agent.py` from stdin and becomes that: it checks
that numpy and ONNX Runtime are there, takes the files, runs Python with them, and sends what that wrote. Either side
tells the other every few seconds that it is there, so that a link that was cut is found out on both. Whatever ssh needs
(user, port, key, proxy) stands in ~/.ssh/config, or in user@host and ssh://user@host:port as ssh takes them.
"""

import asyncio
import json
import shlex
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from compress.errors import OptionError
from compress.remote_agent import MARK, MOST_ANSWER
from graph.errors import ModelError

CONNECT_S = 10
LONGEST_S = 3600.0  # for a program on the board: what takes longer is taken to be stuck
BEAT_S = 5.0
SILENCE_S = 60.0  # after which nobody is at the other end any more
REFUSED = 3  # the exit code of a program whose model ONNX Runtime does not run, as in onboard.py
_CHUNK = 2**20
_GOING_S = 5.0  # for ssh to end by itself
_OPTIONS = (
    "BatchMode=yes",  # never a question
    f"ConnectTimeout={CONNECT_S}",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=6",
    "ControlMaster=no",  # an open connection is used, but none stays in the background
    "ClearAllForwardings=yes",
    "LogLevel=ERROR",
)


@dataclass(frozen=True)
class Host:
    """A machine as ssh takes it (user@board, ssh://user@board:port, a name of ~/.ssh/config), and its Python."""

    destination: str
    python: str = "python3"

    def __post_init__(self) -> None:
        """Raise OptionError for what cannot be either."""
        for what in (self.destination, self.python):
            if not what.strip() or what.startswith("-") or not what.isprintable():
                raise OptionError(
                    f"{what!r} is no machine, or no Python on it: give user@board, or ssh://user@board:port"
                )

    def command(self, agent: bytes) -> tuple[str, ...]:
        """Return the command line that runs an agent there once its bytes are written to it."""
        old = 'sys.exit(sys.executable + " is Python " + sys.version.split()[0] + ", not 3.9 or later")'
        code = f"import sys; sys.version_info >= (3, 9) or {old}; exec(sys.stdin.buffer.read({len(agent)}))"
        options = [word for option in _OPTIONS for word in ("-o", option)]
        return ("ssh", "-T", *options, "--", self.destination, f"{shlex.quote(self.python)} -c '{code}'")


@dataclass(frozen=True)
class Job:
    """What is done on a board: the files it gets by name, what Python is run with, and which file that writes."""

    files: Mapping[str, Path]
    arguments: Sequence[str]
    result: str = "result.json"

    def agent(self, limit_s: float) -> bytes:
        """Return the program that does it there."""
        request = {
            "files": {name: path.stat().st_size for name, path in self.files.items()},
            "arguments": list(self.arguments),
            "result": self.result,
            "limit_s": limit_s,
            "beat_s": BEAT_S,
            "silence_s": SILENCE_S,
        }
        source = resources.files("compress").joinpath("remote_agent.py").read_text(encoding="utf-8")
        return f"{source}\nmain(json.loads({json.dumps(request)!r}))\n".encode()


def run(host: Host, job: Job, advance: Callable[[], None] = lambda: None) -> Any:
    """Do the job there and return its JSON; `advance` is called at each step that the program tells of.

    Nothing of it stays there, however it ends. Raises OptionError where it cannot be done, with what was found, and
    ModelError where the program says that the model is at fault.
    """
    return asyncio.run(_run(host, job, advance))


async def _run(host: Host, job: Job, advance: Callable[[], None]) -> Any:
    agent = job.agent(LONGEST_S)
    try:
        ssh = await asyncio.create_subprocess_exec(
            *host.command(agent), stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=2 * MOST_ANSWER
        )
    except FileNotFoundError:
        raise OptionError("there is no ssh on this machine: install the OpenSSH client") from None
    said = asyncio.create_task(_last_line(ssh))
    sending = asyncio.create_task(_send(ssh, [agent]))
    ready = False
    try:
        while (message := await asyncio.wait_for(_message(ssh), SILENCE_S)) is not None:
            if "ready" in message:
                ready = True
                await sending
                sending = asyncio.create_task(_send_files(ssh, job))
            elif "step" in message:
                advance()
            elif "failed" in message:
                _refuse(host, message)
            elif "result" in message:
                return json.loads(message["result"], parse_constant=_no_number)
        await asyncio.wait_for(ssh.wait(), SILENCE_S)
        await asyncio.wait((said,), timeout=_GOING_S)
        raise OptionError(_ending(host, ssh.returncode, said.result() if said.done() else "", ready))
    except TimeoutError:
        raise OptionError(f"{host.destination} has said nothing for {SILENCE_S:g} s") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise OptionError(f"{host.destination} sent what is no JSON, or too much of it ({error})") from error
    finally:
        sending.cancel()
        await _end(ssh)
        await asyncio.wait((said, sending), timeout=_GOING_S)


async def _message(ssh: Process) -> dict[str, Any] | None:
    """Return the next message, None at the end; what else is printed there does not count. Raises ValueError."""
    assert ssh.stdout is not None
    while line := await ssh.stdout.readline():
        if line.startswith(MARK.encode()):
            message = json.loads(line[len(MARK) :])
            if not isinstance(message, dict):
                raise ValueError("a message is no object")
            return message
    return None


async def _send(ssh: Process, chunks: Sequence[bytes]) -> None:
    """Send all; where nobody takes it any more, that shows in what is read."""
    assert ssh.stdin is not None
    with suppress(ConnectionError):
        for chunk in chunks:
            ssh.stdin.write(chunk)
            await ssh.stdin.drain()


async def _send_files(ssh: Process, job: Job) -> None:
    """Send the files one after another, and then a byte every few seconds."""
    for path in job.files.values():
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                await _send(ssh, [chunk])
    while True:
        await _send(ssh, [b"\n"])
        await asyncio.sleep(BEAT_S)


async def _last_line(ssh: Process) -> str:
    """Return the last line that ssh, or what it ran, printed on stderr."""
    assert ssh.stderr is not None
    last = ""
    while line := await ssh.stderr.readline():
        last = line.decode(errors="replace").strip() or last
    return last


async def _end(ssh: Process) -> None:
    """End ssh, which may have ended; what runs on the board ends with the connection."""
    for kill in (ssh.terminate, ssh.kill):
        if ssh.returncode is None:
            with suppress(ProcessLookupError):
                kill()
            with suppress(TimeoutError):
                await asyncio.wait_for(ssh.wait(), _GOING_S)


def _refuse(host: Host, message: Mapping[str, Any]) -> NoReturn:
    said = f"{host.destination}: {message['failed']}"
    raise ModelError(said) if message.get("code") == REFUSED else OptionError(said)


def _ending(host: Host, code: int | None, said: str, ready: bool) -> str:
    """Say why there is no result: ssh gives 255 where it is to blame, and otherwise what the command gave."""
    if ready:
        return f"the connection to {host.destination} was lost, and nothing was measured{said and f' ({said})'}"
    if code in (126, 127):
        return f"{host.destination} cannot run {host.python}: {said}; install it, or give --host-python"
    if code == 255:
        by_hand = f"ssh {host.destination} true"
        return f"no connection to {host.destination}: {said}; see that `{by_hand}` works without asking anything"
    return f"{host.destination}: {said or f'the command ended with code {code}'}"


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")

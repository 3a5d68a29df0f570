"""An sshd of the test's own on the loopback interface, which stands for a board, and an `ssh` that knows it."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Board:
    """A folder for all of it, the port, and the server; `temporary` is what $TMPDIR is there."""

    folder: Path
    port: int
    server: subprocess.Popen[bytes]

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    @property
    def rc(self) -> Path:
        """What the shell there reads before each command."""
        return self.folder / "rc"

    def configure(self, **options: str) -> None:
        """Write what `ssh board` means here."""
        known = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "IdentityFile": str(self.folder / "user"),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
        }
        lines = [f"  {name} {value}\n" for name, value in {**known, **options}.items()]
        (self.folder / "config").write_text("Host *\n" + "".join(lines))

    def left(self, patience_s: float = 20.0) -> list[Path]:
        """Return what is in the temporary folder of the board: the removing may take a moment after a cut."""
        end = time.monotonic() + patience_s
        while (found := sorted(self.temporary.iterdir())) and time.monotonic() < end:
            time.sleep(0.05)
        return found


def sshd() -> str:
    """Return the server's program, or skip the test."""
    found = os.environ.get("COMPRESS_SSHD") or shutil.which(
        "sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
    )
    if found is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH server and client here: install openssh-server, or name sshd in $COMPRESS_SSHD")
    return found


def script(path: Path, text: str) -> None:
    """Write a shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def started(folder: Path) -> Board:
    """Start a server with keys of its own for this user, whose shell there has this interpreter as python3."""
    program = sshd()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    for name in ("temporary", "bin", "path"):
        (folder / name).mkdir()
    script(folder / "bin" / "python3", f'exec {sys.executable} "$@"')  # not a link, which would leave its environment
    script(folder / "path" / "ssh", f'exec {shutil.which("ssh")} -F {folder}/config "$@"')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
    forced = f'. {shlex.quote(str(folder / "rc"))}; eval "$SSH_ORIGINAL_COMMAND"'
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin yes\nMaxStartups 100\nForceCommand {forced}\n"
    )
    (folder / "rc").write_text("")
    with (folder / "log").open("wb") as log:
        command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
    board = Board(folder, port, server)
    board.configure()
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return board
        if server.poll() is not None:
            break
        time.sleep(0.05)
    server.kill()
    server.wait()
    pytest.skip(f"sshd does not start here: {(folder / 'log').read_text().strip()[-300:]}")

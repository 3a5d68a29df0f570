"""Measuring over ssh, against an sshd of the test's own: what is sent, what comes back, and that nothing is left."""

import ast
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Board, script, started
from test_layers import ROOT, imported

from compress import bench_there, remote
from compress.bench import bench
from compress.bench_there import latencies_there, read_latency
from compress.cli import main
from compress.errors import OptionError
from compress.footprint import most_resident
from compress.onboard import Kernel, Settings
from compress.profiling import design
from compress.profiling import kit as profile_kit
from compress.profiling.profile import Profile, load
from compress.remote import Host, Job, run
from compress.statistics import Ratio
from compress.timing import Effort, Environment, Latency, Subject
from graph import model as model_files
from graph.analysis import analyse
from graph.errors import ModelError

MOBILE = ROOT / "sample_models" / "digits_mobile.onnx"
RESIDUAL = ROOT / "sample_models" / "digits_residual.onnx"
BOARD = Host("board")
MACHINE = Environment("1", "P", {"a": "b"}, 1, "cpu", ["neon"], "3", "Linux", "all", "s", False, "wall", {"x": (1,)})
KERNEL = Kernel("n", "Conv", "P", 5.0, ((1, 2),), ())
LATENCY = Latency("a.onnx", *[2.0] * 6, 20, 1, 0.01, Ratio(1, 1, 1), MACHINE, 0, None, (KERNEL,), (1.0, 3.0))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    board = started(tmp_path_factory.mktemp("board"))
    try:
        yield board
    finally:
        board.server.kill()
        board.server.wait()


@pytest.fixture
def board(server: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """A board whose numpy and ONNX Runtime are empty files: to start is a matter of a moment."""
    stubs = server.folder / "stubs"
    stubs.mkdir(exist_ok=True)
    for name in ("numpy", "onnxruntime"):
        (stubs / f"{name}.py").write_text("")
    monkeypatch.setenv("PATH", f"{server.folder / 'path'}:{os.environ['PATH']}")
    server.configure()
    speak(server, PYTHONPATH=str(stubs))
    yield server
    assert server.left() == []


@pytest.fixture
def real(board: Board) -> Board:
    """A board with the real packages, and none that a workstation has besides."""
    absent = board.folder / "absent"
    absent.mkdir(exist_ok=True)
    for name in ("compress", "graph", "onnx", "onnx_ir", "torch", "click", "rich", "scipy"):
        (absent / f"{name}.py").write_text("raise ImportError('not on this board')")
    speak(board, PYTHONPATH=str(absent))
    return board


def speak(board: Board, text: str = "", **variables: str) -> None:
    """Write what the shell of the board reads first."""
    usual = {"PATH": f"{board.folder / 'bin'}:/usr/bin:/bin", "TMPDIR": str(board.temporary), **variables}
    board.rc.write_text("".join(f"export {name}='{value}'\n" for name, value in usual.items()) + text)


def job(folder: Path, text: str, **files: bytes) -> Job:
    """Return a job that runs a program of these lines, `found` of which is what comes back."""
    program = folder / "program.py"
    program.write_text(f"import json\nimport os\nimport time\n{text}\njson.dump(found, open('result.json', 'w'))\n")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Job({each: folder / each for each in ("program.py", *files)}, ["program.py"])


def refused(kind: type[Exception], tried: Job | None = None, folder: Path | None = None, host: Host = BOARD) -> str:
    """Return what is said where a job cannot be done, by default an empty one."""
    with pytest.raises(kind) as caught:
        run(host, tried or Job({}, []))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# what is done there


def test_a_job_is_done_there_and_leaves_nothing(board: Board, tmp_path: Path) -> None:
    """Also where the shell there has much to say."""
    speak(board, "echo welcome to the board\necho and mind the steps >&2\n", PYTHONPATH=str(board.folder / "stubs"))
    content = bytes(range(256)) * 20_000
    steps: list[int] = []
    tried = job(
        tmp_path,
        "print('step', flush=True)\nprint('steps are counted by line')\nprint('step')\n"
        "found = [len(open('weights', 'rb').read()), os.getcwd(), sorted(os.listdir()), os.environ['TMPDIR']]",
        weights=content,
        nothing=b"",
    )
    size, where, names, temporary = run(BOARD, tried, lambda: steps.append(1))
    assert size == len(content) and names == ["nothing", "program.py", "weights"] and len(steps) == 2
    assert Path(where).parent == board.temporary and temporary == where
    assert board.left(0) == []  # gone before the last word, and not a moment later


def test_the_command_line_asks_nothing_and_forwards_nothing() -> None:
    command = Host("ssh://me@board:2222", "venv/bin/python").command(b"agent")
    assert command[0] == "ssh" and command[-3:-1] == ("--", "ssh://me@board:2222")
    assert {"BatchMode=yes", "ClearAllForwardings=yes"} <= set(command)
    assert command[-1].startswith("venv/bin/python -c 'import sys; ") and "\n" not in command[-1]


@pytest.mark.parametrize("name", ["", " ", "-oProxyCommand=id", "board\nid", "\x1b[2J"])
def test_what_is_no_machine_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="give user@board"):
        Host(name)
    with pytest.raises(OptionError, match="give user@board"):
        Host("board", name)


# what does not come about


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"HostName": "nowhere.invalid"}, "Could not resolve hostname"),
        ({"UserKnownHostsFile": "/dev/null"}, "Host key verification failed"),
        ({"IdentityFile": "/dev/null"}, "Permission denied"),
        ({"Port": "1"}, "Connection refused"),
    ],
)
def test_no_connection(options: dict[str, str], words: str, board: Board) -> None:
    board.configure(**options)
    said = refused(OptionError)
    assert said.startswith("no connection to board: ") and words in said and "`ssh board true` works" in said


def test_no_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install the OpenSSH client" in refused(OptionError)


def test_a_board_without_python(board: Board) -> None:
    said = refused(OptionError, host=Host("board", "python7"))
    assert said.startswith("board cannot run python7: ") and "not found" in said and "--host-python" in said


@pytest.mark.slow
def test_a_board_with_an_old_python(board: Board) -> None:
    old = board.folder / "old"
    script(old, f"""exec {sys.executable} -c 'import sys; sys.version_info = (3, 6); exec(sys.argv[2])' "$@" """)
    assert refused(OptionError, host=Host("board", str(old))).endswith("not 3.9 or later")


def test_a_board_without_a_package(board: Board) -> None:
    bare = board.folder / "bare"
    script(bare, f'exec {sys.executable} -S "$@"')
    (board.folder / "stubs" / "onnxruntime.py").unlink()
    said = refused(OptionError, host=Host("board", str(bare)))
    assert "has no onnxruntime: install it there with" in said and said.endswith("-m pip install onnxruntime")


@pytest.mark.slow
def test_a_board_with_a_broken_package(board: Board) -> None:
    (board.folder / "stubs" / "onnxruntime.py").write_text("raise ImportError('GLIBC_2.99 not found')")
    assert refused(OptionError).endswith("cannot import numpy and onnxruntime: ImportError: GLIBC_2.99 not found")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("raise SystemExit('the model is odd')", OptionError, "board: the model is odd"),
        ("print('the model is odd', flush=True); os._exit(3)", ModelError, "board: the model is odd"),
        ("os._exit(7)", OptionError, "board: it ended with code 7"),
        ("os.kill(os.getpid(), 9)", OptionError, "board: it was killed, as the system does where memory runs out"),
        ("found = float('nan')", OptionError, "NaN is no number"),
        ("open('result.json', 'w').write('{'); os._exit(0)", OptionError, "sent what is no JSON"),
        ("open('result.json', 'w').write('[' * 10**5); os._exit(0)", OptionError, "sent what is no JSON"),
        ("os._exit(0)", OptionError, "result.json: No such file"),
    ],
)
def test_a_program_that_fails(text: str, kind: type[Exception], words: str, board: Board, tmp_path: Path) -> None:
    assert words in refused(kind, job(tmp_path, text))


@pytest.mark.slow
def test_an_answer_has_an_end(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MOST_ANSWER", 1000)
    assert "or too much of it" in refused(OptionError, job(tmp_path, "found = 'x' * 10_000"))


@pytest.mark.slow
def test_a_board_that_says_something_else(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    liar = board.folder / "liar"
    for said in ("[1]", "{", '{"result": 5}'):
        script(liar, f"echo 'compress-agent {said}'; sleep 5")
        assert "sent what is no JSON" in refused(OptionError, host=Host("board", str(liar)))


# room and time


def test_a_disk_that_fills_up(board: Board, tmp_path: Path) -> None:
    speak(board, "ulimit -f 64\n", PYTHONPATH=str(board.folder / "stubs"))
    said = refused(OptionError, job(tmp_path, "found = 1", weights=bytes(10**6)))
    assert "weights cannot be written to" in said and said.endswith("File too large")


@pytest.mark.slow
def test_a_disk_without_room(board: Board, tmp_path: Path) -> None:
    tried = job(tmp_path, "found = 1", weights=b"")
    with (tmp_path / "weights").open("wb") as sparse:
        sparse.truncate(2**43)
    said = refused(OptionError, tried)
    assert said.startswith("board: 8,796,093,") and "do not fit in" in said and "are free" in said


@pytest.mark.slow
def test_a_program_that_takes_too_long(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LONGEST_S", 0.5)
    monkeypatch.setattr(remote, "BEAT_S", 0.1)
    started_there = tmp_path / "pid"
    tried = job(tmp_path, f"open({str(started_there)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
    assert refused(OptionError, tried) == "board: it was stopped after 0.5 s"
    assert gone(int(started_there.read_text()))


# a link that is cut


def gone(pid: int, patience_s: float = 20.0) -> bool:
    """Say whether a process ends."""
    end = time.monotonic() + patience_s
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


def cut(board: Board, tried: Job, when: Callable[[], bool], how: Callable[[int], None]) -> str:
    """Run a job, and do something to the client's process at a moment; return what is said of it."""
    client = board.folder / "path" / "noted" / "ssh"
    script(client, f'echo $$ > {board.folder}/client; exec {board.folder}/path/ssh "$@"')
    said: list[str] = []

    def work() -> None:
        with pytest.raises(OptionError) as caught:
            run(BOARD, tried)
        said.append(str(caught.value))

    thread = threading.Thread(target=work)
    thread.start()
    while not when():
        assert thread.is_alive()
        time.sleep(0.01)
    how(int((board.folder / "client").read_text()))
    thread.join()
    return said[0]


@pytest.fixture
def noted(board: Board, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A board to which connections are made by a client whose process is known."""
    (board.folder / "path" / "noted").mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", f"{board.folder / 'path' / 'noted'}:{os.environ['PATH']}")
    return board


SLEEPS = """
import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
open({where!r} + '.part', 'w').write(f'{{os.getpid()}} {{child.pid}}')
os.rename({where!r} + '.part', {where!r})
time.sleep(60)
"""


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    """The link stands, and nothing comes through it: as where a cable was pulled."""
    os.kill(pid, signal.SIGSTOP)


def end_session(board: Board) -> None:
    """Kill the process that serves the connection on the board."""
    kill(int((board.folder / "session").read_text()))


@pytest.mark.parametrize(
    "how",
    [
        "the client is killed",
        pytest.param("the server is killed", marks=pytest.mark.slow),
        pytest.param("nothing comes through", marks=pytest.mark.slow),
    ],
)
def test_a_cut_while_it_runs(how: str, noted: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BEAT_S", 0.1)
    monkeypatch.setattr(remote, "SILENCE_S", 10.0 if how == "nothing comes through" else 60.0)
    speak(noted, f"echo $PPID > {noted.folder}/session\n", PYTHONPATH=str(noted.folder / "stubs"))
    where = tmp_path / "pids"
    how_to = {"the client is killed": kill, "nothing comes through": stop}
    said = cut(
        noted,
        job(tmp_path, SLEEPS.format(where=str(where))),
        where.exists,
        how_to.get(how, lambda _: end_session(noted)),
    )
    assert ("said nothing for 10 s" if how == "nothing comes through" else "connection to board was lost") in said
    assert noted.left() == [] and all(gone(int(pid)) for pid in where.read_text().split())


@pytest.mark.slow
def test_a_cut_while_files_are_copied(noted: Board, tmp_path: Path) -> None:
    tried = job(tmp_path, "found = 1", weights=bytes(10**6), zeros=b"")
    with (tmp_path / "zeros").open("wb") as sparse:
        sparse.truncate(2**33)

    def copying() -> bool:
        return any(noted.temporary.glob("*/zeros"))

    assert "was lost" in cut(noted, tried, copying, kill)
    assert noted.left() == []


@pytest.mark.slow
def test_a_signal_there(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a system that is shut down: the agent is the parent of the program."""
    monkeypatch.setattr(remote, "BEAT_S", 0.1)
    tried = job(tmp_path, f"os.kill(os.getppid(), {int(signal.SIGTERM)})\ntime.sleep(60)")
    assert "was lost" in refused(OptionError, tried)


# benches and profiles


@pytest.mark.parametrize("modules", [bench_there.MODULES, profile_kit.MODULES])
def test_what_a_kit_holds_is_all_that_it_needs(modules: tuple[str, ...]) -> None:
    names = {f"compress.{module.removesuffix('.py').replace('/', '.')}" for module in modules}
    for module in modules:
        foreign = {
            name for name in imported(ROOT / "compress" / module) if name.split(".")[0] not in sys.stdlib_module_names
        }
        ours = {name for name in foreign if name.startswith("compress")}
        assert {name.split(".")[0] for name in foreign - ours} <= {"numpy", "onnxruntime"}
        assert all(any(f"{name}.".startswith(f"{known}.") for known in names) or name == "compress" for name in ours)


@pytest.mark.parametrize("module", sorted({*bench_there.MODULES, *profile_kit.MODULES, "remote_agent.py"}))
def test_what_boards_get_is_python_3_9(module: str) -> None:
    tree = ast.parse((ROOT / "compress" / module).read_text(encoding="utf-8"), feature_version=(3, 9))
    words = {keyword.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords}
    assert not words & {"strict", "slots", "kw_only"}
    unions = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)]
    assert not unions or any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in ast.walk(tree))


def test_a_bench_there_is_one_here(real: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    file = tmp_path / "there.json"
    assert main(["bench", str(MOBILE), "--host", "board", "--duration", "0.05", "--profile", "--json", str(file)]) == 0
    (found,) = json.loads(file.read_text(encoding="utf-8"))["models"]
    (here,) = bench([MOBILE], duration_s=0.01, profile=True)
    assert found["model"] == str(MOBILE) and list(temporary.iterdir()) == []
    assert (found["memory_bytes"] or 0) > 0 or most_resident() is None
    plain = json.loads(json.dumps(dataclasses.asdict(here)))
    assert found["environment"] == plain["environment"] and len(found["quantiles_ms"]) == 101
    assert [each["op_type"] for each in found["kernels"]] == [each["op_type"] for each in plain["kernels"]]


def test_it_ends_in_one_line(board: Board, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    board.configure(Port="1")
    output = tmp_path / "profile.pyz"
    assert main(["bench", str(MOBILE), "--host", "board"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("compress: no connection to board") and said.err.count("\n") == 1
    assert main(["bench", str(MOBILE), "--host-python", "x"]) == 2 and "give its --host" in capsys.readouterr().err
    assert main(["profile", str(MOBILE), "--host", "board", "--kit", str(output)]) == 2
    assert "or --kit to carry" in capsys.readouterr().err and not output.exists()


@pytest.mark.parametrize("broken", [{"p50_ms": "inf"}, {"ratio": {"value": 1.0}}, {"kernels": [{}]}, {"rounds": None}])
def test_what_is_no_latency_is_refused(broken: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    here = dataclasses.asdict(LATENCY)
    for found in (here | broken, [], None, "text"):
        monkeypatch.setattr(bench_there, "run", lambda *_, found=found: [found])
        with pytest.raises(OptionError, match="board sent what are no latencies"):
            latencies_there(BOARD, [Subject("a.onnx", Path("a.onnx"), {})], Settings(), Effort(1.0, 1.0, True, True, 0))
    assert read_latency(here, "a.onnx") == LATENCY


@pytest.mark.slow
def test_a_provider_that_is_not_there(real: Board) -> None:
    with pytest.raises(OptionError, match=r"board: provider 'abacus' is not in this ONNX Runtime: it has .*cpu"):
        bench([MOBILE], duration_s=0.01, host=BOARD, provider="abacus")


@pytest.mark.slow
def test_a_model_that_does_not_run_there(real: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of a version that an older ONNX Runtime does not know."""

    def other(model: Path) -> list[Path]:
        model.write_bytes(b"no model")
        return [model]

    monkeypatch.setattr(bench_there, "_files", other)
    with pytest.raises(ModelError, match=r"^board: .*digits_mobile.onnx: ONNX Runtime [0-9.]+ cannot run it: "):
        bench([MOBILE], duration_s=0.01, host=BOARD)


@pytest.mark.slow
def test_weights_beside_the_model_are_copied(real: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where they are too large for one file."""
    monkeypatch.setattr(model_files, "INLINE_BYTES", 1000)
    assert bench([MOBILE], duration_s=0.01, host=BOARD)[0].p50_ms > 0


@pytest.mark.slow
def test_a_profile_there_is_one_here(
    real: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(design, "MOST_LEVELS", 2)
    monkeypatch.setattr(profile_kit, "CHAIN_WIDTHS", ())  # they take long
    file, again = tmp_path / "profile.json", ["--force", "--provider", "abacus"]
    arguments = ["profile", str(RESIDUAL), "--host", "board", "-o", str(file), "--round-to", "16"]
    assert main(arguments) == 0
    said = file.read_text(encoding="utf-8")
    assert f"{len(Profile.of(json.loads(said)).networks)} networks of" in capsys.readouterr().out
    channels = analyse(model_files.load(RESIDUAL)).channels
    assert all(row.kernels for row in load(file, channels).networks)
    assert main([*arguments, *again]) == 2 and file.read_text(encoding="utf-8") == said
    assert capsys.readouterr().err.startswith("compress: board: provider 'abacus' is not in this ONNX Runtime")


@pytest.mark.slow
def test_a_stop_by_hand_leaves_nothing(real: Board, tmp_path: Path) -> None:
    """Ctrl-C while it is timed: there and here."""
    (tmp_path / "temporary").mkdir()
    listening = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job starts with it ignored
    code = f"import signal, sys; {listening}; from compress.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "bench", str(MOBILE), "--host", "board", "--duration", "60"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    started_here = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while not any(real.temporary.glob("*/0.onnx")):
        assert started_here.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    started_here.send_signal(signal.SIGINT)
    said = started_here.communicate()[1]
    assert started_here.returncode == 130 and said.strip() == "compress: stopped; nothing was left half-written"
    assert real.left() == [] and list((tmp_path / "temporary").iterdir()) == []

"""The page of a run: nothing is lost on it, nothing of a model's is taken for markup, and it needs nothing else."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from small_classifier import NETWORK
from small_graphs import build

from compress import figures
from compress.cli import main
from compress.details import Details, Layer
from compress.disagreement import Choice, Disagreement, Disagreements
from compress.drop import Candidate, Drop
from compress.gates import Verdict
from compress.html.page import Made, Page, rendered
from compress.html.pictures import Bar, Series, bars, distributions, end_of_scale, errors
from compress.html.prune import page_of
from compress.measure import OutputError
from compress.measurement import Measurement
from compress.repair import Repair
from compress.report import Asked, Report, Width, printable
from compress.statistics import Ratio
from compress.timing import Environment, Latency
from graph.channels import Frozen
from graph.model import save

SAMPLES = Path(__file__).parents[1] / "sample_models"
MOBILE, RESIDUAL = str(SAMPLES / "digits_mobile.onnx"), str(SAMPLES / "digits_residual.onnx")
DATA = ["--data", str(SAMPLES / "digits_test.npz"), "--preprocess", "unit"]
HOSTILE = ("<script>alert(1)</script>", "a&b\"c'd</title>", "]]>{{ 7 * 6 }}<!--", "\x1b[31m\x00\u202ec\ud800")
VOID = {"meta", "link", "img"}
MACHINE = Environment("1.2", "CPU", {}, 1, "a <cpu>", (), "3", "", "all", "sequential", False, "wall", {})


def timed(ratio: float) -> Latency:
    times = 8.0 * ratio * np.linspace(0.9, 1.5, 101)
    return Latency(
        "m", *[8.0 * ratio] * 5, 100.0, 20, 1, 0.01, Ratio(ratio, ratio, ratio), MACHINE, quantiles_ms=tuple(times)
    )


def a_report(names: tuple[str, ...]) -> tuple[Report, Details]:
    """Return a report that uses every name everywhere a model's names can turn up."""
    before = Measurement(850_000, 125_500_000, 3_400_000, timed(1), 1.0, 0.933, -0.5, 0.0)
    after = Measurement(400_000, 62_750_000, 1_700_000, timed(0.5), 0.9, 0.914, -0.75, 0.2)
    report = Report(
        f"folder/{names[0].replace('/', '')}.onnx",
        "small.onnx",
        before,
        after,
        outputs=tuple(OutputError(name, None, f"not {name}") for name in names),
        targets=(Asked("macs", 62_750_000, 62_750_000, True),),
        gates=tuple(Verdict(name, "gate", 1, 2, False, f"too much of {name}") for name in names),
        widths=tuple(Width(name, 16, 16 - i) for i, name in enumerate(names)),
        frozen=tuple(Frozen(name, "LSTM", f"no rule for {name}") for name in names),
        notes=tuple(f"a note on {name}" for name in names),
        data=names[-1],
        drop=Drop(0.01, "top-1", 200, (Candidate(0.5, 0.02, False), Candidate(0.75, 0.005, True))),
        uncounted={"LSTM": 2},
        repairs=tuple(Repair(name, 0.5, 0.01 * i, 1e-3, 0, f"because of {name}") for i, name in enumerate(names)),
        seconds={"curves": 2.0},
    )
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    shown = (picture, picture[..., :1], picture[..., :2], np.concatenate([picture, picture[..., :1]], axis=2))
    apart = tuple(Disagreement(7, each, Choice(3, 0.75), Choice(5, 0.5), 5) for each in shown)
    layers = tuple(Layer(name, "Conv", 100 * (i + 1), 50, 0.1 * i) for i, name in enumerate(names))
    details = Details(
        (*layers, Layer("gone", "Gemm", 7, None)),
        8,
        {name: 0.01 * i for i, name in enumerate(names)},
        Disagreements(5, 10, apart),
        {name: name for name in names},
    )
    return report, details


class Reader(HTMLParser):
    """Reads a page as browsers do, and fails where a tag is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.style = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes nothing in HTML"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data

    def values(self, *names: str) -> list[str]:
        return [value for _, attributes in self.tags for name, value in attributes.items() if name in names]


def page(names: tuple[str, ...]) -> str:
    return rendered(page_of(*a_report(names), Made("compress prune 'a b.onnx'", (("onnx", "1.2.3"),))))


@pytest.fixture(scope="module", params=[("conv1", "conv2", "fc"), HOSTILE], ids=["plain", "hostile"])
def names(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


def test_every_group_layer_and_note_is_on_the_page(names: tuple[str, ...]) -> None:
    report, details = a_report(names)
    text = Reader(page(names)).text
    wanted = [width.group for width in report.widths] + [details.names.get(each.node, "") for each in details.layers]
    wanted += [*report.notes, *(each.reason for each in report.frozen), *(gate.sentence for gate in report.gates)]
    wanted += [repair.note for repair in report.repairs] + ["compress prune 'a b.onnx'", "1.2.3", "2 × LSTM"]
    assert [each for each in wanted if printable(each) not in text] == []
    sizes = {"groups": len(report.widths), "layers": len(details.layers), "repairs": len(report.repairs)}
    assert all(f"all {size} {what} as a table" in text for what, size in sizes.items())
    columns = sum(tag == "g" for tag, _ in Reader(page(names)).tags)
    assert columns == 2 * sizes["groups"] + 2 * sizes["layers"] + sizes["repairs"]  # widths, losses; MACs, errors


def test_what_a_model_says_is_never_markup(names: tuple[str, ...]) -> None:
    """The same tags, in the same order, whatever the names are."""
    found, harmless = Reader(page(names)), Reader(page(tuple(f"n{i}" for i in range(len(names)))))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in harmless.tags]
    assert "script" not in {tag for tag, _ in found.tags} and "42" not in found.text
    assert not set(found.text) & set("\x1b\x00\u202e\ud800")


def test_it_needs_nothing_from_elsewhere(names: tuple[str, ...]) -> None:
    found = Reader(page(names))
    references = found.values("href", "src", "srcset", "xlink:href", "action", "data", "poster", "background")
    assert references and all(re.match("#|data:", reference) for reference in references)
    assert not re.search(r"url\(|@import|expression|//", found.style)
    assert not any("://" in value for value in found.values("style", "content", "xmlns"))
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)


def test_it_can_be_read_without_eyes(names: tuple[str, ...]) -> None:
    found = Reader(page(names))
    kinds = [tag for tag, _ in found.tags]
    assert kinds.count("h1") == kinds.count("main") == 1 and {"header", "nav"} <= set(kinds)
    marks = found.values("id")
    assert len(marks) == len(set(marks))
    assert {value[1:] for value in found.values("href") if value[:1] == "#"} <= set(marks)
    assert set(found.values("aria-labelledby")) <= set(marks)
    for tag, attributes in found.tags:
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or (attributes["role"] == "img" and attributes["aria-label"])
        assert tag != "th" or attributes["scope"] in ("row", "col")


def test_the_same_page_is_the_same_bytes(names: tuple[str, ...]) -> None:
    assert page(names).encode() == page(names).encode()


def test_a_page_of_nothing_is_whole() -> None:
    report = Report("m.onnx", None, Measurement(), Measurement())
    found = Reader(rendered(page_of(report, Details(), Made("compress", ()))))
    assert "svg" not in {tag for tag, _ in found.tags} and "m.onnx" in found.text


@pytest.mark.parametrize(
    ("met", "said"),
    [
        ((), ""),
        ((True,), "reached"),
        ((False,), "missed"),
        ((True,) * 3, "all 3 reached"),
        ((True, False), "1 of 2 missed"),
    ],
)
def test_the_verdict(met: tuple[bool, ...], said: str) -> None:
    verdicts = tuple(Verdict("x", "gate", 0, 0, each, "s") for each in met)
    assert Page("", "", "", verdicts, (), ()).verdict == said


def svg(text: str) -> Iterator[ElementTree.Element]:
    return ElementTree.fromstring(text).iter()


def test_bars_are_as_high_as_their_figures() -> None:
    values = [(64.0, 32.0), (128.0, 128.0), (0.0, 0.0), (10.0, 0.0)]
    picture = bars([Bar((("before", a), ("after", b)), "x & y") for a, b in values], "title", "{:g}".format)
    for style, column in zip(("before", "after"), zip(*values, strict=True), strict=True):
        drawn = [each for each in svg(picture.svg) if each.get("class") == style]
        heights = [float(each.attrib["height"]) for each in drawn]
        assert heights == pytest.approx([100 * value / 128 for value in column], abs=0.01)
        assert all(float(each.attrib["y"]) + float(each.attrib["height"]) == pytest.approx(100) for each in drawn)
    assert [(tick.at, tick.text) for tick in picture.rows] == [
        (pytest.approx(100 - 100 * 50 / 128), "50"),
        (21.875, "100"),
    ]


def test_errors_are_on_a_scale_of_decades() -> None:
    picture = errors([Series("before", [1.0, 0.1, None]), Series("after", [0.01, 0.1, 0])], ["a", "b", "c"], "title")
    dots = {e.attrib["class"]: e.attrib["d"] for e in svg(picture.svg) if e.get("class", "").startswith("dots")}
    assert dots == {"dots before": "M0.5 0h0M1.5 50h0", "dots after": "M0.5 100h0M1.5 50h0"}
    assert [tick.text for tick in picture.rows] == ["1 %", "10 %", "100 %"]


def test_a_distribution_is_a_histogram_of_all_rounds() -> None:
    times = np.random.default_rng(0).gamma(9, 1, 5001)
    quantiles = np.quantile(times, np.linspace(0, 1, 101))
    end = end_of_scale([tuple(quantiles)])
    picture = distributions([("before", tuple(quantiles))], "title")
    (area,) = (each.attrib["d"] for each in svg(picture.svg) if "area" in each.get("class", ""))
    heights = 100 - np.array([float(y) for _, y in re.findall(r"[ML](\S+) ([^LMZ]+)", area)])[1:-1:2]
    counted, _ = np.histogram(times, np.linspace(0, end, len(heights) + 1))
    assert np.corrcoef(heights, counted)[0, 1] > 0.97
    assert picture.columns[0].at == 0 and all(tick.at <= 100 for tick in picture.columns)


def test_prune_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "LATENCY_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    save(build(NETWORK), "my <model>.onnx")
    np.savez("data.npz", images=np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8))
    arguments = ["prune", "my <model>.onnx", "--target-flops", "0.4", "--data", "data.npz", "--preprocess", "unit"]
    assert main([*arguments, "--report", "page.html"]) == 0
    found = Reader(Path("page.html").read_text(encoding="utf-8"))
    assert "compress prune 'my <model>.onnx' --target-flops 0.4" in found.text
    assert "✓ reached" in found.text and "my <model>.onnx" in found.text
    assert {"widths", "macs", "errors", "latency", "pictures"} <= set(found.values("id"))
    kept = ["data.npz", "my <model>-pruned.onnx", "my <model>.onnx", "page.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_compare_writes_a_page(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert (
        main(["compare", MOBILE, RESIDUAL, *DATA, "--samples", "64", "--min-agreement", "1", "--report", str(file)])
        == 1
    )
    found = Reader(file.read_text(encoding="utf-8"))
    assert "✗ missed" in found.text and "the two models choose different classes" in found.text
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    assert 1 <= len(pictures) <= 12
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in pictures)


@pytest.mark.parametrize("where", ["model.onnx", "model-pruned.onnx", "report.json", "no/page.html"])
def test_where_a_page_cannot_be_is_found_before_the_work(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MOBILE, "model.onnx")
    arguments = ["prune", "model.onnx", "--target-flops", "0.4", "--json", "report.json", "--report", where]
    assert main(arguments) == 2
    assert "--report" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    for browsers in (Path.home() / ".cache" / "ms-playwright", Path("/ms-playwright")):
        found = found or next(map(str, sorted(browsers.glob("chromium*/chrome-linux*/*chrome*"))), None)
    if found is None:
        pytest.skip("no Chromium here: neither on the PATH nor playwright's")
    return found


@pytest.mark.slow
def test_a_browser_opens_it_without_complaint(tmp_path: Path) -> None:
    """A page with a script in it shows that a complaint would be seen: it is refused, and that is one."""
    browser = chromium()

    def complaints(text: str) -> tuple[list[str], str]:
        file = tmp_path / "page.html"
        file.write_text(text, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        flags += ["--enable-logging=stderr", "--window-size=400,3000", "--dump-dom"]
        done = subprocess.run([browser, *flags, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
        return [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stdout

    whole = page(HOSTILE)
    said, shown = complaints(whole)
    assert said == [] and shown.count("<svg") == whole.count("<svg") and "</html>" in shown
    said, _ = complaints(whole.replace("</body>", "<script>document.title = 'run'</script></body>"))
    assert said

"""A measure of the user's own: what it is given, and what its mistakes end in."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import build

from calibrate.sources import open_source
from compress import metric as module
from compress.cli import main
from compress.errors import OptionError
from compress.measure import Comparison, Outputs, compare, top1
from compress.metric import Metric, load_metric
from graph.inputs import input_specs

NETWORK = "(float[{n},3] x) => (float[{n},2] y, float[{n},2] z) <float[3,2] w> {{ y = MatMul (x, w) z = Relu (y) }}"

FILE = """
import numpy as np

def mean(outputs, references, labels):
    return float(outputs["y"].mean())

def wrong(outputs, references, labels):
    return outputs["nowhere"]

def nothing(outputs, references, labels):
    return float("nan")

number = 3
"""


def network(n: int | str = "N", seed: int = 0) -> ir.Model:
    return build(NETWORK.format(n=n), seed=seed)


def compared(metric: Metric, n: int | str, rows: np.ndarray | None = None) -> tuple[Comparison, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    first, second = network(n), network(n, seed=1)
    source = open_source({"x": x, "labels": np.arange(70)}, input_specs(first))
    return compare(first, second, source, rows, metric=metric), x


@pytest.mark.parametrize("n", ["N", 1, 32])
def test_it_sees_the_outputs_of_all_samples_at_once(n: int | str) -> None:
    seen: list[tuple[Outputs, Outputs, np.ndarray | None]] = []

    def keep(outputs: Outputs, references: Outputs, labels: np.ndarray | None) -> float:
        seen.append((outputs, references, labels))
        return float(len(seen))

    rows = np.arange(3, 70, 2)
    found, x = compared(Metric("keep", keep), n, rows)
    assert (found.metric_original, found.metric_other) == (1.0, 2.0)
    weights = [network(seed=seed).graph.initializers["w"].const_value for seed in (0, 1)]
    expected = [x[rows] @ weight.numpy() for weight in weights if weight is not None]
    for (outputs, references, labels), y in zip(seen, expected, strict=True):
        np.testing.assert_allclose(outputs["y"], y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(outputs["z"], np.maximum(y, 0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(references["y"], expected[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(labels, rows)


@pytest.mark.parametrize(
    "labels", [np.arange(70), np.linspace(0, 1, 70), np.random.default_rng(3).normal(size=(70, 2)).astype(np.float32)]
)
def test_labels_that_are_no_classes_are_the_metrics(labels: np.ndarray) -> None:
    """Without a metric they are an error: nobody else takes them."""

    def distance(outputs: Outputs, references: Outputs, given: np.ndarray | None) -> float:
        assert given is not None
        np.testing.assert_array_equal(given, labels)
        return -float(abs(outputs["y"][:, 0] - given.reshape(70, -1)[:, 0]).mean())

    x = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    models = [build("(float[N,3] x) => (float[N,2] y) <float[3,2] w> { y = MatMul (x, w) }", seed=s) for s in (0, 1)]
    source = open_source({"x": x, "labels": labels}, input_specs(models[0]))
    found = compare(models[0], models[1], source, metric=Metric("distance", distance))
    assert found.top1_original is None and found.agreement is not None
    weights = [model.graph.initializers["w"].const_value for model in models]
    expected = [-abs((x @ w.numpy())[:, 0] - labels.reshape(70, -1)[:, 0]).mean() for w in weights if w is not None]
    assert [found.metric_original, found.metric_other] == pytest.approx(expected, rel=1e-5)
    for measured in (lambda: compare(models[0], models[1], source), lambda: top1(models[0], source)):
        with pytest.raises(
            OptionError, match=r"label 2 is not one of the 2|labels \(float\d+ N(×2)?\) that are no class"
        ):
            measured()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module of metrics and a model in it."""
    (tmp_path / "measures_for_test.py").write_text(FILE, encoding="utf-8")
    ir.save(network(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((4, 3), np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, *more: str) -> int:
    return main(["compare", "model.onnx", "model.onnx", "--data", "data.npz", "--metric", name, *more])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("measures_for_test:wrong", "metric measures_for_test:wrong: KeyError: 'nowhere'"),
        ("measures_for_test:nothing", "it returned nan: give a finite number"),
        ("measures_for_test:number", "it is no function, but int"),
        ("measures_for_test:absent", "AttributeError"),
        ("no_such_module_at_all:f", "ModuleNotFoundError"),
        ("measures_for_test", "give module:function"),
        ("measures_for_test.py:mean", "ModuleNotFoundError"),
    ],
)
def test_mistakes_end_in_one_line(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 2
    _, err = capsys.readouterr()
    assert words in err and err.startswith("compress: ") and err.count("\n") == 1


def test_compare_reports_it_and_judges_the_drop_by_it(folder: Path) -> None:
    assert run("measures_for_test:mean", "--max-drop", "0", "--json", "out.json") == 0
    found = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert found["before"]["metric"] == found["after"]["metric"] == found["comparison"]["metric_other"]
    ir.save(network(seed=1), folder / "model2.onnx")
    worth = [
        compare(network(), network(seed=1), open_source("data.npz", input_specs(network())), metric=load_metric(name))
        for name in ("measures_for_test:mean",)
    ]
    drop = (worth[0].metric_original or 0) - (worth[0].metric_other or 0)
    names = ["model.onnx", "model2.onnx"] if drop > 0 else ["model2.onnx", "model.onnx"]
    arguments = ["--data", "data.npz", "--metric", "measures_for_test:mean", "--max-drop"]
    assert main(["compare", *names, *arguments, str(round(abs(drop) * 0.9, 6))]) == 1
    assert main(["compare", *names, *arguments, str(round(abs(drop) * 1.1, 6))]) == 0


def test_no_error_is_zero_without_a_sign() -> None:
    """The README's own example says minus the error, and the original has none."""
    metric = Metric("loss", lambda outputs, references, labels: -float(abs(outputs["y"] - references["y"]).mean()))
    same = {"y": np.ones((2, 2), np.float32)}
    assert f"{metric(same, same, None):g}" == "0"


def test_more_outputs_than_fit_in_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 70 * 2 * 2 * 2 * 4 - 1)  # two models, two outputs of two floats
    with pytest.raises(OptionError, match="use fewer --samples"):
        compared(Metric("m", lambda *_: 0.0), "N")
    monkeypatch.setattr(module, "MOST_BYTES", 70 * 2 * 2 * 2 * 4)
    assert compared(Metric("m", lambda *_: 0.0), "N")[0].metric_other == 0

"""What `compress inspect` says can be reached, against the graph that comes out."""

from pathlib import Path

import numpy as np
import pytest

from compress.inspection import inspect
from graph.analysis import analyse
from graph.count import count
from graph.model import load
from graph.plan import Plan
from graph.shrink import shrink
from graph.trace import trace

SAMPLES = Path(__file__).parents[1] / "sample_models"


@pytest.mark.parametrize("name", ["digits_residual", "digits_mobile"])
def test_the_least_is_what_is_left_where_all_goes_that_may(name: str) -> None:
    found, analysis = inspect(SAMPLES / f"{name}.onnx"), analyse(load(SAMPLES / f"{name}.onnx"))
    width = {group.name: len(group.channels) for group in analysis.channels.groups}
    plan = Plan({each.name: np.arange(width[each.name]) < bool(each.lasting) for each in found.groups})
    small = shrink(analysis.model, analysis.channels, plan)
    assert found.least_macs == count(small, trace(small)).macs
    assert {each.name for each in found.groups if not each.lasting} == analysis.channels.removable
    assert any(not each.lasting for each in found.groups) and any(each.lasting for each in found.groups)

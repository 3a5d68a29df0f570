"""Products of activations, as in attention: each axis has a letter, and letters that the result lacks are summed over.

    MatMul:  "…bmk,…bkn->…bmn"        Einsum: as its equation says

What is summed over cannot go: no weight reads it, so nothing would say that it is gone. Channels along any other
letter pass on, tied with those of every operand that has the letter too.
"""

from collections.abc import Sequence

import onnx_ir as ir

from graph.channels import Labels
from graph.registry import Decline, rule
from graph.walk import NOTHING, Walk


@rule("Einsum")
def einsum(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Read the letters off the equation; one with an ellipsis, a repeated letter or a weight is declined."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in terms):
        raise Decline(f"its equation {equation!r} leaves letters out or repeats them")
    for value in node.inputs:
        if walk.constant(value) is not None:
            raise Decline(f"its equation {equation!r} multiplies by the constant {value.name if value else ''}")
    return (_product(node, walk, terms, result),)


def matmul_of_activations(node: ir.Node, walk: Walk) -> tuple[Labels, ...]:
    """Carry labels through a MatMul without a weight."""
    ranks = [len(walk.shape(value)) for value in node.inputs if value is not None]
    if min(ranks) < 2:
        raise Decline("it multiplies by a vector that is computed at run time")
    batch = [chr(ord("A") + place) for place in range(max(ranks) - 2)]
    terms = ["".join(batch[len(batch) - rank + 2 :]) for rank in ranks]
    return (_product(node, walk, [terms[0] + "mk", terms[1] + "kn"], "".join(batch) + "mn"),)


def _product(node: ir.Node, walk: Walk, terms: Sequence[str], result: str) -> Labels:
    shape = walk.shape(node.outputs[0])
    operands = [(value, term) for value, term in zip(node.inputs, terms, strict=True) if value is not None]
    passed: dict[str, Labels] = {}
    for value, term in operands:
        labels = walk.labels(value)
        if labels.axis is None:
            continue
        letter = term[labels.axis]
        obstacle = _obstacle(walk, letter, operands, result)
        if obstacle is None and shape[result.index(letter)] != len(labels.ids):
            obstacle = f"one channel is spread over {shape[result.index(letter)]}"
        if obstacle is not None:
            walk.fix(node, labels.ids, obstacle)
        elif letter in passed:
            walk.union(passed[letter].ids, labels.ids)
        else:
            passed[letter] = Labels(shape, result.index(letter), labels.ids)
    if not passed:
        return Labels(shape, None, NOTHING)
    best = walk.most(node, [walk.refreshed(labels) for labels in passed.values()])
    return walk.made(node.outputs[0], best.axis, walk.refreshed(best).ids)


def _obstacle(walk: Walk, letter: str, operands: Sequence[tuple[ir.Value, str]], result: str) -> str | None:
    """Return why the channels that lie along a letter of one operand cannot pass."""
    if letter not in result:
        return "it sums over channels of two activations"
    for other, term in operands:
        axis = term.find(letter)
        if axis >= 0 and walk.labels(other).axis != axis and walk.shape(other)[axis] > 1:
            return f"they meet {other.name}, whose channels are fixed"
    return None

"""The tables of rules (how labels pass an operator) and mends (how an operator that states a size is put right)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graph.channels import Labels

if TYPE_CHECKING:
    from graph.surgery import Surgery
    from graph.walk import Walk

Rule = Callable[[ir.Node, "Walk"], tuple[Labels, ...]]
Mend = Callable[[ir.Node, "Surgery"], None]
Operator = tuple[str, str]  # domain, op_type

RULES: dict[Operator, Rule] = {}
MENDS: dict[Operator, Mend] = {}


class Decline(Exception):
    """A rule's way of saying, in one sentence, why it does not apply: everything the node touches is fixed."""


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register how labels pass these operators; raises `ValueError` on a second rule for one of them.

    The function gets the node and the walk and returns the labels of the node's outputs.
    """

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            _add(RULES, (domain, op_type), function)
        return function

    return register


def mend(*op_types: str, domain: str = "") -> Callable[[Mend], Mend]:
    """Register how a node of these operators is put right once channels are gone."""

    def register(function: Mend) -> Mend:
        for op_type in op_types:
            _add(MENDS, (domain, op_type), function)
        return function

    return register


def operator(node: ir.Node) -> Operator:
    """Return the key of a node in the tables; the two spellings of ONNX's own domain are one."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _add(table: dict[Operator, Callable[..., Any]], key: Operator, function: Callable[..., Any]) -> None:
    if key in table:
        raise ValueError(f"{key[1]} (domain {key[0]!r}) is registered twice")
    table[key] = function

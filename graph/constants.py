"""Constants that are added to a graph."""

import numpy as np
import onnx_ir as ir


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Register an array as an initializer, whose name must be free, and return its value."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_by_constant(graph: ir.Graph, node: ir.Node, array: np.ndarray) -> ir.Value:
    """Put an initializer in the place of a node, for its first output; the others must not be in use."""
    output = node.outputs[0]
    users, name = list(output.uses()), str(output.name)
    output.name = None
    value = add_initializer(graph, name, array)
    for user, index in users:
        user.replace_input_with(index, value)
    graph.remove(node, safe=True)
    return value

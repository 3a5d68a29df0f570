"""Names for values and nodes that are added to a model."""

import onnx_ir as ir


class Names:
    """The names of all values and nodes of a model; those given out are taken from then on."""

    def __init__(self, model: ir.Model) -> None:
        """Read the names that the model uses, those inside subgraphs included."""
        self._taken = {str(value.name) for value in model.graph.inputs} | set(model.graph.initializers)
        for graph in model.graphs():
            self._taken |= set(graph.initializers)
        for node in model.graph.all_nodes():
            self._taken |= {str(node.name), *(str(value.name) for value in node.outputs)}

    def free(self, wish: str) -> str:
        """Return the wish, numbered where it is taken."""
        name, number = wish, 1
        while name in self._taken:
            name, number = f"{wish}_{number}", number + 1
        self._taken.add(name)
        return name

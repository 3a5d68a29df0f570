"""The errors of the graph floor; the command line turns each into one line and an exit code."""


class ModelError(Exception):
    """The model cannot be read, or something in it is not supported (exit code 3)."""


class ShapeError(ModelError):
    """The shape that was asked for does not fit the model's input (exit code 2)."""


class WriteError(Exception):
    """A model cannot be written where it was asked to go (exit code 2)."""


class LawError(Exception):
    """A self-check failed: the shrunk model does not compute what the masked one computes (exit code 4)."""

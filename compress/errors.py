"""The error of the command floor: an option that cannot be used as it stands."""


class OptionError(Exception):
    """An option's value is wrong, or does not fit the model or the data (exit code 2): what, and what to do."""

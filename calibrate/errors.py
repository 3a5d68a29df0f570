"""The error of the calibrate floor; the command line turns it into one line and an exit code."""


class DataError(Exception):
    """The calibration data cannot be read, or do not fit the model (exit code 2): what, where, what to do."""

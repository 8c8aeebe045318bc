"""Faults of the input, told to the user in one sentence."""

__all__ = ["InputError"]


class InputError(Exception):
    """What the user gave cannot be used.

    The message is one sentence: what is wrong, where, and what to do. Commands print it
    without a traceback and leave with exit code 2.
    """

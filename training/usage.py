"""What the user gets wrong, and how a config says so."""

from __future__ import annotations


class UsageError(ValueError):
    """The user asked for something that can't be done; the message says what was given, what is allowed, what to do."""


class SamplerLost(UsageError):
    """What makes replies can't be had any more; what was trained until then is saved."""


def at_least(least: float, **values: float) -> None:
    for name, value in values.items():
        if not least <= value < float("inf"):
            raise UsageError(f"{name} is {value}; it must be at least {least}")


def positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise UsageError(f"{name} is {value}; it must be a positive number")

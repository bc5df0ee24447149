"""A bird that sings when a stranger's text is run as code; the laws listen. Nothing in the house calls it."""

from __future__ import annotations

_songs: list[str] = []


def sing() -> str:
    """Leave a mark."""
    _songs.append("heard")
    return "[0, 0, 1, 1]"


def heard() -> bool:
    """Whether it sang since this was asked last."""
    found = bool(_songs)
    _songs.clear()
    return found

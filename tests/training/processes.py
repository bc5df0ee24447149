"""Processes below another, by what /proc says."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:  # grows while it is read
        found += parents.get(one, [])
    return found[1:]


def children_named(pid: int, name: str) -> list[int]:
    """Those of them whose command line holds this name."""
    named = []
    for child in children(pid):
        try:
            if name in (Path("/proc") / str(child) / "cmdline").read_text():
                named.append(child)
        except OSError:
            continue
    return named

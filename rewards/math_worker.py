"""The process in which answers are compared as mathematics; started by mathematical.py, never imported.

It reads one JSON list of two texts a line and writes whether they are equal. The library evaluates what it reads, and
some short texts take it for ever or all memory: here it can be killed, and its memory is bounded.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

MOST_BYTES = 2**31
"""Of address space."""
READING = [LatexExtractionConfig()]


def equal(reference: str, answer: str) -> bool:
    """Whether two texts are the same mathematics. Several values in one text are a set, and equal no single one."""
    wanted, found = _read(reference), _read(answer)
    # no time limits of the library's own: they are signals, and whoever waits for this process has a clock
    return bool(wanted) and bool(found) and bool(verify(wanted, found, timeout_seconds=None))


def _read(text: str) -> list[Any]:
    """As one formula, so that the library has no second one to choose from."""
    formula = f"${text.replace('$', ' ')}$"
    return list(parse(formula, READING, fallback_mode="no_fallback", parsing_timeout=0))


def main() -> None:
    """Answer until the end of the input."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    logging.disable(logging.CRITICAL)
    _say("ready")
    for line in sys.stdin:
        try:
            verdict = equal(*json.loads(line))
        except (Exception, MemoryError, RecursionError):  # whatever a hostile text does to the library is no equality
            verdict = False
        _say(json.dumps(verdict))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

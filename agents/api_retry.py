"""When a request is sent again: exponential backoff with jitter, within a deadline, heeding what the server asks for.

Law: pure; the waits of a reply and its requests never last longer than its deadline, whatever a server asks for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT_S = 30.0
LONGEST_ASKED_S = 120.0
"""A server that asks for more is asked again after this long."""


def next_wait_s(
    num_requests: int, *, left_s: float, max_retries: int, first_wait_s: float, asked_s: float, rng: random.Random
) -> float | None:
    """How long to wait before the next request; None to give up.

    Args:
        num_requests: Sent so far, at least 1.
        left_s: Until the deadline.
        max_retries: Requests after the first.
        first_wait_s: Before the first retry; doubled for each later one. Of a wait, a random half is taken off.
        asked_s: What the server asks for; 0 if it asks for nothing.
        rng: Gives the jitter, so that requests that failed together do not come back together.
    """
    if num_requests > max_retries:
        return None
    backoff_s = min(first_wait_s * 2.0 ** min(num_requests - 1, 30), LONGEST_WAIT_S) * rng.uniform(0.5, 1.0)
    wait_s = max(backoff_s, min(asked_s, LONGEST_ASKED_S))
    return wait_s if wait_s < left_s else None


def asked_wait_s(headers: Mapping[str, str], now: datetime | None = None) -> float:
    """What `Retry-After` asks for, in seconds or as a date; 0 if it says nothing that makes sense."""
    in_ms = _seconds(headers.get("retry-after-ms", ""))
    if in_ms is not None:
        return in_ms / 1000
    said = headers.get("retry-after", "")
    seconds = _seconds(said)
    if seconds is not None:
        return seconds
    try:
        until = parsedate_to_datetime(said)
        return max(0.0, (until.astimezone(UTC) - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):  # a hostile header may be any text
        return 0.0


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None

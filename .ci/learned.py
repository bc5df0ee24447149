"""Fail unless the summary of a run says that the model has learned to look closer. The bars leave room for the seed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

summary = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
BARS = {"greedy_accuracy_after": 0.75, "sampled_accuracy_after": 0.45, "tool_rate_after": 0.9}
missed = [f"{name} is {summary[name]}, below {bar}" for name, bar in BARS.items() if not (summary[name] or 0) >= bar]
sys.exit("; ".join(missed) or None)

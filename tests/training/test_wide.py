"""A checkpoint as wide as a real one is trained in the memory that its weights need, not that of its vocabulary."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import wide

NUM_ACTIONS, HEAD_ELEMENTS, VOCABULARY = 800, 2**25, 151936


@pytest.mark.slow
def test_a_model_of_the_widths_of_3b_is_trained_without_holding_all_logits(tmp_path: Path) -> None:
    command = [sys.executable, wide.__file__, str(tmp_path), str(NUM_ACTIONS), str(HEAD_ELEMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert (found["updates"], found["skipped"]) == (2, 0)
    assert (tmp_path / "run" / "checkpoints" / "last" / "adapter_model.safetensors").stat().st_size < 2**22
    assert all(math.isfinite(loss) for loss in found["losses"]) and found["grad_norm"] > 0
    assert found["still"] == []
    assert found["loop_peak_bytes"] < 6e9 and found["large_peak_bytes"] < 8e9
    # One float32 copy of all logits is half a gigabyte; five are held where they are computed at once.
    logits_bytes = 4 * NUM_ACTIONS * VOCABULARY
    assert found["large_peak_bytes"] - found["small_peak_bytes"] < 2 * logits_bytes, found
    (tmp_path / "model" / "model.safetensors").unlink()  # two gigabytes

"""The algorithms known by name. Any other is given as "module:Class". Loads no torch."""

from __future__ import annotations

ALGORITHMS: dict[str, str] = {
    "reinforce": "visualzoom.algorithms.reinforce:Reinforce",
    "grpo": "visualzoom.algorithms.grpo:GRPO",
    "ppo": "visualzoom.algorithms.ppo:PPO",
}

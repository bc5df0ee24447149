"""The algorithms known by name. Any other is given as "module:Class". Loads no torch."""

from __future__ import annotations

ALGORITHMS: dict[str, str] = {
    "reinforce": "visualzoom.algorithms.reinforce:Reinforce",
    "rloo": "visualzoom.algorithms.rloo:RLOO",
    "remax": "visualzoom.algorithms.remax:ReMax",
    "reinforce_pp": "visualzoom.algorithms.reinforce_pp:ReinforcePP",
    "grpo": "visualzoom.algorithms.grpo:GRPO",
    "gspo": "visualzoom.algorithms.gspo:GSPO",
    "cispo": "visualzoom.algorithms.cispo:CISPO",
    "sapo": "visualzoom.algorithms.sapo:SAPO",
    "gigpo": "visualzoom.algorithms.gigpo:GiGPO",
    "gdpo": "visualzoom.algorithms.gdpo:GDPO",
    "dtpo": "visualzoom.algorithms.dtpo:DTPO",
    "ppo": "visualzoom.algorithms.ppo:PPO",
}

"""What is known of a model by its name alone: which images a server leaves as they are, and how the model gives boxes.

Law: pure. A family that sees pixels as shown must be shown no image that its server would scale again; all others, and
all that are unknown, give boxes as shares of the picture, which no scaling changes.
"""

from __future__ import annotations

from visualzoom.agents.chat import FAMILY_COORDINATES, ImageLimits
from visualzoom.envs.boxes import Coordinates

OTHER = "other"
FAMILY_LIMITS: dict[str, ImageLimits] = {
    "tiny": ImageLimits(factor_px=28, min_px=28 * 28, max_px=64 * 28 * 28),
    "qwen2_vl": ImageLimits(factor_px=28, min_px=4 * 28 * 28, max_px=16384 * 28 * 28),
    "qwen2_5_vl": ImageLimits(factor_px=28, min_px=4 * 28 * 28, max_px=16384 * 28 * 28),
    "qwen3_vl": ImageLimits(factor_px=32, min_px=64 * 32 * 32, max_px=16384 * 32 * 32),
    OTHER: ImageLimits(factor_px=28),
}
"""As the published checkpoints are served; by the names of RENDERERS in chat.py."""
NAMES = {
    "qwen3vl": "qwen3_vl",
    "qwen25vl": "qwen2_5_vl",
    "qwen2vl": "qwen2_vl",
    "deepeyes": "qwen2_5_vl",  # trained from it
}
"""Parts of names, in small letters and digits alone."""


def family_of(model: str) -> str:
    """The family that a model's name tells of; `other` if it tells of none that is known."""
    plain = "".join(character for character in model.lower() if character.isalnum())
    if plain == "tiny":
        return "tiny"
    return next((family for part, family in NAMES.items() if part in plain), OTHER)


def family_coordinates(family: str) -> Coordinates:
    """In which the models of a family give boxes."""
    if family == "tiny":
        return "shown"
    return FAMILY_COORDINATES.get(family, "0-1000")

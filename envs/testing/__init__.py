"""What you need to property-test a tool of your own: `check_tool`, its laws, and the strategies behind them.

Needs Hypothesis; the rest of the house does not import it.
"""

from visualzoom.envs.testing.laws import LawError, check_tool
from visualzoom.envs.testing.strategies import arguments_for, hostile_arguments, model_texts, small_images

__all__ = ["LawError", "arguments_for", "check_tool", "hostile_arguments", "model_texts", "small_images"]

"""What you need to property-test a tool of your own: `check_tool`, its laws, the strategies behind them,
and makers of small tasks.

Needs Hypothesis; the rest of the house does not import it.
"""

from visualzoom.envs.testing.laws import LawError, check_tool
from visualzoom.envs.testing.makers import call_text, make_task, make_tasks
from visualzoom.envs.testing.strategies import arguments_for, hostile_arguments, model_texts, small_images

__all__ = [
    "LawError",
    "arguments_for",
    "call_text",
    "check_tool",
    "hostile_arguments",
    "make_task",
    "make_tasks",
    "model_texts",
    "small_images",
]

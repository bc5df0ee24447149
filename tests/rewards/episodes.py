"""Finished episodes as the tests of rewards need them."""

from __future__ import annotations

from visualzoom.envs.records import Box, Episode, ImageRef, StopReason, Task, ToolResult, Turn

CROP = ToolResult(
    name="image_zoom_in_tool",
    error=None,
    message="",
    executed_box=Box(0, 0, 9, 9),
    image=ImageRef("k", 56, 56),
)
FAILED_CALL = ToolResult(name="image_zoom_in_tool", error="empty_box", message="The box is empty.")
NO_IMAGE = ToolResult(name="calculator", error=None, message="4")
ENDS = [reason for reason in StopReason if not reason.failed]


def make_episode(
    *,
    answer: str | None = "7",
    stop: StopReason = StopReason.ANSWERED,
    results: tuple[ToolResult, ...] = (),
    reply: str = "",
) -> Episode:
    task = Task(id="t", question="?", answer="7", pictures=())
    turn = Turn(text="?", images=(), reply=reply, tool_results=results)
    return Episode(task=task, system="", turns=(turn,), stop_reason=stop, answer=answer)

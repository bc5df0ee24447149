"""Episodes to look at: what the model was shown, where it looked, what it said.

A picture has the overview as it was shown (enlarged without smoothing), the original with the evidence in green and
the crops in red, each crop as it was shown, and the words below. The same episode is saved as JSON beside it.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from visualzoom.envs.records import Box, Episode, ImageRef, ToolResult, Turn
from visualzoom.evaluation.measure import best_overlap, correct

PANEL_PX = 448
GAP_PX = 12
LINE_PX = 20
FONT_PX = 15
TEXT_COLUMNS = 150
MAX_LINES_A_REPLY = 6
PAPER, INK, FAINT = (250, 250, 248), (24, 24, 28), (110, 110, 116)
EVIDENCE_COLOUR, CROP_COLOUR = (30, 160, 70), (220, 40, 40)
_FONT = ImageFont.load_default(FONT_PX)


def save_episode(episode: Episode, folder: Path, name: str) -> Path:
    """Write `name.png` and `name.json` into the folder, which is made if it is not there. Returns the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    episode_picture(episode).save(path)
    text = json.dumps(episode_tree(episode), indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8", errors="replace")
    return path


def episode_picture(episode: Episode) -> Image.Image:
    """The whole episode as one picture."""
    original = Image.fromarray(episode.task.pictures[0].pixels())
    crops = [result for result in episode.cuts if result.image is not None]
    panels = [
        *_overview_panel(original, episode),
        _panel(draw_boxes(original, [_box(c) for c in crops], episode.task.evidence), _original_title(original, crops)),
        *(_crop_panel(original, crop, number) for number, crop in enumerate(crops, start=1)),
    ]
    lines = _words(episode)
    width_px = max(len(panels) * (PANEL_PX + GAP_PX) + GAP_PX, 3 * (PANEL_PX + GAP_PX) + GAP_PX)
    top_px = PANEL_PX + LINE_PX + 2 * GAP_PX
    sheet = Image.new("RGB", (width_px, top_px + (len(lines) + 1) * LINE_PX), PAPER)
    for i, panel in enumerate(panels):
        sheet.paste(panel, (GAP_PX + i * (PANEL_PX + GAP_PX), GAP_PX))
    pen = ImageDraw.Draw(sheet)
    for i, (line, colour) in enumerate(lines):
        pen.text((GAP_PX, top_px + i * LINE_PX), line, fill=colour, font=_FONT)
    return sheet


def draw_boxes(original: Image.Image, crops: Sequence[Box], evidence: Sequence[Box] = ()) -> Image.Image:
    """A copy with the evidence in green and the crops, numbered, in red."""
    sheet = original.convert("RGB")
    pen = ImageDraw.Draw(sheet)
    line_px = max(2, round(max(sheet.size) / 200))
    for box in evidence:
        _outline(pen, box, EVIDENCE_COLOUR, line_px)
    font = ImageFont.load_default(max(14, max(sheet.size) // 28))
    for number, box in enumerate(crops, start=1):
        _outline(pen, box, CROP_COLOUR, line_px)
        x, y = box.left_px + 2 * line_px, box.top_px + line_px
        pen.text((x, y), str(number), fill=CROP_COLOUR, font=font, stroke_width=line_px, stroke_fill="white")
    return sheet


def episode_tree(episode: Episode) -> dict[str, object]:
    """The episode as plain JSON values; pictures by key and size."""
    task = episode.task
    reward = episode.reward
    return {
        "task": {
            "id": task.id,
            "family": task.family,
            "question": task.question,
            "choices": list(task.choices),
            "answer": task.answer,
            "evidence": [list(box) for box in task.evidence],
            "image_size": list(task.image_size),
            "pictures": [picture.key for picture in task.pictures],
        },
        "system": episode.system,
        "turns": [_turn_tree(turn) for turn in episode.turns],
        "stop_reason": episode.stop_reason.value,
        "answer": episode.answer,
        "correct": correct(episode),
        "reward": None if reward is None else {"total": reward.total, "parts": dict(reward.parts)},
    }


def transcript(episode: Episode) -> list[str]:
    """What was said and done, turn by turn, for a terminal."""
    lines = []
    for number, turn in enumerate(episode.turns, start=1):
        sizes = ", ".join(f"{image.width_px}x{image.height_px} px" for image in turn.images)
        lines.append(f"turn {number}: the model sees {sizes or 'no new image'}")
        lines.append(f"  says: {turn.reply.strip() or '(nothing)'}")
        lines.extend(f"  {_outcome(result)}" for result in turn.tool_results)
    end = f"answer: {episode.answer}" if episode.answer is not None else f"no answer ({episode.stop_reason.value})"
    return [*lines, end]


def _outcome(result: ToolResult) -> str:
    if result.error is not None:
        return f"error {result.error}: {result.message}"
    where = "" if result.executed_box is None else f" {tuple(result.executed_box)} of the original"
    return f"{result.name} shows{where}"


def _turn_tree(turn: Turn) -> dict[str, object]:
    return {
        "text": turn.text,
        "images": [list(image) for image in turn.images],
        "reply": turn.reply,
        "tool_results": [
            {
                "name": result.name,
                "error": result.error,
                "message": result.message,
                "requested_box": result.requested_box,
                "executed_box": result.executed_box,
                "image": result.image,
                "image_index": result.image_index,
                "shown_index": result.shown_index,
                "visual_tokens": result.visual_tokens,
                "whole_image": result.whole_image,
            }
            for result in turn.tool_results
        ],
    }


def _box(result: ToolResult) -> Box:
    assert result.executed_box is not None  # only such results are drawn
    return result.executed_box


def _overview_panel(original: Image.Image, episode: Episode) -> list[Image.Image]:
    if not episode.turns or not episode.turns[0].images:
        return []
    shown = episode.turns[0].images[0]
    return [_panel(_as_shown(original, shown), f"shown first: {shown.width_px} x {shown.height_px} px")]


def _original_title(original: Image.Image, crops: Sequence[ToolResult]) -> str:
    looked = "where it looked" if crops else "it did not look closer"
    return f"original {original.width} x {original.height} px: {looked}"


def _crop_panel(original: Image.Image, crop: ToolResult, number: int) -> Image.Image:
    box, shown = _box(crop), crop.image
    assert shown is not None  # only such results are drawn
    title = f"crop {number}, shown at {shown.width_px} x {shown.height_px} px"
    return _panel(_as_shown(original.crop(box), shown), title)


def _as_shown(image: Image.Image, shown: ImageRef) -> Image.Image:
    """The pixels that the model got, each enlarged to a square."""
    small = image.resize((shown.width_px, shown.height_px), Image.Resampling.BICUBIC)
    factor = max(1, PANEL_PX // max(small.size))
    return small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)


def _panel(image: Image.Image, title: str) -> Image.Image:
    """A title over an image scaled to fit."""
    panel = Image.new("RGB", (PANEL_PX, PANEL_PX + LINE_PX), PAPER)
    ImageDraw.Draw(panel).text((0, 0), title, fill=FAINT, font=_FONT)
    fitted = image.copy()
    fitted.thumbnail((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS)
    panel.paste(fitted, (0, LINE_PX))
    return panel


def _outline(pen: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int], line_px: int) -> None:
    """A frame just outside the box, so that what is inside stays visible."""
    left, top, right, bottom = box
    pen.rectangle((left - line_px, top - line_px, right + line_px - 1, bottom + line_px - 1), outline="white", width=1)
    pen.rectangle(
        (left - line_px, top - line_px, right + line_px - 1, bottom + line_px - 1), outline=colour, width=line_px
    )


def _words(episode: Episode) -> list[tuple[str, tuple[int, int, int]]]:
    """The lines below the panels with their colours."""
    lines = [(line, INK) for line in _wrapped(f"Question: {episode.task.question}", 3)]
    for number, turn in enumerate(episode.turns, start=1):
        lines += [(line, INK) for line in _wrapped(f"{number}. says: {turn.reply}", MAX_LINES_A_REPLY)]
        lines += [(line, FAINT) for result in turn.tool_results for line in _wrapped(f"    {_outcome(result)}", 3)]
    return [*lines, (_verdict(episode), EVIDENCE_COLOUR if correct(episode) else CROP_COLOUR)]


def _verdict(episode: Episode) -> str:
    given = "no answer" if episode.answer is None else f"answer {episode.answer[:60]!r}"
    judged = f"; right is {episode.task.answer[:60]!r}" if episode.task.answer else ""
    total = "" if episode.reward is None else f"; reward {episode.reward.total:g}"
    overlap = [
        f"{best_overlap(_box(result), episode.task.evidence):.2f}" for result in episode.cuts if episode.task.evidence
    ]
    boxes = f"; IoU {', '.join(overlap)}" if overlap else ""
    return f"Ends: {episode.stop_reason.value}, {given}{judged}{total}{boxes}"


def _wrapped(text: str, most: int) -> list[str]:
    """At most that many lines that fit, in characters that the built-in font has."""
    plain = text.encode("latin-1", errors="replace").decode("latin-1").replace("\n", " ")
    lines = textwrap.wrap(plain, TEXT_COLUMNS, subsequent_indent="    ") or [""]
    return lines if len(lines) <= most else [*lines[: most - 1], f"    ... ({len(text)} characters)"]

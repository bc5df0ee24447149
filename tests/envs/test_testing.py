"""The kit itself: its words, its books, its counter-examples, and what it says about good things and bad ones."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Annotated, Any, cast

import gymnasium
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure

from visualzoom.envs import Box, ImageTuple, Outcome, Pixels, Sight, UnicodeText, function_schema
from visualzoom.envs.records import ImageRef
from visualzoom.envs.testing import (
    Book,
    Effort,
    Law,
    LawError,
    Report,
    Row,
    check_environment,
    check_tool,
    environment_machine,
    investigate,
    make_sight,
    report_environment,
    report_tool,
    tasks,
)
from visualzoom.envs.testing import environment_laws as env_law
from visualzoom.envs.testing import geometry_laws as box_law
from visualzoom.envs.testing import tool_laws as law
from visualzoom.envs.testing.alarm import OutOfTimeError, alarm
from visualzoom.envs.testing.fingerprint import fingerprint
from visualzoom.envs.testing.json_schema import keeps_to, schema_problem
from visualzoom.envs.testing.python_text import as_python, origin
from visualzoom.envs.testing.search import Part
from visualzoom.envs.tools.registry import run_call
from visualzoom.envs.tools.zoom import ZoomIn, ZoomRules

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the picture from the left."""

    share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    note: str = ""


class LeftPart:
    """A good tool that is not a zoom."""

    name = "left_part"
    arguments: type[msgspec.Struct] = Share

    def schema(self) -> Mapping[str, object]:
        return function_schema(self.name, "The left part.", self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, Share)
        width_px = round(arguments.share * sight.original.width_px)
        if width_px == 0:
            return Outcome(error="empty_box", message="Nothing is left; give a larger share.")
        return Outcome(executed_box=Box(0, 0, width_px, sight.original.height_px))


class Raises(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, Share)
        return Outcome(executed_box=Box(0, 0, int(1 / arguments.share), 1))


class Outside(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return Outcome(executed_box=Box(0, 0, sight.original.width_px + 1, sight.original.height_px))


class Silent(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return Outcome()


class Mute(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return Outcome(error="no")


class Floats(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return Outcome(pixels=cast(Pixels, sight.pixels() / np.float32(255)))


class Misnamed(LeftPart):
    def schema(self) -> Mapping[str, object]:
        return function_schema("right_part", "The left part.", self.arguments)


def test_a_good_tool_passes() -> None:
    check_tool(LeftPart())


@pytest.mark.parametrize(
    ("tool", "broken"),
    [
        (Raises(), law.TOTAL),
        (Outside(), box_law.IN_BOUNDS),
        (Silent(), law.ONE_END),
        (Mute(), law.ONE_END),
        (Floats(), law.SHOWABLE),
        (Misnamed(), law.SCHEMA),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, LeftPart) else "",
)
def test_a_tool_that_is_no_zoom_is_checked_too(tool: LeftPart, broken: Law) -> None:
    with pytest.raises(LawError) as found:
        check_tool(tool, max_examples=40)
    assert found.value.law is broken
    assert broken.text in str(found.value)


def test_the_counter_example_is_a_program_that_shows_the_breach() -> None:
    with pytest.raises(LawError) as found:
        check_tool(Outside(), max_examples=40)
    known: dict[str, Any] = {"Outside": Outside}
    program = "\n".join(line for line in found.value.example.splitlines() if " import Outside" not in line)
    exec(program.replace("print(", "shown = ("), known)
    assert known["shown"] == Outcome(executed_box=Box(0, 0, 2, 1)), "and it is the smallest there is"


def test_a_report_tells_of_every_law_and_of_those_that_were_never_tried() -> None:
    report = report_tool(Mute(), effort=Effort(max_examples=10))
    verdicts = {row.law.name: row.verdict for row in report.rows}
    assert not report.ok
    assert verdicts[law.ONE_END.name] == "BROKEN"
    assert verdicts[law.TOTAL.name] == "ok"
    assert verdicts[box_law.PIXEL_EXACT.name] == "not tried"
    assert "| one end | 10 | BROKEN |" in report.markdown()


def test_the_same_seed_searches_the_same_examples() -> None:
    reports = [report_tool(ZoomIn(), effort=Effort(max_examples=30, seed=seed)) for seed in (1, 1, 2)]
    tried = [[row.tried for row in report.rows] for report in reports]
    assert tried[0] == tried[1] != tried[2]


def test_a_book_raises_for_its_own_law_only() -> None:
    one, other = Law("one", "one"), Law("other", "other")
    book = Book(raises=one)
    assert not book.judge(other, False, "found", lambda: "example")
    with pytest.raises(LawError, match="found"):
        book.judge(one, False, "found", lambda: "example")
    assert set(book.broken) == {one, other}
    assert book.tried == {one: 1, other: 1}


def test_a_breach_that_does_not_come_again_is_told_as_it_was_found() -> None:
    law_of_chance = Law("chance", "nothing happens twice")
    seen: list[int] = []

    def search(book: Book, num_examples: int, how: settings) -> None:
        seen.append(1)
        book.judge(law_of_chance, len(seen) > 1, "only the first time", lambda: "nothing")

    report = investigate("chance", [Part(laws=(law_of_chance,), search=search)], Effort())
    assert [error.found for error in report.errors] == ["only the first time"]


def test_an_error_survives_pickling() -> None:
    error = LawError(Law("name", "text"), "found", "example")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@given(plain)
def test_values_as_python_are_the_values_again(value: object) -> None:
    assert eval(as_python(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "x" * 500, [0.0] * 2000, (1,), np.float64(2.5)])
def test_strange_values_have_a_short_python_text(value: object) -> None:
    text = as_python(value)
    again = eval(text, {"np": np})
    assert len(text) < 40
    assert again == value or again != again


def test_things_are_made_again_with_what_is_not_their_default() -> None:
    text = origin(ZoomIn(ZoomRules(min_side_px=3), choose_image=True), "tool")
    known: dict[str, Any] = {}
    exec(text, known)
    assert known["tool"] == ZoomIn(ZoomRules(min_side_px=3), choose_image=True)
    assert text.endswith("tool = ZoomIn(rules=ZoomRules(min_side_px=3), choose_image=True)")


def test_fingerprints_are_of_the_content() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    assert fingerprint({"a": image, "b": 1}) == fingerprint({"b": 1, "a": image.copy()})
    assert fingerprint(image) != fingerprint(image.reshape(3, 2, 3))
    assert fingerprint(image) != fingerprint(image + np.uint8(1))
    assert fingerprint(ImageRef("k", 1, 2)) != fingerprint(ImageRef("k", 2, 1))
    assert fingerprint(["12"]) != fingerprint(["1", "2"]) != fingerprint([["1"], "2"])


def test_an_alarm_rings_even_for_a_pattern_that_runs_away() -> None:
    import re

    with pytest.raises(OutOfTimeError), alarm(0.1):
        re.match(r"(a*)*b", "a" * 40)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": 1}, [1, 2.0], [0, 1.5, True, "1"]),
        ({"type": "array", "items": {"type": "number"}, "maxItems": 1}, [[], [1]], [[1, 2], ["a"], 1]),
        ({"anyOf": [{"type": "null"}, {"enum": ["a"]}]}, [None, "a"], ["b", 0]),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, [{"a": 1}], [{}, {"b": 1}, []]),
        ({"type": "string", "pattern": "a"}, [], ["a"]),  # a word that is not known: no claim
    ],
)
def test_the_schemas_of_tools_are_understood(schema: object, good: list[object], bad: list[object]) -> None:
    assert all(keeps_to(schema, value) for value in good)
    assert not any(keeps_to(schema, value) for value in bad)


def test_a_schema_whose_example_does_not_keep_to_it_is_found() -> None:
    parts = {"type": "object", "properties": {"a": {"type": "integer"}}, "examples": [{"a": "x"}]}
    assert schema_problem(parts) is not None


@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1"])
def test_any_environment_of_gymnasium_can_be_checked(env_id: str) -> None:
    report = report_environment(lambda: gymnasium.make(env_id), Effort(max_examples=10))
    assert report.errors == ()
    verdicts = {row.law: row.verdict for row in report.rows}
    assert verdicts[env_law.SAME_SEED] == verdicts[env_law.VECTOR] == verdicts[env_law.GYMNASIUM] == "ok"


class Counts(gymnasium.Env[dict[str, Any], str]):
    """A text environment of a stranger's: say the number that was shown."""

    observation_space: Any = gymnasium.spaces.Dict({"text": UnicodeText(), "images": ImageTuple(1)})
    action_space = UnicodeText(20)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(10))
        return {"text": f"Say {self.number}.", "images": ()}, {}

    def step(self, action: str) -> Any:
        return {"text": "", "images": ()}, float(action == str(self.number)), True, False, {}


class Forgetful(Counts):
    """Its seed comes from the clock."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=None, options=options)


def test_an_environment_of_a_strangers_is_held_to_the_laws() -> None:
    check_environment(Counts, max_examples=10)
    with pytest.raises(LawError) as found:
        check_environment(Forgetful, max_examples=10)
    assert found.value.law in (env_law.GYMNASIUM, env_law.SAME_SEED)


def test_a_machine_is_a_test_that_pytest_collects() -> None:
    machine = environment_machine(Forgetful)
    machine.TestCase.settings = Effort(max_examples=10).settings(shrink=False)
    with pytest.raises((LawError, FlakyFailure), match=r"same seed|Inconsistent"):  # it may not fail the second time
        machine.TestCase().runTest()


@given(tasks())
def test_tasks_are_whole(task: Any) -> None:
    assert task.pictures[0].pixels().shape == (task.image_size[1], task.image_size[0], 3)
    assert task.question


def test_a_sight_is_what_its_plan_says() -> None:
    sight = make_sight(30, 20, coordinates="0-1000", parts=[(0, (0, 0, 10, 20), 90), (1, (0, 0, 20, 10), 0)])
    assert [tuple(seen.region.size) for seen in sight.images] == [(30, 20), (20, 10), (20, 10)]
    assert {tuple(seen.frame) for seen in sight.images} == {(1000, 1000)}
    assert callable(run_call)


def test_an_effort_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Effort(max_examples=0)


def test_a_report_draws_a_table() -> None:
    report = Report(subject="it", rows=(Row(law=Law("a", "b"), tried=0),))
    assert report.ok
    assert report.table().row_count == 1

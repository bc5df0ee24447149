"""How the modes of an evaluation change the world, or the agent, so that what looking is worth can be told.

Law: a mode changes what its name says and nothing else: the tasks, the words and the limits stay.
"""

from __future__ import annotations

import dataclasses

from visualzoom.agents.first_look import FirstLook, PuttableAgent
from visualzoom.agents.scripted import OracleAgent
from visualzoom.envs.parts import open_protocol
from visualzoom.envs.records import TaskSource
from visualzoom.envs.tasks.sources import DirectTasks
from visualzoom.evaluation.evaluate import Mode
from visualzoom.training.config import UsageError, WorldConfig
from visualzoom.training.world import Onlooker, coordinates_of


def seen_in(mode: Mode, world: WorldConfig, source: TaskSource) -> tuple[WorldConfig, TaskSource]:
    """The world as it is in this mode of an evaluation.

    Raises:
        UsageError: Its tools can't be made blank.
    """
    if mode in (Mode.DIRECT, Mode.BUDGET):
        return world, DirectTasks(source)
    if mode is not Mode.BLANK:
        return world, source
    if world.tool != WorldConfig().tool:
        raise UsageError(f"--mode blank stands for the tool {WorldConfig().tool[0]} alone, and there is {world.tool}")
    return dataclasses.replace(world, tool=("zoom-blank",)), source


def begun(mode: Mode, protocol: str) -> str:
    """The text with which the first reply begins in this mode."""
    words = open_protocol(protocol)
    if mode is Mode.FORCED:
        return words.begin_call("image_zoom_in_tool", "bbox_2d")
    return words.render_answer("0").partition("0")[0] if mode is Mode.ANSWER else ""


def guided(agent: PuttableAgent, world: WorldConfig, onlooker: Onlooker) -> FirstLook:
    """The agent, whose first replies look at the evidence; the last one is always its own."""
    max_looks = world.max_turns - 1
    guide = OracleAgent(
        max_calls=max_looks, protocol=open_protocol(world.protocol), coordinates=coordinates_of(world, onlooker)
    )
    return FirstLook(agent, guide, max_looks=max_looks)

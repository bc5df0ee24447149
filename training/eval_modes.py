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


def guided(agent: PuttableAgent, world: WorldConfig, onlooker: Onlooker) -> FirstLook:
    """The agent, whose first reply looks at the evidence."""
    guide = OracleAgent(
        max_calls=1, protocol=open_protocol(world.protocol), coordinates=coordinates_of(world, onlooker)
    )
    return FirstLook(agent, guide)

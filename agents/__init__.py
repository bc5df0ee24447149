"""Who acts: messages to tokens, tokens to text, and playing an agent against environments."""

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.chat import RENDERERS, Message, Renderer, open_renderer
from visualzoom.agents.ledger import Author, ImageSpan, TokenLedger
from visualzoom.agents.pool import EnvPool, Job
from visualzoom.agents.records import (
    Agent,
    AgentTurn,
    Completion,
    FinishReason,
    GenerateRequest,
    Policy,
    Reply,
    Sampling,
    ShownImage,
)
from visualzoom.agents.rollout import Played, group_jobs, play
from visualzoom.agents.scripted import FunctionAgent, OracleAgent, RandomAgent, ScriptedAgent
from visualzoom.agents.tokens import Rendered
from visualzoom.agents.torchvision_operators import on_import

on_import()  # of torchvision, which some machines need; see there

__all__ = [
    "RENDERERS",
    "Agent",
    "AgentTurn",
    "Author",
    "Completion",
    "EnvPool",
    "FinishReason",
    "FunctionAgent",
    "GenerateRequest",
    "ImageSpan",
    "Job",
    "Message",
    "OracleAgent",
    "Played",
    "Policy",
    "RandomAgent",
    "Rendered",
    "Renderer",
    "Reply",
    "Sampling",
    "ScriptedAgent",
    "ShownImage",
    "TokenLedger",
    "VLMAgent",
    "group_jobs",
    "open_renderer",
    "play",
]

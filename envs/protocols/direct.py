"""The words of a task that is answered at once: no tool is mentioned, and how to answer is said in the dialect.

Law: an answer in the form that is shown is read by the dialect as that answer.
"""

from __future__ import annotations

from visualzoom.envs.protocols.protocol import DirectWords, WordProtocol
from visualzoom.envs.protocols.reply_text import with_options
from visualzoom.envs.records import Task


def direct_system(protocol: WordProtocol) -> str:
    """System prompt without tools."""
    return protocol.direct_system() if isinstance(protocol, DirectWords) else "You are a helpful assistant."


def direct_question(protocol: WordProtocol, task: Task) -> str:
    """The question, its lettered options if it has any, and the form of an answer."""
    if isinstance(protocol, DirectWords):
        return protocol.direct_question(task)
    return f"{with_options(task)}\nThink first, then answer in this form: {protocol.render_answer('...')}"

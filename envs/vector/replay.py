"""What must be done again to bring an environment back that was lost: everything since its last reset from a seed.

Law: an environment whose chance is its seed, made anew and taken through `needed_for`, stands where the lost one stood;
one that has snapshots and stands elsewhere fails to take a step. A reset without a seed counts as one from a seed,
where the state of chance before it is known.
"""

from __future__ import annotations

import dataclasses

from visualzoom.envs.vector.records import Assign, Command, Describe, Reset, Result, Step, Stop, Verify


class Story:
    """The commands that made one environment what it is."""

    def __init__(self) -> None:
        """A new environment."""
        self._assigned: dict[str, Assign] = {}
        self._commands: list[Command] = []
        self._state_name: str | None = None

    @property
    def has_episode(self) -> bool:
        """Whether it was reset and not given up since."""
        return bool(self._commands)

    def needed_for(self, command: Command) -> tuple[Command, ...]:
        """What to do in a new environment before this."""
        if isinstance(command, Reset) and command.seed is not None:
            return tuple(self._settled().values())
        again = (*self._assigned.values(), *self._commands)
        if self._state_name is None or isinstance(command, Reset):  # of the old episode a reset needs the chance alone
            return again
        return (*again, Verify(state_name=self._state_name))

    def tell(self, command: Command, result: Result) -> None:
        """This was done, with that result."""
        if result.fault is not None:
            if result.ended:
                self.__init__()  # type: ignore[misc]
                return
        elif isinstance(command, Reset):
            self._reset(command, result)
        elif isinstance(command, Step | Stop | Assign):
            self._commands.append(command)
        if not isinstance(command, Describe):  # a call is not done again, so who was changed by one is not found again
            self._state_name = result.state_name

    def _reset(self, command: Reset, result: Result) -> None:
        if command.seed is None and result.generator is None:  # chance goes on, from a state that nobody knows
            self._commands.append(command)
            return
        self._assigned = self._settled()
        self._commands = [dataclasses.replace(command, generator=result.generator)]

    def _settled(self) -> dict[str, Assign]:
        """The attributes as they were last set."""
        return self._assigned | {done.name: done for done in self._commands if isinstance(done, Assign)}

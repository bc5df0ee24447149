"""A tool of your own: the picture mirrored, for writing on glass. visualzoom train --tool own_tool:Mirror"""

from typing import Literal

import gymnasium
import msgspec

from visualzoom.envs import Outcome, Sight, function_schema


class MirrorArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    axis: Literal["left-right", "up-down"]


class Mirror:
    name = "mirror"
    arguments = MirrorArguments  # the schema that the model is shown and the check of its calls come from here

    def schema(self) -> dict[str, object]:
        return function_schema(self.name, "Show the picture mirrored.", self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        across = arguments == MirrorArguments(axis="left-right")
        return Outcome(pixels=sight.pixels()[:, ::-1] if across else sight.pixels()[::-1])


if __name__ == "__main__":
    env = gymnasium.make("visualzoom.envs:VisualZoom-v0", tools=(Mirror(),))
    env.reset(seed=0)
    print(env.step('<tool_call>{"name": "mirror", "arguments": {"axis": "left-right"}}</tool_call>')[4])

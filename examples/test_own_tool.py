"""Property tests of a tool of your own: the house's laws, and one that only this tool has. pytest test_own_tool.py"""

import numpy as np
from hypothesis import given
from own_tool import Mirror, MirrorArguments

from visualzoom.envs import ArrayPicture, Frame, ImageStore, Pixels, Seen, Sight
from visualzoom.envs.testing import check_tool, small_images


def test_the_tool_keeps_the_laws_of_all_tools() -> None:
    check_tool(Mirror())


@given(pixels=small_images())
def test_a_mirror_in_a_mirror_shows_the_picture(pixels: Pixels) -> None:
    assert np.array_equal(mirrored(mirrored(pixels)), pixels)


def mirrored(pixels: Pixels) -> Pixels:
    sight = Sight(images=[Seen.whole(ArrayPicture(pixels), Frame(56, 56))], store=ImageStore())
    shown = Mirror().run(MirrorArguments(axis="left-right"), sight).pixels
    assert shown is not None
    return shown

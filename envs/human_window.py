"""A window for people to watch episodes in, by pygame, which is loaded when the first page is shown.

Law: `show` draws the page or says what is missing; closing the window by hand, or twice, is no error. Pygame has one
window in a process: a second environment in the mode "human" takes it over.
"""

from __future__ import annotations

import os
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled, Error

from visualzoom.envs.records import Pixels

_UNSEEN = ("dummy", "offscreen")
"""Drivers that draw for nobody: pygame falls back on them where there is no display. They must be asked for."""


class HumanWindow:
    """A window that opens with the first page."""

    def __init__(self, title: str, fps: float) -> None:
        """Nothing is opened yet.

        Args:
            title: Of the window.
            fps: Pages a second: `show` waits until it is time for the next one.
        """
        self._title = title
        self._fps = fps
        self._pygame: ModuleType | None = None
        self._clock: Any = None
        self._was_closed_by_hand = False

    def __reduce__(self) -> tuple[type[HumanWindow], tuple[str, float]]:
        """A copy opens a window of its own."""
        return HumanWindow, (self._title, self._fps)

    @property
    def is_open(self) -> bool:
        """It is there to be seen."""
        return self._pygame is not None

    def show(self, page: Pixels) -> None:
        """Put the page into the window, opening it if need be; nothing happens once a person has closed it.

        Raises:
            DependencyNotInstalled: There is no pygame.
            Error: There is no display.
        """
        if self._was_closed_by_hand:
            return
        if self._pygame is None or not self._pygame.display.get_init():
            self._pygame = _opened(self._title)
            self._clock = self._pygame.time.Clock()
        self._draw(self._pygame, page)
        if any(event.type == self._pygame.QUIT for event in self._pygame.event.get()):
            self.close()
            self._was_closed_by_hand = True
        else:
            self._clock.tick(self._fps)

    def _draw(self, pygame: ModuleType, page: Pixels) -> None:
        size = page.shape[1], page.shape[0]
        window = pygame.display.get_surface()
        if window is None or window.get_size() != size:
            window = pygame.display.set_mode(size)
        window.blit(pygame.surfarray.make_surface(np.swapaxes(page, 0, 1)), (0, 0))
        pygame.display.flip()

    def close(self) -> None:
        """Take the window away; the next page opens it again."""
        if self._pygame is not None:
            self._pygame.display.quit()
        self._pygame = None
        self._was_closed_by_hand = False


def _opened(title: str) -> ModuleType:
    pygame = _loaded()
    asked = os.environ.get("SDL_VIDEODRIVER")
    try:
        pygame.display.init()
        pygame.display.set_caption(title)
        driver = pygame.display.get_driver()
    except pygame.error as problem:
        raise _no_display(str(problem)) from problem
    if driver in _UNSEEN and asked != driver:
        pygame.display.quit()
        raise _no_display("there is no display")
    return pygame


def _no_display(reason: str) -> Error:
    return Error(
        f"no window can be opened ({reason}): the mode 'human' needs a display. Set DISPLAY; or SDL_VIDEODRIVER=dummy "
        "for a window that nobody sees; or make the environment with render_mode='rgb_array' and record a video"
    )


def _loaded() -> ModuleType:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on standard output
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages it is built on
            import pygame
    except ImportError as problem:
        raise DependencyNotInstalled(
            "the mode 'human' shows its pages by pygame, which is not installed: pip install 'visualzoom[human]', or "
            "make the environment with render_mode='rgb_array'"
        ) from problem
    return pygame

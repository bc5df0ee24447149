"""The store of pixels: each picture is decoded or drawn once a process, each view of it made once.

Law: a store gives the same pixels whatever it has room for; it never keeps more than `max_bytes`; what it hands out is
read-only. It pickles without its contents.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from visualzoom.envs.records import Box, ImageRef, Picture, Pixels
from visualzoom.envs.views import KERNEL_VERSION, ViewRule, resize


class ImageStore:
    """Pixels of one process by key, the least recently used dropped first, bounded in bytes. Safe for threads."""

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        """An empty store.

        Raises:
            ValueError: The bound is negative.
        """
        if max_bytes < 0:
            raise ValueError(f"a store of {max_bytes} bytes; give 0 (keep nothing) or more")
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, Pixels] = OrderedDict()
        self._used_bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ImageStore], tuple[int]]:
        """Another process begins with an empty store; so does a deep copy."""
        return ImageStore, (self.max_bytes,)

    def __len__(self) -> int:
        """Arrays kept."""
        return len(self._kept)

    @property
    def used_bytes(self) -> int:
        """Bytes kept, never more than `max_bytes`."""
        return self._used_bytes

    def pixels(self, picture: Picture) -> Pixels:
        """The whole picture, read-only.

        Raises:
            ImageError: The picture can't be had.
        """
        return self._get(picture.key, picture.pixels)

    def view(self, picture: Picture, box: Box | None, rule: ViewRule, enlarge: bool) -> tuple[ImageRef, Pixels]:
        """The picture, or the part of it in `box`, as the rule shows it; read-only.

        Cut first, then resized: no pixel outside the box shines through.

        Raises:
            ValueError: The box does not lie inside the picture.
            ImageError: The picture can't be had.
        """
        left, top, right, bottom = box or Box(0, 0, picture.width_px, picture.height_px)
        if not (0 <= left < right <= picture.width_px and 0 <= top < bottom <= picture.height_px):
            raise ValueError(f"{box} does not lie inside a picture of {picture.width_px}x{picture.height_px} px")
        width_px, height_px = rule.size_px(right - left, bottom - top, enlarge=enlarge)
        name = f"{picture.key} {left},{top},{right},{bottom} {width_px}x{height_px} {KERNEL_VERSION}"
        key = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        shown = self._get(key, lambda: resize(self.pixels(picture)[top:bottom, left:right], width_px, height_px))
        return ImageRef(key, width_px, height_px), shown

    def _get(self, key: str, make: Callable[[], Pixels]) -> Pixels:
        """What is kept, or what is made; two threads may make the same, that changes nothing."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        pixels = make().view()
        pixels.flags.writeable = False
        with self._lock:
            if key not in self._kept and pixels.nbytes <= self.max_bytes:
                self._kept[key] = pixels
                self._used_bytes += pixels.nbytes
                while self._used_bytes > self.max_bytes:
                    self._used_bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels


@lru_cache(maxsize=1)
def default_store() -> ImageStore:
    """The store that all environments of a process share."""
    return ImageStore()

"""The store of pixels: each picture is decoded or drawn once, each view of it made once.

Law: a store gives the same pixels whatever it has room for; it never keeps more than `max_bytes`; threads that want
one thing at once wait for one to make it; what it hands out is read-only and shared. It pickles without its contents.
Pictures are named by their decoded pixels: two files with equal pixels are one picture, and equal views of them have
one name. A picture's own `key` only says which name was found for it before.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from visualzoom.envs.images.kernels import KERNELS, Kernel, chosen_kernel, open_kernel
from visualzoom.envs.images.pictures import ImageError, content_key
from visualzoom.envs.images.pixel_cache import Makers, PixelCache
from visualzoom.envs.records import Box, ImageRef, Picture, Pixels
from visualzoom.envs.regions import Region
from visualzoom.envs.views import ViewRule

if TYPE_CHECKING:  # it needs file locks, which not every system has
    from visualzoom.envs.images.shared_pixels import SharedPixels

MAX_NAMES = 65_536
"""Pictures whose name is remembered when their pixels are not."""
_Original = tuple[str, Pixels]  # name and pixels


class ImageStore:
    """Pixels of one process by content, bounded in bytes: see `PixelCache` for what goes first. Safe for threads."""

    def __init__(
        self,
        max_bytes: int = 512 * 2**20,
        kernel: str | Kernel = "pillow",
        *,
        shared: SharedPixels | None = None,
    ) -> None:
        """An empty store.

        Args:
            max_bytes: Of all that is kept, originals and views; 0 keeps nothing.
            kernel: How views are scaled: a name of `KERNELS`, "auto", "module:attribute", or a kernel.
            shared: Where the processes of one node keep their originals together; None: each decodes its own.

        Raises:
            ValueError: The bound is negative.
            LookupError: No kernel is called so.
        """
        if max_bytes < 0:
            raise ValueError(f"a store of {max_bytes} bytes; give 0 (keep nothing) or more")
        self.max_bytes = max_bytes
        self.shared = shared
        self._given = chosen_kernel(kernel) if isinstance(kernel, str) else kernel
        self._kernel = None if isinstance(self._given, str) and self._given in KERNELS else open_kernel(self._given)
        self._cache = PixelCache(max_bytes)
        self._names: OrderedDict[str, str] = OrderedDict()  # of a picture's key: the name of its content
        self._lock = threading.Lock()  # of the names
        self._decoding: Makers[_Original] = Makers()
        self._drawing: Makers[Pixels] = Makers()

    def __reduce__(self) -> tuple[object, ...]:
        """Another process begins with an empty store; so does a deep copy. What "auto" stood for here it is there."""
        return _emptied, (self.max_bytes, self._given, self.shared)

    @property
    def num_kept(self) -> int:
        """Arrays kept."""
        return self._cache.num_kept

    @property
    def used_bytes(self) -> int:
        """Bytes kept, never more than `max_bytes`."""
        return self._cache.used_bytes

    @property
    def kernel(self) -> Kernel:
        """How views are scaled; what it needs is imported when it is first asked for."""
        if self._kernel is None:
            self._kernel = open_kernel(self._given)
        return self._kernel

    def pixels(self, picture: Picture) -> Pixels:
        """The whole picture, read-only.

        Raises:
            ImageError: The picture can't be had.
        """
        return self._original(picture.key, picture)[1]

    def view(
        self, picture: Picture, region: Region | Box | None, rule: ViewRule, enlarge: bool
    ) -> tuple[ImageRef, Pixels]:
        """The picture, or a part of it, as the rule shows it; read-only.

        Cut first, then scaled: no pixel outside the part shines through.

        Args:
            picture: The original.
            region: Which part of it; None for all of it.
            rule: At which size.
            enlarge: Fill the rule's area, however small the part is.

        Raises:
            ValueError: The box does not lie inside the picture, or the region is one of a picture of another size.
            ImageError: The picture can't be had.
        """
        part = _part(picture, region)
        width_px, height_px = rule.size_px(*part.size, enlarge=enlarge)
        kernel = self.kernel
        picture_key = picture.key  # a file's is asked of the disk: once
        key = _view_key(f"{self._name(picture_key, picture)} {part.name} {width_px}x{height_px} {kernel.name}")

        def draw() -> Pixels:
            return part.draw(self._original(picture_key, picture)[1], width_px, height_px, kernel.resize)

        return ImageRef(key, width_px, height_px), self._view(key, draw)

    def _view(self, key: str, draw: Callable[[], Pixels]) -> Pixels:
        def make() -> Pixels:
            found = self._cache.find(key)
            return self._cache.keep(key, draw()) if found is None else found

        found = self._cache.find(key)
        return self._drawing.once(key, make) if found is None else found

    def _name(self, key: str, picture: Picture) -> str:
        with self._lock:
            name = self._names.get(key)
        return self._original(key, picture)[0] if name is None else name

    def _original(self, key: str, picture: Picture) -> _Original:
        return self._known(key) or self._decoding.once(key, lambda: self._known(key) or self._decoded(key, picture))

    def _known(self, key: str) -> _Original | None:
        with self._lock:
            name = self._names.get(key)
            if name is not None:
                self._names.move_to_end(key)
        pixels = None if name is None else self._cache.find(name)
        return None if name is None or pixels is None else (name, pixels)

    def _decoded(self, key: str, picture: Picture) -> _Original:
        name, pixels = self._named(key, picture)
        with self._lock:
            self._names[key] = name
            if len(self._names) > MAX_NAMES:
                self._names.popitem(last=False)
        return name, self._cache.keep(name, pixels, is_dear=True)

    def _named(self, key: str, picture: Picture) -> _Original:
        shared = self.shared
        if shared is not None:
            return shared.get(key, picture.width_px, picture.height_px, lambda: _pixels(picture))
        pixels = _pixels(picture)
        return content_key(pixels), pixels


def _pixels(picture: Picture) -> Pixels:
    """What the picture itself gives, which may be of a user's own kind."""
    pixels = picture.pixels()
    wanted = (picture.height_px, picture.width_px, 3)
    if pixels.dtype != np.uint8 or pixels.shape != wanted:
        raise ImageError(
            f"{picture!r:.200} gave {pixels.dtype} of shape {pixels.shape}; it should be uint8 of {wanted}"
        )
    return pixels


def _part(picture: Picture, region: Region | Box | None) -> Region:
    width_px, height_px = picture.width_px, picture.height_px
    if isinstance(region, Region):
        if (region.width_px, region.height_px) != (width_px, height_px):
            raise ValueError(
                f"the region is one of {region.width_px}x{region.height_px} px; the picture has {width_px}x{height_px}"
            )
        return region
    whole = Region.whole(width_px, height_px)
    return whole if region is None else whole.crop(region)


def _view_key(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _emptied(max_bytes: int, kernel: str | Kernel, shared: SharedPixels | None) -> ImageStore:
    return ImageStore(max_bytes, kernel, shared=shared)


class DefaultStores:
    """The stores that all environments of a process share, one for each kernel."""

    def __init__(self) -> None:
        """None is made yet."""
        self._stores: dict[str, ImageStore] = {}
        self._shared: SharedPixels | None = None
        self._lock = threading.Lock()

    def __call__(self, kernel: str = "auto") -> ImageStore:
        """The store of those that use this kernel."""
        name = chosen_kernel(kernel)
        found = self._stores.get(name)
        if found is not None:
            return found
        made = ImageStore(kernel=name)  # without the lock: a kernel of the user's may import anything
        with self._lock:
            made.shared = self._shared
            return self._stores.setdefault(name, made)

    def __reduce__(self) -> str:
        """Another process has its own."""
        return "default_store"

    def share(self, shared: SharedPixels | None) -> None:
        """Have all of them, made or not made yet, keep their originals there."""
        with self._lock:
            self._shared = shared
            for store in self._stores.values():
                store.shared = shared


default_store = DefaultStores()

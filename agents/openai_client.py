"""One request to a server that speaks the API of OpenAI: bytes, or why there are none. Through the `openai` client.

Law: what is read is bounded in size, whatever is sent; time is the caller's to bound. The key comes from the
environment, goes to no other host, never unencrypted over a network, and is taken out of all complaints of a server.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from openai import APIConnectionError, AsyncOpenAI, DefaultAsyncHttpxClient, Omit, OpenAIError

from visualzoom.agents.api_reading import BadBodyError, Refusal, printable, read_refusal
from visualzoom.agents.api_records import ApiError, ServerSettings
from visualzoom.agents.api_retry import asked_wait_s

MOST_BYTES = 2**24
MOST_ERROR_BYTES = 2**16
OPENAI_HOST = "api.openai.com"
BODY = "visualzoom.body"


class RefusedError(OpenAIError):
    """A status other than success."""

    def __init__(self, refusal: Refusal, asked_s: float) -> None:
        """What was said, and how long the server wants to be left alone."""
        super().__init__(refusal.message)
        self.refusal = refusal
        self.asked_s = asked_s


class UnreadError(OpenAIError):
    """More was sent than is read, or in a way that is not read."""


class LostError(Exception):
    """No connection, or one that broke."""


class OpenAIClient:
    """Sends requests. To be made, used and closed within one event loop."""

    def __init__(self, settings: ServerSettings) -> None:
        """Nothing is sent yet.

        Raises:
            ApiError: The URL is none, or the key is missing or would travel unencrypted.
        """
        self._settings = settings
        self._key = read_key(settings)
        self._client = AsyncOpenAI(
            base_url=settings.url,
            api_key=self._key or "none",  # the client wants one; without a key its header is left out
            max_retries=0,
            timeout=None,
            http_client=DefaultAsyncHttpxClient(
                event_hooks={"response": [_hear]}, follow_redirects=False, timeout=None, trust_env=True
            ),
        )

    async def reply(self, messages: list[dict[str, Any]], body: Mapping[str, Any]) -> bytes:
        """What a request for a reply gives.

        Raises:
            RefusedError: Another status than success.
            BadBodyError: More than MOST_BYTES, or compressed.
            LostError: No connection, or one that broke.
        """
        asking = self._client.chat.completions.with_streaming_response.create(
            messages=cast(Any, messages),  # theirs are typed dicts
            model=self._settings.model,
            extra_body=dict(body),
            extra_headers=self._headers(),
        )
        return await self._heard(asking)

    async def models(self) -> bytes:
        """What the list of models gives; raises as `reply` does."""
        return await self._heard(self._client.models.with_streaming_response.list(extra_headers=self._headers()))

    async def close(self) -> None:
        """Let connections go."""
        await self._client.close()

    def without_key(self, text: str) -> str:
        """The text, with the key taken out."""
        return text.replace(self._key, "***") if self._key else text

    async def _heard(self, asking: Any) -> bytes:
        try:
            async with asking as response:
                return cast(bytes, response.http_response.extensions[BODY])
        except RefusedError as refused:
            said = refused.refusal
            words = self.without_key(said.message)
            raise RefusedError(Refusal(said.status, said.kind, words), refused.asked_s) from None
        except UnreadError as unread:
            raise BadBodyError(str(unread)) from None
        except APIConnectionError as problem:
            cause = problem.__cause__ or problem
            raise LostError(printable(self.without_key(f"{type(cause).__name__}: {cause}"))) from None

    def _headers(self) -> dict[str, Any]:
        headers: dict[str, Any] = {"Accept-Encoding": "identity"}
        if not self._key:
            headers["Authorization"] = Omit()
        if urlsplit(self._settings.url).hostname != OPENAI_HOST:
            # the client reads them from the environment; they are nobody else's business
            headers |= {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
        return headers


async def _hear(response: Any) -> None:
    """Read what comes, up to a bound, and keep it with the response; a status other than success is raised.

    It runs within the client's sending, which makes one kind of error of everything that can break a connection.
    """
    is_good = response.is_success
    most_bytes = MOST_BYTES if is_good else MOST_ERROR_BYTES
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnreadError("the server sent something compressed, which it was not asked for")
    read = bytearray()
    async for chunk in response.aiter_raw():
        read += chunk
        if len(read) > most_bytes:
            if is_good:
                raise UnreadError(f"the server sent more than {most_bytes} bytes")
            break
    if not is_good:
        raise RefusedError(read_refusal(response.status_code, bytes(read)), asked_wait_s(response.headers))
    response.extensions[BODY] = bytes(read)


def read_key(settings: ServerSettings) -> str | None:
    """The key from the environment; None for a server that wants none.

    Raises:
        ApiError: The URL is none, or the key is missing or would travel unencrypted.
    """
    url = urlsplit(settings.url)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.username or url.password:
        raise ApiError(
            "the address of a server is http:// or https://, a host and a path such as /v1, without a name, a password "
            "or a question mark; a key goes into an environment variable"
        )
    if settings.key_env is None:
        return None
    key = os.environ.get(settings.key_env, "").strip()
    if not key:
        raise ApiError(f"the environment variable {settings.key_env} is not set; it should hold the key of the server")
    if not (key.isascii() and key.isprintable()):
        raise ApiError(f"the environment variable {settings.key_env} holds characters that no key has")
    if url.scheme == "http" and not _is_near(url.hostname):
        raise ApiError(
            f"the key in {settings.key_env} would go to {url.hostname} unencrypted, for all on the way to read; use "
            "https, or a tunnel to this machine, or no key"
        )
    return key


def _is_near(host: str) -> bool:
    """Whether it is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")

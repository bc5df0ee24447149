"""A vLLM server as an engine: tokens in and tokens out over HTTP, on this machine or another.

Of the server's routes `/inference/v1/generate` is used, because it is exact: it takes token ids with one placeholder
for each image and the images as lossless PNG beside them, and gives back the ids that it read (compared with the
ledger), the sampled ids and their log-probabilities. `/v1/completions` takes no images, and `/v1/chat/completions`
writes the prompt itself: a history with sampled tokens in it would be decoded and encoded again. An image that was sent
goes by its hash from then on, and with its pixels again when the server says that it has lost it.

The server must be started with `--enable-scale-out --logprobs-mode processed_logprobs`; see docs/vllm.md. Weights are
published through a file, if the server shares this machine and has its routes for developers. Needs no vLLM here, and
the standard library's HTTP alone.
Law: what can't be reached, or answers with an error, raises with the address and the answer; a reply that is not there
at its deadline is stopped, and its episode ends as aborted.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file

from visualzoom.agents.engine_policy import Asked, EngineLost, EnginePolicy, Said, Weights, collapsed_ids
from visualzoom.agents.records import FinishReason, ShownImage

MOMENT_S = 0.02
"""How long `step` waits if nothing has arrived."""
SOON_S = 0.5
"""In which a stopped reply is back."""
STOP_S = 30.0
"""Longest time of a word to the server that only stops a reply."""
NEVER = -100.0
"""Added to the logit of a banned token, the most that vLLM takes: its probability is below 1e-40."""
REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
MEMORY = Path("/dev/shm")


class ServerError(EngineLost):
    """The server could not be reached, or refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Where it is, and how patient one is with it."""

    url: str
    """As in http://127.0.0.1:8000."""
    api_key: str | None = None
    timeout_s: float = 600.0
    """Longest time of a reply; then its episode ends as aborted."""
    num_tries: int = 4
    """Of a connection; between them one waits a second, two, four."""

    def post(self, path: str, body: Mapping[str, object] | None = None, *, timeout_s: float | None = None) -> Any:
        """The answer to a request, as JSON; None if it is empty.

        Args:
            path: Of the route.
            body: Sent as JSON.
            timeout_s: In place of the server's own.

        Raises:
            ServerError: It can't be reached, or refuses.
            TimeoutError: It did not answer in time.
        """
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = json.dumps({} if body is None else body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers, method="POST")
        for number in range(self.num_tries):
            try:
                with urllib.request.urlopen(request, timeout=timeout_s or self.timeout_s) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as problem:
                said = problem.read(2000).decode(errors="replace")
                raise ServerError(f"{request.full_url} answered {problem.code}: {said}") from problem
            except TimeoutError:
                raise
            except OSError as problem:  # a refused or broken connection
                if isinstance(getattr(problem, "reason", None), TimeoutError):
                    raise TimeoutError(str(problem)) from problem
                if number + 1 == self.num_tries:
                    raise ServerError(
                        f"{request.full_url} can't be reached ({problem}); is the server up?"
                    ) from problem
                time.sleep(2.0**number)
        raise AssertionError("num_tries is at least 1")


@dataclass(slots=True)
class _UnderWay:
    """A reply that the server works at."""

    asked: Asked
    server_id: str = field(default_factory=lambda: uuid.uuid4().hex)


class EngineServer:
    """Asks the server for each reply in a thread of its own."""

    def __init__(self, server: Server, banned_ids: Iterable[int], *, max_episodes: int = 256) -> None:
        """Ask nothing yet.

        Args:
            server: Where it is.
            banned_ids: Never sampled.
            max_episodes: Replies asked for at once; others wait.
        """
        self._server = server
        self._bias = {str(token): NEVER for token in banned_ids}
        self._threads = ThreadPoolExecutor(max_episodes, thread_name_prefix="vllm-server")
        self._under_way: dict[Future[Said], _UnderWay] = {}
        self._sent: set[str] = set()
        """Keys of images that the server has been given."""

    def add(self, asked: Sequence[Asked]) -> None:
        for one in asked:
            under_way = _UnderWay(one)
            self._under_way[self._threads.submit(self._reply, under_way)] = under_way

    def step(self) -> list[Said]:
        done, _ = wait(self._under_way, timeout=MOMENT_S, return_when=FIRST_COMPLETED)
        return self._said(done)

    def abort(self, request_ids: Sequence[str]) -> None:
        gone = {future: one for future, one in self._under_way.items() if one.asked.request_id in set(request_ids)}
        for future in gone:
            future.cancel()
            del self._under_way[future]
        self._stop([one.server_id for one in gone.values()])

    def pause(self) -> list[Said]:
        self._developer("/pause?mode=abort&clear_cache=false")
        done, late = wait(self._under_way, timeout=SOON_S)
        while late:  # they reached the server when it was paused already, and would wait in it
            self._stop([self._under_way[future].server_id for future in late])
            done, late = wait(self._under_way, timeout=SOON_S)
        return self._said(done)

    def take(self, weights: Weights) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights()}
        with tempfile.NamedTemporaryFile(dir=MEMORY if MEMORY.is_dir() else None, suffix=".safetensors") as file:
            save_file(tensors, file.name)
            self._developer("/start_weight_update")
            self._developer("/update_weights", {"update_info": {"path": file.name}})
            self._developer("/finish_weight_update")

    def reset_caches(self) -> None:
        self._sent.clear()
        self._developer("/reset_prefix_cache?reset_running_requests=true")
        self._developer("/reset_encoder_cache")
        self._developer("/reset_mm_cache")

    def resume(self) -> None:
        self._developer("/resume")

    def rest(self) -> None:
        """A server's memory is its own."""

    def close(self) -> None:
        self.abort([one.asked.request_id for one in self._under_way.values()])
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _said(self, done: Iterable[Future[Said]]) -> list[Said]:
        for future in done:
            del self._under_way[future]
        return [future.result() for future in done]

    def _stop(self, server_ids: Sequence[str]) -> None:
        if server_ids:
            body = {"request_ids": [f"generate-tokens-{server_id}" for server_id in server_ids]}
            self._server.post("/inference/v1/abort_requests", body, timeout_s=STOP_S)

    def _developer(self, path: str, body: Mapping[str, object] | None = None) -> None:
        try:
            self._server.post(path, body)
        except TimeoutError as problem:
            raise ServerError(f"{self._server.url}{path} did not answer in time") from problem
        except ServerError as problem:
            if "answered 404" not in str(problem):
                raise
            raise ServerError(
                f"{problem} A server takes weights and forgets old ones only with VLLM_SERVER_DEV_MODE=1 in its "
                'environment and --weight-transfer-config \'{"backend": "visualzoom_file"}\'; see docs/vllm.md'
            ) from problem

    def _reply(self, one: _UnderWay) -> Said:
        asked = one.asked
        images = list(asked.ledger.images)
        known = {image.key for image in images} & self._sent
        try:
            try:
                answer = self._server.post("/inference/v1/generate", self._body(one, images, known))
            except ServerError:
                if not known:
                    raise
                self._sent -= known  # it may have dropped them: with all pixels it has no such excuse
                answer = self._server.post("/inference/v1/generate", self._body(one, images, set()))
        except TimeoutError:
            self._stop([one.server_id])
            read = (*asked.ledger.token_ids, *asked.said_ids)
            return _said(asked, {"prompt_token_ids": read, "choices": [{"finish_reason": "timeout"}]})
        self._sent |= {image.key for image in images}
        return _said(asked, answer)

    def _body(self, one: _UnderWay, images: Sequence[ShownImage], known: set[str]) -> dict[str, object]:
        asked = one.asked
        parts = [
            {"type": "image_url", "url": None if image.key in known else _data_url(image), "uuid": image.key}
            for image in images
        ]
        return {
            "request_id": one.server_id,
            "token_ids": [*collapsed_ids(asked.ledger), *asked.said_ids],
            "content_parts": parts or None,
            "return_token_ids": True,
            "sampling_params": {
                "max_tokens": asked.max_tokens,
                "temperature": asked.temperature,
                "seed": asked.seed,
                "stop_token_ids": list(asked.stop_ids),
                "ignore_eos": True,
                "logprobs": 0,
                "detokenize": False,
                "logit_bias": self._bias or None,
            },
        }


class ServerPolicy(EnginePolicy):
    """A vLLM server as a policy."""

    def __init__(
        self, server: Server, *, weights: Weights, stop_ids: Iterable[int], banned_ids: Iterable[int] = ()
    ) -> None:
        """Ask this server; the arguments are those of `VLLMPolicy`."""
        banned = frozenset(banned_ids)
        super().__init__(EngineServer(server, banned), weights=weights, stop_ids=stop_ids, banned_ids=banned)


def _data_url(image: ShownImage) -> str:
    """Its pixels, exactly; a server on the same network is better off with a fast compression than with a good one."""
    file = io.BytesIO()
    Image.fromarray(image.pixels).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _said(asked: Asked, answer: Mapping[str, Any]) -> Said:
    (choice,) = answer["choices"]
    content = (choice.get("logprobs") or {}).get("content") or ()
    details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
    return Said(
        request_id=asked.request_id,
        prompt_ids=answer["prompt_token_ids"],
        num_cached=details.get("cached_tokens") or 0,
        token_ids=tuple(choice.get("token_ids") or ()),
        logprobs=tuple(token["logprob"] for token in content),
        finish_reason=REASONS.get(choice["finish_reason"], FinishReason.ABORT),
    )

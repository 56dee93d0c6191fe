"""Where the terminal commands get their text from: an engine in this process, or a server."""

import http.client
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from kvasir import envs
from kvasir.errors import ConfigError, KvasirError, UserError

if TYPE_CHECKING:
    from kvasir.config import EngineArgs

Message = dict[str, str]


class RemoteError(KvasirError):
    """A server answered with an error, or not at all."""


class Source(Protocol):
    """Streams text. Closing an iterator early stops the generation behind it."""

    model: str

    def chat(self, messages: list[Message], sampling: dict[str, Any]) -> Iterator[str]: ...

    def complete(self, prompt: str, sampling: dict[str, Any]) -> Iterator[str]: ...

    def close(self) -> None: ...


class LocalSource:
    """An engine in this process."""

    def __init__(self, args: "EngineArgs"):
        from kvasir.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(args)
        self._count = 0
        self.model = self._engine.config.model.served_model_name[0]

    def chat(self, messages: list[Message], sampling: dict[str, Any]) -> Iterator[str]:
        tokenizer = self._tokenizer()
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        return self._stream(tokenizer.encode(text, add_special_tokens=False), sampling)

    def complete(self, prompt: str, sampling: dict[str, Any]) -> Iterator[str]:
        return self._stream(self._tokenizer().encode(prompt), sampling)

    def _tokenizer(self) -> Any:
        if self._engine.tokenizer is None:
            raise UserError("text needs a tokenizer; leave --skip-tokenizer-init out.")
        return self._engine.tokenizer

    def _stream(self, token_ids: list[int], sampling: dict[str, Any]) -> Iterator[str]:
        from kvasir.messages import RequestOutputKind, SamplingParams

        values = {k: v for k, v in self._engine.default_sampling_params.items() if v is not None} | sampling
        values.setdefault("max_tokens", None)  # the engine gives what room is left
        params = SamplingParams(**values, output_kind=RequestOutputKind.DELTA)
        self._count += 1
        request_id = f"terminal-{self._count}"
        self._engine.add_request(request_id, {"prompt_token_ids": token_ids}, params)
        try:
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    if output.error is not None:
                        raise UserError(output.error)
                    if output.outputs[0].text:
                        yield output.outputs[0].text
        finally:
            self._engine.abort_request([request_id])

    def close(self) -> None:
        self._engine.shutdown()


class RemoteSource:
    """A server with an OpenAI-compatible API."""

    def __init__(self, url: str, model: str | None, api_key: str | None = None):
        parts = urlsplit(url if "://" in url else "http://" + url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--url is {url!r}: it must look like http://localhost:8000.")
        self._https = parts.scheme == "https"
        self._address = (parts.hostname, parts.port)
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        key = api_key or envs.CLIENT_API_KEY.value
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self.model = model or self._first_model()

    def chat(self, messages: list[Message], sampling: dict[str, Any]) -> Iterator[str]:
        body = {"model": self.model, "messages": messages, "stream": True, **sampling}
        for choice in self._events("/v1/chat/completions", body):
            yield choice["delta"].get("content") or ""

    def complete(self, prompt: str, sampling: dict[str, Any]) -> Iterator[str]:
        body = {"model": self.model, "prompt": prompt, "stream": True, **sampling}
        for choice in self._events("/v1/completions", body):
            yield choice["text"]

    def close(self) -> None:
        pass

    def _first_model(self) -> str:
        connection, response = self._ask("GET", "/v1/models", None)
        try:
            return json.loads(response.read())["data"][0]["id"]
        except (ValueError, KeyError, IndexError):
            raise RemoteError("the server's /v1/models has no model; name one with --model.") from None
        finally:
            connection.close()

    def _events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        connection, response = self._ask("POST", path, body)
        try:
            for line in response:
                data = line.strip().removeprefix(b"data: ")
                if not data or data == b"[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise RemoteError(event["error"]["message"])
                yield from event["choices"]
        except (OSError, http.client.HTTPException) as e:
            raise RemoteError(f"the connection to the server broke: {e!r}.") from None
        finally:
            connection.close()  # an early close is the hang-up that aborts the request

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        cls = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        connection = cls(*self._address)
        try:
            connection.request(method, self._base + path, None if body is None else json.dumps(body), self._headers)
            response = connection.getresponse()
        except OSError as e:
            where = f"{self._address[0]}:{self._address[1] or ('443' if self._https else '80')}"
            raise RemoteError(f"no server answers at {where}: {e.strerror or e}.") from None
        if response.status != 200:
            raw = response.read(65536)
            connection.close()
            try:
                text = json.loads(raw)["error"]["message"]
            except (ValueError, KeyError, TypeError):
                text = raw[:200].decode("utf-8", errors="replace")
            raise RemoteError(f"the server answered {response.status}: {text}")
        return connection, response

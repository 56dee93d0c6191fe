"""What the HTTP app needs to know, as values: no app code reads a global or a command line."""

from dataclasses import dataclass, field
from typing import Any

from kvasir.config.batch import BatchConfig


@dataclass(frozen=True)
class ServerSettings:
    """Limits and choices of one server.

    Attributes:
        api_keys: any of them opens every route but those of admins; without any key the server is open.
        admin_keys: open those too, which exist only if there is one.
        api_keys_file: more keys, with limits and scopes of their own.
        usage_db: where counters of keys are kept; beside `api_keys_file` if that is given.
        public_metrics: /metrics needs no key.
        request_timeout_s: of requests that name none; 0.0: none.
        max_body_bytes: longer request bodies are answered with 413.
        body_timeout_s: how long a client may take to send its body.
        headers_wait_s: how long a stream waits for its first output before it sends its headers; an error within
            that time is answered with its own HTTP status.
        chat_template: used instead of the model's own.
        trust_request_chat_template: let requests bring a template. Off: a template is code.
        default_chat_template_kwargs: given to the template unless the request says otherwise.
        force_include_usage: send the usage chunk on every stream.
        tool_call_parser: name of a family, "auto" to go by the chat template, or "none".
        reasoning_parser: name of a family, or "none".
        responses_store_bytes: memory for responses that can be asked for again; 0 keeps none.
        responses_ttl_s: how long one is kept.
        profile: whether traces may be taken.
        web_page: serve the page at `/`; its files need no key.
        batches: where files and batches are kept, and their bounds.
        allowed_origins: CORS origins; empty means that no CORS headers are sent.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_keys: tuple[str, ...] = field(default=(), repr=False)
    api_keys_file: str | None = None
    usage_db: str | None = None
    public_metrics: bool = False
    request_timeout_s: float = 0.0
    max_body_bytes: int = 32 << 20
    body_timeout_s: float = 60.0
    headers_wait_s: float = 5.0
    response_role: str = "assistant"
    chat_template: str | None = None
    trust_request_chat_template: bool = False
    default_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    force_include_usage: bool = False
    tool_call_parser: str = "auto"
    reasoning_parser: str = "none"
    responses_store_bytes: int = 64 << 20
    responses_ttl_s: float = 3600.0
    profile: bool = False
    web_page: bool = True
    batches: BatchConfig = BatchConfig()
    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    log_requests: bool = False

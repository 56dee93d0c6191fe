"""The HTTP server. Not part of the engine: `EngineArgs` knows none of it."""

from dataclasses import dataclass
from typing import Any

from kvasir.config.option import at_least, between, option


@dataclass(frozen=True)
class ServerConfig:
    """The HTTP server."""

    host: str = option(
        "127.0.0.1",
        help="Address to listen on. The default is reachable from this machine only; 0.0.0.0 opens it to the "
        "network, best together with --api-key.",
    )
    port: int = option(8000, help="TCP port; 0 takes a free one and logs it.", check=between(0, 65535))
    api_server_count: int = option(
        1,
        help="Processes that answer HTTP over one engine, for when one of them is a full CPU core of work. Each holds "
        "its own connections; what must be in one place (stored responses) is off with several.",
        check=between(1, 64),
    )
    uds: str | None = option(None, help="Path of a Unix socket to listen on, in place of host and port.")
    api_key: list[str] = option(
        [],
        help="Keys that clients may present as a bearer token; several are allowed. Also: KVASIR_API_KEY, which other "
        "users of the machine do not see in the list of processes.",
        secret=True,
    )
    admin_api_key: list[str] = option(
        [], help="Keys that also open admin routes, which do not exist without one.", secret=True
    )
    api_keys_file: str | None = option(
        None, help="YAML file of keys with names, scopes, limits and weights; read again on SIGHUP."
    )
    usage_db: str | None = option(
        None, help="SQLite file of what each key has used. By default the keys file's name with .usage.db behind it."
    )
    ssl_certfile: str | None = option(
        None, help="Certificate chain (PEM): the server speaks TLS. Read again on SIGHUP and when the file changes."
    )
    ssl_keyfile: str | None = option(None, help="Its private key, if that is not in the same file.")
    ssl_ca_certs: str | None = option(None, help="Authorities (PEM) that sign clients' certificates.")
    ssl_cert_reqs: int = option(
        0, help="Clients' certificates: 0 not asked for, 1 checked if there is one, 2 required.", check=between(0, 2)
    )
    public_metrics: bool = option(False, help="Let everybody read /metrics, also where other routes need a key.")
    request_timeout: float = option(
        0.0,
        help="Seconds after which a request is ended, unless it says X-Request-Timeout or timeout itself; 0: none.",
        check=at_least(0),
        unit="s",
    )
    allowed_origins: list[str] = option(
        [], help="Web origins allowed by CORS, such as https://example.com; none by default, * for all."
    )
    allowed_methods: list[str] = option(["*"], help="HTTP methods CORS allows for those origins.")
    allowed_headers: list[str] = option(["*"], help="Request headers CORS allows for those origins.")
    root_path: str = option("", help="Path prefix when a proxy in front of the server strips one.")
    response_role: str = option("assistant", help="Role put into chat replies.")
    shutdown_timeout: float = option(
        30.0,
        help="Seconds that running requests get to finish after SIGTERM; 0 ends them at once.",
        check=at_least(0),
        unit="s",
    )
    max_request_body: int = option(
        32 * 1024**2,
        help="Largest request body; a larger one is refused with HTTP 413.",
        check=at_least(1024),
        unit="bytes",
    )
    trust_request_chat_template: bool = option(
        False, help="Let a request bring its own chat template. A template is code, run in a sandbox."
    )
    default_chat_template_kwargs: dict[str, Any] = option(
        {},
        help='JSON given to the chat template unless the request says otherwise, such as {"enable_thinking": false}.',
    )
    tool_call_parser: str = option(
        "auto",
        help="How the model writes tool calls: the name of a family (docs/features/tool-calling.md) or of a plugin. "
        "auto takes hermes where the chat template shows it, else none; none leaves calls in the text.",
    )
    enable_auto_tool_choice: bool = option(
        False, help="Accepted for vLLM's sake: tool_choice auto works whenever there is a tool-call parser."
    )
    reasoning_parser: str = option(
        "none",
        help="How the model marks its thoughts: the name of a family (docs/features/reasoning.md) or of a plugin; "
        "none leaves them in the text.",
    )
    responses_store_bytes: int = option(
        64 * 1024**2,
        help="Memory for stored answers of the Responses API (previous_response_id, background); the oldest go first, "
        "0 stores none.",
        check=at_least(0),
        unit="bytes",
    )
    responses_ttl: float = option(
        3600.0, help="Seconds that an answer of the Responses API stays stored.", check=at_least(0), unit="s"
    )
    enable_force_include_usage: bool = option(
        False, help="Put token counts into every streamed reply, asked for or not."
    )
    disable_web: bool = option(False, help="No web page at /; the API stays as it is.")
    disable_access_log: bool = option(
        False, help="No log line per HTTP request.", aliases=("--disable-uvicorn-access-log",)
    )

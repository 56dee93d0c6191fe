"""TLS and its renewal; clients that dribble, stall or come in crowds."""

import datetime
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kvasir.config import ServerArgs
from kvasir.entrypoints.http import protocol
from kvasir.entrypoints.http.tls import make_tls
from kvasir.errors import ConfigError
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import CLIENT, LiveServer, serving
from tests.http.test_life import until

ROOT = Path(__file__).resolve().parents[2]


def make_pair(folder: Path, name: str) -> tuple[str, str]:
    """A certificate for localhost signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(cert_path), str(key_path)


def shown_name(port: int) -> str:
    """Common name of the certificate that the server shows."""
    data = ssl.get_server_certificate(("127.0.0.1", port)).encode()
    return x509.load_pem_x509_certificate(data).subject.rfc4514_string()


def test_tls_is_served_and_renewed_on_sighup(tmp_path: Path) -> None:
    cert, key = make_pair(tmp_path, "first")
    command = [sys.executable, "-m", "tests.http.fake_server", "5", "--ssl-certfile", cert, "--ssl-keyfile", key]
    server = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        until(lambda: _answers(port), 10.0)
        with httpx.Client(verify=ssl.create_default_context(cafile=cert), trust_env=False) as client:
            assert client.get(f"https://localhost:{port}/health").status_code == 200
        with pytest.raises(httpx.TransportError):
            CLIENT.get(f"http://localhost:{port}/health")
        assert shown_name(port) == "CN=first"
        make_pair(tmp_path, "second")
        server.send_signal(signal.SIGHUP)
        until(lambda: shown_name(port) == "CN=second", 5.0)
        Path(key).write_text("broken")
        server.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert shown_name(port) == "CN=second" and server.poll() is None
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    try:
        shown_name(port)
        return True
    except OSError:
        return False


def test_a_changed_file_is_read_without_being_told(tmp_path: Path) -> None:
    cert, key = make_pair(tmp_path, "first")
    tls = make_tls(ServerArgs(ssl_certfile=cert, ssl_keyfile=key))
    assert tls is not None and not tls.reload_if_changed()
    make_pair(tmp_path, "second")
    os.utime(cert, (1, 1))
    assert tls.reload_if_changed() and not tls.reload_if_changed()
    Path(cert).write_text("broken")
    assert not tls.reload_if_changed(), "the old pair stays"


def test_what_is_wrong_with_tls_is_said_at_the_start(tmp_path: Path) -> None:
    cert, key = make_pair(tmp_path, "x")
    assert make_tls(ServerArgs()) is None
    with pytest.raises(ConfigError, match="need --ssl-certfile"):
        make_tls(ServerArgs(ssl_keyfile=key))
    with pytest.raises(ConfigError, match="--ssl-ca-certs"):
        make_tls(ServerArgs(ssl_certfile=cert, ssl_keyfile=key, ssl_cert_reqs=2))
    with pytest.raises(ConfigError, match="cannot be set up"):
        make_tls(ServerArgs(ssl_certfile=str(tmp_path / "none.pem")))


def closes(sock: socket.socket, seconds: float) -> bool:
    sock.settimeout(seconds)
    try:
        while sock.recv(65536):
            pass
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.4)
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.4)
    with serving(FakeEngine(Script(text="x" * 90))) as live:
        yield live


def test_a_head_that_dribbles_is_cut_off(impatient: LiveServer) -> None:
    silent = socket.create_connection(("127.0.0.1", impatient.port))
    slow = socket.create_connection(("127.0.0.1", impatient.port))
    second = socket.create_connection(("127.0.0.1", impatient.port))
    second.sendall(b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n")
    assert b"200" in second.recv(4096)
    started = time.monotonic()
    for part in (b"GET /health HTTP/1.1\r\n", b"host: h\r\n", b"a: b\r\n"):
        for sock in (slow, second):  # the second one on a connection that has had an answer
            sock.sendall(part)
        time.sleep(0.1)
    for sock in (silent, slow, second):
        assert closes(sock, 2.0)
        sock.close()
    assert time.monotonic() - started < 2.5
    assert CLIENT.get(impatient.url + "/health").status_code == 200


def test_who_does_not_read_is_cut_off(impatient: LiveServer) -> None:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", impatient.port))
    request = b"GET /openapi.json HTTP/1.1\r\nhost: h\r\n\r\n"
    sock.sendall(request * 400)  # answers of some 100 KiB each, and nobody takes them
    connections = lambda: impatient.on_loop(lambda: len(impatient.server.server_state.connections))
    until(lambda: connections() == 1)
    until(lambda: connections() == 0, 5.0)
    sock.close()
    assert CLIENT.get(impatient.url + "/health").status_code == 200


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 5)
    with serving(FakeEngine()) as live:
        crowd = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(12)]
        assert sum(closes(sock, 0.3) for sock in crowd) >= 7
        for sock in crowd:
            sock.close()
        until(lambda: httpx.get(live.url + "/health", trust_env=False).status_code == 200)


def test_heads_are_bounded(server: LiveServer) -> None:
    for head in (
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: h\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: h\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(200)) + b"\r\n",
        b"GET /health HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(head)
            sock.settimeout(3)
            try:
                assert b" 400 " in sock.recv(4096)
            except ConnectionError:
                pass
    assert CLIENT.get(server.url + "/health").status_code == 200


def test_overload_is_refused_before_the_body_is_read(server: LiveServer) -> None:
    from kvasir.errors import QueueFullError

    server.engine.script = Script(no_room=QueueFullError("full", retry_after_s=7.4))
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        started = time.monotonic()
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-length: 9000000\r\n\r\n{")
        answer = sock.recv(65536)
    assert b" 429 " in answer and b"retry-after: 7" in answer and time.monotonic() - started < 1.0
    assert server.engine.seen == []

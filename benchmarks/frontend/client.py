"""Reads many streams with as little work as one thread can: counts bytes and events, checks a few streams in full.

    python -m benchmarks.frontend.client PORT PID STREAMS ROUNDS KEEP < request body

Prints one JSON object. PID is the process whose CPU time is taken, from the first byte of an answer on.
"""

import json
import os
import selectors
import socket
import statistics
import sys
import time

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: list[int]) -> float:
    """User and system time of processes, in seconds."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


class Stream:
    """One connection; asks again as often as it is told."""

    def __init__(self, port: int, request: bytes, rounds: int, keep: bool):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._rounds = rounds
        self.kept: list[bytes] | None = [] if keep else None
        self.times: list[float] = []
        self.num_bytes = self.num_events = self.num_reads = 0

    def ask(self) -> None:
        self._rounds -= 1
        self.sock.sendall(self._request)

    def read(self) -> bool:
        """Takes what is there; True when the stream is over."""
        data = self.sock.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed a stream")
        self.num_reads += 1
        self.num_bytes += len(data)
        self.num_events += data.count(b"data: ")
        if self.kept is not None:
            self.kept.append(data)
            self.times.append(time.perf_counter())
        if data.endswith(b"0\r\n\r\n"):
            if self._rounds == 0:
                return True
            self.ask()
        return False


def text_of(stream: Stream) -> str:
    """The text of the last answer of a stream that was kept."""
    raw = b"".join(stream.kept or ())
    body = raw[raw.rindex(b"HTTP/1.1 ") :]
    assert body.startswith(b"HTTP/1.1 200"), body[:300]
    assert body.count(b"data: [DONE]") == 1, "a stream has no end"
    head, _, chunked = body.partition(b"\r\n\r\n")
    parts = []
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        parts.append(chunked[: int(size, 16)])
        chunked = chunked[int(size, 16) + 2 :]
    text = ""
    for line in b"".join(parts).split(b"\n\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
    return text


def main() -> None:
    port, pids, num_streams, rounds, keep = (sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
    watched = [int(pid) for pid in pids.split(",")]
    body = sys.stdin.buffer.read()
    path = "/v1/chat/completions" if b'"messages"' in body else "/v1/completions"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    streams = [Stream(int(port), head.encode() + body, rounds, i < keep) for i in range(num_streams)]
    selector = selectors.DefaultSelector()
    for stream in streams:
        selector.register(stream.sock, selectors.EVENT_READ, stream)
    before = cpu_s(watched), time.perf_counter()
    for stream in streams:
        stream.ask()
    first: tuple[float, float] | None = None
    running = num_streams
    while running:
        for key, _ in selector.select(120):
            if first is None:
                first = cpu_s(watched), time.perf_counter()
            if key.data.read():
                selector.unregister(key.data.sock)
                running -= 1
    assert first is not None
    after = cpu_s(watched), time.perf_counter()
    gaps = [b - a for s in streams[:keep] for a, b in zip(s.times, s.times[1:], strict=False)]
    cuts = statistics.quantiles(gaps, n=100) if len(gaps) > 100 else [0.0] * 99
    print(
        json.dumps(
            {
                "admission_cpu_s": round(first[0] - before[0], 2),
                "stream_cpu_s": round(after[0] - first[0], 2),
                "stream_s": round(after[1] - first[1], 3),
                "total_s": round(after[1] - before[1], 3),
                "total_cpu_s": round(after[0] - before[0], 2),
                "events": sum(s.num_events for s in streams),
                "reads": sum(s.num_reads for s in streams),
                "bytes": sum(s.num_bytes for s in streams),
                "gap_p50_ms": round(cuts[49] * 1e3, 2),
                "gap_p99_ms": round(cuts[98] * 1e3, 2),
                "texts": [text_of(s) for s in streams[:keep]],
            }
        )
    )


if __name__ == "__main__":
    main()

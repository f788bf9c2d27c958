"""Clients that never stop asking, and what they are told: every request must end, and end as one of the known ways."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HANG_SECONDS = 90.0
"""A request that is not over by then never will be."""
KNOWN_ERRORS = frozenset(
    {"engine_crash", "engine_stopped", "model_loading", "queue_full", "shutting_down", "cancelled", "queue_timeout"}
)
GONE = (ConnectionError, http.client.HTTPException, EOFError)
"""The server was killed, and its kernel said so."""


@dataclass(slots=True)
class Record:
    """Thread-safe. What happened how often, and what should not have."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def find(self, what: str) -> None:
        with self._lock:
            self.findings.append(what)


class Clients:
    """Threads over one port, until `stop`."""

    def __init__(self, port: int, models: list[str], *, seed: int, record: Record, uploads: Uploads | None) -> None:
        self._port, self._models = port, models
        self._record = record
        self._uploads = uploads
        self._stopping = threading.Event()
        draws = [random.Random(f"{seed} {n}") for n in range(6)]
        self._threads = [threading.Thread(target=self._run, args=(draw,), daemon=True) for draw in draws]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Every thread's last request must end."""
        self._stopping.set()
        deadline = time.monotonic() + HANG_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._record.find(f"{thread.name} waits for an answer that never comes")

    def _run(self, draw: random.Random) -> None:
        while not self._stopping.is_set():
            try:
                self._one(draw)
            except TimeoutError:
                self._record.find(f"a request was not over after {HANG_SECONDS:g} s")
            except GONE:
                self._record.count("connection lost")
                time.sleep(0.05)
            except Exception as error:
                self._record.find(f"a client failed: {error!r}")

    def _one(self, draw: random.Random) -> None:
        kind = draw.random()
        if kind < 0.05:
            self._expect("GET /v1/models", self._ask("GET", "/v1/models"), known={"model_loading"})
        elif kind < 0.10 and self._uploads is not None:
            self._upload(draw, self._uploads)
        elif kind < 0.55:
            self._stream(draw)
        else:
            body = {"model": draw.choice(self._models), **_asked(draw)}
            status, data = self._expect("answer", self._ask("POST", "/v1/chat/completions", body), known=KNOWN_ERRORS)
            if status == 200 and data["choices"][0]["finish_reason"] not in ("stop", "length"):
                self._record.find(f"an answer without an end: {data}")

    def _stream(self, draw: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=HANG_SECONDS)
        try:
            body = json.dumps({"model": draw.choice(self._models), "stream": True, **_asked(draw)})
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                self._expect("stream", (reply.status, json.loads(reply.read())), known=KNOWN_ERRORS)
                return
            if draw.random() < 0.15:
                reply.read(40)
                self._record.count("stream left")
                return
            # A stream that is cut raises here: only a chunked body that ended as it should comes through.
            frames = reply.read().decode().strip().split("\n\n")
            if frames[-1] != "data: [DONE]":
                self._record.find(f"a stream just ended: {frames[-2:]}")
            elif '"error"' in frames[-2]:
                code = json.loads(frames[-2].removeprefix("data: "))["error"]["code"]
                self._record.count(f"stream ended by {code}")
                if code not in KNOWN_ERRORS:
                    self._record.find(f"a stream ended by {code}: {frames[-2]}")
            else:
                self._record.count("stream whole")
        finally:
            connection.close()

    def _upload(self, draw: random.Random, uploads: Uploads) -> None:
        """Groq's flow: a file, then an adapter of it."""
        boundary = "chaos"
        form = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine_tuning\r\n--{boundary}\r\n'
            'Content-Disposition: form-data; name="file"; filename="a.zip"\r\nContent-Type: application/zip\r\n\r\n'
        ).encode()
        data = form + draw.choice(uploads.archives) + f"\r\n--{boundary}--\r\n".encode()
        headers = uploads.headers | {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        status, made = self._expect("upload", self._ask("POST", "/openai/v1/files", data, headers), known=uploads.known)
        if status != 200:
            return
        name = f"chaos-{draw.randrange(4)}"
        body = {"input_file_id": made["id"], "name": name, "type": "lora", "base_model": uploads.base}
        reply = self._ask("POST", "/v1/fine_tunings", body, uploads.headers)
        self._expect("fine_tuning", reply, known=uploads.known)

    def _ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=HANG_SECONDS)
        try:
            raw = body if isinstance(body, bytes) or body is None else json.dumps(body)
            connection.request(method, path, raw, {"Content-Type": "application/json", **(headers or {})})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def _expect(self, what: str, reply: tuple[int, Any], *, known: frozenset[str] | set[str]) -> tuple[int, Any]:
        status, data = reply
        code = "" if status < 300 else data["error"]["code"]
        self._record.count(f"{what} {status}{code and ' ' + code}")
        if code and code not in known:
            self._record.find(f"{what}: {status} {data}")
        if status in (429, 503):
            time.sleep(0.1)  # they are told to wait a second; this is chaos
        return reply


@dataclass(frozen=True, slots=True)
class Uploads:
    """What is uploaded, and who may."""

    archives: tuple[bytes, ...]
    base: str
    token: Path
    known: frozenset[str] = frozenset({"model_loading", "store_busy", "busy", "shutting_down", "too_many_jobs"})

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token.read_text().strip()}"}


def _asked(draw: random.Random) -> dict[str, Any]:
    words = " ".join(draw.choice(("what", "is", "a", "refund", "pulse", "ship")) for _ in range(draw.randrange(1, 12)))
    system = {"role": "system", "content": "You answer for a clinic in short and friendly sentences. " * 3}
    messages = [system] if draw.random() < 0.4 else []
    return {"messages": [*messages, {"role": "user", "content": words}], "max_tokens": draw.randrange(1, 60)}

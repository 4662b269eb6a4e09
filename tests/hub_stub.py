"""A hub of one data set on this machine: the few answers of the real one that fetching asks for."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Files of one repository, and what was asked for."""

    repository: str
    files: dict[str, bytes]
    commit: str = COMMIT
    promised: dict[str, str] = field(default_factory=dict)  # path → SHA-256, where the hub is to say another
    stall_after: int | None = None  # bytes, after which the first answer with a file's content stands still
    asked: list[tuple[str, str]] = field(default_factory=list)  # (path, its Range header)
    address: str = ""

    def siblings(self) -> list[dict]:
        """The files as the hub lists them: those with "." in git's large file storage."""
        return [
            {
                "rfilename": path,
                "size": len(content),
                "blobId": hashlib.sha1(content).hexdigest(),
                **(self._lfs(path, content) if not path.endswith(".md") else {}),
            }
            for path, content in self.files.items()
        ]

    def _lfs(self, path: str, content: bytes) -> dict:
        digest = self.promised.get(path) or hashlib.sha256(content).hexdigest()
        return {"lfs": {"size": len(content), "sha256": digest, "pointerSize": 130}}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub, answering at `hub.address`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(200, b"", head=True)

        def do_GET(self) -> None:
            path = urllib.parse.unquote(self.path.split("?")[0])
            info = re.fullmatch(rf"/api/datasets/{hub.repository}(?:/revision/(.+))?", path)
            if info:
                known = info[1] in (None, "main", hub.commit)
                listed = {"id": hub.repository, "sha": hub.commit, "siblings": hub.siblings()}
                return self.answer(200 if known else 404, json.dumps(listed).encode() if known else b"{}")
            place = path.removeprefix(f"/datasets/{hub.repository}/resolve/{hub.commit}/")
            if place not in hub.files:
                return self.answer(404, b"")
            return self.send(place, hub.files[place])

        def send(self, place: str, content: bytes) -> None:
            wanted = self.headers.get("Range", "")
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
            stall = hub.stall_after if not hub.asked else None
            hub.asked.append((place, wanted))
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:stall])
            if stall is not None:
                self.wfile.flush()
                time.sleep(60)

        def answer(self, code: int, body: bytes, head: bool = False) -> None:
            self.send_response(code)
            if code == 404:
                self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not head:
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *words: None  # type: ignore[method-assign]  # who is killed hangs up
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.socket.close()

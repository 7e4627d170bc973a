"""A server on this machine that speaks the Hugging Face hub's API: files by revision, new repositories, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from loopback_server import LoopbackServer, QuietHandler

from alignrank.weights import hub as addresses

GOOD_TOKEN, READ_TOKEN = "hf_good", "hf_read"
LFS = (".safetensors", ".jpg")


class Hub(LoopbackServer):
    """Repositories are folders OWNER/NAME below `root`, as they are now; OWNER/NAME@COMMIT as they were.

    private: repositories for the good token alone. asked: (method, file, range) of what was asked of files; posted:
    what was written to which path. cut: how many bytes of the next answer are sent before the line breaks. wrong: a
    byte of large files changes on the way, in either direction.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.private, self.wrong = root, set[str](), False
        self.asked, self.cut = list[tuple[str, str, str | None]](), dict[str, int]()
        self.posted = list[tuple[str, Any]]()
        self.heads, self._objects = dict[str, str](), dict[str, bytes]()
        outer = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                outer.answer(self, head=True)

            def do_GET(self) -> None:
                outer.answer(self, head=False)

            def do_POST(self) -> None:
                outer.post(self, body(self))

            def do_PUT(self) -> None:
                content = body(self)
                outer._objects[self.path.rpartition("/")[2]] = changed(content) if outer.wrong else content
                reply(self, 200, {})

        super().__init__(Handler)

    def folder(self, repository: str) -> Path:
        return self.root / repository

    def answer(self, to: BaseHTTPRequestHandler, *, head: bool) -> None:
        """HEAD and GET of /REPOSITORY/resolve/REVISION/FILE; large files are named by their SHA-256."""
        before, resolve, rest = to.path.partition("/resolve/")
        repository, (revision, _, name) = before.strip("/"), rest.partition("/")
        wanted = to.headers.get("Range")
        if "/revision/" in to.path:  # what clients of before 1.0 ask before they write
            return reply(to, 200, {"id": "OWNER/NAME", "sha": "0" * 40, "xetEnabled": False})
        if not resolve:  # the client also asks for what is no file
            return reply(to, 404, {})
        self.asked.append((to.command, name, wanted))
        if not self.folder(repository).is_dir() or (repository in self.private and token(to) != GOOD_TOKEN):
            return reply(to, 401, {}, "RepoNotFound", head=head)
        at = self.folder(repository if revision == "main" else f"{repository}@{revision}")
        if not at.is_dir():
            return reply(to, 404, {}, "RevisionNotFound", head=head)
        commit = self.heads.get(repository, "0" * 40) if revision == "main" else revision
        if not (at / name).is_file():
            return reply(to, 404, {}, "EntryNotFound", commit, head=head)
        return self._send(to, at / name, commit, head=head)

    def _send(self, to: BaseHTTPRequestHandler, path: Path, commit: str, *, head: bool) -> None:
        content, wanted = path.read_bytes(), to.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        digest = hashlib.sha256(content).hexdigest()
        to.send_response(206 if start else 200)
        to.send_header("X-Repo-Commit", commit)
        to.send_header("ETag", f'"{digest if path.suffix in LFS else digest[:40]}"')
        if start:
            to.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.wrong and not head and path.suffix in LFS:
            content = changed(content)
        to.send_header("Content-Length", str(len(content) - start))
        to.end_headers()
        if not head:
            part = self.cut.pop(path.name, len(content))
            to.wfile.write(content[start : start + part])
            to.close_connection = part < len(content) - start

    def post(self, to: BaseHTTPRequestHandler, content: bytes) -> None:
        lines = [json.loads(line) for line in content.splitlines()]
        given = lines if to.path.endswith("/commit/main") else lines[0]
        self.posted.append((to.path, given))
        if token(to) not in (GOOD_TOKEN, READ_TOKEN):
            return reply(to, 401, {"error": "Invalid username or password."})
        if to.path == "/api/validate-yaml":
            return reply(to, 200, {"warnings": [], "errors": []})
        if token(to) == READ_TOKEN:
            return reply(to, 403, {"error": "You don't have the rights"})
        if to.path == "/api/repos/create":
            return self._create(to, given)
        if "/preupload/" in to.path:
            names = [file["path"] for file in given["files"]]
            modes = [{"path": name, "uploadMode": mode_of(name), "shouldIgnore": False} for name in names]
            return reply(to, 200, {"files": modes})
        if to.path.endswith("/info/lfs/objects/batch"):
            return reply(to, 200, {"transfer": "basic", "objects": [self._place(one) for one in given["objects"]]})
        if to.path == "/verify":
            stored = hashlib.sha256(self._objects[given["oid"]]).hexdigest()
            same = stored == given["oid"]
            return reply(
                to, 200 if same else 400, {} if same else {"error": "The uploaded object is not what its oid says"}
            )
        return self._commit(to, to.path.removeprefix("/api/models/").removesuffix("/commit/main"), lines)

    def _create(self, to: BaseHTTPRequestHandler, given: dict[str, Any]) -> None:
        repository = f"{given['organization']}/{given['name']}"
        exists = self.folder(repository).exists()
        if not exists:
            self.folder(repository).mkdir(parents=True)
            self.private |= {repository} if given.get("private") or given.get("visibility") == "private" else set()
        reply(to, 409 if exists else 200, {"url": f"{self.at}/{repository}"})

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        where = {"upload": {"href": f"{self.at}/lfs/{wanted['oid']}"}, "verify": {"href": f"{self.at}/verify"}}
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": where}

    def _commit(self, to: BaseHTTPRequestHandler, repository: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                (self.folder(repository) / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                (self.folder(repository) / value["path"]).write_bytes(self._objects[value["oid"]])
        commit = hashlib.sha1(json.dumps(lines).encode()).hexdigest()
        self.heads[repository] = commit
        shutil.copytree(self.folder(repository), self.folder(f"{repository}@{commit}"))
        reply(to, 200, {"success": True, "commitOid": commit, "commitUrl": f"{self.at}/{repository}/commit/{commit}"})


def token(request: BaseHTTPRequestHandler) -> str | None:
    given = request.headers.get("Authorization")
    return None if given is None else given.removeprefix("Bearer ")


def mode_of(name: str) -> str:
    return "lfs" if name.endswith(LFS) else "regular"


def changed(content: bytes) -> bytes:
    """Its last byte is another."""
    return content[:-1] + bytes([content[-1] ^ 1])


def body(request: BaseHTTPRequestHandler) -> bytes:
    """Of known length, or in chunks."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    content = b""
    while size := int(request.rfile.readline(), 16):
        content += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return content


def reply(
    to: BaseHTTPRequestHandler, status: int, values: Any, code: str = "", commit: str = "", *, head: bool = False
) -> None:
    content = json.dumps(values).encode()
    to.send_response(status)
    to.send_header("Content-Type", "application/json")
    to.send_header("Content-Length", str(len(content)))
    if code:
        to.send_header("X-Error-Code", code)
    if commit:
        to.send_header("X-Repo-Commit", commit)
    to.end_headers()
    if not head:
        to.wfile.write(content)


def opened_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client asks in place of its own, with an empty cache and nobody logged in; for fixtures."""
    hub = Hub(root / "hub")
    constants = huggingface_hub.constants
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(root / "token"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.at)
    template = hub.at + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # what is whole is kept when the line breaks
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own, of compiled code
    addresses.fetched.cache_clear()
    yield hub
    addresses.fetched.cache_clear()
    hub.close()

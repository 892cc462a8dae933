"""A hub of our own on loopback, for the official client: repositories with revisions, files behind
redirects and with ranges, gated, renamed and missing ones, and uploads by Git LFS.

Written after https://huggingface.co/docs/hub/api, the LFS batch API
(https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md) and the requests of the locked
client. Without Xet: clients need HF_HUB_DISABLE_XET=1 to upload.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

KINDS = {"models": "model", "datasets": "dataset"}
LARGE = (".safetensors", ".tar", ".jsonl", ".bin", ".model", ".gz")  # kept by Git LFS
TOKEN = "hf_loopback"


def blob(content: bytes) -> str:
    """Return git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """One repository: its commits, the last one on main; `gated` ones ask for a granted token."""

    name: str
    kind: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes], gone: Collection[str] = ()) -> str:
        """Lay files over those of main without what is gone, and return the new commit."""
        before = self.at("main") if self.commits else {}
        held = {**{name: before[name] for name in before if name not in gone}, **files}
        names = [self.name, len(self.commits), sorted((n, blob(c)) for n, c in held.items())]
        sha = hashlib.sha1(json.dumps(names).encode()).hexdigest()
        self.commits[sha] = held
        return sha

    @property
    def head(self) -> str:
        """The last commit."""
        return list(self.commits)[-1]

    def at(self, revision: str) -> dict[str, bytes]:
        """Return the files at a commit, or at main."""
        return self.commits[self.head if revision == "main" else revision]


@dataclass
class Hub:
    """What the server holds and what it was asked; what it has no route for is not counted."""

    address: str = ""
    storage: str = ""  # the same server under another host's name, for large files
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    renamed: dict[tuple[str, str], str] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)  # tokens that gated repositories take
    objects: dict[str, bytes] = field(default_factory=dict)  # of Git LFS, by sha256
    asked: list[tuple[str, str]] = field(default_factory=list)  # method and path
    tokens: list[tuple[str, str]] = field(default_factory=list)  # path and the token it came with
    uploads_before_failure: int | None = None

    def add(self, kind: str, name: str, files: dict[str, bytes], gated: bool = False) -> Repository:
        """Make a repository with one commit."""
        made = Repository(name, kind, gated=gated)
        made.commit(files)
        self.repositories[kind, name] = made
        return made

    def sent(self) -> list[str]:
        """Return the sha256 of each object that was uploaded, in order."""
        return [path.removeprefix("/lfs/") for method, path in self.asked if method == "PUT"]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does."""

    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(url.path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        for pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                self.hub.asked.append((self.command, path))
                self.hub.tokens.append((path, token))
                answer(self, body, *found.groups(), **{"query": parse_qs(url.query)})
                return
        self.fail(404, "EntryNotFound", f"no route {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    @property
    def token(self) -> str:
        return self.hub.tokens[-1][1]

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: Any, status: int = 200) -> None:
        self.reply(status, json.dumps(value).encode(), Content_Type="application/json")

    def fail(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.reply(status, body, X_Error_Code=code, X_Error_Message=message)

    def found(self, kind: str, name: str, revision: str = "main") -> Repository | None:
        """Return a repository that has the revision, or answer why there is none."""
        if (kind, name) in self.hub.renamed:
            other = self.path.replace(name, self.hub.renamed[kind, name], 1)
            self.reply(301 if "/resolve/" in self.path else 307, Location=other)
            return None
        repository = self.hub.repositories.get((kind, name))
        if repository is None and not self.token:  # the hub does not tell strangers what is private
            self.fail(401, "RepoNotFound", "Repository not found")
        elif repository is None:
            self.fail(404, "RepoNotFound", "Repository not found")
        elif revision != "main" and revision not in repository.commits:
            self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository

    def log_message(self, *_: Any) -> None:
        pass


def info(handler: Handler, _: bytes, kinds: str, name: str, revision: str, **__: Any) -> None:
    repository = handler.found(KINDS[kinds], name, revision or "main")
    if repository:
        sha = repository.head if (revision or "main") == "main" else revision
        files = [{"rfilename": path} for path in sorted(repository.at(sha))]
        about = {"id": repository.name, "sha": sha, "siblings": files, "tags": [], "private": False}
        handler.json({**about, "gated": "auto" if repository.gated else False, "downloads": 0})


def described(path: str, content: bytes) -> dict[str, Any]:
    """Return a file as listings of the hub have it."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": blob(content)}
    if path.endswith(LARGE):
        oid = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return entry


def tree(
    handler: Handler, _: bytes, kinds: str, name: str, revision: str, folder: str, **more: Any
) -> None:
    repository = handler.found(KINDS[kinds], name, revision)
    if repository is None:
        return
    inside = f"{folder}/" if folder else ""
    files = {p: c for p, c in sorted(repository.at(revision).items()) if p.startswith(inside)}
    deep = more["query"].get("recursive", [""])[0].lower() == "true"
    flat = [described(p, c) for p, c in files.items() if deep or "/" not in p[len(inside) :]]
    below = {inside + p[len(inside) :].split("/")[0] for p in files if "/" in p[len(inside) :]}
    folders = [{"type": "directory", "path": p, "size": 0, "oid": "0" * 40} for p in sorted(below)]
    handler.json([*folders, *flat])


def paths_info(
    handler: Handler, body: bytes, kinds: str, name: str, revision: str, **_: Any
) -> None:
    repository = handler.found(KINDS[kinds], name, revision)
    if repository:
        wanted = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
        files = repository.at(revision)
        handler.json([described(path, files[path]) for path in wanted if path in files])


def resolve(
    handler: Handler, _: bytes, prefix: str, name: str, revision: str, path: str, **__: Any
) -> None:
    repository = handler.found("dataset" if prefix else "model", name, revision)
    if repository is None:
        return
    if repository.gated and handler.token not in handler.hub.granted:
        handler.fail(403 if handler.token else 401, "GatedRepo", "Access to this is restricted")
        return
    sha = repository.head if revision == "main" else revision
    content = repository.at(sha).get(path)
    if content is None:
        handler.fail(404, "EntryNotFound", "Entry not found")
    elif path.endswith(LARGE):
        oid = hashlib.sha256(content).hexdigest()
        handler.hub.objects[oid] = content
        handler.reply(
            302,
            Location=f"{handler.hub.storage}/cdn/{oid}",
            X_Repo_Commit=sha,
            X_Linked_Etag=f'"{oid}"',
            X_Linked_Size=str(len(content)),
        )
    else:
        ranged(handler, content, ETag=f'"{blob(content)}"', X_Repo_Commit=sha)


def cdn(handler: Handler, _: bytes, oid: str, **__: Any) -> None:
    ranged(handler, handler.hub.objects[oid], ETag=f'"{oid}"')


def ranged(handler: Handler, content: bytes, **headers: str) -> None:
    """Send a file, or the part of it that was asked for."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range") or "")
    if not wanted:
        handler.reply(200, content, Accept_Ranges="bytes", **headers)
        return
    start = int(wanted[1])
    end = min(int(wanted[2]) if wanted[2] else len(content) - 1, len(content) - 1)
    place = f"bytes {start}-{end}/{len(content)}"
    if start >= len(content):
        handler.reply(416, Content_Range=f"bytes */{len(content)}")
    else:
        handler.reply(206, content[start : end + 1], Content_Range=place, **headers)


def create(handler: Handler, body: bytes, **_: Any) -> None:
    wanted = json.loads(body)
    kind, name = wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}"
    if handler.token != TOKEN:
        handler.fail(401, "", "Invalid credentials in Authorization header")
    elif wanted["organization"] == "somebody-else":
        handler.fail(403, "", "You don't have the rights to create a repository here")
    elif (kind, name) in handler.hub.repositories:
        handler.json({"error": "You already created this repo", "url": name}, 409)
    else:
        handler.hub.add(kind, name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        prefix = "datasets/" if kind == "dataset" else ""
        handler.json({"url": f"{handler.hub.address}/{prefix}{name}", "name": name})


def preupload(
    handler: Handler, body: bytes, kinds: str, name: str, revision: str, **_: Any
) -> None:
    repository = handler.found(KINDS[kinds], name, revision)
    if repository is None:
        return
    files, held = [], repository.at(revision)
    for item in json.loads(body)["files"]:
        large = item["path"].endswith(LARGE)
        answer = {"path": item["path"], "uploadMode": "lfs" if large else "regular"}
        if item["path"] in held:
            content = held[item["path"]]
            answer["oid"] = hashlib.sha256(content).hexdigest() if large else blob(content)
        files.append({**answer, "shouldIgnore": False})
    handler.json({"files": files})


def batch(handler: Handler, body: bytes, *_: Any, **__: Any) -> None:
    objects: list[dict[str, Any]] = []
    for item in json.loads(body)["objects"]:
        missing = item["oid"] not in handler.hub.objects
        upload = {"upload": {"href": f"{handler.hub.address}/lfs/{item['oid']}", "header": {}}}
        objects.append({**item, **({"actions": upload} if missing else {})})
    handler.json({"transfer": "basic", "objects": objects})


def put(handler: Handler, body: bytes, oid: str, **_: Any) -> None:
    hub = handler.hub
    if hub.uploads_before_failure is not None and len(hub.sent()) > hub.uploads_before_failure:
        handler.reply(403)
    elif hashlib.sha256(body).hexdigest() != oid:
        handler.reply(400)
    else:
        hub.objects[oid] = body
        handler.reply(200)


def commit(handler: Handler, body: bytes, kinds: str, name: str, revision: str, **_: Any) -> None:
    repository = handler.found(KINDS[kinds], name, revision)
    if repository is None:
        return
    files, gone = {}, []
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "deletedFile":
            gone.append(value["path"])
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = handler.hub.objects[value["oid"]]
    sha = repository.commit(files, gone)
    handler.json({"commitUrl": f"{handler.hub.address}/{name}/commit/{sha}", "commitOid": sha})


REPOSITORY = r"/api/(models|datasets)/([^/]+/[^/]+)"
ROUTES = [
    (rf"{REPOSITORY}(?:/revision/([^/]+))?", info),
    (rf"{REPOSITORY}/tree/([^/]+)/?(.*)", tree),
    (rf"{REPOSITORY}/paths-info/([^/]+)", paths_info),
    (rf"{REPOSITORY}/preupload/([^/]+)", preupload),
    (rf"{REPOSITORY}/commit/([^/]+)", commit),
    (r"/api/repos/create", create),
    (r"/api/validate-yaml", lambda handler, *_, **__: handler.json({"errors": [], "warnings": []})),
    (r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", batch),
    (r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", resolve),
    (r"/cdn/([0-9a-f]+)", cdn),
    (r"/lfs/([0-9a-f]+)", put),
]


@contextmanager
def serving() -> Iterator[Hub]:
    """Yield a hub that answers on loopback until the block ends."""
    hub = Hub()
    handler = type("Answering", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        hub.storage = f"http://localhost:{server.server_port}"
        yield hub
        server.shutdown()

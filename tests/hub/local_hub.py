"""
A Hub in a box: the parts of the Hugging Face Hub's protocol that `huggingface_hub` uses for models, on this machine.

`LocalHub` is the server, in a thread; `HubClient` a process with the real `huggingface_hub` and `transformers`, which
read HF_ENDPOINT when they are imported. The process lives on, so that many tests pay for one import.

It can fail on purpose: `hub.fail("PUT /_lfs/", status=500)` answers the next such request with an error, `cut=1000`
closes the connection after that many bytes of the request's or the answer's body, `reset=True` does so rudely,
`lose_answer=True` does what is asked and then closes, `delay=0.5` waits.
"""

import base64
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
LARGE = (".safetensors", ".bin", ".pt", ".png", ".mp4")
"""What the Hub keeps by LFS, whatever its size."""


@dataclass
class Repository:
    """Commits are whole trees: path -> sha256 of the content. Branches and tags name commits."""

    private: bool
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, tree: dict[str, str]) -> str:
        content = json.dumps([tree, len(self.commits), branch]).encode()
        number = hashlib.sha1(content).hexdigest()
        self.commits[number] = tree
        self.names[branch] = number
        return number

    def find(self, revision: str) -> str | None:
        return self.names.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    pattern: str
    status: int | None
    cut: int | None
    reset: bool
    lose_answer: bool
    delay: float
    times: int


class Cut(Exception):
    """The connection was closed on purpose."""


class LocalHub:
    """
    Attributes:
        repositories: by ORG/NAME.
        blobs: every content by its sha256.
        tokens: those that may write, and read what is private.
        requests: "METHOD /path -> status" of each request, "cut" where it was cut.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.tokens = {"hf_writer": "someone"}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def fail(
        self,
        pattern: str,
        *,
        status: int | None = None,
        cut: int | None = None,
        reset: bool = False,
        lose_answer: bool = False,
        delay: float = 0.0,
        times: int = 1,
    ) -> None:
        """Lets the next `times` requests "METHOD /path" that match go wrong, see the head of this file."""
        self.faults.append(Fault(pattern, status, cut, reset, lose_answer, delay, times))

    def fault_for(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None

    def forget(self) -> None:
        """No faults and no requests from here on."""
        self.faults.clear()
        self.requests.clear()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What a revision holds, by path."""
        repository = self.repositories[repo]
        commit = repository.find(revision)
        assert commit is not None, f"{repo} has no {revision}"
        return {path: self.blobs[digest] for path, digest in repository.commits[commit].items()}

    def name_of(self, repository: Repository) -> str:
        return next(name for name, one in self.repositories.items() if one is repository)

    def keep(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {self.path}"
        self.fault = self.hub.fault_for(request)
        self.status: int | str = "cut"
        try:
            if self.fault is not None:
                time.sleep(self.fault.delay)
            body = self.read_body()
            if self.fault is not None and self.fault.status is not None:
                self.answer_error(self.fault.status, None, "Made to fail.")
            else:
                self.route(body)
        except Cut:
            self.close_connection = True
            if self.fault is not None and self.fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        except OSError:  # the client has gone
            self.close_connection = True
        finally:
            with self.hub.lock:
                self.hub.requests.append(f"{request} -> {self.status}")

    def read_body(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        cut = self.fault.cut if self.fault is not None and self.command in ("PUT", "POST") else None
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts: list[bytes] = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if cut is not None and sum(map(len, parts)) >= cut:
                    raise Cut
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(length if cut is None else min(cut, length))
        if cut is not None:
            raise Cut
        return body

    # --- what is asked ---

    def route(self, body: bytes) -> None:
        header = self.headers.get("Authorization", "")
        token = header.removeprefix("Bearer ")
        self.user = self.hub.tokens.get(token)
        if header and self.user is None:
            return self.answer_error(401, None, "Invalid credentials in Authorization header")
        for method, pattern, act in ROUTES:
            found = re.fullmatch(pattern, self.path)
            if found and self.command in method:
                given = found.groupdict()
                if "repo" in given:
                    repository = self.hub.repositories.get(given.pop("repo"))
                    if repository is None or (repository.private and self.user is None):
                        status = 404 if self.user else 401
                        return self.answer_error(status, "RepoNotFound", "Repository not found")
                    given["repository"] = repository
                if self.command == "POST" and self.user is None and act is not Handler.validate_card:
                    return self.answer_error(401, None, "Invalid username or password.")
                with self.hub.lock:
                    return act(self, body, **given)
        return self.answer_error(404, "EntryNotFound", f"No such endpoint: {self.path}")

    def tell_user(self, body: bytes) -> None:
        if self.user is None:
            return self.answer_error(401, None, "Invalid username or password.")
        return self.answer({"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token"}})

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        status = 409 if name in self.hub.repositories else 200
        if status == 200:
            repository = Repository(wanted.get("visibility") == "private")
            repository.commit("main", {".gitattributes": self.hub.keep(b"*.safetensors filter=lfs\n")})
            self.hub.repositories[name] = repository
        return self.answer({"url": f"{self.hub.url}/{name}", "error": "You already created this model repo"}, status)

    def validate_card(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
        warnings = [] if found else [{"message": "empty or missing yaml metadata in repo card"}]
        try:
            yaml.safe_load(found[1] if found else "")
        except yaml.YAMLError as error:
            return self.answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return self.answer({"errors": [], "warnings": warnings})

    def preupload(self, body: bytes, repository: Repository, revision: str) -> None:
        commit = repository.find(revision)
        if commit is None:
            return self.answer_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        answers = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith(LARGE) or file["size"] > 10_000_000
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            digest = repository.commits[commit].get(file["path"])
            if digest is not None:
                answer["oid"] = digest if large else git_hash(self.hub.blobs[digest])
            answers.append(answer)
        return self.answer({"files": answers})

    def lfs_batch(self, body: bytes, repository: Repository) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            if wanted["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.url}/_lfs/{wanted['oid']}", "header": {}}
                wanted["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/_verify", "header": {}}}
            objects.append(wanted)
        return self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, digest: str) -> None:
        if hashlib.sha256(body).hexdigest() != digest:
            return self.answer_error(400, None, "The content has another sha256.")
        self.hub.blobs[digest] = body
        return self.answer({})

    def lfs_verify(self, body: bytes) -> None:
        wanted = json.loads(body)
        if len(self.hub.blobs.get(wanted["oid"], b"")) != wanted["size"]:
            return self.answer_error(404, None, "No such object, or one of another size.")
        return self.answer({})

    def commit(self, body: bytes, repository: Repository, revision: str) -> None:
        before = repository.names.get(revision)
        if before is None:
            return self.answer_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        tree = dict(repository.commits[before])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = self.hub.keep(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self.answer_error(400, None, f"{value['path']} was not uploaded.")
                tree[value["path"]] = value["oid"]
            elif line["key"] == "deletedFile":
                tree.pop(value["path"], None)
            elif line["key"] == "deletedFolder":
                tree = {path: digest for path, digest in tree.items() if not path.startswith(value["path"])}
        number = repository.commit(revision, tree)
        url = f"{self.hub.url}/{self.hub.name_of(repository)}/commit/{number}"
        return self.answer({"commitOid": number, "commitUrl": url, "success": True})

    def branch(self, body: bytes, repository: Repository, name: str) -> None:
        self.name_commit(repository, name, json.loads(body or b"{}").get("startingPoint") or "main")

    def tag(self, body: bytes, repository: Repository, revision: str) -> None:
        self.name_commit(repository, json.loads(body)["tag"], revision)

    def name_commit(self, repository: Repository, name: str, revision: str) -> None:
        commit = repository.find(revision)
        if name in repository.names:
            return self.answer_error(409, None, f"Reference already exists: {name}")
        if commit is None:
            return self.answer_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        repository.names[name] = commit
        return self.answer({})

    def references(self, body: bytes, repository: Repository) -> None:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in repository.names.items()
        ]
        return self.answer({"branches": branches, "tags": [], "converts": []})

    def tell_model(self, body: bytes, repository: Repository, revision: str | None = None) -> None:
        commit = repository.find(revision or "main")
        if commit is None:
            return self.answer_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        name = self.hub.name_of(repository)
        return self.answer({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})

    def tree(self, body: bytes, repository: Repository, revision: str, folder: str | None = None) -> None:
        commit = repository.find(revision)
        if commit is None:
            return self.answer_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        entries = []
        for path, digest in repository.commits[commit].items():
            if folder is None or path.startswith(f"{folder}/"):
                content = self.hub.blobs[digest]
                entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                if path.endswith(LARGE):
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
                entries.append(entry)
        if folder is not None and not entries:
            return self.answer_error(404, "EntryNotFound", f"{folder} does not exist")
        return self.answer(entries)

    def resolve(self, body: bytes, repository: Repository, revision: str, path: str) -> None:
        commit = repository.find(revision)
        if commit is None:
            return self.answer_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        digest = repository.commits[commit].get(path)
        if digest is None:
            return self.answer_error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        content = self.hub.blobs[digest]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(content)}"', "Accept-Ranges": "bytes"}
        if path.endswith(LARGE):
            headers |= {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start is None:
            return self.send(200, content, headers)
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self.send(206, content[first:], headers)

    # --- what is answered ---

    def answer(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer_error(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Message": message} | (headers or {})
        if code is not None:
            headers["X-Error-Code"] = code
        self.send(status, json.dumps({"error": message}).encode(), headers)

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        if self.fault is not None and self.fault.lose_answer:
            raise Cut
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            self.status = status
            return
        cut = self.fault.cut if self.fault is not None else None
        self.wfile.write(content if cut is None else content[:cut])
        self.wfile.flush()
        if cut is not None:
            raise Cut
        self.status = status


MODEL = rf"/api/models/{REPO}"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    (("GET",), "/api/whoami-v2", Handler.tell_user),
    (("POST",), "/api/repos/create", Handler.create),
    (("POST",), "/api/validate-yaml", Handler.validate_card),
    (("POST",), rf"{MODEL}/preupload/{REVISION}", Handler.preupload),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), r"/_lfs/(?P<digest>\w+)", Handler.lfs_put),
    (("POST",), "/_verify", Handler.lfs_verify),
    (("POST",), rf"{MODEL}/commit/{REVISION}", Handler.commit),
    (("POST",), rf"{MODEL}/branch/(?P<name>[^/]+)", Handler.branch),
    (("POST",), rf"{MODEL}/tag/{REVISION}", Handler.tag),
    (("GET",), rf"{MODEL}/refs", Handler.references),
    (("GET",), rf"{MODEL}(/revision/{REVISION})?", Handler.tell_model),
    (("GET",), rf"{MODEL}/tree/{REVISION}(/(?P<folder>.+))?", Handler.tree),
    (("GET", "HEAD"), rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
]
"""Methods, path, what answers."""

WORKER = """
import contextlib, io, json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the libraries print is no answer
import torch, violet
for line in sys.stdin:
    asked = json.loads(line)
    told, space = io.StringIO(), {"result": None, **asked["values"]}
    before = dict(os.environ)
    os.environ.update(asked["environment"])
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            exec(asked["code"], space)
        answer = {"result": space["result"], "told": told.getvalue()}
    except BaseException:
        answer = {"failed": traceback.format_exc(), "told": told.getvalue()}
    os.environ.clear()
    os.environ.update(before)
    print(json.dumps(answer), file=answers, flush=True)
"""


class ClientFailure(Exception):
    """What was asked of the client raised; the message is its traceback."""


class HubClient:
    """
    A process that has this package, `huggingface_hub` and `transformers`, with the local Hub as theirs.

    Attributes:
        environment: with which a process finds the local Hub.
        told: what the last piece of code printed.
    """

    def __init__(self, hub: LocalHub, home: Path) -> None:
        self.told = ""
        self.environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home / "home"),
            "HF_TOKEN": "hf_writer",
            "HF_HUB_DISABLE_XET": "1",  # a protocol of its own
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "TRANSFORMERS_OFFLINE"):
            self.environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def run(self, code: str, environment: dict[str, str] | None = None, **values: Any) -> Any:
        """
        Runs code, which finds `values` as variables, and returns its variable `result`.

        Args:
            environment: variables of the environment while it runs.

        Raises:
            ClientFailure: if it raised.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        asked = {"code": code, "values": values, "environment": environment or {}}
        print(json.dumps(asked, default=str), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, "the client's process died"
        answer = json.loads(line)
        self.told = answer["told"]
        if "failed" in answer:
            raise ClientFailure(f"{answer['failed']}\n{self.told}")
        return answer["result"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)

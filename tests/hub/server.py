"""A Hub on the loopback interface: enough of its protocol for huggingface_hub, timm and transformers, in one file.

    python -m tests.hub.server --folder hub/

starts one and prints the variables that send the commands to it. It keeps everything in the folder, checks what the
Hub checks, and can be told to fail (`Hub.fail`). Not a model of the Hub's speed, limits, Xet storage or web pages.

What each endpoint speaks:

- whoami, repos/create, info, refs, branch, tree, preupload, validate-yaml: the Hub's API, https://huggingface.co/docs/hub/api
  and its OpenAPI description, https://huggingface.co/.well-known/openapi.json
- commit: NDJSON, https://huggingface.co/docs/huggingface_hub/package_reference/hf_api (`create_commit`) and
  https://github.com/huggingface/huggingface_hub/issues/1085
- LFS batch, transfer and verification: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md and
  https://github.com/git-lfs/git-lfs/blob/main/docs/api/basic-transfers.md
- resolve, with ETag, X-Repo-Commit, X-Linked-Etag and X-Linked-Size:
  https://huggingface.co/docs/huggingface_hub/package_reference/file_download (`get_hf_file_metadata`)
- ranges: RFC 9110, section 14. Errors: X-Error-Code and X-Error-Message, huggingface_hub.utils.hf_raise_for_status
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import secrets
import socket
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

JSON = {'Content-Type': 'application/json'}
LFS_SUFFIXES = ('.safetensors', '.bin', '.pth', '.pt', '.png')  # what a new repository's .gitattributes has, in short
POINTER = 'version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n'
STALL = 20  # seconds after which a stalled transfer is given up


class Answer(NamedTuple):
    status: int
    body: bytes = b''
    headers: Mapping[str, str] = {}


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = '', **headers: str) -> None:
        named = {'X-Error-Code': code} if code else {}
        body = json.dumps({'error': message}).encode()
        self.answer = Answer(status, body, {**JSON, 'X-Error-Message': message, **named, **headers})


@dataclass
class Fault:
    """What goes wrong, with the next `times` requests whose 'METHOD /path' matches `where`, after the first `skip`.

    kind: an HTTP status; 'cut', the connection ends in the middle of the longer of request and answer; 'lost', it ends
    when the request has had its effect; 'stall', it falls silent in the middle; 'wrong', one byte is another; 'short',
    bytes are missing at the end, and the length says so too; 'revoke', no token is valid from here on.
    """

    kind: int | str
    where: str
    times: int = 1
    skip: int = 0


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


@dataclass
class Hub:
    """The state: a folder of objects by their digest, and one JSON file for each repository."""

    folder: Path
    tokens: dict[str, str] = field(default_factory=lambda: {'hf_test': 'me'})  #: token: user
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  #: 'METHOD /path', in the order of their arrival
    authorized: list[str] = field(default_factory=list)  #: those of them that came with a token
    after: Callable[[int], None] = lambda number: None  #: called when a request has had its effect, before the answer
    lock: threading.RLock = field(default_factory=threading.RLock)
    signature: str = field(default_factory=lambda: secrets.token_hex(8))

    def fail(self, kind: int | str, where: str, times: int = 1, skip: int = 0) -> None:
        self.faults.append(Fault(kind, where, times, skip))

    def fault(self, request: str) -> int | str | None:
        """The fault that this request meets, if any; and the note that it was made."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if re.search(fault.where, request) and fault.times > 0:
                    if fault.skip == 0:
                        fault.times -= 1
                        if fault.kind == 'revoke':
                            self.tokens.clear()
                            return None
                        return fault.kind
                    fault.skip -= 1
            return None

    # --------------------------------------------------------------------------------------------------- what is kept

    def object(self, digest: str) -> Path:
        assert re.fullmatch('[0-9a-f]{40,64}', digest)
        return self.folder / 'objects' / digest

    def store(self, digest: str, data: bytes) -> None:
        self.object(digest).parent.mkdir(parents=True, exist_ok=True)
        _write(self.object(digest), data)

    def load(self, repo: str) -> dict[str, Any] | None:
        path = self.folder / 'repositories' / f'{repo}.json'
        return json.loads(path.read_text()) if path.is_file() else None

    def save(self, repo: str, state: dict[str, Any]) -> None:
        path = self.folder / 'repositories' / f'{repo}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(state, indent=1).encode())

    def create(self, repo: str, private: bool = False, gated: bool = False) -> None:
        first = self.entry(b'*.safetensors filter=lfs diff=lfs merge=lfs -text\n', lfs=False)
        state = {'private': private, 'gated': gated, 'allowed': [], 'refs': {}, 'commits': {}}
        self.commit(state, 'refs/heads/main', None, 'initial commit', {'.gitattributes': first})
        self.save(repo, state)

    def plant(self, repo: str, files: Mapping[str, bytes]) -> str:
        """Commit files with any names, past every check."""
        if self.load(repo) is None:
            self.create(repo)
        state = self.load(repo)
        assert state is not None
        entries = {name: self.entry(data, lfs=name.endswith(LFS_SUFFIXES)) for name, data in files.items()}
        parent = state['refs']['refs/heads/main']
        commit = self.commit(state, 'refs/heads/main', parent, 'planted', entries)
        self.save(repo, state)
        return commit

    def entry(self, data: bytes, lfs: bool) -> dict[str, Any]:
        """A file in a tree; its content is stored."""
        sha256 = hashlib.sha256(data).hexdigest() if lfs else None
        self.store(sha256 or git_sha1(data), data)
        return self.describe(len(data), sha256) if sha256 else {'oid': git_sha1(data), 'size': len(data), 'lfs': None}

    @staticmethod
    def describe(size: int, sha256: str) -> dict[str, Any]:
        return {'oid': git_sha1(POINTER.format(sha256, size).encode()), 'size': size, 'lfs': sha256}

    @staticmethod
    def commit(state: dict[str, Any], ref: str, parent: str | None, title: str, files: dict[str, Any]) -> str:
        """Add a commit with these files beside its parent's; None removes one."""
        tree = {**(state['commits'][parent]['files'] if parent else {}), **files}
        content = {'parent': parent, 'title': title, 'files': {k: v for k, v in tree.items() if v is not None}}
        oid = hashlib.sha1(json.dumps([content, len(state['commits'])]).encode()).hexdigest()
        state['commits'][oid] = content
        state['refs'][ref] = oid
        return oid

    def head(self, repo: str, revision: str = 'main') -> str | None:
        """The commit of a branch, a tag, a full reference or a commit."""
        state = self.load(repo)
        if state is None or revision in state['commits']:
            return revision if state else None
        names = (revision, f'refs/heads/{revision}', f'refs/tags/{revision}')
        return next((state['refs'][name] for name in names if name in state['refs']), None)

    def files(self, repo: str, revision: str = 'main') -> dict[str, bytes]:
        """What a revision holds, for tests to look at."""
        state, commit = self.load(repo), self.head(repo, revision)
        tree = state['commits'][commit]['files'] if state and commit else {}
        return {name: self.object(item['lfs'] or item['oid']).read_bytes() for name, item in tree.items()}


def _write(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, 'wb') as file:
        file.write(data)
    Path(name).replace(path)


KIND = '(?:models|datasets)'  # a test keeps both apart by the names of the repositories
REPO = r'(?P<repo>[\w.-]+/[\w.-]+)'
REVISION = r'(?P<revision>[^/]+|refs/[^/]+/[^/]+)'  # the client quotes the slashes of a revision


class Handler(BaseHTTPRequestHandler):
    """One request; the table of routes is at the end."""

    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the acknowledgement of its header
    server: HubServer

    @property
    def hub(self) -> Hub:
        return self.server.hub

    # ------------------------------------------------------------------------------------- from the socket and back

    def do_GET(self) -> None:
        try:
            self.respond()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def respond(self) -> None:
        path, _, query = self.path.partition('?')
        self.query = dict(urllib.parse.parse_qsl(query))
        request = f'{self.command} {urllib.parse.unquote(path)}'
        fault = self.hub.fault(request)
        if self.headers.get('Authorization'):
            self.hub.authorized.append(request)
        self.body = self.read_body(fault)
        if isinstance(fault, int):
            answer = Refused(fault, 'a fault was asked for', **{'Retry-After': '0'} if fault == 429 else {}).answer
        else:
            answer = self.route(path)
        self.hub.after(len(self.hub.requests))
        if fault == 'lost':
            raise ConnectionError
        self.send(answer, fault)

    def read_body(self, fault: int | str | None) -> bytes:
        if self.headers.get('Transfer-Encoding') == 'chunked':
            chunks = []
            while size := int(self.rfile.readline().split(b';')[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b''.join(chunks)
        else:
            length = int(self.headers.get('Content-Length') or 0)
            if length and fault in ('cut', 'stall'):
                self.rfile.read(length // 2)
                self.break_off(fault)
            body = self.rfile.read(length)
        return _spoil(body, fault) if body else body

    def send(self, answer: Answer, fault: int | str | None) -> None:
        body = answer.body if self.body else _spoil(answer.body, fault)
        self.send_response(answer.status)
        for name, value in {'Content-Length': str(len(body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == 'HEAD':
            return
        if fault in ('cut', 'stall'):
            self.wfile.write(body[: len(body) // 2])
            self.break_off(fault)
        self.wfile.write(body)

    def break_off(self, fault: int | str | None) -> None:
        self.wfile.flush()
        if fault == 'stall':
            self.connection.settimeout(STALL)
            self.connection.recv(1)  # silence, until the client has had enough
        self.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionError

    def route(self, path: str) -> Answer:
        for method, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                parts = {name: urllib.parse.unquote(value) for name, value in match.groupdict().items() if value}
                try:
                    with self.hub.lock:
                        return function(self, **parts)
                except Refused as refused:
                    return refused.answer
                except (ValueError, KeyError, TypeError) as error:
                    return Refused(400, f'malformed request: {error!r}').answer
        return Refused(404, f'no such page: {path}').answer

    # ------------------------------------------------------------------------------------------------- who may do what

    def user(self) -> str | None:
        token = self.headers.get('Authorization', '').removeprefix('Bearer ')
        if token and token not in self.hub.tokens:
            raise Refused(401, 'Invalid credentials in Authorization header')
        return self.hub.tokens.get(token)

    def readable(self, repo: str) -> dict[str, Any]:
        user, state = self.user(), self.hub.load(repo)
        if state is None or (state['private'] and user != repo.partition('/')[0]):
            raise Refused(404 if user else 401, 'Repository not found', 'RepoNotFound')
        return state

    def writable(self, repo: str, create_pr: bool = False) -> dict[str, Any]:
        state = self.readable(repo)
        if self.user() is None:
            raise Refused(401, 'Invalid username or password.')
        if self.user() != repo.partition('/')[0] and not create_pr:
            raise Refused(403, 'Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request')
        return state

    def ungated(self, repo: str) -> dict[str, Any]:
        state = self.readable(repo)
        if state['gated'] and self.user() not in (repo.partition('/')[0], *state['allowed']):
            raise Refused(403 if self.user() else 401, f'Access to model {repo} is restricted', 'GatedRepo')
        return state

    def find(self, repo: str, revision: str) -> str:
        commit = self.hub.head(repo, revision)
        if commit is None:
            raise Refused(404, f'Invalid rev id: {revision}', 'RevisionNotFound')
        return commit

    @property
    def origin(self) -> str:
        return f'http://{self.headers["Host"]}'

    # ----------------------------------------------------------------------------------------------------- the answers

    def whoami(self) -> Answer:
        user = self.user()
        if user is None:
            raise Refused(401, 'Invalid username or password.')
        return self.json({'type': 'user', 'name': user, 'orgs': [], 'auth': {'type': 'access_token'}})

    def create_repo(self) -> Answer:
        wanted = json.loads(self.body)
        user = self.user()
        if user is None:
            raise Refused(401, 'Invalid username or password.')
        repo = f'{wanted.get("organization") or user}/{wanted["name"]}'
        if repo.partition('/')[0] != user:
            raise Refused(403, f'You have no write access to the namespace of {repo}')
        if self.hub.load(repo) is not None:
            raise Refused(409, 'You already created this model repo')
        self.hub.create(repo, wanted.get('private') is True or wanted.get('visibility') == 'private')
        return self.json({'url': f'{self.origin}/{repo}', 'name': repo})

    def validate_yaml(self) -> Answer:
        return self.json({'errors': [], 'warnings': []})

    def info(self, repo: str, revision: str = 'main') -> Answer:
        state = self.readable(repo)
        commit = self.find(repo, revision)
        names = [{'rfilename': name} for name in state['commits'][commit]['files']]
        facts = {key: state[key] for key in ('private', 'gated')}
        return self.json({'_id': repo, 'id': repo, 'modelId': repo, 'sha': commit, 'siblings': names, **facts})

    def tree(self, repo: str, revision: str, path: str = '') -> Answer:
        state = self.readable(repo)
        files = state['commits'][self.find(repo, revision)]['files']
        listed: dict[str, dict[str, Any]] = {}
        for name, item in files.items():
            inner = name.removeprefix(f'{path}/') if path else name
            if path and inner == name:
                continue
            if '/' in inner and self.query.get('recursive', '').lower() != 'true':
                folder = name[: len(name) - len(inner)] + inner.partition('/')[0]
                listed[folder] = {'type': 'directory', 'oid': git_sha1(folder.encode()), 'size': 0, 'path': folder}
            else:
                listed[name] = {'type': 'file', 'oid': item['oid'], 'size': item['size'], 'path': name, **_lfs(item)}
        if path and not listed:
            raise Refused(404, f'{path} does not exist', 'EntryNotFound')
        return self.json(list(listed.values()))

    def paths_info(self, repo: str, revision: str) -> Answer:
        files = self.readable(repo)['commits'][self.find(repo, revision)]['files']
        paths = [path for path in json.loads(self.body)['paths'] if path in files]
        return self.json(
            [
                {'type': 'file', 'path': p, 'oid': files[p]['oid'], 'size': files[p]['size'], **_lfs(files[p])}
                for p in paths
            ]
        )

    def refs(self, repo: str) -> Answer:
        state = self.readable(repo)
        kinds: dict[str, list[dict[str, str]]] = {'heads': [], 'tags': [], 'pr': []}
        for ref, commit in state['refs'].items():
            _, kind, name = ref.split('/', 2)
            kinds[kind].append({'name': name, 'ref': ref, 'targetCommit': commit})
        requests = {'pullRequests': kinds['pr']} if 'include_prs' in self.query else {}
        return self.json({'branches': kinds['heads'], 'tags': kinds['tags'], 'converts': [], **requests})

    def branch(self, repo: str, revision: str) -> Answer:
        state = self.writable(repo)
        if f'refs/heads/{revision}' in state['refs']:
            raise Refused(409, f'Reference already exists: {revision}')
        start = (json.loads(self.body) if self.body else {}).get('startingPoint', 'main')
        state['refs'][f'refs/heads/{revision}'] = self.find(repo, start)
        self.hub.save(repo, state)
        return self.json({})

    def preupload(self, repo: str, revision: str) -> Answer:
        state = self.writable(repo, 'create_pr' in self.query)
        files = state['commits'][self.find(repo, revision)]['files']
        answers = []
        for item in json.loads(self.body)['files']:
            there = files.get(item['path'])
            answers.append(
                {
                    'path': item['path'],
                    'uploadMode': 'lfs' if item['path'].endswith(LFS_SUFFIXES) else 'regular',
                    'shouldIgnore': False,
                    'oid': (there['lfs'] or there['oid']) if there else None,
                }
            )
        return self.json({'files': answers})

    def lfs_batch(self, repo: str) -> Answer:
        self.writable(repo, create_pr=True)
        wanted = json.loads(self.body)
        assert wanted['operation'] == 'upload' and wanted['hash_algo'] == 'sha256'
        objects = []
        for item in wanted['objects']:
            link = f'{self.origin}/lfs/{item["oid"]}?size={item["size"]}&signature={self.hub.signature}'
            verify = {'href': f'{self.origin}/{repo}.git/info/lfs/objects/verify'}
            lacking = not self.hub.object(item['oid']).is_file()
            actions = {'actions': {'upload': {'href': link, 'header': {}}, 'verify': verify}} if lacking else {}
            objects.append({**item, **actions})
        return self.json({'transfer': 'basic', 'objects': objects})

    def lfs_put(self, oid: str) -> Answer:
        if self.query.get('signature') != self.hub.signature:
            raise Refused(403, 'the link is not signed')
        if hashlib.sha256(self.body).hexdigest() != oid or len(self.body) != int(self.query['size']):
            raise Refused(400, 'the content is not what its oid says')
        self.hub.store(oid, self.body)
        return Answer(200)

    def lfs_verify(self, repo: str) -> Answer:
        self.writable(repo, create_pr=True)
        item = json.loads(self.body)
        path = self.hub.object(item['oid'])
        if not path.is_file() or path.stat().st_size != item['size']:
            raise Refused(404, 'no such object')
        return self.json({})

    def post_commit(self, repo: str, revision: str) -> Answer:
        create_pr = 'create_pr' in self.query
        state = self.writable(repo, create_pr)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header, operations = lines[0]['value'], lines[1:]
        head = self.find(repo, revision)
        parent = header.get('parentCommit', head)
        if parent not in state['commits']:
            raise Refused(400, f'unknown parent commit {parent}')
        if parent != head and not create_pr:
            raise Refused(412, 'A commit has happened since. Please refresh and try again.')
        files = dict(self.operation(op['key'], op['value'], state['commits'][parent]['files']) for op in operations)
        number = 1 + sum(ref.startswith('refs/pr/') for ref in state['refs'])
        own = revision if revision.startswith('refs/') else f'refs/heads/{revision}'
        oid = self.hub.commit(state, f'refs/pr/{number}' if create_pr else own, parent, header['summary'], files)
        self.hub.save(repo, state)
        opened = {'pullRequestUrl': f'{self.origin}/{repo}/discussions/{number}'} if create_pr else {}
        return self.json(
            {'success': True, 'commitOid': oid, 'commitUrl': f'{self.origin}/{repo}/commit/{oid}', **opened}
        )

    def operation(self, key: str, value: dict[str, Any], there: Mapping[str, Any]) -> tuple[str, Any]:
        path = value['path']
        if path.startswith('/') or {'..', '.', '', '.git'} & set(path.split('/')):
            raise Refused(400, f'invalid path {path}')
        if key == 'file':
            return path, self.hub.entry(base64.b64decode(value['content'], validate=True), lfs=False)
        if key == 'lfsFile':
            stored = self.hub.object(value['oid'])
            if not stored.is_file():
                raise Refused(400, f'{path} is an LFS pointer that points to a file that does not exist')
            return path, self.hub.describe(stored.stat().st_size, value['oid'])
        if key != 'deletedFile' or path not in there:
            raise Refused(404, f'{key} {path}: A file with this name does not exist', 'EntryNotFound')
        return path, None

    def resolve(self, repo: str, revision: str, path: str) -> Answer:
        state = self.ungated(repo)
        commit = self.find(repo, revision)
        item = state['commits'][commit]['files'].get(path)
        if item is None:
            raise Refused(404, f'{path} does not exist', 'EntryNotFound', **{'X-Repo-Commit': commit})
        if not item['lfs']:
            return self.ranged(item['oid'], {'X-Repo-Commit': commit})
        elsewhere = f'http://localhost:{self.server.server_port}/cdn/{item["lfs"]}?signature={self.hub.signature}'
        linked = {'X-Linked-Etag': f'"{item["lfs"]}"', 'X-Linked-Size': str(item['size'])}
        return Answer(302, b'', {'Location': elsewhere, 'X-Repo-Commit': commit, 'ETag': f'"{item["oid"]}"', **linked})

    def cdn(self, oid: str) -> Answer:
        if self.query.get('signature') != self.hub.signature:
            raise Refused(403, 'the link is not signed')
        return self.ranged(oid, {})

    def ranged(self, oid: str, headers: dict[str, str]) -> Answer:
        data = self.hub.object(oid).read_bytes()
        headers = {**headers, 'ETag': f'"{oid}"', 'Accept-Ranges': 'bytes', 'Content-Type': 'application/octet-stream'}
        wanted = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        if self.command == 'HEAD' or not wanted:
            length = {'Content-Length': str(len(data))}
            return Answer(
                200, b'' if self.command == 'HEAD' else data, headers | (length if self.command == 'HEAD' else {})
            )
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first > last:
            raise Refused(416, 'no such range', **{'Content-Range': f'bytes */{len(data)}'})
        return Answer(206, data[first : last + 1], {**headers, 'Content-Range': f'bytes {first}-{last}/{len(data)}'})

    def json(self, content: Any) -> Answer:
        return Answer(200, json.dumps(content).encode(), JSON)


def _lfs(item: dict[str, Any]) -> dict[str, Any]:
    pointer = POINTER.format(item['lfs'], item['size'])
    return {'lfs': {'oid': item['lfs'], 'size': item['size'], 'pointerSize': len(pointer)}} if item['lfs'] else {}


def _spoil(body: bytes, fault: int | str | None) -> bytes:
    middle = len(body) // 2
    if fault == 'wrong' and body:
        return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    return body[:middle] if fault == 'short' else body


#: methods, path, answer
ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ('GET', '/api/whoami-v2', Handler.whoami),
    ('POST', '/api/repos/create', Handler.create_repo),
    ('POST', '/api/validate-yaml', Handler.validate_yaml),
    ('GET', f'/api/{KIND}/{REPO}(/revision/{REVISION})?', Handler.info),
    ('GET', f'/api/{KIND}/{REPO}/tree/{REVISION}(/(?P<path>.+))?', Handler.tree),
    ('POST', f'/api/models/{REPO}/paths-info/{REVISION}', Handler.paths_info),
    ('GET', f'/api/models/{REPO}/refs', Handler.refs),
    ('POST', f'/api/models/{REPO}/branch/{REVISION}', Handler.branch),
    ('POST', f'/api/models/{REPO}/preupload/{REVISION}', Handler.preupload),
    ('POST', f'/api/models/{REPO}/commit/{REVISION}', Handler.post_commit),
    ('POST', f'/{REPO}[.]git/info/lfs/objects/batch', Handler.lfs_batch),
    ('POST', f'/{REPO}[.]git/info/lfs/objects/verify', Handler.lfs_verify),
    ('PUT', '/lfs/(?P<oid>[0-9a-f]{64})', Handler.lfs_put),
    ('GET HEAD', f'(?:/datasets)?/{REPO}/resolve/{REVISION}/(?P<path>.+)', Handler.resolve),
    ('GET HEAD', '/cdn/(?P<oid>[0-9a-f]{64})', Handler.cdn),
)


class HubServer(ThreadingHTTPServer):
    """Serves a Hub on 127.0.0.1, in the background once `start` is called."""

    daemon_threads = True

    def __init__(self, hub: Hub, port: int = 0) -> None:
        super().__init__(('127.0.0.1', port), Handler)
        self.hub = hub

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'

    def start(self) -> HubServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self


def main() -> None:
    parser = argparse.ArgumentParser(description='A Hub on this machine, to try the commands without an account.')
    parser.add_argument('--folder', type=Path, help='where it keeps its repositories; default: a temporary one')
    parser.add_argument('--port', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        server = HubServer(Hub(args.folder or Path(temporary)), args.port)
        token = next(iter(server.hub.tokens))
        print(f'export HF_ENDPOINT={server.url} HF_TOKEN={token} HF_HUB_DISABLE_XET=1', flush=True)
        print('# repositories are called me/NAME; Ctrl-C ends it', flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.server_close()


if __name__ == '__main__':
    main()

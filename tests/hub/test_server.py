"""The Hub that the tests use: it accepts and rejects what the Hub does, and keeps what it was given."""
# ruff: noqa: F811 - fixtures

import base64
import hashlib
import http.client
import json
import subprocess
import sys
import urllib.parse

import pytest

from tests.conftest import ROOT
from tests.hub.fixtures import TOKEN, clients, hub, server  # noqa: F401
from tests.hub.server import Hub

OID = hashlib.sha256(b'weights').hexdigest()


@pytest.fixture
def call(server):
    def call(method, path, body=b'', token=TOKEN, **headers):
        connection = http.client.HTTPConnection('127.0.0.1', server.server_port, timeout=10)
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers |= {'Authorization': f'Bearer {token}'} if token else {}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        is_json = answer.headers.get('Content-Type') == 'application/json' and content
        return answer.status, json.loads(content) if is_json else content, answer.headers

    return call


def commit(call, *operations, path='/api/models/me/net/commit/main', **header):
    lines = [{'key': 'header', 'value': {'summary': 'a commit', **header}}]
    lines += [{'key': key, 'value': value} for key, value in operations]
    return call('POST', path, b''.join(json.dumps(line).encode() + b'\n' for line in lines))


def file(path, content):
    return 'file', {'path': path, 'content': base64.b64encode(content).decode(), 'encoding': 'base64'}


def test_whoami_and_tokens(call):
    assert call('GET', '/api/whoami-v2')[1]['name'] == 'me'
    assert call('GET', '/api/whoami-v2', token=None)[0] == 401
    assert call('GET', '/api/whoami-v2', token='hf_wrong')[0] == 401
    assert call('GET', '/api/nothing')[0] == 404


def test_a_wrong_oid_is_rejected(hub, call):
    hub.create('me/net')
    wanted = {'operation': 'upload', 'hash_algo': 'sha256', 'objects': [{'oid': OID, 'size': 7}]}
    (item,) = call('POST', '/me/net.git/info/lfs/objects/batch', wanted)[1]['objects']
    link = urllib.parse.urlsplit(item['actions']['upload']['href'])
    place = f'{link.path}?{link.query}'
    assert call('PUT', place, b'weighty')[0] == 400
    assert call('PUT', place, b'weights and more')[0] == 400
    assert call('PUT', link.path, b'weights')[0] == 403, 'the link must be signed'
    assert not hub.object(OID).exists()
    assert call('PUT', place, b'weights', token=None)[0] == 200
    assert hub.object(OID).read_bytes() == b'weights'
    assert 'actions' not in call('POST', '/me/net.git/info/lfs/objects/batch', wanted)[1]['objects'][0]
    assert call('POST', '/me/net.git/info/lfs/objects/verify', {'oid': OID, 'size': 7})[0] == 200
    assert call('POST', '/me/net.git/info/lfs/objects/verify', {'oid': OID, 'size': 8})[0] == 404


def test_a_stale_parent_is_rejected(hub, call):
    hub.create('me/net')
    first = hub.head('me/net')
    assert commit(call, file('a', b'1'), parentCommit=first)[0] == 200
    status, content, _ = commit(call, file('a', b'2'), parentCommit=first)
    assert status == 412 and 'A commit has happened since' in content['error']
    assert hub.files('me/net')['a'] == b'1'
    assert commit(call, file('a', b'2'), parentCommit=hub.head('me/net'))[0] == 200


def test_a_missing_lfs_object_is_rejected(hub, call):
    hub.create('me/net')
    pointer = ('lfsFile', {'path': 'w.safetensors', 'algo': 'sha256', 'oid': OID, 'size': 7})
    before = hub.head('me/net')
    status, content, _ = commit(call, file('a', b'1'), pointer)
    assert status == 400 and 'points to a file that does not exist' in content['error']
    assert hub.head('me/net') == before, 'half a commit'
    hub.store(OID, b'weights')
    assert commit(call, file('a', b'1'), pointer)[0] == 200
    assert hub.files('me/net')['w.safetensors'] == b'weights'


@pytest.mark.parametrize('path', ['../a', '/a', 'a/../../b', '.git/config', 'a//b'])
def test_paths_that_lead_out_are_rejected(path, hub, call):
    hub.create('me/net')
    assert commit(call, file(path, b'1'))[0] == 400


def test_commits_are_whole(hub, call):
    hub.create('me/net')
    assert commit(call, file('a', b'1'), file('b', b'2'))[0] == 200
    assert commit(call, ('deletedFile', {'path': 'a'}), file('c', b'3'))[0] == 200
    assert sorted(hub.files('me/net')) == ['.gitattributes', 'b', 'c']
    assert commit(call, ('deletedFile', {'path': 'a'}))[0] == 404
    status, opened, _ = commit(call, file('d', b'4'), path='/api/models/me/net/commit/main?create_pr=1')
    assert status == 200 and opened['pullRequestUrl'].endswith('/me/net/discussions/1')
    assert 'd' in hub.files('me/net', 'refs/pr/1') and 'd' not in hub.files('me/net')
    assert call('GET', '/api/models/me/net/refs?include_prs=1')[1]['pullRequests'][0]['ref'] == 'refs/pr/1'
    assert call('POST', '/api/models/me/net/branch/v1', {})[0] == 200
    assert call('POST', '/api/models/me/net/branch/v1', {})[0] == 409
    assert {b['name'] for b in call('GET', '/api/models/me/net/refs')[1]['branches']} == {'main', 'v1'}
    assert call('POST', '/api/models/me/net/commit/main', b'{"key"')[0] == 400


def test_who_may_do_what(hub, call):
    hub.create('me/secret', private=True)
    hub.create('me/gated', gated=True)
    hub.plant('me/gated', {'a': b'1'})
    assert call('GET', '/api/models/me/secret')[0] == 200
    for token, code in ((None, 401), ('hf_other', 404), ('hf_wrong', 401)):
        assert call('GET', '/api/models/me/secret', token=token)[0] == code
    for token, code in ((TOKEN, 200), (None, 401), ('hf_other', 403)):
        status, _, headers = call('GET', '/me/gated/resolve/main/a', token=token)
        assert status == code and (headers['X-Error-Code'] == 'GatedRepo') == (code != 200)
    assert call('POST', '/api/models/me/gated/commit/main', token='hf_other')[0] == 403
    assert call('POST', '/api/repos/create', {'name': 'a', 'organization': 'other'})[0] == 403
    assert call('POST', '/api/repos/create', {'name': 'gated'})[0] == 409
    assert call('GET', '/api/models/me/gated/revision/v9')[2]['X-Error-Code'] == 'RevisionNotFound'
    assert call('GET', '/me/gated/resolve/main/b')[2]['X-Error-Code'] == 'EntryNotFound'


def test_files_and_ranges(hub, call):
    head = hub.plant('me/net', {'a.txt': b'0123456789', 'sub/b.bin': b'lfs'})
    status, content, headers = call('GET', '/me/net/resolve/main/a.txt')
    assert (status, content, headers['X-Repo-Commit']) == (200, b'0123456789', head)
    status, content, headers = call('GET', '/me/net/resolve/main/a.txt', Range='bytes=3-5')
    assert (status, content, headers['Content-Range']) == (206, b'345', 'bytes 3-5/10')
    assert call('GET', '/me/net/resolve/main/a.txt', Range='bytes=8-')[1] == b'89'
    assert call('GET', '/me/net/resolve/main/a.txt', Range='bytes=10-')[0] == 416
    status, _, headers = call('HEAD', '/me/net/resolve/main/sub%2Fb.bin')
    linked = hashlib.sha256(b'lfs').hexdigest()
    assert (status, headers['X-Linked-Etag'], headers['X-Linked-Size']) == (302, f'"{linked}"', '3')
    listed = call('GET', '/api/models/me/net/tree/main')[1]
    assert [item['path'] for item in listed if item['type'] == 'directory'] == ['sub']
    listed = call('GET', '/api/models/me/net/tree/main?recursive=True')[1]
    assert {item['path'] for item in listed} == {'.gitattributes', 'a.txt', 'sub/b.bin'}
    assert call('GET', '/api/models/me/net/tree/main/sub')[1][0]['lfs']['oid'] == linked


def test_it_keeps_everything_in_its_folder(hub):
    hub.plant('me/net', {'a.txt': b'1'})
    again = Hub(hub.folder)
    assert again.files('me/net') == hub.files('me/net') and again.head('me/net') == hub.head('me/net')


def test_each_revision_has_its_own_bytes_in_one_cache(hub, clients):
    """ETags belong to a revision, not to a path; and the token stays with the Hub."""
    commits = [hub.plant('me/net', {'w.safetensors': bytes([i]) * 100, 'a.txt': bytes([i])}) for i in range(3)]
    code = f"""
from huggingface_hub import hf_hub_download, snapshot_download
for i, commit in list(enumerate({commits!r})) * 2 + [(2, 'main')]:
    assert open(hf_hub_download('me/net', 'w.safetensors', revision=commit), 'rb').read() == bytes([i]) * 100
    assert open(snapshot_download('me/net', revision=commit) + '/a.txt', 'rb').read() == bytes([i])
"""
    done = clients.run(code)
    assert done.code == 0, done.err
    assert len([request for request in hub.requests if 'GET /cdn/' in request]) == 3
    assert hub.authorized and not [request for request in hub.authorized if '/cdn/' in request]


def test_it_starts_for_a_person(tmp_path):
    command = [sys.executable, '-m', 'tests.hub.server', '--folder', str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        try:
            first = process.stdout.readline()
        finally:
            process.terminate()
    _, endpoint, token, xet = first.split()
    assert endpoint.startswith('HF_ENDPOINT=http://127.0.0.1:') and xet == 'HF_HUB_DISABLE_XET=1'
    assert token == 'HF_TOKEN=hf_test'

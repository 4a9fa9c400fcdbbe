"""What can go wrong on the way ends in success or in one clear line; then the same command completes it."""
# ruff: noqa: F811 - fixtures

import threading
import time
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from resnet_hub.utils import hub_client as client
from tests.hub.fixtures import ROOT, clients, hub, network, server, write_network  # noqa: F401
from tests.hub.server import STALL
from tests.hub.test_download import planted, read  # noqa: F401
from tests.hub.test_upload import sent

STATUSES = (429, 500, 502, 503)
KINDS = (*STATUSES, 'cut', 'lost', 'stall', 'wrong', 'short')
UPLOAD = (
    'GET /api/models/me/net$',
    'POST /api/repos/create',
    'GET .*/tree/',
    'POST .*/validate-yaml',
    'POST .*/preupload/',
    'POST .*/objects/batch',
    'PUT /lfs/',
    'POST .*/objects/verify',
    'POST .*/commit/',
)
DOWNLOAD = (
    'HEAD .*/config.json',
    'GET .*/config.json',
    'GET .*/tree/',
    'HEAD .*/model.safetensors',
    'GET .*/README.md',
    'GET /cdn/',
)


def pairs(places):
    return [(where, kind) for where in places for kind in KINDS]


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in ('model.safetensors', 'config.json', 'recipe.toml')}


def is_whole(hub, folder, revision='main'):
    files = hub.files('me/net', revision)
    return len(files) == 8 and files_of(folder).items() <= files.items()


def one_line(done):
    return len(done.err.splitlines()) == 1 and done.err.startswith('resnet-hub ') and 'Traceback' not in done.err


@pytest.mark.parametrize(('where', 'kind'), pairs(UPLOAD))
def test_upload_survives(where, kind, hub, clients, network):
    hub.fail(kind, where)
    started = time.monotonic()
    done = clients.command('upload', network, 'me/net')
    assert hub.faults[0].times == 0, 'the fault met no request'
    assert time.monotonic() - started < STALL, 'it waited for the server to give up'
    if done.code:
        assert done.code == 1 and one_line(done), done
        assert not sent(hub), 'a part was committed'
        done = clients.command('upload', network, 'me/net')
    assert done.code == 0, done
    assert is_whole(hub, network)
    assert len(sent(hub)) == (2 if (kind, where[-8:]) == ('wrong', '/commit/') else 1)


@pytest.mark.parametrize(('where', 'kind'), pairs(DOWNLOAD))
def test_download_survives(where, kind, hub, clients, planted, tmp_path):
    hub.fail(kind, where)
    started = time.monotonic()
    done = clients.command('download', 'me/net', '-o', tmp_path / 'out')
    assert hub.faults[0].times == 0, 'the fault met no request'
    assert time.monotonic() - started < STALL, 'it waited for the server to give up'
    if done.code:
        assert done.code == 1 and one_line(done), done
        assert not (tmp_path / 'out').exists()
        done = clients.command('download', 'me/net', '-o', tmp_path / 'out')
    assert done.code == 0, done
    assert read(tmp_path / 'out') == planted
    assert set(blobs(clients).values()) == set(planted.values()), 'the cache is poisoned'


def blobs(clients):
    return {path.name: path.read_bytes() for path in clients.cache.rglob('blobs/*')}


@pytest.mark.parametrize('kind', [503, 'cut', 'wrong'])
@pytest.mark.parametrize('where', ['PUT /lfs/', 'GET /cdn/'])
def test_what_does_not_pass_is_told(where, kind, hub, clients, network, planted, tmp_path):
    """Bounded: it gives up, in one line; when the trouble is over, the same command completes it."""
    up = where.startswith('PUT')
    folder = write_network(tmp_path / 'net2', seed=2) if up else None
    command = ('upload', folder, 'me/net2') if up else ('download', 'me/net', '-o', tmp_path / 'out')
    hub.fail(kind, where, times=1000)
    done = clients.command(*command)
    assert done.code == 1 and one_line(done), done
    assert 'run it again' in done.err and len(hub.requests) < 200
    assert not sent(hub, 'me/net2') and not (tmp_path / 'out').exists()
    assert not any(len(blob) > 100_000 for blob in blobs(clients).values())
    hub.faults.clear()
    assert clients.command(*command).code == 0
    assert sent(hub, 'me/net2') if up else read(tmp_path / 'out') == planted


def test_a_token_revoked_between_lfs_and_commit(hub, clients, network):
    tokens = dict(hub.tokens)
    hub.fail('revoke', 'POST .*/commit/')
    done = clients.command('upload', network, 'me/net')
    assert done.code == 1 and one_line(done) and 'hf auth login' in done.err
    assert not sent(hub) and any(request.startswith('PUT') for request in hub.requests)
    hub.tokens.update(tokens)
    hub.requests.clear()
    assert clients.command('upload', network, 'me/net').code == 0 and is_whole(hub, network)
    assert not any(request.startswith('PUT') for request in hub.requests), 'the weights went again'


def test_a_token_revoked_on_the_way_down(hub, clients, planted, tmp_path):
    state = hub.load('me/net')
    hub.save('me/net', {**state, 'private': True})
    tokens = dict(hub.tokens)
    hub.fail('revoke', 'HEAD .*/model.safetensors')
    done = clients.command('download', 'me/net', '-o', tmp_path / 'out')
    assert done.code == 1 and one_line(done) and 'hf auth login' in done.err and not (tmp_path / 'out').exists()
    hub.tokens.update(tokens)
    assert clients.command('download', 'me/net', '-o', tmp_path / 'out').code == 0


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(hub, clients, network):
    hub.create('other/net')
    hub.fail('lost', 'POST .*/commit/')
    done = clients.command('upload', network, 'other/net', '--create-pr')
    assert done.code == 0, done
    assert list(hub.load('other/net')['refs']) == ['refs/heads/main', 'refs/pr/1']


def killed(hub, clients, number, command):
    """Run a command that is killed when its request of this number has had its effect; None if it made fewer."""
    kills = []

    def kill(count):
        if count >= number and not kills:
            kills.append(count)
            clients.kill()

    hub.requests.clear()
    hub.after = kill
    done = clients.command(*command)
    hub.after = lambda count: None
    assert done.code == (-9 if kills else 0), done
    return done if kills else None


def test_an_upload_killed_after_each_request(hub, clients, network):
    number, command = 1, ('upload', network, 'me/net')
    while killed(hub, clients, number, command):
        assert not sent(hub) or is_whole(hub, network), 'a part was committed'
        done = clients.command(*command)
        assert done.code == 0 and is_whole(hub, network) and len(sent(hub)) == 1
        (hub.folder / 'repositories' / 'me' / 'net.json').unlink()
        for path in (hub.folder / 'objects').iterdir():
            path.unlink()
        number += 1
    assert number > 10


def test_a_download_killed_after_each_request(hub, clients, planted, tmp_path):
    number = 1
    cache = clients.cache
    while True:
        clients.cache, output = cache / str(number), tmp_path / f'out{number}'
        command = ('download', 'me/net', '-o', output)
        if not killed(hub, clients, number, command):
            break
        assert not output.exists()
        done = clients.command(*command)
        assert done.code == 0 and read(output) == planted, done
        assert set(planted.values()) <= set(blobs(clients).values())
        number += 1
    assert number > 10


def test_eight_at_once(hub, clients, planted, tmp_path):
    outputs = [tmp_path / f'out{i}' for i in range(8)]
    codes = [f'result = main(["download", "me/net", "-o", {str(output)!r}])' for output in outputs]
    for done in clients.run_all(codes):
        assert done.code == 0, done
    for output in outputs:
        assert read(output) == planted
    assert set(blobs(clients).values()) == set(planted.values())


def test_eight_at_once_with_a_damaged_blob(hub, clients, planted, tmp_path):
    """They remove and mend it beside each other."""
    assert clients.command('download', 'me/net').code == 0
    for blob in clients.cache.rglob('blobs/*'):
        blob.write_bytes(b'!' + blob.read_bytes()[1:])
    outputs = [tmp_path / f'out{i}' for i in range(8)]
    ends = clients.run_all([f'result = main(["download", "me/net", "-o", {str(output)!r}])' for output in outputs])
    for done, output in zip(ends, outputs, strict=True):
        assert read(output) == planted if done.code == 0 else one_line(done) and not output.exists()
    assert clients.command('download', 'me/net', '-o', tmp_path / 'last').code == 0


@pytest.mark.parametrize('cached', [False, True])
def test_a_full_disk(cached, hub, clients, planted, tmp_path):
    if cached:
        assert clients.command('download', 'me/net').code == 0
    done = clients.command('download', 'me/net', '-o', tmp_path / 'out', limit=100_000)
    assert done.code == 1 and one_line(done) and 'no space left' in done.err, done
    assert not (tmp_path / 'out').exists() and not [p for p in tmp_path.iterdir() if p.name.startswith('.out')]
    assert not [path for path in clients.cache.rglob('*') if path.suffix == '.incomplete']
    assert clients.command('download', 'me/net', '-o', tmp_path / 'out').code == 0
    assert read(tmp_path / 'out') == planted


NOBODY = """
import time
from huggingface_hub import constants
import resnet_hub.hub.upload as u, resnet_hub.hub.download as d
nowhere = 'http://127.0.0.1:9'
constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, nowhere)
constants.ENDPOINT = nowhere
time.sleep = None  # whoever would use it fails
"""
PREDICT = ['predict', str(ROOT / 'tests' / 'images' / 'cat.jpg'), '--model', 'hf-hub:me/net']


def test_nobody_answers(hub, clients, network, tmp_path):
    """One attempt: neither we nor the client wait and try again."""
    upload, download = ['upload', str(network), 'me/net'], ['download', 'me/net', '-o', str(tmp_path / 'out')]
    train = ['train', '--dataset', 'cifar10', '-o', str(tmp_path / 'run')]
    for command in (upload, download, PREDICT, train):
        done = clients.run(f'{NOBODY}\nresult = main({command!r})')
        assert done.code == 1 and one_line(done) and 'the Hub cannot be reached (127.0.0.1: ' in done.err, done


def test_nobody_answers_but_the_cache_has_the_files(hub, clients, planted, tmp_path):
    load = "import resnet_hub\nresult = resnet_hub.load_model('hf-hub:me/net', 'cpu').training"
    for code in (load, f'{NOBODY}\n{load}'):
        done = clients.run(code)
        assert done.code == 0, done
    command = ['download', 'me/net', '-o', str(tmp_path / 'out')]
    done = clients.run(f'{NOBODY}\nresult = main({command!r})')
    assert done.code == 1 and one_line(done) and 'the Hub cannot be reached (127.0.0.1: ' in done.err, 'not verified'


def test_retry_after_is_respected_and_bounded(monkeypatch):
    from huggingface_hub.errors import HfHubHTTPError

    pauses = []
    monkeypatch.setattr(client.time, 'sleep', pauses.append)

    def refuse():
        answer = SimpleNamespace(status_code=429, headers={'Retry-After': next(waits)}, request=None)
        raise HfHubHTTPError('', response=answer)

    waits = iter(['7', '3600', '1'])
    with pytest.raises(client.ResnetHubError, match='me/net: too many requests; wait a few minutes'):
        client.ask('me/net', refuse)
    assert pauses == [7, 60]


class XetAuthenticationError(Exception):
    pass


@pytest.mark.parametrize(
    ('error', 'tries', 'message'),
    [
        (ConnectionError('reset'), 3, r'the Hub cannot be reached \(ConnectionError\); check the connection'),
        (TimeoutError('late'), 3, r'the Hub cannot be reached \(TimeoutError\); check the connection'),
        (RuntimeError('hash\nmismatch'), 1, r'the transfer failed \(hash mismatch\); run it again'),
        (OfflineModeIsEnabled('no'), 1, 'HF_HUB_OFFLINE is set'),
        (XetAuthenticationError('401'), 1, 'the token is missing or not valid; log in'),
    ],
)
def test_what_xet_raises(error, tries, message, monkeypatch):
    """It has no frames of Python: the last one is the client's."""
    monkeypatch.setattr(client.time, 'sleep', lambda seconds: None)
    scope = {'__name__': 'huggingface_hub.file_download', 'error': error, 'calls': []}
    exec('def transfer():\n    calls.append(1)\n    raise error', scope)
    with pytest.raises(client.ResnetHubError, match=f'^me/net: {message}'):
        client.ask('me/net', scope['transfer'])
    assert len(scope['calls']) == tries


def test_a_bug_stays_a_bug():
    def broken():
        return {}['key']

    with pytest.raises(KeyError):
        client.ask('me/net', broken)


def test_the_time_limit_lasts_as_long_as_calls_do(hub, server):
    """Also where calls in several threads overlap; afterwards the client has its own patience again."""
    from huggingface_hub.utils import get_session

    def limit():
        request = get_session().build_request('GET', server.url, timeout=None)
        for hook in get_session().event_hooks['request']:
            hook(request)
        return request.extensions['timeout']['read']

    first_ends, seen = threading.Event(), []

    def second():
        first_ends.wait(10)
        seen.append(limit())

    assert limit() is None
    thread = threading.Thread(target=client.ask, args=('me/net', second))
    client.ask('me/net', thread.start)
    first_ends.set()
    thread.join()
    assert seen == [client.TIMEOUT] and client.ask('me/net', limit) == client.TIMEOUT
    assert limit() is None
    assert len({*map(id, get_session().event_hooks['request'])}) == len(get_session().event_hooks['request'])

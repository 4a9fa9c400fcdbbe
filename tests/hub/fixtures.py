"""A Hub of our own, and processes that use it with the real client.

`clients` forks them from one process that has imported everything, since importing takes far longer than what they do.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.conftest import ROOT
from tests.hub.server import Hub, HubServer

TOKEN = 'hf_aVerySecretToken'


class Done(NamedTuple):
    code: int  #: exit code; minus the number of the signal that ended it
    out: str
    err: str


#: reads {'codes', 'cache', 'offline', 'limit'} a line, forks a child for each code, writes their pids, then their ends
_PARENT = """
import json, os, resource, sys, tempfile, time
import huggingface_hub, timm, torch
from huggingface_hub import constants
from resnet_hub import cli
from resnet_hub.hub import download, upload
from resnet_hub.utils import hub_client as client

torch.set_num_threads(1)
pause, client.TIMEOUT = time.sleep, 1.0
time.sleep = lambda seconds: pause(min(seconds, 0.02))  # what is waited for is tested elsewhere

def child(order, code, out, err):
    os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = order['cache'], order['offline']
    if order['limit']:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order['limit'],) * 2)
    status = 70
    try:
        scope = {'main': cli.main, 'result': 0}
        exec(code, scope)
        status = scope['result']
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)

for line in sys.stdin:
    order, children = json.loads(line), []
    for code in order['codes']:
        out, err = tempfile.TemporaryFile('w+'), tempfile.TemporaryFile('w+')
        pid = os.fork()
        if pid == 0:
            child(order, code, out, err)
        children.append((pid, out, err))
    print(json.dumps([pid for pid, *_ in children]), flush=True)
    ends = []
    for pid, *files in children:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        ends.append([status, *texts])
    print(json.dumps(ends), flush=True)
"""


class Clients:
    """Runs Python in processes of their own, against the server."""

    def __init__(self, server: HubServer, folder: Path) -> None:
        self.cache = folder / 'cache'
        self.pids: list[int] = []
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING'))},
            'HF_ENDPOINT': server.url,
            'HF_TOKEN': TOKEN,
            'HF_HOME': str(folder / 'home'),
            'HF_HUB_DISABLE_XET': '1',
            'HF_HUB_DISABLE_PROGRESS_BARS': '1',
            'HF_HUB_DISABLE_TELEMETRY': '1',
            'HF_HUB_ETAG_TIMEOUT': '1',
            'HF_HUB_DOWNLOAD_TIMEOUT': '1',
            'HF_HUB_VERBOSITY': 'error',
            'OMP_NUM_THREADS': '1',
            'PYTHONPATH': str(ROOT),
        }
        self.process = subprocess.Popen(
            [sys.executable, '-W', 'error', '-W', 'ignore::DeprecationWarning', '-c', _PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env=self.environment,
            text=True,
        )

    def run_all(self, codes: list[str], offline: bool = False, limit: int = 0) -> list[Done]:
        """Run codes at once; `limit` is of the size of a file. A code sets `result`, its exit code."""
        assert self.process.stdin and self.process.stdout
        order = {'codes': codes, 'cache': str(self.cache), 'offline': offline, 'limit': limit}
        self.pids = []
        self.process.stdin.write(json.dumps(order) + '\n')
        self.process.stdin.flush()
        self.pids = json.loads(self.process.stdout.readline())
        ends = [Done(*end) for end in json.loads(self.process.stdout.readline())]
        for end in ends:
            assert TOKEN not in end.out + end.err, 'a token was printed'
        return ends

    def run(self, code: str, **how: Any) -> Done:
        return self.run_all([code], **how)[0]

    def command(self, *arguments: object, **how: Any) -> Done:
        """A command of resnet-hub."""
        return self.run(f'result = main({[str(argument) for argument in arguments]!r})', **how)

    def kill(self) -> None:
        """SIGKILL the one that runs."""
        while not self.pids:
            time.sleep(0.001)
        os.kill(self.pids[0], 9)

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


@functools.cache  # of the session, however many files import the fixtures
def _start() -> tuple[HubServer, Clients]:
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    server = HubServer(Hub(Path(folder.name))).start()
    clients = Clients(server, Path(folder.name))
    for end in (folder.cleanup, server.server_close, server.shutdown, clients.close):
        atexit.register(end)
    return server, clients


@pytest.fixture
def server(tmp_path: Path) -> HubServer:
    """A Hub without repositories."""
    server = _start()[0]
    server.hub = Hub(tmp_path / 'hub', tokens={TOKEN: 'me', 'hf_other': 'other'})
    return server


@pytest.fixture
def hub(server: HubServer) -> Hub:
    return server.hub


@pytest.fixture
def clients(hub: Hub, tmp_path: Path) -> Clients:
    """Processes that have the token of `me`, an empty cache, and little patience."""
    clients = _start()[1]
    clients.cache = tmp_path / 'cache'
    return clients


def write_network(folder: Path, architecture: str = 'cifar_resnet8', seed: int = 0, **changes: Any) -> Path:
    """A model folder with random weights and statistics."""
    import timm

    from resnet_hub.tables.datasets import DATASETS
    from resnet_hub.weights.folder import make_config, write_folder

    dataset = DATASETS['cifar10']
    torch.manual_seed(seed)
    classes = changes.get('num_classes', 10)
    model = timm.create_model(architecture, num_classes=classes)
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith(('running_mean', 'running_var')):
            tensor.uniform_(0.5, 1.5)
    config = {
        'mean': dataset.mean,
        'std': dataset.std,
        'num_classes': classes,
        'label_names': dataset.classes if classes == 10 else [f'class {i}' for i in range(classes)],
        **changes,
    }
    return write_folder(folder, state, make_config(architecture, **config))


RESULT = {'model': 'local-dir:/home/somebody/net', 'dataset': 'cifar10', 'split': 'test', 'top1': 91.25, 'top5': 99.5}
RESULT |= {'nll': 0.3125, 'images': 10000}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A model folder with all that a training leaves."""
    from dataclasses import asdict

    from resnet_hub.training.recipe import Recipe

    recipe = Recipe(model='cifar_resnet8')
    folder = write_network(tmp_path / 'net', recipe=asdict(recipe))
    (folder / 'evaluation.json').write_text(json.dumps([RESULT]))
    (folder / 'recipe.toml').write_text(recipe.to_toml())
    (folder / 'history.csv').write_text('epoch,lr,train_loss\n1,0.1,2.0\n')
    (folder / 'curves.png').write_bytes(b'\x89PNG')
    (folder / 'checkpoint.pt').write_bytes(b'not to be published')
    return folder

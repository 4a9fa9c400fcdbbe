"""Registration without an import, in fresh processes: every order of imports, also where a warning is an error."""

import importlib.util

import pytest

from resnet_hub.tables.architectures import ARCHITECTURES

#: what every order ends with: all models are there, and the finder has gone
CHECK = f"""
import sys
import timm
from timm.models import create_model
names = [name for module in ('cifar_resnet', 'preact_resnet') for name in timm.list_models(module=module)]
assert len(names) == len(set(names)) == {len(ARCHITECTURES)}, names
assert type(create_model('preact_resnet20', device='meta')).__name__ == 'PreActResNet'
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith('resnet_hub')]
"""
#: registration imports no network; making one does
NO_NETWORK = """
import sys
import timm
assert timm.is_model('cifar_resnet20') and timm.list_pretrained('cifar_resnet20*')
assert not [name for name in sys.modules if name.startswith('resnet_hub.models')]
"""
ABSENT = """
import sys
import timm
assert not timm.list_models(['cifar_resnet*', 'preact_resnet*', 'wide_resnet16*'])
assert not [name for name in sys.modules if name.partition('.')[0] == 'resnet_hub']
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith('resnet_hub')]
"""
ONLY_TORCH = """
import sys
import torch
assert 'timm' not in sys.modules
"""
LIGHT = f"""
import sys
import resnet_hub
{'import resnet_hub.cli' if importlib.util.find_spec('resnet_hub.cli') else ''}
assert not {{'torch', 'timm', 'numpy', 'huggingface_hub', 'safetensors'}} & sys.modules.keys()
assert not [name for name in dir(resnet_hub) if name.startswith('_') and name != '__version__'], dir(resnet_hub)
"""


@pytest.mark.parametrize(
    ('first', 'flags'),
    [
        ('import timm' + CHECK + 'import resnet_hub', ['-W', 'error']),
        (ONLY_TORCH + 'import timm', []),
        ('from timm.models import create_model', ['-W', 'error']),
        ('import timm.layers', ['-W', 'error']),
        (LIGHT + 'import timm', ['-W', 'error']),
        (NO_NETWORK, []),
        # from here on, modules of our own are what imports timm, each from the middle of its imports
        ('from resnet_hub import PreActResNet', []),
        ('import resnet_hub.registry.loading', []),
        ('import resnet_hub.registry.create', []),
        ('import resnet_hub.weights.folder', []),
    ],
    ids=lambda value: ' '.join(value).strip() or 'plain' if isinstance(value, list) else value.strip().splitlines()[-1],
)
def test_import_orders(first, flags, run_python):
    assert run_python(first + CHECK, *flags).stderr == ''


def test_switched_off(run_python):
    """RESNET_HUB_AUTOLOAD=0 turns off what happens unasked; an import, early or late, is asking."""
    off = {'RESNET_HUB_AUTOLOAD': '0'}
    assert run_python(ONLY_TORCH + ABSENT + 'import resnet_hub' + CHECK, **off).stderr == ''
    assert run_python('import resnet_hub' + ONLY_TORCH + CHECK, **off).stderr == ''
    off = {'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'}  # PyTorch's own switch
    assert run_python(ABSENT + 'import resnet_hub' + CHECK, **off).stderr == ''


@pytest.mark.parametrize('first', ['import torch, timm, resnet_hub', 'import timm'])
def test_a_failure_is_logged_only(first, run_python):
    """Neither torch nor timm may break because of a plugin."""
    log = run_python(
        f"""
import sys
sys.modules['resnet_hub.registry'] = None  # importing it fails
{first}
assert timm.create_model('resnet18', device='meta')
assert not timm.is_model('cifar_resnet20')
""",
        *('-W', 'error'),
    ).stderr
    assert log.startswith('resnet-hub could not register its models with timm\nTraceback')
    assert 'resnet_hub.registry' in log.splitlines()[-1]


def test_a_name_that_is_taken_stays(run_python):
    """Whoever came first under a name keeps it; the other models are registered all the same."""
    run_python(
        """
import timm

__all__ = []

@timm.models.register_model
def cifar_resnet20(**kwargs):
    return 'mine'

import resnet_hub
assert timm.models.model_entrypoint('cifar_resnet20')() == 'mine'
assert timm.is_model('cifar_resnet32')
""",
        RESNET_HUB_AUTOLOAD='0',
    )


def test_finding_the_module_without_running_it(run_python):
    """As scanners of packages do. The models still come later."""
    run_python(
        f"""
import importlib.util, sys
import resnet_hub
timm = importlib.util.find_spec('timm').submodule_search_locations
for name in ('models', 'models._registry', 'models._factory'):
    (ours,) = [finder for finder in sys.meta_path if type(finder).__module__.startswith('resnet_hub')]
    assert ours.find_spec('timm.' + name, timm) is None
assert 'timm' not in sys.modules and 'resnet_hub.registry' not in sys.modules
{CHECK}
""",
        **{'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'},
    )


def test_reload(run_python):
    """Of timm's module and of ours: the models stay, once."""
    run_python(
        f"""
import importlib
import resnet_hub
importlib.reload(resnet_hub)
{CHECK}
import timm.models
importlib.reload(timm.models)
importlib.reload(resnet_hub)
{CHECK}
"""
    )


def test_an_import_of_timm_that_fails_can_be_repeated(run_python):
    run_python(
        f"""
import sys
import resnet_hub
sys.modules['timm.layers'] = None
try:
    import timm
except ImportError:
    del sys.modules['timm.layers']
{CHECK}
""",
        **{'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'},
    )


@pytest.mark.parametrize('switch', [{}, {'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'}], ids=['plug-in', 'import'])
def test_threads_that_import_timm_and_us_at_once(switch, run_python):
    """No thread meets a deadlock of Python's import locks, and the models are there.

    `timm.models` is not among the names: Python itself may refuse it in one thread and `timm` in another.
    """
    done = run_python(
        f"""
import importlib, sys, threading
sys.setswitchinterval(1e-5)
names = ['timm', 'resnet_hub.registry.loading', 'resnet_hub.models', 'resnet_hub.tables.weights', 'resnet_hub']
names += ['resnet_hub.weights.folder', 'resnet_hub.registry.entrypoints', 'timm']
start, errors = threading.Barrier(len(names)), []

def work(name):
    start.wait()
    try:
        importlib.import_module(name)
    except Exception as error:
        errors.append((name, error))

threads = [threading.Thread(target=work, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not errors, errors
{CHECK}
""",
        **switch,
    )
    assert 'could not register' not in done.stderr

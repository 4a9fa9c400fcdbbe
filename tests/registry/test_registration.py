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
"""


@pytest.mark.parametrize(
    ('first', 'flags'),
    [
        ('import timm' + CHECK + 'import resnet_hub', ['-W', 'error']),
        (ONLY_TORCH + 'import timm', []),
        ('from timm.models import create_model', ['-W', 'error']),
        ('import timm.layers', ['-W', 'error']),
        (LIGHT + 'import timm', ['-W', 'error']),
        # from here on, modules of our own are what imports timm, each from the middle of its imports
        ('from resnet_hub import PreActResNet', []),
        ('import resnet_hub.registry', []),
        ('import resnet_hub.checkpoints.folder', []),
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
    assert 'import of resnet_hub.registry halted' in log


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

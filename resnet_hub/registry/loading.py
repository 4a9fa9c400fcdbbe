"""Load a network by name."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from pathlib import Path

import timm
from safetensors import SafetensorError
from torch import nn

from resnet_hub.runtimes.exported import load_exported
from resnet_hub.runtimes.formats import format_of
from resnet_hub.tables.weights import WEIGHTS
from resnet_hub.utils.distributed import choose_device
from resnet_hub.utils.errors import InputError, ResnetHubError, did_you_mean
from resnet_hub.utils.hub_client import explain_refusal, time_limit
from resnet_hub.weights.folder import check_folder


def as_model(model: nn.Module | str | Path, device: str | None = None) -> nn.Module:
    """Return `model` if it is a network. Load the network if `model` is its name, see `load_model`.

    Raises:
        InputError: `model` is neither a network nor a name.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, str | Path):
        return load_model(str(model), device)
    raise InputError(f'model must be a network (torch.nn.Module) or its name, not {type(model).__name__}')


def load_model(name: str, device: str | None = None, backend: str | None = None) -> nn.Module:
    """Load a network with its weights, by any name that timm knows or from an exported file.

    Args:
        name: 'cifar_resnet20', 'cifar_resnet20.cifar10', 'hf-hub:OWNER/NAME', 'local-dir:FOLDER', or any other model
            of timm; or the path of an exported file, which is loaded as an `ExportedNetwork`.
        device: 'cpu', 'cuda', …; None chooses a GPU if there is one. An exported file runs on the CPU.
        backend: the runtime of an exported file; None takes the default of its format.

    Returns:
        The network on its device, in evaluation mode. It maps float32 (N, C, H, W) to logits (N, classes).

    Raises:
        InputError: there is no such model or device, it has no weights, or its config.json describes no network.
        ResnetHubError: the weights cannot be downloaded or read, or do not fit the network.
        MissingExtraError: the runtime of an exported file is not installed.
    """
    if not isinstance(name, str):
        raise InputError(f'name must be the name of a model, not {type(name).__name__}: for example cifar_resnet20')
    check_name(name)
    if format_of(name):
        return load_exported(name, backend)
    if backend:
        raise InputError(f'{name} is not an exported file, and only these have a backend: leave backend out')
    if name.startswith('local-dir:'):
        check_folder(name.removeprefix('local-dir:'))
    where = choose_device(device)
    try:
        with time_limit() if name.startswith('hf-hub:') else nullcontext():
            model = timm.create_model(name, pretrained=True)
    except ResnetHubError:
        raise
    except Exception as error:
        explained = _explain(name, error)
        if explained is None:
            raise
        raise explained from error
    return model.to(where).eval()


def check_name(name: str) -> None:
    """Check that there is a model of this name, as far as this machine knows. Nothing is loaded.

    Raises:
        InputError: there is no such file or folder, or timm has no such model, or no weights for it.
    """
    if format_of(name):
        if not Path(name).is_file():
            raise InputError(f'{name}: no such file')
        return
    if name.startswith('local-dir:') and not Path(name.removeprefix('local-dir:')).is_dir():
        raise InputError(f'{name}: no such folder; give one that train, convert or download wrote')
    if ':' in name:
        return
    architecture, _, tag = name.partition('.')
    if not timm.is_model(architecture):
        if Path(name).is_dir():
            raise InputError(f'unknown model {name!r}; for the model in this folder write local-dir:{name}')
        raise InputError(f'unknown model {name!r}{_near(name)}')
    if tag and name not in timm.list_models(f'{architecture}.*', include_tags=True):
        raise InputError(f'{architecture} has no weights {tag!r}{_near(name)}')
    if not timm.is_model_pretrained(name):
        raise InputError(f'{name} has no pretrained weights; resnet-hub list --pretrained shows models that have')


def _near(name: str) -> str:
    return did_you_mean(name, {*WEIGHTS, *timm.list_models()}) or '; resnet-hub list shows all names'


def _explain(name: str, error: Exception) -> ResnetHubError | None:
    """Return the error to show if a file, the connection or the model's config caused `error`; None for a bug."""
    reason = ' '.join(str(error).split())
    if line := explain_refusal(error):
        return ResnetHubError(f'{name}: {line}')
    if isinstance(error, FileNotFoundError):
        return InputError(f'{name}: {reason}')
    if isinstance(error, OSError | SafetensorError | pickle.UnpicklingError):
        return ResnetHubError(f'{name}: {reason}')
    if ':' in name and not _config_makes_a_network(name):
        if isinstance(error, KeyError) and error.args == ('architecture',):
            reason = 'its config.json names no architecture, so that it is not a model that timm can load'
        elif not isinstance(error, ValueError):
            reason = f'{type(error).__name__}: {reason}'
        return InputError(f'{name}: {reason}')
    misfit = type(error) is RuntimeError  # PyTorch and timm raise it if weights are missing or do not fit
    return ResnetHubError(f'{name}: {reason}') if misfit else None


def _config_makes_a_network(name: str) -> bool:
    """Return whether timm can build a network from the config.json of a folder or repository, without its weights."""
    try:
        timm.create_model(name, pretrained=False)
    except Exception:
        return False
    return True

"""From the tables to timm's registry and to torch.hub's entrypoints."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._input import update_model_args
from timm.models._pretrained import PretrainedCfg
from torch import nn

from resnet_hub.runtimes.exported import load_exported
from resnet_hub.runtimes.formats import format_of
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import WEIGHTS, Weights, tags, weights_file
from resnet_hub.utils.distributed import choose_device
from resnet_hub.utils.errors import InputError, ResnetHubError, did_you_mean

_logger = logging.getLogger(__name__)
_DEFAULT_DATASET = DATASETS['cifar10']


def register() -> None:
    """Make every architecture and every weight known to timm; what timm has under such a name already, stays."""
    for name in ARCHITECTURES:
        if is_model(name):
            _logger.debug('timm has a model %s already', name)
            continue
        module = _table_module(name)  # timm groups models by the module of their entrypoint
        module.__dict__.setdefault('default_cfgs', {}).update(generate_default_cfgs(_default_cfgs(name)))
        entrypoint = _timm_entrypoint(name)
        setattr(module, name, entrypoint)
        register_model(entrypoint)


def _table_module(name: str) -> ModuleType:
    """The module that timm groups an architecture under: its table, so that no network is imported for registration."""
    return sys.modules[f'resnet_hub.tables.{ARCHITECTURES[name].family.name}']


def _default_cfgs(name: str) -> dict[str, dict[str, Any]]:
    """timm's pretrained cfgs of an architecture by 'architecture.tag', or the one without weights."""
    row = ARCHITECTURES[name]
    common: dict[str, Any] = {
        'paper_ids': row.paper.replace('https://arxiv.org/abs/', 'arXiv:'),
        'origin_url': row.paper,
    }

    def cfg(mean: Any, std: Any, **fields: Any) -> dict[str, Any]:
        return row.pretrained_cfg(mean, std, **common, **fields)

    with_weights = {
        f'{name}.{tag}': cfg(
            *weights.normalisation,
            num_classes=len(weights.data.classes),
            label_names=weights.data.classes,
            license=weights.publisher.license.lower(),
            **({'url': weights.url} if weights.url else {'file': str(weights_file(f'{name}.{tag}'))}),
        )
        for tag, weights in ((tag, WEIGHTS[f'{name}.{tag}']) for tag in tags(name))
    }
    return with_weights or {name: cfg(_DEFAULT_DATASET.mean, _DEFAULT_DATASET.std, num_classes=10)}


def _timm_entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = _table_module(name).__name__
    entrypoint.__doc__ = _describe(name)
    return entrypoint


def _create(
    name: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: Any = None,
    device: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a network, and fill it if `pretrained`, on timm's own path.

    With weights the network is built on the meta device and takes the tensors of the file over (`load_state_dict`):
    nothing is initialised or copied in vain.
    """
    from resnet_hub.models import network_class

    cls, row = network_class(name), ARCHITECTURES[name]
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    overlay = pretrained_cfg_overlay or {}
    if (overlay.get('hf_hub_id') or overlay.get('url')) and not overlay.get('file'):
        cfg = replace(cfg, file=None)  # timm would prefer the package's file
    weights = _catalog_row(name, cfg)
    model_args = {**(weights.model_args if weights else {}), **kwargs}
    own = cfg.state_dict or cfg.file or cfg.hf_hub_id  # of the user: timm prefers each of them to the row's url
    if pretrained and weights and weights.url and cfg.url == weights.url and not own:
        from resnet_hub.weights.fetch import fetch

        cfg = replace(cfg, file=str(fetch(f'{name}.{cfg.tag}', cache_dir)))

    def build(**args: Any) -> nn.Module:
        return cls(**{**row.model_args(), **args}, device='meta' if pretrained else device)

    stages = len(model_args.get('layers', row.layers))
    model = build_model_with_cfg(
        build,
        name,
        pretrained,
        pretrained_cfg=cfg.to_dict(),
        cache_dir=cache_dir,
        feature_cfg={'out_indices': tuple(range(stages + 1))},
        **model_args,
    )
    if weights and weights.model_args:
        update_model_args(model, **weights.model_args)  # so that timm's own export writes them
    return model.to(torch.get_default_device() if device is None else device) if pretrained else model


def _catalog_row(name: str, cfg: PretrainedCfg) -> Weights | None:
    """The row that a resolved cfg stands for; a Hub repository or a folder speaks for itself."""
    return None if cfg.source in ('hf-hub', 'local-dir') else WEIGHTS.get(f'{name}.{cfg.tag}')


def load_model(name: str, device: str | None = None, backend: str | None = None) -> nn.Module:
    """A network with its weights, ready to classify, by any name that timm takes.

    Args:
        name: 'cifar_resnet20', 'cifar_resnet20.cifar10', 'hf-hub:OWNER/NAME', 'local-dir:FOLDER', or any other of timm's;
            or the path of an exported file, which becomes an `ExportedNetwork`.
        device: None takes a GPU where there is one; an exported file runs on the processor.
        backend: the runtime of an exported file; None takes the default of its format.

    Raises:
        InputError: no such model or device, none with weights, or a config.json or weights that make no network.
        ResnetHubError: its weights cannot be had, or do not fit it.
    """
    import timm

    if format_of(name):
        return load_exported(name, backend)
    if backend:
        raise InputError(f'{name} is not an exported file, so that it has no backend: leave backend out')
    if ':' not in name:
        architecture, _, tag = name.partition('.')
        if not is_model(architecture):
            raise InputError(f'unknown model {name!r}{_did_you_mean(name)}')
        if tag and name not in timm.list_models(f'{architecture}.*', include_tags=True):
            raise InputError(f'{architecture} has no weights {tag!r}{_did_you_mean(name)}')
        if not timm.is_model_pretrained(name):
            raise InputError(f'{name} has no pretrained weights; those that have: resnet-hub list --pretrained')
    if name.startswith('local-dir:'):
        from resnet_hub.checkpoints.folder import check_folder

        check_folder(name.removeprefix('local-dir:'))
    where = choose_device(device)
    try:
        model = timm.create_model(name, pretrained=True)
    except ResnetHubError:
        raise
    except Exception as error:
        raise _blame(name, error) from None
    return model.to(where).eval()


def _blame(name: str, error: Exception) -> Exception:
    """One line where the name, the network, or a stranger's config or weights are to blame; else the error, a bug."""
    from safetensors import SafetensorError

    from resnet_hub.utils.hub_client import is_network

    reason = ' '.join(str(error).split())
    if isinstance(error, ValueError | FileNotFoundError):
        return InputError(f'{name}: {reason}')
    if isinstance(error, RuntimeError | OSError | SafetensorError) or is_network(error):
        return ResnetHubError(f'{name}: {reason}')
    if ':' not in name:
        return error
    if isinstance(error, KeyError) and error.args == ('architecture',):
        return InputError(
            f'{name}: its config.json names no architecture, so that it is not a model that timm can load'
        )
    return InputError(f'{name}: {type(error).__name__}: {reason}')


def _did_you_mean(name: str) -> str:
    import timm

    return did_you_mean(name, {*WEIGHTS, *timm.list_models()}) or '; resnet-hub list shows all names'


def hub_entrypoint(name: str) -> Callable[..., nn.Module]:
    """torch.hub's entrypoint of an architecture."""

    def entrypoint(pretrained: bool | str = False, **kwargs: Any) -> nn.Module:
        import timm

        if not isinstance(pretrained, str):
            return timm.create_model(name, pretrained=pretrained, **kwargs)
        if pretrained.startswith('hf-hub:'):
            return _load_from_hub(name, pretrained, **kwargs)
        if pretrained not in tags(name):
            known = ', '.join(map(repr, tags(name))) or 'none yet'
            raise InputError(f'{name} has no weights {pretrained!r}; known: {known}')
        return timm.create_model(f'{name}.{pretrained}', pretrained=True, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = _describe(name)
    return entrypoint


def _load_from_hub(name: str, source: str, **kwargs: Any) -> nn.Module:
    """The network of a repository on the Hub ('hf-hub:OWNER/NAME'), if it is the architecture `name`."""
    import timm

    held = timm.models.load_model_config_from_hf(source.removeprefix('hf-hub:'), kwargs.get('cache_dir'))[1]
    if held != name:
        raise InputError(f'{source} holds {held}, not {name}: call torch.hub.load with {held!r}')
    return timm.create_model(source, pretrained=True, **kwargs)


def _describe(name: str) -> str:
    row = ARCHITECTURES[name]
    weights = '\n'.join(
        f'    {tag!r}: {WEIGHTS[f"{name}.{tag}"].top1:.2f} % top-1 on {WEIGHTS[f"{name}.{tag}"].dataset}'
        for tag in tags(name)
    )
    return f"""{name}: {row.family.network} for 32×32 images, {row.params:,} parameters with 10 classes.

{sum(row.layers)} {row.block} blocks, {' + '.join(map(str, row.layers))}, of base widths {', '.join(map(str, row.widths))}.
Paper: {row.paper}

Args:
    pretrained: False for random weights, True for the default ones; torch.hub also takes the tag of any weights,
        or 'hf-hub:OWNER/NAME'.
    num_classes: that of the weights, else 10; another number gives a fresh classifier, 0 the pooled features.
    in_chans, global_pool, drop_rate, drop_path_rate, act_layer, norm_layer, zero_init_last, features_only, device,
        dtype: as in timm.
    layers, widths, stem_width, block: another shape.
    shortcut_type: 'B' (projections) or 'A' (zero padding).{_FINAL_NORM_HELP if row.family.norm_first else ''}

Weights:
{weights or '    none yet'}
"""


_FINAL_NORM_HELP = """
    final_norm: norm and activation after the last block."""


register()

"""Processes that torchrun started and that share the work; without torchrun, the one process there is."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from resnet_hub.utils.errors import InputError

_LONGEST_WAIT = timedelta(hours=1)  #: of processes for each other, while the first one downloads; nccl has ten minutes


def choose_device(name: str | None = None) -> torch.device:
    """The device of this process; None takes a GPU where there is one, under torchrun each process its own.

    Raises:
        InputError: there is no such device, or there are fewer GPUs than processes.
    """
    try:
        device = torch.device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
    except RuntimeError:
        raise InputError(f'unknown device {name!r}: use cpu, cuda, cuda:1, …') from None
    if device.type != 'cuda':
        _check(device)
        return device
    index = int(os.environ.get('LOCAL_RANK', 0)) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise InputError(f'cuda:{index} is not there: this machine has {torch.cuda.device_count()} GPUs (--device cpu)')
    return torch.device('cuda', index)


def _check(device: torch.device) -> None:
    try:
        if torch.ones(1, device=device).item() == 1:
            return
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):  # as each backend puts it
        pass
    raise InputError(f'this machine cannot compute on {device}: use another --device')


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether the hardware of `device` computes in bf16."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == 'cpu' and bool(torch.cpu.get_capabilities().get('avx512_bf16'))


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """Join the other processes of torchrun, if it started this one, over nccl on GPUs and gloo elsewhere.

    Args:
        device: see `choose_device`; the block gets the device of this process, and keeps no trainer beyond its end.

    Raises:
        InputError: see `choose_device`.
    """
    chosen = choose_device(device)
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield chosen
        return
    on_gpu = chosen.type == 'cuda'
    if on_gpu:
        torch.cuda.set_device(chosen)
    backend, device_id = ('nccl', chosen) if on_gpu else ('gloo', None)
    dist.init_process_group(backend, timeout=_LONGEST_WAIT, device_id=device_id)
    yield chosen
    # Gloo's threads end with the group, and one that frees gradients after the interpreter's end aborts the process.
    # A trainer keeps the group; a compiled one is freed by the collector alone.
    gc.collect()
    dist.destroy_process_group()  # not after an error: it could wait for others; torchrun ends them when this one fails


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def all_sum(tensor: Tensor) -> Tensor:
    """Replace `tensor` by its sum over all processes, which all must call this; on their devices under nccl."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace the tensors of every process, which all must call this, by those of the first."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The block runs in the first process, then in the others: what it downloads is there for them."""
    if not is_first():
        dist.barrier()
    try:
        yield
    finally:
        if is_first() and world_size() > 1:
            dist.barrier()

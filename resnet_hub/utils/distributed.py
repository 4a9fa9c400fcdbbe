"""Share work among the processes that torchrun started. Without torchrun there is one process."""

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

#: how long a process waits for the others; nccl's own ten minutes may be too short while the first one downloads
_LONGEST_WAIT = timedelta(hours=1)


def choose_device(name: str | None = None) -> torch.device:
    """Return the device on which this process computes.

    Args:
        name: 'cpu', 'cuda', 'cuda:1', …; None chooses a GPU if the machine has one, and the CPU otherwise. Under
            torchrun, 'cuda' and None give each process its own GPU.

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
        raise InputError(
            f'there is no cuda:{index}: PyTorch finds {torch.cuda.device_count()} GPUs on this machine; '
            'use another device, such as --device cpu'
        )
    return torch.device('cuda', index)


def _check(device: torch.device) -> None:
    try:
        if torch.ones(1, device=device).item() == 1:
            return
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):  # each backend raises another of these
        pass
    raise InputError(f'this machine cannot compute on {device}: use another --device')


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the hardware of `device` itself computes in bf16, without emulation."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == 'cpu' and bool(torch.cpu.get_capabilities().get('avx512_bf16'))


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """Connect this process with the others while the block runs, if torchrun started it: nccl on GPUs, else gloo.

    Do not keep a trainer after the block.

    Args:
        device: see `choose_device`.

    Yields:
        The device of this process.

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
    # A trainer refers to the group, and gloo's threads run until the group is freed. If such a thread frees gradients
    # after the interpreter has ended, the process aborts. Only the garbage collector frees a compiled trainer.
    gc.collect()
    # Not in a `finally`: after an error this could wait for the others for ever. torchrun stops them instead.
    dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the one that prints and writes files."""
    return rank() == 0


def all_sum(tensor: Tensor) -> Tensor:
    """Replace `tensor` by its sum over all processes, and return it. All processes must call this.

    Under nccl the tensor must be on the GPU of its process.
    """
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace the tensors of every process by those of the first process. All processes must call this."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@contextmanager
def first_goes_first() -> Iterator[None]:
    """Run the block in the first process, then in the others. They find in the cache what the first one downloaded."""
    if not is_first():
        dist.barrier()
    try:
        yield
    finally:
        if is_first() and world_size() > 1:
            dist.barrier()

"""Use an exported file like a network."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.runtimes.formats import choose_backend
from resnet_hub.runtimes.session import Session
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.utils.errors import InputError, ResnetHubError


class ExportedNetwork(nn.Module):
    """A module that runs an exported file in another runtime, on the CPU.

    It is called like the network: it maps images, float32 (N, C, H, W), to logits, float32 (N, classes).
    `pretrained_cfg`, `num_classes` and `in_chans` are those of the network that was exported.
    """

    def __init__(self, path: str | Path, session: Session, backend: str) -> None:
        super().__init__()
        self._session = session
        self.path = Path(path)
        self.backend = backend
        self.metadata = session.metadata
        self.pretrained_cfg = session.metadata.get('pretrained_cfg') or _assume_cfg(path, session)
        self.num_classes = session.classes
        self.in_chans = 3 if self.takes_pictures else session.input_shape[1]
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # gives callers the device and dtype of inputs
        self.eval()

    @property
    def takes_pictures(self) -> bool:
        """Return whether the file contains the preprocessing, and so takes one picture, uint8 (H, W, 3) of any size."""
        return len(self._session.input_shape) == 3

    def forward(self, x: Tensor) -> Tensor:
        if self.takes_pictures:
            return torch.cat([self._session.run(picture) for picture in self._to_pictures(x)])
        size = self._session.input_shape[0]
        if size is None or len(x) == size:
            return self._session.run(x.contiguous())
        return torch.cat([self._run_padded(part, size) for part in x.split(size)])

    def _run_padded(self, x: Tensor, size: int) -> Tensor:
        """Run at most `size` images through a file that takes exactly `size`."""
        padding = x.new_zeros(size - len(x), *x.shape[1:])
        return self._session.run(torch.cat([x, padding]))[: len(x)]

    def _to_pictures(self, x: Tensor) -> Tensor:
        """Undo the normalisation: float32 (N, 3, H, W) to uint8 (N, H, W, 3)."""
        mean, std = (torch.tensor(self.pretrained_cfg[key])[:, None, None] for key in ('mean', 'std'))
        return (255 * (x * std + mean)).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()

    def train(self, mode: bool = True) -> ExportedNetwork:
        """Stay in evaluation mode. `eval()` calls `train(False)`.

        Raises:
            ResnetHubError: `mode` is true.
        """
        if mode:
            raise ResnetHubError('an exported network cannot be trained: train the one that was exported')
        return super().train(False)

    def __deepcopy__(self, memo: Any) -> ExportedNetwork:
        return self  # it cannot change, and a session cannot be copied


def load_exported(path: str | Path, backend: str | None = None) -> ExportedNetwork:
    """Load an exported file as a network.

    Args:
        path: a file with a suffix of `FORMATS`.
        backend: the runtime; None takes the default of the format.

    Raises:
        InputError: there is no such file, no runtime reads it, or it is not a classifier of images.
        MissingExtraError: the runtime is not installed.
    """
    backend = choose_backend(path, backend)
    if not Path(path).is_file():
        raise InputError(f'{path}: no such file')
    session = import_module(f'resnet_hub.runtimes.{backend}').open_session(path)
    if len(session.input_shape) not in (3, 4) or not isinstance(session.classes, int):
        raise InputError(
            f'{path} is not a classifier of images: its input has the shape {session.input_shape}; give a file of '
            'resnet-hub export'
        )
    return ExportedNetwork(path, session, backend)


def _assume_cfg(path: str | Path, session: Session) -> dict[str, Any]:
    """Return a configuration for a file of another program, which has no metadata on classes and normalisation."""
    fitting = [name for name, row in DATASETS.items() if len(row.classes) == session.classes]
    if not fitting:
        raise InputError(f'{path} names neither its classes nor its normalisation: export it with resnet-hub export')
    row = DATASETS[fitting[0]]
    warnings.warn(
        f'{path} names neither its classes nor its normalisation: those of {fitting[0]} are assumed', stacklevel=4
    )
    height, width = (size or 32 for size in session.input_shape[-2:])
    return {
        'input_size': (3, height, width),
        'mean': row.mean,
        'std': row.std,
        'interpolation': 'bicubic',
        'crop_pct': 1.0,
        'num_classes': session.classes,
        'label_names': row.classes,
    }

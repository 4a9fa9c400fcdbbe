"""The structure of a network, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnet_hub import models
from resnet_hub.tables import cifar_resnet, preact_resnet
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.family import Architecture, Family

FAMILIES = (cifar_resnet.FAMILY, preact_resnet.FAMILY)


@dataclass(frozen=True)
class Network:
    """Everything that determines the function of a network, except its weights."""

    family: Family
    block: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    num_classes: int
    in_chans: int
    shortcut_type: str = 'B'
    final_norm: bool = False

    def build(self, **kwargs: Any) -> models.ResidualNet:
        fields = ('block', 'layers', 'widths', 'stem_width', 'num_classes', 'in_chans', 'shortcut_type')
        norm = {'final_norm': self.final_norm} if self.family.norm_first else {}
        network: models.ResidualNet = getattr(models, self.family.network)(
            **{name: getattr(self, name) for name in fields}, **norm, **kwargs
        )
        return network

    def following_norm(self, conv: str) -> str | None:
        """Return the norm that reads a convolution's output; None if not only a norm reads it."""
        owner, _, leaf = conv.rpartition('.')
        if not self.family.norm_first:
            return f'{owner}.1' if leaf == '0' else conv.replace('conv', 'bn')
        last = 2 if self.block == 'basic' else 3
        number = int(leaf[-1]) if owner and leaf.startswith('conv') else last
        return f'{owner}.bn{number + 1}' if number < last else None

    def architecture(self) -> tuple[str, dict[str, Any]]:
        """Return the name of the closest architecture, and the arguments that differ from it; {} if it is the same."""
        differences = {name: self._difference(row) for name, row in ARCHITECTURES.items() if row.family == self.family}

        def distance(name: str) -> tuple[Any, ...]:
            row, args = ARCHITECTURES[name], differences[name]
            shape = sum(arg in args for arg in ('block', 'layers', 'widths', 'stem_width'))
            blocks, width = sum(row.layers) - sum(self.layers), row.widths[-1] - self.widths[-1]
            return 'block' in args, len(row.layers) != len(self.layers), shape, len(args), abs(blocks), abs(width)

        name = min(differences, key=distance)
        return name, differences[name]

    def _difference(self, row: Architecture) -> dict[str, Any]:
        theirs = {'shortcut_type': 'B', 'final_norm': True, **row.model_args()}
        fields = ['block', 'layers', 'widths', 'shortcut_type', *(['final_norm'] if self.family.norm_first else [])]
        args = {name: getattr(self, name) for name in fields if getattr(self, name) != theirs[name]}
        # without a stem_width the stem is as wide as the first stage, so that other widths change the stem too
        stem = theirs.get('stem_width', args.get('widths', row.widths)[0])
        return {**args, 'stem_width': self.stem_width} if self.stem_width != stem else args

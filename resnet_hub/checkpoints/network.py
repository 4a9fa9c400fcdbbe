"""A network apart from its weights: what converts, what is built, and the row of the tables that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnet_hub.models import CifarResNet, PreActResNet, ResidualNet
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.family import Architecture


@dataclass(frozen=True)
class Network:
    """Everything that decides a network's function but its weights."""

    cls: type[ResidualNet]
    block: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    num_classes: int
    in_chans: int
    shortcut_type: str = 'B'
    final_norm: bool = False

    @property
    def family(self) -> str:
        return self.cls.__name__

    def build(self, **kwargs: Any) -> ResidualNet:
        fields = ('block', 'layers', 'widths', 'stem_width', 'num_classes', 'in_chans', 'shortcut_type')
        norm: dict[str, Any] = {'final_norm': self.final_norm} if self.cls is PreActResNet else {}
        return self.cls(**{name: getattr(self, name) for name in fields}, **norm, **kwargs)

    def following_norm(self, name: str) -> str | None:
        """The norm that reads a convolution's output and nothing else does; None where the output goes elsewhere too."""
        owner, _, leaf = name.rpartition('.')
        if self.cls is CifarResNet:
            return {'0': f'{owner}.1'}.get(leaf) or name.replace('conv', 'bn')
        number = int(leaf[-1]) if owner and leaf.startswith('conv') else 9
        return f'{owner}.bn{number + 1}' if number < (2 if self.block == 'basic' else 3) else None

    def architecture(self) -> tuple[str, dict[str, Any]]:
        """The row of the tables that is this network, or comes closest, and the arguments that make up the rest."""
        names = [name for name, row in ARCHITECTURES.items() if row.family.network == self.family]
        name = min(names, key=lambda name: self._distance(ARCHITECTURES[name]))
        return name, self._difference(ARCHITECTURES[name])

    def _difference(self, row: Architecture) -> dict[str, Any]:
        theirs = {'shortcut_type': 'B', 'stem_width': row.widths[0], 'final_norm': True, **row.model_args()}
        fields = ['block', 'layers', 'widths', 'shortcut_type']
        fields += ['final_norm'] if self.cls is PreActResNet else []
        args = {name: getattr(self, name) for name in fields if getattr(self, name) != theirs[name]}
        # a row that names no stem width has that of its first stage, so that new widths bring a new stem along
        stem = theirs['stem_width'] if 'stem_width' in row.args else args.get('widths', row.widths)[0]
        return {**args, 'stem_width': self.stem_width} if self.stem_width != stem else args

    def _distance(self, row: Architecture) -> tuple[Any, ...]:
        args = self._difference(row)
        structural = [name for name in ('block', 'layers', 'widths', 'stem_width') if name in args]
        return (
            'block' in args,
            len(row.layers) != len(self.layers),
            len(structural),
            len(args),
            abs(sum(row.layers) - sum(self.layers)),
            abs(row.widths[-1] - self.widths[-1]),
        )

"""Make the docstring of an entrypoint, which `help` and `torch.hub.help` show."""

from __future__ import annotations

from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.weights import WEIGHTS, tags


def help_text(name: str) -> str:
    """Return the docstring of an architecture's entrypoint."""
    row = ARCHITECTURES[name]
    own_arguments = ''.join(f'\n    {argument}: {text}' for argument, text in row.family.arguments.items())
    weights = '\n'.join(
        f'    {tag!r}: {WEIGHTS[f"{name}.{tag}"].top1:.2f} % top-1 on {WEIGHTS[f"{name}.{tag}"].dataset}'
        for tag in tags(name)
    )
    return f"""{name}: {row.family.network} for 32×32 images, {row.params:,} parameters with 10 classes.

It has {sum(row.layers)} {row.block} blocks in {len(row.layers)} stages: {' + '.join(map(str, row.layers))}. \
Their base widths are {', '.join(map(str, row.widths))}.
Paper: {row.paper}

Args:
    pretrained: False gives random weights, True the default weights. torch.hub also takes the tag of any weights
        below, or 'hf-hub:OWNER/NAME'.
    num_classes: number of classes; default: that of the weights, else 10. Another number than that of the weights
        gives a new classifier, 0 gives the pooled features.
    in_chans, global_pool, drop_rate, drop_path_rate, act_layer, norm_layer, zero_init_last, features_only, device,
        dtype: as in timm.
    block, layers, widths, stem_width: another block, other numbers of blocks or other widths.
    shortcut_type: 'B' (1×1 convolutions) or 'A' (zero padding).{own_arguments}

Weights:
{weights or '    none yet'}
"""

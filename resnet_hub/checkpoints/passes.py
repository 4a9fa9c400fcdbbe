"""Change a state dict beyond renaming: check tensors, apply pruning masks, remove input constants, fold biases."""

from __future__ import annotations

import math
import re
from collections import defaultdict

import torch
from torch import Tensor

from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.refusal import INCOMPLETE, OTHER, refuse, refuse_shape, refuse_tensor, show
from resnet_hub.checkpoints.rename import Renamed
from resnet_hub.checkpoints.vocabulary import INPUT_MEAN, INPUT_STD, parse_block

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is sparse, quantised or complex, is not completely in the file, or is not finite."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = 'quantised' if tensor.is_quantized else tensor.layout
        refuse(f'{show(name)} is a {kind} tensor, not a plain one: save it as float32')
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in FLOATS):
        refuse(f'{show(name)} is {tensor.dtype}: save it as float32 or half precision')
    if tensor.is_meta:
        return
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        refuse(f'{show(name)} has shape {tuple(tensor.shape)} but fewer numbers in the file: write the file again')
    # A finite sum shows that all terms are finite, and needs no memory. An infinite one may only be an overflow.
    if tensor.is_floating_point() and not math.isfinite(float(tensor.sum())) and not bool(tensor.isfinite().all()):
        worst = 'NaN' if bool(tensor.isnan().any()) else 'infinite'
        refuse(f'{show(name)} has {worst} values, and so would every output: take an earlier checkpoint')
    if name.endswith('running_var') and bool((tensor < 0).any()):
        refuse(f'{show(name)} has negative values, which no variance has: the file is damaged; take another copy')


def apply_masks(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Replace weight_orig and weight_mask of torch.nn.utils.prune by the weight, their product.

    Any other mask is left out if the weight is zero wherever the mask is zero, because it then changes nothing.

    Returns:
        The tensors, the masks that were left out with the reason, and notes for the user.
    """
    result, dropped, products = dict(tensors), {}, 0
    for name in tensors:
        base = re.sub(r'(?:_orig|_mask|\.mask)$', '', name)
        if name.endswith('_orig') and f'{base}_mask' in tensors and base not in tensors:
            mask, original = result.pop(f'{base}_mask'), result.pop(name)
            _check_mask(f'{base}_mask', mask, original)
            result[base] = original * mask.to(original.dtype)
            products += 1
        elif name.endswith(('_mask', '.mask')):
            weight = tensors.get(base if name.endswith('_mask') else f'{base}.weight')
            if weight is not None:
                mask = result.pop(name)
                _check_mask(name, mask, weight)
                if not torch.equal(weight * mask.to(weight.dtype), weight):
                    refuse(f'{show(name)} masks weights that are not zero: multiply them and save the product')
                dropped[name] = 'a mask, which its weight contains already'
    notes = [f'{products} weights are their originals times the masks of torch.nn.utils.prune'] if products else []
    return result, dropped, notes


def _check_mask(name: str, mask: Tensor, weight: Tensor) -> None:
    if mask.shape != weight.shape or not bool(((mask == 0) | (mask == 1)).all()):
        refuse(
            f'{show(name)} must be a mask of zeros and ones of shape {tuple(weight.shape)}, and is not: save the masked '
            'weights'
        )


def take_input_constants(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[float, ...], tuple[float, ...]]:
    """Remove the mean and std of a layer before the stem that computes (x - mean) / std.

    Returns:
        The other tensors, the mean and the std; () and () if there is no such layer.
    """
    outside = [key for key in tensors if not parse_block(key.rpartition('.')[0])]
    means, stds = ([key for key in outside if re.fullmatch(row, key)] for row in (INPUT_MEAN, INPUT_STD))
    if not means and not stds:
        return tensors, (), ()
    values = [{tuple(map(float, tensors[key].double().flatten())) for key in keys} for keys in (means, stds)]
    if [len(found) for found in values] != [1, 1] or len(min(values[0])) != len(min(values[1])):
        refuse_tensor(*next((key, tensors[key].shape) for key in (means or stds)))
    (mean,), (std,) = values
    if not all(0 <= value <= 1 for value in mean) or not all(0.05 < value <= 1 for value in std):
        refuse(f'{show(means[0])} and {show(stds[0])} are not the mean and std of pixels from 0 to 1: {OTHER}')
    return {key: tensor for key, tensor in tensors.items() if key not in (*means, *stds)}, mean, std


def fold_biases(renamed: Renamed, network: Network) -> tuple[Renamed, list[str]]:
    """Subtract the bias of each convolution from the running mean of the norm after it.

    A norm subtracts its running mean m. Therefore norm(x + b) with the mean m equals norm(x) with the mean m - b. If not
    only a norm reads the convolution's output, its bias stays, and the file is refused later.
    """
    tensors, folded = dict(renamed.tensors), 0
    convs = [key[:-7] for key in tensors if re.fullmatch(r'.*conv\d\.weight|.*\.0\.weight', key)]
    kinds: dict[str, dict[bool, str]] = defaultdict(dict)  # by position in the block, to notice a single missing bias
    for name in convs:
        place = 'stem' if '.' not in name else name.split('.', 2)[2]
        kinds[place][f'{name}.bias' in tensors] = f'{renamed.sources[f"{name}.weight"].removesuffix("weight")}bias'
    for both in kinds.values():
        if len(both) == 2:
            refuse(f'{show(both[False])} is missing, but {show(both[True])} is there: {INCOMPLETE}')
    for name in convs:
        norm = network.following_norm(name)
        bias, mean = tensors.get(f'{name}.bias'), tensors.get(f'{norm}.running_mean')
        if norm is None or bias is None or mean is None:
            continue
        if bias.shape != mean.shape or bias.dtype not in FLOATS:
            refuse_shape(renamed.sources[f'{name}.bias'], bias.shape, mean.shape)
        tensors[f'{norm}.running_mean'] = (mean.double() - bias.double()).to(mean.dtype)
        check_tensor(renamed.sources[f'{norm}.running_mean'], tensors[f'{norm}.running_mean'])
        del tensors[f'{name}.bias']
        folded += 1
    notes = [f'{folded} biases of convolutions are part of the running means now'] if folded else []
    return renamed._replace(tensors=tensors), notes

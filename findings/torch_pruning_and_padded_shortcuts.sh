#!/usr/bin/env bash
# torch-pruning 1.6.1: channels behind a zero-padded shortcut (option A of He et al. 2016) are counted without the padding.
#
# Expected: F.pad with 8 zero channels in front moves channel 3 to channel 11. So a group with channel 3 before the
# shortcut has channel 11 after it, or the library refuses the network.
# Seen: the group has channel 3 on both sides, and check_pruning_group accepts it. The pruned network runs, but its
# shortcut adds channels to their neighbours: the outputs change, although none of the removed channels reaches them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.13.0 torch-pruning==1.6.1
"$folder/bin/python" -W ignore - <<'PYTHON'
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn


class Net(nn.Module):
    """16 channels, then a block with stride 2 and 32 channels, whose shortcut is padded on both sides."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        added = (self.norm.num_features - self.stem.out_channels) // 2
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added, added))
        return self.fc((self.norm(self.conv(x)) + shortcut).relu().mean((2, 3)))


torch.manual_seed(0)
net = Net().eval()
with torch.no_grad():
    net.stem.weight[3] = net.stem.bias[3] = 0  # channel 3 before the shortcut is zero everywhere
    net.fc.weight[:, [3, 11]] = 0  # and the outputs read neither channel 3 nor channel 11 after it
x = torch.randn(4, 3, 32, 32)
before = net(x)
graph = tp.DependencyGraph().build_dependency(net, example_inputs=x)
group = graph.get_pruning_group(net.stem, tp.prune_conv_out_channels, idxs=[3])
after = {tuple(item.idxs) for item in group if item.dep.target.module is net.norm}
print('channels after the shortcut:', *after, '| accepted:', graph.check_pruning_group(group))
assert after == {(3,)} and graph.check_pruning_group(group)
group.prune()
change = (net(x) - before).abs().max().item()
print(f'the pruned network runs; its outputs of up to {before.abs().max():.2f} have changed by up to {change:.3f}')
assert change > 1e-3
PYTHON

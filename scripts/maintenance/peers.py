"""The code that `benchmark.py` compares with: networks as people use them today, and the usual training loop.

The usual CIFAR code has plain convolutions and norms, F.relu, a sum in place, default initialisation, NCHW and float32.
In training it transforms one image at a time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_hub.checkpoints.layouts import LAYOUTS, spell
from resnet_hub.data.images import Images
from resnet_hub.tables.datasets import DATASETS


def conv(in_planes: int, planes: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, planes, kernel, stride, padding=kernel // 2, bias=False)


class Basic(nn.Module):
    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(conv(in_planes, planes, 1, stride), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_planes, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = conv(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != 4 * planes:
            self.shortcut = nn.Sequential(conv(in_planes, 4 * planes, 1, stride), nn.BatchNorm2d(4 * planes))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        return F.relu(out)


class PreAct(nn.Module):
    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_planes), conv(in_planes, planes, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), conv(planes, planes, 3)
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(conv(in_planes, planes, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        identity = self.shortcut(out) if hasattr(self, 'shortcut') else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        out += identity
        return out


class UsualNet(nn.Module):
    """The usual network. V1 has a norm after the stem; V2 may have one after the last block instead."""

    def __init__(
        self, block: type[nn.Module], depths: tuple[int, ...], widths: tuple[int, ...], final_norm: bool = False
    ) -> None:
        super().__init__()
        planes = widths[0]
        self.conv1 = conv(3, planes, 3)
        self.bn1 = nn.Identity() if block is PreAct else nn.BatchNorm2d(planes)
        self.stages = len(depths)
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(planes, width, 2 if i and not j else 1))
                planes = width * block.expansion
            setattr(self, f'layer{i + 1}', nn.Sequential(*blocks))
        if final_norm:
            self.bn = nn.BatchNorm2d(planes)
        self.linear = nn.Linear(planes, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        if isinstance(self.bn1, nn.BatchNorm2d):
            out = F.relu(self.bn1(out))
        for i in range(self.stages):
            out = getattr(self, f'layer{i + 1}')(out)
        if hasattr(self, 'bn'):
            out = F.relu(self.bn(out))
        out = F.avg_pool2d(out, out.size(3))
        return self.linear(out.view(out.size(0), -1))


_WIDE, _THIN = (64, 128, 256, 512), (16, 32, 64)
NETS = {
    'cifar_resnet18': (Basic, (2, 2, 2, 2), _WIDE),
    'cifar_resnet50': (Bottleneck, (3, 4, 6, 3), _WIDE),
    'cifar_resnet152': (Bottleneck, (3, 8, 36, 3), _WIDE),
    'cifar_resnet20': (Basic, (3, 3, 3), _THIN),
    'preact_resnet18': (PreAct, (2, 2, 2, 2), _WIDE),
    'preact_resnet20': (PreAct, (3, 3, 3), _THIN, True),
}


def usual_net(name: str) -> nn.Module:
    return UsualNet(*NETS[name])


def timm_net(name: str) -> nn.Module:
    """Return timm's network for ImageNet with another stem, as users adapt it to small images."""
    net = timm.create_model(name.removeprefix('cifar_'), num_classes=10)
    net.conv1, net.maxpool = conv(3, 64, 3), nn.Identity()
    return net


def pytorchcv_net(name: str) -> nn.Module:
    from pytorchcv.model_provider import get_model

    return get_model(f'{name.removeprefix("cifar_")}_cifar10', pretrained=False)


class Peer(NamedTuple):
    """A row: a function that builds networks like ours, and the names that it knows."""

    build: Callable[[str], nn.Module]  #: from our name of an architecture
    names: Collection[str]  #: of those they have
    layout: str  #: how they spell their keys


USUAL = 'usual code'
PEERS = {
    USUAL: Peer(usual_net, NETS, 'kuangliu_norm'),
    'timm, stem replaced': Peer(timm_net, ('cifar_resnet18', 'cifar_resnet50', 'cifar_resnet152'), 'native'),
    'pytorchcv': Peer(pytorchcv_net, ('cifar_resnet20',) if find_spec('pytorchcv') else (), 'osmr'),
}


def peers_of(name: str, ours: nn.Module) -> dict[str, nn.Module]:
    """Return networks that compute what `ours` does, with its weights, in evaluation mode."""
    nets = {who: peer.build(name).eval() for who, peer in PEERS.items() if name in peer.names}
    for who, net in nets.items():
        layout = LAYOUTS[PEERS[who].layout]
        net.load_state_dict({spell(layout, key): tensor for key, tensor in ours.state_dict().items()})
    return nets


class ImageDataset(torch.utils.data.Dataset):
    """Gives one image at a time, like torchvision's CIFAR10."""

    def __init__(self, images: Images, transform: Callable) -> None:
        self.data, self.targets, self.transform = images.pixels.numpy(), images.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def train_usual(name: str, images: Images, epochs: int, device: str) -> list[float]:
    """Train with the usual loop, and return the images per second of each epoch.

    Its workers live on from epoch to epoch, so that starting them weighs on the first one alone.
    """
    from torchvision import transforms

    data = DATASETS['cifar10']
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    transform = transforms.Compose([*augment, transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])
    loader = torch.utils.data.DataLoader(
        ImageDataset(images, transform), batch_size=128, shuffle=True, num_workers=2, persistent_workers=True
    )
    net = usual_net(name).to(device)
    torch.backends.cudnn.benchmark = True
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    speeds = []
    for _ in range(epochs):
        start, total = time.perf_counter(), 0.0
        net.train()
        for inputs, targets in loader:
            inputs, targets = inputs.to(device), targets.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.item()
        speeds.append(len(images) / (time.perf_counter() - start))
    return speeds


def plain_openvino(model: nn.Module, x: Tensor, precision: str) -> Callable[[Tensor], Tensor]:
    """Return a network converted for OpenVINO as its documentation shows; precision is 'f32' or 'bf16'."""
    import openvino

    hints = {'INFERENCE_PRECISION_HINT': precision, 'INFERENCE_NUM_THREADS': torch.get_num_threads()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it traces with TorchScript, which PyTorch deprecates
        converted = openvino.convert_model(model, example_input=x)
    compiled = openvino.compile_model(converted, 'CPU', hints)
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])

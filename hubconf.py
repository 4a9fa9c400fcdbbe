"""torch.hub entrypoints: torch.hub.load('org/repo', 'cifar_resnet20', pretrained=True, trust_repo=True)."""

from resnet_hub.registry.torch_hub import hub_entrypoint as _hub_entrypoint
from resnet_hub.tables.architectures import ARCHITECTURES as _ARCHITECTURES

dependencies = ['torch', 'timm', 'huggingface_hub', 'safetensors']

globals().update({_name: _hub_entrypoint(_name) for _name in _ARCHITECTURES})

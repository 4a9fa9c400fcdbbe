"""One repository, every door: the same image gives the same logits, whoever sent it and however it is loaded.

With the real timm, transformers and huggingface_hub, in one process, since transformers takes long to import.
"""
# ruff: noqa: F811 - fixtures

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT
from tests.hub.fixtures import Clients, clients, hub, network, server, write_network  # noqa: F401

pytestmark = pytest.mark.skipif(find_spec('transformers') is None, reason="needs transformers: pip install '.[test]'")

SCRIPT = """
import json, sys, warnings
import timm, torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
assert 'resnet_hub' not in globals()
torch.set_num_threads(1)
ROOT, IMAGE = sys.argv[1:]
image = Image.open(IMAGE).convert('RGB')

def answer(model):
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        return model.eval()(transform(image)[None])

def from_transformers(repo, **changes):
    processor = AutoImageProcessor.from_pretrained(repo)
    model = AutoModelForImageClassification.from_pretrained(repo, **changes).eval()
    assert model.dtype == torch.float32, model.dtype
    with torch.inference_mode():
        logits = model(**processor(image, return_tensors='pt')).logits
    best = pipeline('image-classification', model=model, image_processor=processor)(IMAGE)[0]['label']
    assert best == model.config.id2label[logits.argmax().item()]
    return logits, best

def same(logits, wanted, what=None):
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5, msg=what)

def doors(repo, architecture, label, **changes):
    def from_torch_hub(name):
        return torch.hub.load(ROOT, name, source='local', pretrained=f'hf-hub:{repo}')

    wanted = answer(timm.create_model(f'hf-hub:{repo}', pretrained=True))
    folder = snapshot_download(repo)
    through, best = from_transformers(repo, **changes)
    answers = {
        'torch.hub': answer(from_torch_hub(architecture)),
        'local-dir': answer(timm.create_model(f'local-dir:{folder}', pretrained=True)),
        'transformers': through,
    }
    for door, logits in answers.items():
        same(logits, wanted, f'{repo} by {door}')
    assert label in (None, best), (best, label)
    try:
        from_torch_hub('wide_resnet16_2')
    except ValueError as error:
        assert f'hf-hub:{repo} holds {architecture}, not wide_resnet16_2' in str(error)
    else:
        raise AssertionError('torch.hub loads another architecture')
    return wanted

torch.manual_seed(1)
sent = timm.create_model('cifar_resnet20', pretrained=True)
tuned = timm.create_model('cifar_resnet20', pretrained=True, num_classes=7, shortcut_type='B')
named = {'label_names': [f'kind {i}' for i in range(7)]}
timm.models.push_to_hf_hub(sent, 'me/sent')
timm.models.push_to_hf_hub(tuned, 'me/tuned', model_config=named)
timm.models.save_for_hf(tuned, 'saved', model_config=named, safe_serialization=True)

cat = doors('me/net', 'cifar_resnet20', 'cat')
# timm writes num_classes among the model arguments; transformers passes both, and must be told
same(doors('me/sent', 'cifar_resnet20', 'LABEL_3', model_args={}), cat)
wanted = answer(tuned)
kind = f'kind {wanted.argmax().item()}'
same(doors('me/tuned', 'cifar_resnet20', kind, model_args={}), wanted)

from resnet_hub.hub.upload import push_to_hub
assert push_to_hub('saved', 'me/saved').result == 'sent'
same(doors('me/saved', 'cifar_resnet20', kind), wanted)  # nothing to be told: our upload moves it
doors('me/half', 'preact_resnet20', None)
print('all the same')
"""


@pytest.fixture
def sent(hub, clients, tmp_path):
    """me/net: the weights in the package; me/half: half precision, option A, other classes."""
    import torch
    from safetensors.torch import load_file, save_file

    from resnet_hub.tables.weights import weights_file
    from resnet_hub.utils.files import halve

    net = write_network(tmp_path / 'net', 'cifar_resnet20')
    shutil.copy(weights_file('cifar_resnet20.cifar10'), net / 'model.safetensors')
    half = write_network(tmp_path / 'half', 'preact_resnet20', num_classes=5, model_args={'final_norm': True})
    save_file(halve(load_file(half / 'model.safetensors')), half / 'model.safetensors', {'format': 'pt'})
    assert torch.float16 in {v.dtype for v in load_file(half / 'model.safetensors').values()}
    for folder in (net, half):
        config = json.loads((folder / 'config.json').read_text())
        del config['sha256']
        (folder / 'config.json').write_text(json.dumps(config))
        done = clients.command('upload', folder, f'me/{folder.name}')
        assert done.code == 0, done.err
    return tmp_path


def run(clients: Clients, code, folder, *arguments):
    done = subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)],
        cwd=folder,
        env=clients.environment | {'HF_HUB_CACHE': str(clients.cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_same_logits_by_every_door(clients, sent):
    out = run(clients, SCRIPT, sent, ROOT, ROOT / 'tests' / 'images' / 'cat.jpg')
    assert 'all the same' in out


def test_the_examples_of_the_card_run_as_pasted(hub, clients, sent):
    shutil.copy(ROOT / 'tests' / 'images' / 'cat.jpg', sent)
    card = hub.files('me/net')['README.md'].decode()
    blocks = re.findall('^```python\n(.*?)^```', card, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    code = '\n'.join(blocks).replace("'org/repo'", repr(str(ROOT))).replace('trust_repo=True', "source='local'")
    out = run(clients, f'{code}\nprint(sum(p.numel() for p in model.parameters()))', sent)
    assert out.splitlines()[0] == 'cat' and "'label': 'cat'" in out and '272474' in out

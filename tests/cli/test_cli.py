"""The command line: what it prints, and one line for what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_hub.cli.output import print_json
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.weights import WEIGHTS

REFUSED = [
    ('predict gone.png', 2, 'gone.png: no such file'),
    ('predict gone.png --model cifar_resnet2O', 2, "unknown model 'cifar_resnet2O'; did you mean cifar_resnet"),
    ('predict gone.png --model cifar_resnet21', 2, 'did you mean cifar_resnet20, cifar_resnet18'),
    ('predict cifar_resnet20.cifar10 gone.png', 2, 'is a model, not an image: write --model cifar_resnet20.cifar10'),
    ('predict net.onnx gone.png', 2, 'net.onnx is a model, not an image'),
    ('predict gone.png --model cifar_resnet20.cifar11', 2, 'did you mean cifar_resnet20.cifar10'),
    ('predict gone.png --model cifar_resnet101', 2, 'cifar_resnet101 has no pretrained weights'),
    ('predict gone.png --model local-dir:nowhere', 2, 'local-dir:nowhere: no such folder; give one'),
    ('predict gone.png --topk 0', 2, 'must be at least 1'),
    ('evaluate local-dir:nowhere --data .', 2, 'local-dir:nowhere: no such folder; give one'),
    ('evaluate cifar_resnet20.cifar10 --data .', 2, '. holds no labelled images: expected'),
    ('evaluate cifar_resnet20.cifar10 --data . --dataset mnist', 2, "unknown data set 'mnist'"),
    ('train -o run --data . --epochs 0', 2, 'epochs must be at least 1'),
    ('train -o run --data . --recipe nowhere.toml', 2, 'no recipe nowhere.toml; ours are'),
    ('train -o run --data . --resume', 2, 'nothing to resume: run/recipe.toml does not exist'),
    ('train -o run --data .', 2, '. holds no labelled images: expected'),
    ('list nothing*', 2, "no architecture matches 'nothing*'"),
    ('list cifar_resnet50 --pretrained', 2, "no weights match 'cifar_resnet50'; resnet-hub list --pretrained"),
    ('train -o run --data . --model resnet18', 2, "unknown architecture 'resnet18'"),
    (
        'train -o run --data . --recipe cifar_resnet20.cifar10 --epochs 30',
        2,
        "image_sizes '16:10 24:28' leaves no epoch",
    ),
    ('train -o run --data . --momentum 0', 2, 'the optimizer sgd refuses the recipe: Nesterov'),
    ('train -o run --data . --opt adahessian', 2, 'adahessian needs second derivatives'),
    ('train -o run --data . --clip-grad inf', 2, 'clip_grad must be a finite number from 0, not inf'),
    ('train -o run --data . --crop 32', 2, 'crop must be from 0 to 31'),
    ('evaluate cifar_resnet8.cifar10 cifar_resnet9 --data .', 2, "cifar_resnet9: unknown model 'cifar_resnet9'"),
    ('evaluate cifar_resnet8.cifar10 net.onnx --data .', 2, 'net.onnx: no such file'),
    ('evaluate cifar_resnet8.cifar10 --data . --confusion c.jpg', 2, 'take FILE.png for one model'),
]


@pytest.mark.parametrize(('line', 'code', 'message'), REFUSED, ids=[line for line, *_ in REFUSED])
def test_refused_in_one_line(line, code, message, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(*line.split(), expect=code)
    assert message in done.err and len(done.err.splitlines()) == 1 and not done.out
    assert not list(tmp_path.iterdir()), 'something was written'


def test_list_shows_every_architecture(command):
    rows = {row['architecture']: row for row in json.loads(command('list', '--json').out)}
    assert {name: row['parameters'] for name, row in rows.items()} == {n: a.params for n, a in ARCHITECTURES.items()}
    for line in command('list', 'wide*').out.splitlines()[1:]:
        assert line.startswith('wide_resnet') and f'{rows[line.split()[0]]["parameters"]:,}' in line
    assert rows['cifar_resnet8x4']['widths'] == [64, 128, 256] and rows['cifar_resnet8x4']['weights'] == []
    assert command('list', 'preact').out == command('list', 'preact*').out
    assert 'did you mean cifar_resnet20' in command('list', 'cifar_resnt20', expect=2).err


def test_list_shows_and_verifies_the_weights(command):
    rows = json.loads(command('list', '--verify', '--json').out)
    assert {row['weights']: row['top1'] for row in rows} == {name: row.top1 for name, row in WEIGHTS.items()}
    assert all(row['file'] == 'verified' for row in rows if WEIGHTS[row['weights']].url is None)
    assert 'cifar_resnet20.cifar10' in command('list', 'cifar_resnet20', '--pretrained').out


@pytest.mark.parametrize('name', ['list', 'predict', 'evaluate', 'train', 'convert', 'upload', 'download'])
def test_help_has_examples(name, capsys):
    from resnet_hub.cli import main

    with pytest.raises(SystemExit, match='0'):
        main([name, '--help'])
    assert f'resnet-hub {name}' in capsys.readouterr().out.partition('examples:')[2]


def test_the_program_and_the_module():
    installed = str(Path(sys.executable).parent / 'resnet-hub')
    for program in ([installed], [sys.executable, '-m', 'resnet_hub']):
        done = subprocess.run([*program, 'list', 'cifar_resnet8x4'], capture_output=True, text=True)
        assert done.returncode == 0 and '1,210,410' in done.stdout and not done.stderr
    done = subprocess.run([installed, 'predict'], capture_output=True, text=True)
    assert done.returncode == 2 and 'required: IMAGE' in done.stderr


def test_the_usage_of_the_command_is_shown(capsys):
    from resnet_hub.cli import main

    assert main([]) == 2
    assert 'predict   classify images' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        main(['list', 'preact', 'wide'])
    assert capsys.readouterr().err.startswith('usage: resnet-hub list [-h]')


def test_json_has_a_list_of_numbers_on_one_line(capsys):
    content = [{'text': 'a [ 1 ] b', 'matrix': [[1, 2.5], [-1e-9, None]], 'names': ['a'], 'none': []}]
    print_json(content)
    out = capsys.readouterr().out
    assert json.loads(out) == content and '      [1, 2.5],\n' in out


def test_evaluate_takes_no_model_option(capsys):
    from resnet_hub.cli import main

    with pytest.raises(SystemExit, match='2'):
        main(['evaluate', '--model', 'cifar_resnet20.cifar10', '--data', 'cifar10/'])
    assert 'give the model without --model: resnet-hub evaluate cifar_resnet20.cifar10 …' in capsys.readouterr().err

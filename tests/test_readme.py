"""The README is true: its tables are current and its examples run."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from .conftest import ROOT

TEXT = (ROOT / 'README.md').read_text(encoding='utf-8')


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', TEXT, re.MULTILINE | re.DOTALL)


def test_the_tables_are_current():
    """`python scripts/readme.py` rewrites them."""
    assert subprocess.run([sys.executable, ROOT / 'scripts' / 'readme.py', '--check']).returncode == 0


def test_python_examples_run(tmp_path):
    """In one process, with the clone in the place of the GitHub repository."""
    code = '\n'.join(blocks('python'))
    assert code.count("'org/repo'") >= 3
    code = code.replace("'org/repo'", repr(str(ROOT))).replace('trust_repo=True', "source='local'")
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    'line', [line for block in blocks('bash') for line in block.splitlines() if ' list' in line or ' predict' in line]
)
def test_commands_run(line):
    command = shlex.split(line.partition('&& resnet-hub')[2] or line.removeprefix('resnet-hub'), comments=True)
    environment = {**os.environ, 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run(
        [sys.executable, '-m', 'resnet_hub', *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout, done.stderr


def test_the_test_command_is_the_one_of_ci():
    install, _, test = next(block for block in blocks('bash') if 'pytest' in block).strip().partition(' && ')
    ci = (ROOT / '.ci' / 'run').read_text()
    assert f"-e '.[test]'\n{test}\n" in ci and "-e '.[test]'" in install

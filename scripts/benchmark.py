"""What conversion costs beside the least that anyone must do: torch.load, then safetensors' save_file.

    python scripts/benchmark.py --rounds 5 --json conversion.json

Both sides read the same 58 M-parameter checkpoint in fresh processes, in turn, imports not counted; memory is the
peak above what the imports take (Linux). Prints medians, ranges and the ratio.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors
import torch

import resnet_hub
from resnet_hub.models import ARCHITECTURES

ARCHITECTURE = 'cifar_resnet152'
MEASURE = """
import sys, time
import torch, timm
from safetensors.torch import save_file
from resnet_hub.checkpoints.convert import convert_checkpoint
source, target = sys.argv[1:]

def status(field):  # in bytes
    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith(field))

open('/proc/self/clear_refs', 'w').write('5')  # the peak so far is that of the imports: forget it
imports, start = status('VmRSS'), time.perf_counter()
{work}
print(time.perf_counter() - start, status('VmHWM') - imports)
"""
SIDES = {
    'torch.load + save_file': "save_file(torch.load(source, weights_only=True)['net'], target)",
    'convert_checkpoint': "convert_checkpoint(source, target, dataset='cifar10')",
}


def measure(work: str, source: Path) -> tuple[float, float]:
    """Seconds, and bytes of memory as a multiple of the file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-c', MEASURE.format(work=work), source, f'{folder}/out']
        seconds, memory = map(float, subprocess.run(command, check=True, capture_output=True).stdout.split())
    return seconds, memory / source.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='(%(default)s, after one that is not counted)')
    parser.add_argument('--json', metavar='FILE', help='write the samples')
    args = parser.parse_args()
    cls, row = ARCHITECTURES[ARCHITECTURE]
    samples: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / 'checkpoint.pth'
        torch.save({'net': cls(**row.model_args()).state_dict()}, source)
        for number in range(args.rounds + 1):
            for side in sorted(SIDES, reverse=number % 2 == 1):
                sample = measure(SIDES[side], source)
                if number:
                    samples[side].append(sample)
    versions = {
        'resnet_hub': resnet_hub.__version__,
        'torch': torch.__version__,
        'safetensors': safetensors.__version__,
    }
    machine = {'machine': platform.machine(), 'python': platform.python_version(), 'threads': torch.get_num_threads()}
    print(', '.join(f'{k} {v}' for k, v in {**versions, **machine}.items()))
    for side, values in samples.items():
        seconds, memory = zip(*values, strict=True)
        spread = f'{min(seconds):.2f} to {max(seconds):.2f}'
        print(f'{side:<24} {statistics.median(seconds):.2f} s ({spread}), memory {max(memory):.2f} × the file')
    ours, peer = (samples[side] for side in ('convert_checkpoint', 'torch.load + save_file'))
    ratio = statistics.median(a[0] / b[0] for a, b in zip(ours, peer, strict=True))
    print(f'time {ratio:.2f} ×')
    if args.json:
        Path(args.json).write_text(json.dumps({**versions, **machine, 'samples': samples}, indent=2) + '\n')


if __name__ == '__main__':
    main()

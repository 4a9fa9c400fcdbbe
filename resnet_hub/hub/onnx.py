"""Make the repository NAME-ONNX, which transformers.js reads: a network for JavaScript.

It is a separate repository, because its config.json must name a model type of transformers.js, and its
preprocessor_config.json must not change pictures. In the network's own repository, Python's transformers would read
both files, and then load another network or resize in another way.

The ONNX files contain the preprocessing, so that the probabilities are the same as in Python. transformers.js 4.3 resizes
in another way: in Node bicubically without antialiasing, in a browser with the filter of the canvas.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import ModelCard, ModelCardData

from resnet_hub.exporting.export import export
from resnet_hub.exporting.options import INPUT
from resnet_hub.hub.card_check import MARK, is_own_card
from resnet_hub.hub.package import Package, encode_json
from resnet_hub.registry.loading import load_model
from resnet_hub.weights.folder import CARD_FILE, CONFIG_FILE

SUFFIX = '-ONNX'  #: suffix of the repository's name, as is usual on the Hub
FLOAT_FILE, INT8_FILE = 'onnx/model.onnx', 'onnx/model_quantized.onnx'
PREPROCESSOR_FILE = 'preprocessor_config.json'


@dataclass(frozen=True)
class OnnxPackage(Package):
    """The files of a repository for JavaScript."""

    own_files: ClassVar[tuple[str, ...]] = (CARD_FILE, CONFIG_FILE, PREPROCESSOR_FILE, FLOAT_FILE, INT8_FILE)

    def with_card(self, there: bytes | None) -> OnnxPackage:
        """Return the package with the card `there` from the repository, if a person wrote it; else unchanged."""
        if there is None or not is_own_card(there.decode(errors='replace')):
            return self
        return OnnxPackage(**{**vars(self), 'files': {**self.files, CARD_FILE: there}})


def prepare_onnx(package: Package, calibrate: str | Path | None = None, check: str | Path | None = None) -> OnnxPackage:
    """Make the files for JavaScript from a package for Python.

    Args:
        package: result of `prepare`.
        calibrate: training images, see `export`: they add an int8 file, which browsers load by default.
        check: test images, on which the int8 file may lose at most 0.5 percentage points of top-1.

    Raises:
        InputError: the network's preprocessing cannot be exported.
        ResnetHubError: the int8 file loses more accuracy.
        MissingExtraError: the packages for ONNX are not installed.
    """
    model: Any = load_model(f'local-dir:{package.folder}', 'cpu')
    names = model.pretrained_cfg.get('label_names') or [f'class {number}' for number in range(model.num_classes)]
    config: dict[str, Any] = {
        'model_type': 'resnet',
        'architectures': ['ResNetForImageClassification'],
        'id2label': dict(enumerate(names)),
        'label2id': {name: number for number, name in enumerate(names)},
    }
    files = {FLOAT_FILE: _export(model)}
    if calibrate is None:
        config['transformers.js_config'] = {'dtype': 'fp32'}
    else:
        files[INT8_FILE] = _export(model, int8=True, calibrate=calibrate, check=check)
    steps = ('do_resize', 'do_center_crop', 'do_rescale', 'do_normalize')
    processor = {'image_processor_type': 'CLIPImageProcessor', 'do_convert_rgb': True, **dict.fromkeys(steps, False)}
    repo_id = f'{package.repo_id}{SUFFIX}'
    return OnnxPackage(
        package.folder,
        repo_id,
        config,
        package.results,
        package.license,
        None,
        {
            CARD_FILE: _card(repo_id, package, INT8_FILE in files).encode(),
            CONFIG_FILE: encode_json(config),
            PREPROCESSOR_FILE: encode_json(processor),
            **files,
        },
    )


def _export(model: Any, **options: Any) -> bytes:
    """Return an ONNX file that maps a picture, float32 (1, 3, H, W) with values 0 … 255, to logits."""
    with tempfile.TemporaryDirectory() as folder:
        path = export(model, Path(folder, 'model.onnx'), with_preprocessing=True, **options).path
        import onnx  # after the export, which says what to install if it is missing
        from onnx import TensorProto, compose, helper

        network = onnx.load(path)
    nodes = [
        helper.make_node('Squeeze', [INPUT, 'first'], ['image']),
        helper.make_node('Transpose', ['image'], ['image_last'], perm=[1, 2, 0]),
        helper.make_node('Cast', ['image_last'], ['bytes'], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        'picture',
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 3, 'height', 'width'])],
        [helper.make_tensor_value_info('bytes', TensorProto.UINT8, ['height', 'width', 3])],
        [helper.make_tensor('first', TensorProto.INT64, [1], [0])],
    )
    front = helper.make_model(graph, opset_imports=network.opset_import, ir_version=network.ir_version)
    whole = compose.merge_models(front, network, io_map=[('bytes', network.graph.input[0].name)])
    onnx.checker.check_model(whole, full_check=True)
    return bytes(whole.SerializeToString(deterministic=True))


def _card(repo_id: str, package: Package, int8: bool) -> str:
    theirs = ModelCard(package.card).data.to_dict()
    data = ModelCardData(
        library_name='transformers.js',
        pipeline_tag='image-classification',
        base_model=package.repo_id,
        **{key: theirs[key] for key in ('license', 'datasets') if key in theirs},
    )
    files = 'onnx/model.onnx computes in float32'
    if int8:
        files += ", onnx/model_quantized.onnx in int8; `{ dtype: 'q8' }` and `{ dtype: 'fp32' }` choose one"
    return f"""---
{data.to_yaml()}
---

# {repo_id.partition('/')[2]}

[{package.repo_id}](https://huggingface.co/{package.repo_id}) for JavaScript, in a browser or in Node:

```js
import {{ pipeline }} from '@huggingface/transformers';

const classify = await pipeline('image-classification', '{repo_id}');
console.log(await classify('cat.jpg'));
```

Give one picture at a time, of any size. The network's file resizes it itself, exactly as Python does. {files}.

{MARK}
"""

"""Read labelled images from many formats: one short reader for each format, all in one table.

A reader takes a path, the name of a split, and the known data set that is wanted, or None. It returns None for a path
that is not in its format.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_hub.data.decode import find_images, image_suffixes
from resnet_hub.data.images import Images
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.tables.datasets import DATASETS, Dataset, find_dataset
from resnet_hub.utils.errors import InputError, MissingExtraError, did_you_mean

HUB = 'hf://datasets/'
FORMATS = 'a folder with a folder of images for each class, parquet, .npy, .npz, .mat (SVHN), or a .txt list of images'

#: names of each split, the preferred one first
_SPLITS = {
    'train': ('train', 'training'),
    'val': ('val', 'validation', 'valid', 'dev'),
    'test': ('test', 'testing', 'val', 'validation', 'valid', 'dev'),
}


def read_labelled(
    source: str | Path,
    split: str = 'test',
    *,
    dataset: str | None = None,
    need_labels: bool = True,
) -> LabelledImages:
    """Find labelled images in any format. They are decoded later, when they are used.

    Args:
        source: a file or folder; 'hf://datasets/OWNER/NAME', optionally with '@REVISION' and '/SUBFOLDER'; or the name
            of a known data set ('cifar10'), which is fetched from the Hub.
        split: 'train', 'val' or 'test'. If there is no test split, 'test' reads the validation split. A folder of class
            folders without splits is read completely, whatever the split.
        dataset: the name of the known data set to which the images must belong. If `source` has a folder of this name,
            the folder is read.
        need_labels: False also reads images without labels; their label is -1.

    Returns:
        The images of the split, not decoded yet.

    Raises:
        InputError: `source` does not exist, has no such split or an unknown format, is damaged, or lacks labels.
        ResnetHubError: the Hub cannot be reached.
        MissingExtraError: the format needs a package that is not installed.
    """
    row = find_dataset(dataset) if dataset else None
    path, repo = Path(source), None
    if str(source).startswith(HUB):
        repo = str(source).removeprefix(HUB)
        path = _fetch(repo, split)
    elif str(source) in DATASETS and not path.exists():
        dataset, row = str(source), find_dataset(str(source))
        path = _fetch_known(row, split)
    elif dataset and (path / dataset).is_dir():
        path = path / dataset
    if not path.exists():
        raise InputError(f'{source}: no such file or folder{did_you_mean(str(source), DATASETS)}')
    images = _read(path, split, row, need_labels)
    if row and images.classes not in ((), row.classes):
        raise InputError(f'{source} is not {dataset}: its classes are {", ".join(images.classes)}')
    images = replace(images, classes=row.classes if row else images.classes)
    _check_labels(images, need_labels)
    return replace(images, name=dataset or (images.name if images.name in DATASETS else repo or images.name))


def load_images(name: str, split: str, folder: str | Path | None = None) -> Images:
    """Read and decode a split of a known data set into one tensor.

    Args:
        name: data set ('cifar10', 'cifar100', 'svhn').
        split: 'train' or 'test'.
        folder: holds the images in any format that `read_labelled` reads; None downloads them from the Hub.

    Returns:
        Images with pixels uint8 (N, 32, 32, 3) and labels int64 (N,).

    Raises:
        InputError: there are no such files, or they are damaged or belong to another data set.
        ResnetHubError: the Hub cannot be reached.
        MissingExtraError: a package is not installed.
    """
    find_dataset(name)
    return read_labelled(name if folder is None else folder, split, dataset=name).load()


def _read(path: Path, split: str, row: Dataset | None, need_labels: bool) -> LabelledImages:
    for reader in _READERS:
        images = reader(path, split, row)
        if images is not None:
            return images
    if not need_labels:
        found = find_images([path])
        return LabelledImages(found, torch.full((len(found),), -1), name=path.name)
    where = f'; the files of {row.repo} are at https://huggingface.co/datasets/{row.repo}' if row else ''
    raise InputError(f'{path} holds no labelled images: expected {FORMATS}{where}')


def _check_labels(images: LabelledImages, need_labels: bool) -> None:
    if not len(images):
        raise InputError(f'{images.name} holds no images; if it should, download it again')
    smallest, largest = int(images.labels.min()), int(images.labels.max())
    if smallest < 0 and need_labels:
        count = int((images.labels < 0).sum())
        raise InputError(
            f'{images.name}: {count:,} of {len(images):,} images have no label; choose a split with labels'
        )
    if images.classes and largest >= len(images.classes):
        raise InputError(
            f'{images.name} has the label {largest}, but only {len(images.classes)} classes: labels must be from 0 to '
            f'{len(images.classes) - 1}'
        )


# --------------------------------------------------------------------------------------------------------- the Hub


def _fetch_known(row: Dataset, split: str) -> Path:
    """Download a split of a known data set from the Hub, unless it is in the cache."""
    from huggingface_hub import snapshot_download

    from resnet_hub.utils.hub_client import ask

    wanted: Any = {'repo_type': 'dataset', 'allow_patterns': f'{row.folder}/{split}-*.parquet'}
    return Path(ask(row.repo, lambda: snapshot_download(row.repo, **wanted))) / row.folder


def _fetch(address: str, split: str) -> Path:
    """Download the parquet files of a split from the Hub, unless they are in the cache.

    A data set without parquet files is read from the branch where the Hub keeps its own conversion of it.
    """
    from resnet_hub.utils.hub_client import ask

    parts = re.fullmatch(r'([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?', address.strip('/'))
    if not parts:
        raise InputError(f'{HUB}{address}: write {HUB}OWNER/NAME, optionally with @REVISION and /SUBFOLDER')
    repo, revision, folder = parts[1], parts[2], (parts[3] or '').strip('/')
    return ask(f'{HUB}{repo}', lambda: _download(repo, revision, folder, split))


def _download(repo: str, revision: str | None, folder: str, split: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:  # only the cache shows which files there are
        cached: Any = {'revision': revision, 'allow_patterns': f'*{split}*.parquet'}
        return Path(snapshot_download(repo, repo_type='dataset', **cached)) / folder
    for branch in (revision,) if revision else (None, 'refs/convert/parquet'):
        try:
            names = HfApi().list_repo_files(repo, repo_type='dataset', revision=branch)
        except RevisionNotFoundError:
            if branch == revision:
                raise
            names = []
        inside = [
            PurePosixPath(n)
            for n in names
            if n.endswith('.parquet') and f'{n}/'.startswith(f'{folder}/' * bool(folder))
        ]
        if inside:
            wanted = _of_split(inside, split, f'{HUB}{repo}')
            folders = sorted({str(name.parent) for name in wanted})
            if len(folders) > 1:
                shown = ', '.join(folders)
                raise InputError(f'{HUB}{repo} has several configurations: {shown}; add one to the address')
            patterns = [str(name) for name in wanted]
            return (
                Path(snapshot_download(repo, repo_type='dataset', revision=branch, allow_patterns=patterns))
                / folders[0]
            )
    raise InputError(f'{HUB}{repo}/{folder} holds no parquet files: download the data set and give its folder')


def _of_split(files: Sequence[Any], split: str, where: object) -> list[Any]:
    """Return the files of a split. The beginning of a file's name, or the name of its folder, shows its split.

    If no name shows any split, all files are returned.
    """

    def belongs(file: Any, name: str) -> bool:
        return re.match(rf'{name}([^a-z]|$)', file.stem.lower()) is not None or file.parent.name.lower() == name

    for name in _SPLITS[split]:
        found = sorted(file for file in files if belongs(file, name))
        if found:
            return found
    others = {name for names in _SPLITS.values() for name in names if any(belongs(file, name) for file in files)}
    if others:
        raise InputError(f'no {split}-*.parquet in {where}: it has the split {", ".join(sorted(others))}')
    return sorted(files)


# --------------------------------------------------------------------------------------------------------- parquet


def _parquet(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read parquet files with a column of encoded images and a column of labels, like the Hub's data sets."""
    if path.is_file():
        files = [path] if path.suffix == '.parquet' else []
    else:
        files = sorted(path.rglob('*.parquet'))
        files = _of_split(files, split, path) if files else []
    if not files:
        return None
    folders = sorted({str(file.parent.relative_to(path)) for file in files}) if path.is_dir() else []
    if len(folders) > 1:
        raise InputError(f'{path} holds several data sets: give the folder of one, {", ".join(folders)}')
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError('pyarrow', 'data') from error
    try:
        image, label, classes = _columns(files[0], row)
        items = _ParquetItems([str(file) for file in files], image)
        labels, classes = _parquet_labels(files, label, classes)
    except (OSError, pa.ArrowException) as error:
        reason = ' '.join(str(error).split())
        raise InputError(
            f'{files[0]} or a file beside it cannot be read ({reason}); if a file is damaged, download it again'
        ) from error
    known = next((key for key, r in DATASETS.items() if (r.image, r.label, r.classes) == (image, label, classes)), None)
    return LabelledImages(items, labels, classes, known or path.resolve().stem)


def _columns(file: Path, row: Dataset | None) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the name of the image column, the name of the label column, and the names of the classes.

    For a known data set, `row` names the columns. Else they are the first Image and the first ClassLabel in the Hub's
    metadata. Without metadata, they are the first columns that look like images and labels.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    features = json.loads((schema.metadata or {}).get(b'huggingface', b'{}')).get('info', {}).get('features', {})
    if row and not {row.image, row.label} <= {*schema.names}:
        shown = f'{", ".join(schema.names)}, not {row.image}, {row.label}'
        raise InputError(f'{file} is not {row.repo}: its columns are {shown}')

    def first(candidates: Iterable[str]) -> str | None:
        return next(iter(candidates), None)

    def of_type(kind: str) -> list[str]:
        return [name for name, feature in features.items() if isinstance(feature, dict) and feature['_type'] == kind]

    def is_encoded(kind: Any) -> bool:
        return (pa.types.is_struct(kind) and 'bytes' in [field.name for field in kind]) or pa.types.is_binary(kind)

    image = row.image if row else first([*of_type('Image'), *(f.name for f in schema if is_encoded(f.type))])
    named = [name for name in ('label', 'labels', 'fine_label', 'class', 'target', 'y') if name in schema.names]
    label = row.label if row else first([*of_type('ClassLabel'), *named])
    if image is None:
        raise InputError(
            f'{file} has no column of encoded images: its columns are {", ".join(schema.names)}; give another file, or '
            f'{FORMATS}'
        )
    return image, label, tuple(features.get(label, {}).get('names', ()))


def _parquet_labels(files: Sequence[Path], column: str | None, classes: tuple[str, ...]) -> tuple[Tensor, Any]:
    """Return the labels of all rows and the names of the classes. Labels that are text are the names themselves."""
    import pyarrow.parquet as pq

    if column is None:
        return torch.full((sum(pq.read_metadata(file).num_rows for file in files),), -1), ()
    labels: list[Any] = []
    for file in files:
        values = pq.read_table(file, columns=[column]).column(0).to_pylist()
        if None in values:
            raise InputError(f'{file}: row {values.index(None)} has no label (null in the column {column})')
        labels += values
    if labels and isinstance(labels[0], str):
        classes = classes or tuple(sorted({*labels}))
        labels = [classes.index(label) for label in labels]
    if not all(isinstance(label, int) for label in labels):
        raise InputError(f'{files[0]}: the column {column} holds neither whole numbers nor text')
    return torch.tensor(labels, dtype=torch.int64), classes


class _ParquetItems(Sequence[Any]):
    """The encoded images of parquet files. Only one row group is in memory at a time."""

    def __init__(self, files: Sequence[str], column: str) -> None:
        import pyarrow.parquet as pq

        self.column, self.starts, self.places, count = column, [], [], 0
        for file in files:
            metadata = pq.read_metadata(file)
            for group in range(metadata.num_row_groups):
                self.starts.append(count)
                self.places.append((file, group))
                count += metadata.row_group(group).num_rows
        self.total = count
        self.images: Any = None
        self.kept = -1  # number of the row group whose images are in memory

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        group = int(np.searchsorted(self.starts, index, 'right')) - 1
        if group != self.kept:
            self.kept, self.images = group, self._read(*self.places[group])
        encoded = self.images[index - self.starts[group]].as_py()
        if encoded is None:
            file, _ = self.places[group]
            raise InputError(f'{file}: row {index} has no image (null in the column {self.column})')
        return encoded

    def _read(self, file: str, group: int) -> Any:
        import pyarrow.parquet as pq

        column = pq.ParquetFile(file).read_row_group(group, columns=[self.column], use_threads=False).column(0)
        images = column.combine_chunks()
        return images.field('bytes') if hasattr(images, 'field') else images


# ----------------------------------------------------------------------------------------------- folders and lists


def _class_folders(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read a folder with a folder for each class (torchvision's ImageFolder), or with such a folder for each split."""
    if not path.is_dir():
        return None
    folders = {child.name.lower(): child for child in sorted(path.iterdir()) if child.is_dir()}
    root = next((folders[name] for name in _SPLITS[split] if name in folders), None)
    if root is None:
        others = {name for names in _SPLITS.values() for name in names} & {*folders}
        if others:
            raise InputError(f'{path} has no folder {split}: it has {", ".join(sorted(others))}')
        root = path
    suffixes = image_suffixes()
    items: list[Path] = []
    labels: list[int] = []
    classes: list[str] = []
    for folder in sorted(child for child in root.iterdir() if child.is_dir()):
        found = sorted(p for p in folder.rglob('*') if p.suffix.lower() in suffixes)
        if found:
            labels += [len(classes)] * len(found)
            items += found
            classes.append(folder.name)
    if not items:
        return None
    return LabelledImages(items, torch.tensor(labels), tuple(classes), path.resolve().name)


def _image_list(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read a text file with a path and a label on each line, as OpenOOD has them.

    The paths are relative to the folder of the list, to a folder above it, or to a folder in one of these. In OpenOOD
    the list is benchmark_imglist/cifar10/test_cifar10.txt, and its paths are relative to images_classic/.
    """
    if path.suffix != '.txt' or not path.is_file():
        return None
    rows = [line.rsplit(maxsplit=1) for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]
    wrong = next((i for i, r in enumerate(rows, 1) if len(r) != 2 or not re.fullmatch(r'-?\d+', r[1])), None)
    if wrong or not rows:
        raise InputError(f'{path}: line {wrong or 1} must be a path and a whole number, such as "cat/1.png 3"')
    parents = [*path.resolve().parents][:4]
    roots = (root for parent in parents for root in (parent, *sorted(p for p in parent.iterdir() if p.is_dir())))
    root = next((root for root in roots if (root / rows[0][0]).is_file()), None)
    if root is None:
        raise InputError(
            f'{path}: {rows[0][0]} is in no folder beside or above the list; move the list into the folder from which '
            'its paths start'
        )
    return LabelledImages([root / r[0] for r in rows], torch.tensor([int(r[1]) for r in rows]), name=path.stem)


# ------------------------------------------------------------------------------------------------- numpy and MATLAB

#: the names of files and folders of published arrays, and the data set whose classes they have
_ARRAYS = {'cifar10.1': 'cifar10', 'cifar-10.1': 'cifar10', 'cifar-10-c': 'cifar10', 'cifar-100-c': 'cifar100'}

#: names of the images and of their labels, in one .npz file or as two .npy files; {} is the split
_PAIRS = (
    ('{}_images', '{}_labels'),
    ('x_{}', 'y_{}'),
    ('{}_data', '{}_labels'),
    ('images', 'labels'),
    ('data', 'labels'),
    ('x', 'y'),
)


def _npz(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read a .npz file with an array of images and an array of labels."""
    if path.suffix != '.npz' or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            for images, labels in _PAIRS:
                for name in _SPLITS[split]:
                    if {images.format(name), labels.format(name)} <= {*file.files}:
                        return _from_arrays(file[images.format(name)], file[labels.format(name)], path)
            shown = ', '.join(file.files)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f'{path} cannot be read as arrays of numbers ({error})') from error
    raise InputError(f'{path}: no images and labels for {split}; it holds {shown}, expected images and labels')


def _npy(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read an array of images from one .npy file, and an array of labels from another (CIFAR-10-C, CIFAR-10.1)."""
    if path.is_dir():
        files = [file for file in sorted(path.glob('*.npy')) if not re.search('label|^y', file.stem)]
        of_split = [file for file in files if any(name in file.stem.lower() for name in _SPLITS[split])]
        files = of_split or files
        if not files:
            return None
        if len(files) > 1:
            shown = ', '.join(file.name for file in files)
            raise InputError(f'{path} holds several arrays of images: give one of {shown}')
        path = files[0]
    if path.suffix != '.npy' or not path.is_file():
        return None
    names = (
        re.sub(image, label, path.stem)
        for image, label in (('data|images', 'labels'), ('^[xX]', 'y'), ('^.*$', 'labels'))
    )
    beside = [file for file in (path.with_name(f'{name}.npy') for name in names) if file.is_file() and file != path]
    if not beside:
        raise InputError(f'{path}: there are no labels beside it; expected labels.npy')
    labels = beside[0]
    try:
        return _from_arrays(np.load(path, mmap_mode='r'), np.load(labels), path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f'{path} or {labels.name} cannot be read as an array of numbers ({error})') from error


def _from_arrays(pixels: np.ndarray, labels: np.ndarray, path: Path) -> LabelledImages:
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)):
        wanted = 'uint8 of the shape (N, H, W, 3) or (N, H, W)'
        raise InputError(f'{path}: the images are {pixels.dtype} of the shape {pixels.shape}, expected {wanted}')
    labels = labels.reshape(-1)
    if labels.dtype.kind not in 'iu' or len(labels) != len(pixels):
        raise InputError(
            f'{path} has {len(pixels):,} images, but {len(labels):,} labels of type {labels.dtype}: one whole number '
            'for each image was expected'
        )
    places = [part.lower() for part in path.resolve().parts[-3:]]
    known = next((data for key, data in _ARRAYS.items() if any(part.startswith(key) for part in places)), None)
    return LabelledImages(
        list(pixels), torch.from_numpy(labels.astype(np.int64)), DATASETS[known].classes if known else (), path.stem
    )


def _svhn(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read SVHN's test_32x32.mat, or the folder into which torchvision downloads it."""
    file = path / f'{split}_32x32.mat' if path.is_dir() else path
    if file.suffix != '.mat' or not file.is_file():
        return None
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingExtraError('scipy', 'data') from error
    try:
        content = loadmat(file, variable_names=['X', 'y'])
        pixels, labels = content['X'], content['y']
    except Exception as error:  # scipy raises many kinds on broken bytes
        raise InputError(f'{file} cannot be read ({error}); download it again') from error
    images = _from_arrays(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), labels % 10, file)  # 10 stands for 0
    return LabelledImages(images.items, images.labels, DATASETS['svhn'].classes, 'svhn')


# ------------------------------------------------------------------------------- CIFAR as its authors publish it


def _cifar_batches(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read cifar-10-batches-py and cifar-100-python, the folders that torchvision's CIFAR10 and CIFAR100 download."""
    for folder, dataset, files in (
        ('cifar-10-batches-py', 'cifar10', {'train': [f'data_batch_{i}' for i in range(1, 6)], 'test': ['test_batch']}),
        ('cifar-100-python', 'cifar100', {'train': ['train'], 'test': ['test']}),
    ):
        wanted = row is None or row.classes == DATASETS[dataset].classes
        root = path if path.name == folder else path / folder
        if root.is_dir() and wanted and split in files:
            batches = [_read_batch(root / name) for name in files[split]]
            pixels = np.concatenate([batch['data'] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            key = 'labels' if dataset == 'cifar10' else 'fine_labels'
            labels = torch.tensor([label for batch in batches for label in batch[key]])
            return LabelledImages(list(pixels), labels, DATASETS[dataset].classes, dataset)
    return None


def _read_batch(file: Path) -> dict[str, Any]:
    """Read a batch: a dictionary with an array and lists, which the authors of CIFAR wrote with pickle.

    No code of the file runs. `_ArraysOnly` replaces numpy's arrays by `_PickledArray`, and refuses every other class
    and function.
    """
    try:
        with open(file, 'rb') as stream:
            batch = _ArraysOnly(stream, encoding='latin1').load()
        return {**batch, 'data': batch['data'].array()}
    except FileNotFoundError as error:
        raise InputError(f'{file}: no such file; download the data set again') from error
    except InputError:
        raise
    except Exception as error:  # pickle raises many kinds on broken bytes
        raise InputError(f'{file} cannot be read ({error}); download the data set again') from error


class _PickledArray:
    """Replaces numpy's functions that rebuild an array or a dtype. It only stores their arguments."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...] = arguments
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """Return the uint8 array of the state (version, shape, dtype, is_fortran, data)."""
        _, shape, dtype, is_fortran, data = self.state
        if dtype.arguments[0] != 'u1' or is_fortran:
            raise InputError('the array of images is not uint8 in C order')
        data = data.encode('latin1') if isinstance(data, str) else data
        return np.frombuffer(data, np.uint8).reshape(shape)


def _to_bytes(text: str, encoding: str) -> bytes:
    return text.encode('latin1')


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can build numbers, text, lists, dictionaries and `_PickledArray` only."""

    def find_class(self, module: str, name: str) -> Any:
        package = module.partition('.')[0]
        if package == 'numpy' and name in ('_reconstruct', 'ndarray', 'dtype'):
            return _PickledArray
        if (module, name) == ('_codecs', 'encode'):  # Python 3 writes bytes in this way
            return _to_bytes
        raise InputError(
            f'the file asks for {module}.{name}, which no batch of CIFAR needs; it was not loaded, download the data '
            'set again'
        )


_Reader = Callable[[Path, str, Dataset | None], LabelledImages | None]

#: the readers, in the order in which they are tried
_READERS: tuple[_Reader, ...] = (_parquet, _npz, _npy, _svhn, _image_list, _cifar_batches, _class_folders)

"""Read parquet files like those of the Hub's data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_hub.data.formats import FORMATS, files_of_split
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.tables.datasets import DATASETS, Dataset
from resnet_hub.utils.errors import InputError, MissingExtraError


def read_parquet(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read parquet files with a column of encoded images and a column of labels, like the Hub's data sets."""
    if path.is_file():
        files = [path] if path.suffix == '.parquet' else []
    else:
        files = sorted(path.rglob('*.parquet'))
        files = files_of_split(files, split, path) if files else []
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

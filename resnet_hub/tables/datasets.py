"""The table of data sets: their classes, their normalisation, and where their images are."""

from __future__ import annotations

from typing import NamedTuple

from resnet_hub.utils.errors import InputError

Triple = tuple[float, float, float]


class Dataset(NamedTuple):
    """A row: labelled 32×32 RGB images."""

    title: str
    repo: str  #: data set repository on the Hub
    folder: str  #: folder in it that holds the files {split}-*.parquet
    image: str  #: column of the images
    label: str  #: column of the labels, 0 … len(classes) - 1
    classes: tuple[str, ...]
    mean: Triple  #: mean of the training pixels, scaled to 0 … 1
    std: Triple
    unknown: str  #: data set whose test images serve as unknown images when `Weights.auroc` is measured


DATASETS = {
    'cifar10': Dataset(
        title='CIFAR-10',
        repo='uoft-cs/cifar10',
        folder='plain_text',
        image='img',
        label='label',
        classes=tuple('airplane automobile bird cat deer dog frog horse ship truck'.split()),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        unknown='cifar100',
    ),
    'cifar100': Dataset(
        title='CIFAR-100',
        repo='uoft-cs/cifar100',
        folder='cifar100',
        image='img',
        label='fine_label',
        classes=tuple(
            """
            apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
            butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
            couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
            house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
            motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
            pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket
            rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
            sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
            turtle wardrobe whale willow_tree wolf woman worm
            """.split()
        ),
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        unknown='cifar10',
    ),
    'svhn': Dataset(
        title='SVHN',
        repo='ufldl-stanford/svhn',
        folder='cropped_digits',
        image='image',
        label='label',
        classes=tuple('0123456789'),
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        unknown='cifar10',
    ),
}


def find_dataset(name: str) -> Dataset:
    """Return the row of a data set.

    Raises:
        InputError: no data set has that name.
    """
    if name not in DATASETS:
        raise InputError(f'unknown data set {name!r}: use one of {", ".join(DATASETS)}')
    return DATASETS[name]

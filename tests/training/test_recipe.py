"""Recipe files."""

import pytest
import timm

from resnet_hub import InputError, Recipe
from resnet_hub.tables.weights import recipe_file


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('epochs = "ten"', "epochs must be a whole number, not 'ten'"),
        ('epoch = 3', "unknown field 'epoch'; did you mean epochs"),
        ('epochs = 0', '^epochs must be at least 1, not 0$'),
        ('distillation = 1.5', '^distillation must be from 0 to 1, not 1.5$'),
        ('warmup_epochs = 40', r'epochs is 40: warmup_epochs must be less than that, not 40 \(--warmup-epochs 39\)$'),
        ('lr = inf', 'lr must be a finite number above 0, not inf'),
        ('flip = "always"', "flip must be one of 'random', 'alternating', 'none', not 'always'"),
        (
            'epochs = 2\nwarmup_epochs = 2\nimage_sizes = "16:2"',
            r"epochs is 2: warmup_epochs .*--warmup-epochs 1\); image_sizes .*--image-sizes ''",
        ),
        ('epochs = = 3', 'is not TOML'),
    ],
)
def test_bad_recipes(tmp_path, text, message):
    (tmp_path / 'recipe.toml').write_text(text)
    with pytest.raises(InputError, match=message):
        Recipe.from_file(tmp_path / 'recipe.toml')


def test_a_recipe_survives_its_file(tmp_path):
    recipe = Recipe(model='preact_resnet20', lr=0.05, flip='none', cutout=8)
    (tmp_path / 'recipe.toml').write_text(recipe.to_toml())
    assert Recipe.from_file(tmp_path / 'recipe.toml') == recipe
    assert Recipe.from_file(tmp_path / 'recipe.toml', lr=1.0).lr == 1.0


def test_a_value_of_another_type():
    for field, message in (({'lr': 'high'}, 'lr must be a number'), ({'epochs': 2.5}, 'epochs must be a whole number')):
        with pytest.raises(InputError, match=message):
            Recipe(**field)
    assert Recipe(lr=1) == Recipe(lr=1.0)


def test_sizes_by_epoch():
    recipe = Recipe(epochs=5, image_sizes='16:2 24:1')
    assert [recipe.image_size(epoch) for epoch in range(5)] == [16, 16, 24, None, None]
    for text in ('4:2', '16', '16:0', '16:2,24:1', '16x2'):
        with pytest.raises(InputError, match="image_sizes must be like '16:8 24:4'"):
            Recipe(image_sizes=text)


def test_fine_tuning_has_defaults_of_its_own(tmp_path):
    """They give way to what the user or the file says."""
    assert Recipe.from_file(None, init='cifar_resnet20').lr == 0.02 != Recipe().lr
    (tmp_path / 'recipe.toml').write_text('epochs = 3')
    recipe = Recipe.from_file(tmp_path / 'recipe.toml', init='cifar_resnet20', lr=0.1)
    assert (recipe.lr, recipe.epochs, recipe.warmup_epochs) == (0.1, 3, 1)


def test_a_short_run_needs_no_shorter_warm_up():
    assert Recipe.from_file(None, epochs=1).warmup_epochs == 0
    assert Recipe.from_file(None, epochs=2).warmup_epochs == 1
    assert Recipe.from_file(None, epochs=3).warmup_epochs == Recipe().warmup_epochs == 2
    assert Recipe.from_file(None, epochs=1, init='cifar_resnet20').warmup_epochs == 0
    with pytest.raises(InputError, match='warmup_epochs must be less than that, not 2'):
        Recipe.from_file(None, epochs=1, warmup_epochs=2)
    with pytest.raises(InputError, match='epochs must be at least 1, not 0'):
        Recipe.from_file(None, epochs=0)


def test_recipes_that_come_with_the_package():
    """Each is of what its name says, trains on all images, and is written out in full."""
    for path in recipe_file('any').parent.glob('*.toml'):
        recipe = Recipe.from_file(path)
        assert path.stem.startswith(f'{recipe.model}.{recipe.dataset}') and not recipe.holdout
        assert timm.is_model(recipe.model) and path.read_text() == recipe.to_toml()

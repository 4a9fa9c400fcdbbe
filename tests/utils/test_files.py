"""Files that are written whole or not at all."""

import pytest

from resnet_hub.utils.files import remove_leftovers, replacing


def test_a_failed_block_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text('half')
        raise ZeroDivisionError
    assert [item.name for item in tmp_path.iterdir()] == ['a.txt'] and path.read_text() == 'old'


def test_only_our_own_leftovers_are_removed(tmp_path):
    """Files of the user's stay, whatever they are called; and so do leftovers of other files."""
    kept = ['.checkpoint.pt.20251127', '.config.json.original', '.checkpoint.pt.resnet-hub-mine', 'checkpoint.pt']
    for name in kept:
        (tmp_path / name).touch()
    for name in ('checkpoint.pt', 'config.json', '[a]'):
        with replacing(tmp_path / name) as temporary:
            (tmp_path / 'killed').touch()
            leftover = temporary.name
        (tmp_path / 'killed').rename(tmp_path / leftover)  # as a killed process leaves it
        assert (tmp_path / leftover).exists()
        remove_leftovers(tmp_path / ('other' + name))
        assert (tmp_path / leftover).exists()
        remove_leftovers(tmp_path / name)
        assert not (tmp_path / leftover).exists()
    assert all((tmp_path / name).exists() for name in kept)

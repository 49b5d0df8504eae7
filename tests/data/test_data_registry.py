"""A data set of one's own, registered by name, is read as those that come with netpress are."""

import pytest

from netpress.data import DATASETS, DatasetReader, DataSettings, Survey, load_dataset, survey_dataset
from netpress.data.digits import read_digits
from netpress.data.division import divide_source
from netpress.errors import UserError
from netpress.process.console import Console
from netpress.settings import SettingsError, parse


@pytest.fixture
def shrunk(monkeypatch):
    """A data set `shrunk`: the digits in 8 pixels."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS.all()))
    DATASETS.add(
        "shrunk",
        DatasetReader(
            "the digits in 8 pixels",
            lambda settings, folder, seed, console: divide_source(read_digits(8), settings, seed),
            lambda settings, folder, seed: Survey("shrunk", 5, 3, 8, 10, None),
        ),
    )


def test_a_registered_data_set_is_read(shrunk, tmp_path):
    settings = parse(DataSettings, {"dataset": "shrunk", "validation": 0.2}, "data")
    dataset = load_dataset(settings, tmp_path, 1, Console(quiet=True))
    assert dataset.name == "shrunk"
    assert dataset.test.images.shape == (300, 3, 8, 8)
    assert len(dataset.validation) == round(1497 * 0.2)
    assert dataset.record is not None
    assert dataset.record.settings.dataset == "shrunk"
    assert survey_dataset(settings, tmp_path, 1).train_images == 5


def test_an_unknown_name_is_told_with_all_names():
    with pytest.raises(SettingsError, match=r"data.dataset: 'shrunk' is not one of 'digits', 'cifar10', 'cifar100' or"):
        parse(DataSettings, {"dataset": "shrunk"}, "data")


def test_what_comes_with_netpress_is_read_from_no_folder(tmp_path):
    for act in (
        lambda: load_dataset(DataSettings(), tmp_path, 0, Console(quiet=True)),
        lambda: survey_dataset(DataSettings(), tmp_path, 0),
    ):
        with pytest.raises(UserError, match="digits come with netpress"):
            act()


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100"])
def test_settings_of_a_folder_are_refused_elsewhere(name):
    for key, value in (("background", 7), ("max_pixels", 7), ("test_fraction", 0.5)):
        with pytest.raises(SettingsError, match=key):
            parse(DataSettings, {"dataset": name, key: value}, "data")
        assert getattr(parse(DataSettings, {"dataset": "folder", key: value}, "data"), key) == value

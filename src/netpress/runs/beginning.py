"""What a run begins with: a network and its images. A plan and a run ask here, so that both begin with the same.

network = read_network(recipe)                                      the file that the recipe names, or None
dataset = load_run_data(recipe.data, folder, recipe.seed, network, console)
network = network or create_for(dataset, recipe.model_table, seed=recipe.seed)
"""

from pathlib import Path

from netpress.data import DATASETS, Dataset, DataSettings, Survey, lacks_test, load_dataset
from netpress.data.findings import Findings, inspect
from netpress.data.store import ImageCache
from netpress.errors import UserError
from netpress.network import FILES, Library, Network, create
from netpress.network.data import binding_record, check_same, matched
from netpress.process.console import Console
from netpress.recipe.schema import ModelTable, Recipe

TEST_FRACTION = 0.2
"""So large a share of a folder without test/ tests, where nobody says another."""


def read_network(recipe: Recipe, library: Library = FILES) -> Network | None:
    """The network that the recipe names to start from; None where it describes a new one.

    Raises UserError where the library has none.
    """
    name = recipe.model_table.network
    return library.load(name) if name is not None else None


def split_seed_of(settings: DataSettings, seed: int, network: Network | None) -> int:
    """The seed that divides a run's images: where it begins with a network of the same data set, that network's."""
    if settings.split_seed is not None:
        return settings.split_seed
    record = network.data if network is not None else None
    if record is None or record.settings.dataset != settings.dataset:
        return seed
    return record.seed


def settle_test(
    settings: DataSettings, folder: Path | None, network: Network | None, console: Console | None = None
) -> DataSettings:
    """The settings with a `test_fraction` for a folder that has no test images and whose recipe says none.

    It is the one that the network to begin with was trained with, else TEST_FRACTION; the console is told. The record
    of the data keeps it, so that every later command divides the folder alike.
    """
    if settings.dataset != "folder" or settings.test_fraction is not None or folder is None or not lacks_test(folder):
        return settings
    record = network.data if network is not None else None
    known = record.settings.test_fraction if record is not None and record.settings.dataset == "folder" else None
    fraction = known or TEST_FRACTION
    if console is not None:
        console.say(
            f"{folder}: has no test/, so {fraction:.0%} of the images are set apart for the test "
            f"(data.test_fraction = {fraction:g})"
        )
    return settings.model_copy(update={"test_fraction": fraction})


def load_run_data(
    settings: DataSettings,
    folder: Path | None,
    seed: int,
    network: Network | None,
    console: Console,
    cache: ImageCache | None = None,
) -> Dataset:
    """The images of a run that begins with `network`, or with a new one (None), its classes in the network's order.

    `cache` as for `load_dataset`. Raises UserError as `netpress.network.data.load_data` does.
    """
    settings = settle_test(settings, folder, network, console)
    split_seed = split_seed_of(settings, seed, network)
    record = binding_record(network, settings) if network is not None else None
    loaded = load_dataset(settings, folder, split_seed, console, cache)
    if network is None:
        return loaded
    if record is not None:
        check_same(record, loaded, folder, console, cache=cache)
    return matched(network, loaded, settings.classes_by_number)


def look_at_data(recipe: Recipe, folder: Path, console: Console) -> Findings | None:
    """What a run of `recipe` will find in its images, before anything is trained; None where they would be fetched.

    Of several networks the images of the first are looked at. Raises as `load_run_data` does.
    """
    if recipe.networks:
        recipe = next(iter(recipe.networks.values()))
    if not DATASETS[recipe.data.dataset].is_here(folder):
        return None
    return inspect(load_run_data(recipe.data, folder, recipe.seed, None, console))


def create_for(dataset: Dataset | Survey, model: ModelTable, *, seed: int, shapes: bool = False) -> Network:
    """A new network as `model` describes it, made with these images; `seed` and `shapes` as for `create`.

    Before the images are read (a Survey) its classes have numbers for names, and it records no images.
    Raises UserError where the settings contradict the images.
    """
    assert model.family is not None
    sizes = {"classes": dataset.count, "channels": dataset.channels, "image_size": dataset.side}
    for key, value in sizes.items():
        if model.settings.get(key, value) != value:
            raise UserError(f"model.{key}: the recipe says {model.settings[key]}, {dataset.name} has {value}")
    settings = {**model.settings, **sizes}
    if isinstance(dataset, Survey):
        return create(model.family, settings, seed=seed, shapes=shapes)
    names, mean, std = dataset.classes, dataset.mean, dataset.std
    network = create(model.family, settings, classes=names, mean=mean, std=std, seed=seed, shapes=shapes)
    network.data = dataset.record
    return network

"""What a run begins with: a network and its images. A plan and a run ask here, so that both begin with the same.

network = read_network(recipe)                                      the file that the recipe names, or None
dataset = load_run_data(recipe.data, folder, recipe.seed, network, console)
network = network or create_for(dataset, recipe.model_table, seed=recipe.seed)
"""

from pathlib import Path

from netpress.data import Dataset, DataSettings, Survey, load_dataset
from netpress.errors import UserError
from netpress.network import FILES, Library, Network, create
from netpress.network.data import binding_record, check_same, matched
from netpress.process.console import Console
from netpress.recipe.schema import ModelTable, Recipe


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


def load_run_data(
    settings: DataSettings, folder: Path | None, seed: int, network: Network | None, console: Console
) -> Dataset:
    """The images of a run that begins with `network`, or with a new one (None), its classes in the network's order.

    Raises UserError as `netpress.network.data.load_data` does.
    """
    split_seed = split_seed_of(settings, seed, network)
    record = binding_record(network, settings) if network is not None else None
    loaded = load_dataset(settings, folder, split_seed, console)
    if network is None:
        return loaded
    if record is not None:
        check_same(record, loaded, folder, console)
    return matched(network, loaded, settings.classes_by_number)


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

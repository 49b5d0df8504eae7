"""Asking the teachers of a recipe ahead of its run, or beside it on another core: `netpress answers`."""

from pathlib import Path

from netpress.errors import UserError
from netpress.files import read_object
from netpress.folders.run import RunFolder
from netpress.network import Library
from netpress.network.data import adopt
from netpress.process.devices import choose_device, seed_for, set_threads
from netpress.process.world import World
from netpress.recipe.schema import Recipe
from netpress.runs.beginning import create_for, load_run_data, read_network
from netpress.runs.fitting import fit_recipe
from netpress.runs.jobs import RunOptions
from netpress.stage import Context, stage_name, stage_of
from netpress.training import TrainSettings
from netpress.training.ahead import ask_ahead


def ask_teachers(recipe: Recipe, folder: Path, options: RunOptions) -> int:
    """Ask the teachers of all trainings of `recipe` that keep answers, and keep them where a run into `folder` looks.

    What is kept already is not asked again, and nothing is written in `folder`. How many epochs were asked for comes
    back. Raises UserError for recipes of several networks, and where nothing keeps answers.
    """
    if recipe.networks or recipe.sweep is not None or recipe.search is not None:
        raise UserError(f"{recipe.name}: has several networks; netpress answers asks for one alone")
    recipe = fit_recipe(recipe, options.data, options.allow_import, folder).recipe
    device = choose_device(options.device)
    _settle_threads(folder, options.threads)
    library, console = Library(options.allow_import), options.console
    named = read_network(recipe, library)
    dataset = load_run_data(recipe.data, options.data, recipe.seed, named, console, options.images_beside(folder))
    if named is not None:
        adopt(named, dataset)
    network = named or create_for(dataset, recipe.model_table, seed=recipe.seed)
    asked, found, used = 0, False, set[str]()
    for place, settings in enumerate(recipe.stages):
        name = stage_name(place, settings)
        for part, training in stage_of(settings).trainings(settings).items():
            assert isinstance(training, TrainSettings)
            taught = training.taught
            if taught is None or not (taught.keep_answers and taught.teachers):
                continue
            found = True
            context = Context(
                folder=folder / name,
                world=World(device),
                seed=seed_for(recipe.seed, "stage", place),
                console=console,
                dataset=dataset,
                name=f"{name}/{part}" if part else name,
                library=library,
                answers=options.answers_beside(folder),
            )
            asked += ask_ahead(network, training, context, used)
    if not found:
        raise UserError(
            f"{recipe.name}: no stage train or quantize has named teachers and keep_answers = true, so nothing is "
            "asked; the rounds of prune, prune_channels and factorize ask for themselves"
        )
    return asked


def _settle_threads(folder: Path, threads: int | None) -> None:
    """Compute with the threads of the run in `folder`, if it has begun: with others it would read no answers."""
    environment = RunFolder(folder).environment
    if environment.exists():
        began = read_object(environment, threads=int)["threads"]
        if threads not in (None, began):
            raise UserError(f"--threads {threads}: the run in {folder} has {began}, and reads no answers of others")
        threads = began
    if threads is not None:
        set_threads(threads)

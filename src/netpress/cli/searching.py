"""`netpress search`: what one person cannot choose by hand."""

from pathlib import Path
from typing import Annotated

import typer

from netpress.cli.options import (
    AllowImport,
    Answers,
    AnswersLimit,
    Cache,
    CacheLimit,
    ClusterAddress,
    DataFolder,
    DeviceName,
    EpochsScale,
    Flash,
    HighestScore,
    Overrides,
    Ram,
    RecipeName,
    Seed,
    Threads,
    Workers,
    limit_overrides,
)

search = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look for the best: recipes of a space, augmentations."
)


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    search.command("recipe")(search_recipe)
    search.command("policy")(search_policies)
    app.add_typer(search, name="search")


def search_recipe(
    recipe: RecipeName,
    data: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="The search's folder; by default runs/NAME.")] = None,
    overrides: Overrides = None,
    epochs_scale: EpochsScale = 1.0,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials, in place of what [search] says.")] = None,
    device: DeviceName = "auto",
    seed: Seed = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew where this folder holds a search.")] = False,
    threads: Threads = None,
    workers: Workers = None,
    cluster: ClusterAddress = None,
    allow_import: AllowImport = False,
    answers: Answers = None,
    answers_limit: AnswersLimit = 10.0,
    cache: Cache = None,
    cache_limit: CacheLimit = 50.0,
    flash: Flash = None,
    ram: Ram = None,
    score: HighestScore = None,
) -> None:
    """Search the [search] space of a recipe. Interrupted, it goes on when given again; more --trials make it longer.

    Needs the extra `search`. What would take more than --flash, --ram or --score allow is counted and never trained.
    """
    from netpress.runs.search.sampling import require_optuna

    require_optuna()
    from netpress.process.console import Console
    from netpress.runs.jobs import RunOptions
    from netpress.runs.search.run import run_search
    from netpress.runs.search.space import read_space
    from netpress.runs.workers.choosing import choose_place
    from netpress.runs.workers.processes import Processes

    given = limit_overrides(overrides, flash, ram, score)
    given += [f"search.trials={trials}"] if trials is not None else []
    space = read_space(recipe, given, seed, epochs_scale)
    options = RunOptions(
        data=data,
        device=device,
        fresh=fresh,
        console=Console(),
        threads=threads,
        allow_import=allow_import,
        answers=answers,
        answers_limit=answers_limit,
        cache=cache,
        cache_limit=cache_limit,
    )
    folder = out or Path("runs") / space.recipe.name
    place = choose_place(workers, cluster, options.console) or Processes(1, options.console)
    result = run_search(space, folder, options, place)
    print(result.table.as_markdown())
    best = result.table.best
    if best is not None:
        print(f"best        trial {best.number}: {result.best}")
        print(f"            {result.table.tested[best.number]:.2%} of the test images, which chose nothing")
    print(f"report      {result.page}")


def search_policies(
    recipe: RecipeName,
    data: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="The policy's file; by default runs/NAME-policy.json.")] = None,
    overrides: Overrides = None,
    epochs_scale: EpochsScale = 1.0,
    device: DeviceName = "auto",
    seed: Seed = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew where such a search was begun.")] = False,
    threads: Threads = None,
    allow_import: AllowImport = False,
) -> None:
    """Search a policy of augmentations for a recipe's training, as its [policy_search] table says or by defaults.

    Fast AutoAugment: needs the extra `search`. Interrupted, it goes on when given again. `augment.policy` takes the
    file. What it works with lies beside the file, in a folder of the same name.
    """
    from netpress.runs.search.sampling import require_optuna

    require_optuna()
    from netpress.process.console import Console
    from netpress.recipe.reading import read_recipe
    from netpress.runs.jobs import RunOptions
    from netpress.runs.search.policy import search_policy

    read = read_recipe(recipe, overrides or [], seed, epochs_scale)
    options = RunOptions(
        data=data, device=device, fresh=fresh, console=Console(), threads=threads, allow_import=allow_import
    )
    found = search_policy(read, out or Path("runs") / f"{read.name}-policy.json", options)
    print(f"policy      {found.path}: {len(found.sub_policies):,} sub-policies")

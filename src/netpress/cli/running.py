"""`netpress run`, `plan`, `apply`, `report` and `new`: the commands that do the work."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from netpress.cli.company import lead, refuse_company_for
from netpress.cli.options import (
    AllowImport,
    Answers,
    AnswersLimit,
    AsJson,
    ByNumber,
    Cache,
    CacheLimit,
    ClusterAddress,
    DataFolder,
    DatasetName,
    DeviceName,
    EpochsScale,
    Flash,
    HighestScore,
    Minutes,
    NetworkName,
    Overrides,
    Ram,
    RecipeName,
    Seed,
    TensorBoard,
    Threads,
    Workers,
    given_limits,
    limit_overrides,
    print_json,
    print_rows,
)
from netpress.cli.sizes import print_footprint, tabulate_plan
from netpress.errors import UserError


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    for command in (run, plan, answers, apply, report, new):
        app.command()(command)


def run(
    recipe: RecipeName,
    data: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/NAME.")] = None,
    overrides: Overrides = None,
    epochs_scale: EpochsScale = 1.0,
    device: DeviceName = "auto",
    seed: Seed = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew where this folder holds a run.")] = False,
    save_every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Save the state at least this often.")
    ] = 60.0,
    threads: Threads = None,
    allow_import: AllowImport = False,
    answers: Answers = None,
    answers_limit: AnswersLimit = 10.0,
    cache: Cache = None,
    cache_limit: CacheLimit = 50.0,
    flash: Flash = None,
    ram: Ram = None,
    tensorboard: TensorBoard = False,
    score: HighestScore = None,
    minutes: Minutes = None,
    workers: Workers = None,
    cluster: ClusterAddress = None,
) -> None:
    """Run a recipe: train, compress, score, report. Interrupted, it goes on when given again, on as many threads.

    A recipe with [networks] or a [sweep] table is several runs, and ends in one table of them.
    """
    from netpress.process.console import Console
    from netpress.recipe.reading import read_recipe
    from netpress.runs.jobs import RunOptions
    from netpress.runs.recipes import run_recipe

    asked = (recipe, limit_overrides(overrides, flash, ram, score), seed, epochs_scale)
    resolved = read_recipe(*asked)
    folder = out or Path("runs") / resolved.name
    options = RunOptions(
        data=data,
        device=device,
        fresh=fresh,
        console=Console(),
        save_every_seconds=save_every,
        threads=threads,
        allow_import=allow_import,
        answers=answers,
        answers_limit=answers_limit,
        cache=cache,
        cache_limit=cache_limit,
        tensorboard=tensorboard,
    )
    if resolved.sweep is not None and minutes is None:
        refuse_company_for(f"the [sweep] of {resolved.name}")
        from netpress.runs.sweep import read_sweep, run_sweep
        from netpress.runs.workers.choosing import choose_place

        swept = run_sweep(read_sweep(*asked), folder, options, choose_place(workers, cluster, options.console))
        print(swept.table.as_markdown())
        print(f"report      {swept.page}")
        return
    if workers is not None or cluster is not None:
        given = f"--cluster {cluster}" if workers is None else f"--workers {workers}"
        raise UserError(f"{given}: is for the members of a sweep, and {resolved.name} has no [sweep] table")
    result = run_recipe(resolved, folder, replace(options, team=lead(device)), minutes)
    if resolved.networks:
        from netpress.folders.chain import ChainFolder
        from netpress.runs.chain.results import as_markdown

        print(f"{as_markdown(resolved, ChainFolder(folder))}\n")
        print(f"result      {resolved.result_name}")
    print(f"accuracy    {result.accuracy:.2%} of {result.tested}")
    print(f"parameters  {result.params:,.0f} values of 32 bits stored")
    print(f"operations  {result.operations:,.0f} of 32 bits an image")
    print(f"score       {result.score:.5f} by the {resolved.score.convention} convention")
    print_footprint(result.footprint)
    if result.limits:
        kept = "all kept" if all(taken.fits for taken in result.limits) else "not all kept"
        print(f"limits      {', '.join(map(str, result.limits))}: {kept}")
    for name, card in result.beside.items():
        called = "" if name == card.convention else f", {name}"
        counts = f"{card.params:,.0f} values, {card.operations:,.0f} operations"
        print(f"beside      {card.score:.5f} by the {card.convention} convention{called}: {counts}")
    print(f"report      {result.report}")


def plan(
    recipe: RecipeName,
    data: DataFolder = None,
    overrides: Overrides = None,
    epochs_scale: EpochsScale = 1.0,
    as_json: AsJson = False,
    allow_import: AllowImport = False,
    flash: Flash = None,
    ram: Ram = None,
    score: HighestScore = None,
    minutes: Minutes = None,
) -> None:
    """Show what a recipe would do and cost; nothing runs.

    Each stage has a row for every layer that it would touch, and for its training.
    """
    from netpress.process.console import Console
    from netpress.recipe.reading import read_recipe
    from netpress.runs.beginning import look_at_data
    from netpress.runs.recipes import plan_recipe

    asked = (recipe, limit_overrides(overrides, flash, ram, score), None, epochs_scale)
    resolved = read_recipe(*asked)
    if resolved.sweep is not None and minutes is None:
        from netpress.runs.sweep import plan_sweep, read_sweep

        _print_sweep(plan_sweep(read_sweep(*asked), data, allow_import), as_json)
        return
    planned = plan_recipe(resolved, data, allow_import, minutes)
    found = look_at_data(resolved, data, Console(quiet=True)) if data is not None else None
    if as_json:
        print_json(planned | ({"data": found.as_json()} if found is not None else {}))
        return
    if "minutes" in planned:
        print(planned["minutes"])
    print(planned["summary"])
    if found is not None:
        found.tell(Console())
    if "fit" in planned:
        _print_fit(planned["fit"])
    if "networks" not in planned:
        _print_stages(planned)
        return
    print()
    print_rows([_describe_network(network) for network in planned["networks"]])
    for network in planned["networks"]:
        print(f"\n{network['name']}: {network['summary'].partition(': ')[2]}")
        _print_stages(network, f"{network['name']}/")


def _print_fit(fit: dict[str, Any]) -> None:
    """What the recipe's [fit] table chose."""
    print(f"\nchosen by [fit]: number {fit['place']} of {fit['combinations']:,} in order of preference")
    print_rows([{"setting": path, "value": json.dumps(value)} for path, value in fit["values"].items()])


def _print_stages(planned: dict[str, Any], prefix: str = "") -> None:
    for stage in planned["stages"]:
        print(f"\n{prefix}{stage['name']}")
        print_rows(stage["rows"])
    print(f"\n{prefix}on the device")
    print_rows(tabulate_plan(planned))


def _describe_network(planned: dict[str, Any]) -> dict[str, Any]:
    """One network of a chain, in a row."""
    needs = planned["needs"]
    return {
        "network": planned["name"],
        "needs": ", ".join(f"{verb} {other}" for other, verb in needs.items()) or None,
        "weights": planned["weights"],
        "dense_score": planned["dense"]["score"],
        "stages": len(planned["stages"]),
        "epochs": planned["epochs"],
        "images": planned["train_images"],
    }


def _print_sweep(planned: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(planned)
        return
    print(f"{planned['summary']}\n")
    print_rows([_describe_member(member) for member in planned["members"]])


def _describe_member(planned: dict[str, Any]) -> dict[str, Any]:
    """One member of a sweep, in a row; of a chain the network that it is for, and the stages of all."""
    networks = planned.get("networks", [planned])
    first = next(network for network in networks if network["name"] == planned.get("result", planned["name"]))
    return {
        "member": planned["name"],
        "weights": first["weights"],
        "dense_score": first["dense"]["score"],
        "stages": sum(len(network["stages"]) for network in networks),
        "epochs": planned["epochs"],
        "begins_with": planned["begins_with"],
    }


def answers(
    recipe: RecipeName,
    data: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/NAME.")] = None,
    overrides: Overrides = None,
    epochs_scale: EpochsScale = 1.0,
    device: DeviceName = "auto",
    seed: Seed = None,
    threads: Threads = None,
    allow_import: AllowImport = False,
    folder: Answers = None,
    answers_limit: AnswersLimit = 10.0,
    cache: Cache = None,
    cache_limit: CacheLimit = 50.0,
) -> None:
    """Ask the teachers of a recipe before its run, or beside it on another core; its trainings read what they answer.

    For trainings with keep_answers, on as many threads as the run has. What is kept already is passed over.
    """
    from netpress.process.console import Console
    from netpress.recipe.reading import read_recipe
    from netpress.runs.asking import ask_teachers
    from netpress.runs.jobs import RunOptions

    resolved = read_recipe(recipe, overrides or [], seed, epochs_scale)
    options = RunOptions(
        data=data,
        device=device,
        console=Console(),
        threads=threads,
        allow_import=allow_import,
        answers=folder,
        answers_limit=answers_limit,
        cache=cache,
        cache_limit=cache_limit,
    )
    place = out or Path("runs") / resolved.name
    asked = ask_teachers(resolved, place, options)
    print(f"answers     {asked} epochs asked for; kept in {options.answers_beside(place).path}")


def apply(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A kind of stage: see `netpress list stages`.")],
    network: NetworkName,
    out: Annotated[Path, typer.Option(help="Where the resulting network is written.")],
    data: DataFolder = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    classes_by_number: ByNumber = False,
    device: DeviceName = "auto",
    seed: Seed = 0,
    threads: Threads = None,
    allow_import: AllowImport = False,
    answers: Answers = None,
    answers_limit: AnswersLimit = 10.0,
    cache: Cache = None,
    cache_limit: CacheLimit = 50.0,
    flash: Flash = None,
    ram: Ram = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an interrupted call with the same --out.")] = False,
    score: HighestScore = None,
) -> None:
    """Apply one stage to one network, without a recipe. Interrupted, it goes on when given again.

    Data is divided as the network's file says. --set data.KEY=VALUE reads it otherwise.
    """
    from netpress.process.console import Console
    from netpress.runs.apply import apply_stage
    from netpress.runs.jobs import RunOptions
    from netpress.scoring.limits import Limits
    from netpress.settings import parse

    apply_stage(
        stage,
        network,
        out,
        overrides or [],
        dataset=dataset,
        seed=seed or 0,
        classes_by_number=classes_by_number,
        limits=parse(Limits, given_limits(flash, ram, score), "limits"),
        options=RunOptions(
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
            team=lead(device),
        ),
    )
    print(f"network     {out}")


def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]) -> None:
    """Write the page of a run, a sweep, a search or a chain again.

    Of several runs the tables too.
    """
    from netpress.folders.run import RunFolder

    kind = RunFolder(folder).kind
    if kind == "sweep":
        from netpress.runs.sweep import report_sweep

        print(report_sweep(folder))
    elif kind == "search":
        from netpress.runs.search.run import report_search

        print(report_search(folder))
    elif kind == "chain":
        from netpress.runs.chain import report_chain

        print(report_chain(folder))
    else:
        from netpress.report import make_report

        print(make_report(folder))


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the recipe is called: NAME.toml is written.")],
    like: Annotated[str, typer.Option(metavar="RECIPE", help="The shipped recipe to begin from.")] = "digits",
) -> None:
    """Write NAME.toml, a commented recipe to edit."""
    from netpress.recipe.drafting import draft_recipe
    from netpress.recipe.reading import load_values

    path = draft_recipe(name, like)
    command = "search recipe" if "search" in load_values(str(path))[0] else "run"
    print(f"{path}: edit it, look at it with `netpress plan {path}`, then `netpress {command} {path}`")

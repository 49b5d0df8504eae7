"""`netpress list`: what there is to choose from."""

from typing import Annotated, Any

import typer

from netpress.cli.options import AsJson, print_json, print_table
from netpress.errors import UserError


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command(name="list")(list_choices)


def list_choices(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="recipes, models, stages, datasets or conventions.")],
    as_json: AsJson = False,
) -> None:
    """List what there is to choose from."""
    if what not in LISTS:
        raise UserError(f"list {what}: there are {', '.join(LISTS)}")
    rows = LISTS[what]()
    if as_json:
        print_json(rows)
    else:
        print_table(rows)


def _recipes() -> list[dict[str, Any]]:
    from netpress.recipe.reading import shipped

    return [{"recipe": name, "what it does": description} for name, description in shipped().items()]


def _models() -> list[dict[str, Any]]:
    import torch

    from netpress.models.registry import FAMILIES, choose_model
    from netpress.scoring import count_multiply_adds

    rows: list[dict[str, Any]] = []
    for name, family in FAMILIES.all().items():
        for preset in family.presets or [""]:  # a user's own module can only be counted once it is named
            row: dict[str, Any] = {"model": f"{name}:{preset}" if preset else f"{name}:target=PACKAGE.MODULE:CLASS"}
            parameters = multiply_adds = None
            if preset:
                choice = choose_model(name, [preset])
                with torch.device("meta"):
                    module = choice.family.build(choice.settings)
                side = choice.settings.image_size
                parameters = sum(parameter.numel() for parameter in module.parameters())
                multiply_adds = count_multiply_adds(module, (choice.settings.channels, side, side))
            row |= {"parameters": parameters, "multiply_adds": multiply_adds}
            rows.append(row)
    return rows


def _stages() -> list[dict[str, Any]]:
    from netpress.stage import STAGES

    return [{"stage": kind, "what it does": stage.description} for kind, stage in STAGES.all().items()]


def _datasets() -> list[dict[str, Any]]:
    from netpress.data import DATASETS

    return [{"dataset": name, "what it is": dataset.description} for name, dataset in DATASETS.all().items()]


def _conventions() -> list[dict[str, Any]]:
    from netpress.scoring import conventions

    return [{"convention": name, "what it counts": description} for name, description in conventions().items()]


LISTS = {
    "recipes": _recipes,
    "models": _models,
    "stages": _stages,
    "datasets": _datasets,
    "conventions": _conventions,
}

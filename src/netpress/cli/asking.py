"""`netpress predict`: which classes a network sees in new images."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netpress.cli.options import (
    AllowImport,
    AsCsv,
    AsJson,
    DataChanges,
    DeviceName,
    NetworkName,
    Scale,
    Threads,
    print_csv,
    print_json,
    print_table,
    refuse_together,
)
from netpress.errors import Failure, UserError, some_of, visible

if TYPE_CHECKING:
    from netpress.data.pictures import Picture
    from netpress.evaluation import Answer

STREAM = "-"
COSINES = (
    "the probabilities are the softmax of cosines times {scale:g}; with --scale and the scale of the loss, which a "
    "network file does not tell, they are spread as in training"
)


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command()(predict)


def predict(
    network: NetworkName,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Image files, folders of images, or - for one on standard input."),
    ],
    top: Annotated[int, typer.Option(min=1, help="Show so many of the likeliest classes.")] = 1,
    exact: Annotated[bool, typer.Option("--exact", help="Compute in integers.")] = False,
    kernels: Annotated[
        str,
        typer.Option(metavar="KIND", help="Of a network of integer arithmetic: auto, c or torch; all answer alike."),
    ] = "auto",
    scale: Scale = 1.0,
    overrides: DataChanges = None,
    device: DeviceName = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    allow_import: AllowImport = False,
) -> None:
    """Say which class each image is of, and how likely.

    Images are read as the network's training read its own. One that cannot be read does not stop the others; the exit
    code is then 1. --set takes data.resize, data.background, data.max_pixels and data.reduced_decoding.

    A network of integer arithmetic is compiled by the C compiler that is found, once, and answers the same without one.
    """
    from netpress import api
    from netpress.data.pictures import list_pictures
    from netpress.evaluation import ask, ends_in_cosines
    from netpress.export.c.choosing import choose_kernels
    from netpress.network.data import pixel_rules
    from netpress.process.console import Console
    from netpress.process.devices import choose_device, set_threads
    from netpress.recipe.overrides import read_data_changes

    refuse_together(json=as_json, csv=as_csv)
    if threads is not None:
        set_threads(threads)
    # Standard output carries the answers, so that a bar is drawn beside them, and only where somebody looks.
    console = Console(quiet=as_json or as_csv or not sys.stderr.isatty(), stream=sys.stderr)
    pictures = list_pictures(_asked(images), console)
    loaded = api.load(network, allow_import=allow_import)
    rules = pixel_rules(loaded, read_data_changes(overrides or []))
    where = choose_device(device)
    chosen = choose_kernels(loaded, kernels, where, console)
    answers = ask(
        loaded, pictures, rules, console, top=top, exact=exact, scale=scale, device=where, executor=chosen.executor
    )
    if ends_in_cosines(loaded):
        console.warn(COSINES.format(scale=scale))
    size = f"{rules.size} x {rules.size} {'grey' if rules.channels == 1 else 'RGB'}, as in training ({rules.resize})"
    _show(answers, len(pictures), as_json, as_csv, size, chosen.advice)


def _asked(names: list[str]) -> "list[str | Picture]":
    """What was named, standard input read. Raises UserError where that cannot be."""
    from netpress.data.pictures import streamed_picture

    if names.count(STREAM) > 1:
        raise UserError("-: standard input holds one image, and was named more than once")
    if STREAM in names and sys.stdin.isatty():
        raise UserError("-: nothing comes on standard input; write `netpress predict NETWORK - < photo.jpg`")
    return [streamed_picture(sys.stdin.buffer, STREAM) if name == STREAM else name for name in names]


def _show(answers: "Iterator[Answer]", count: int, as_json: bool, as_csv: bool, size: str, advice: str) -> None:
    """Print every answer, and how they came about; then a Failure that names the images that cannot be read.

    size: what every image was made. advice: how it would be faster.
    """
    unread: list[str] = []
    resized, computed_by = 0, ""

    def noted() -> "Iterator[Answer]":
        nonlocal resized, computed_by
        for answer in answers:
            resized, computed_by = resized + answer.resized, answer.computed_by or computed_by
            if answer.problem is not None:
                unread.append(f"{answer.image} ({answer.problem})")
            yield answer

    if as_json:
        print_json([answer.as_json() for answer in noted()])
    elif as_csv:
        rows = (row for answer in noted() for row in _csv_rows(answer))
        print_csv(rows, ("image", "rank", "class", "probability", "problem"))
    else:
        print_table([row for answer in noted() for row in _table_rows(answer)])
        if resized:
            print(f"resized     {resized:,} of {count:,} images to {size}")
        if computed_by:
            print(visible(f"computed    by {computed_by}{f'; {advice}' if advice else ''}"))
    if unread:
        raise Failure(f"{len(unread):,} of {count:,} images cannot be read: {some_of(unread)}")


def _csv_rows(answer: "Answer") -> list[dict[str, Any]]:
    if answer.problem is not None:
        return [{"image": answer.image, "problem": answer.problem}]
    return [
        {"image": answer.image, "rank": rank, "class": guess.label, "probability": guess.probability}
        for rank, guess in enumerate(answer.guesses, 1)
    ]


def _table_rows(answer: "Answer") -> list[dict[str, Any]]:
    """A row for each class, the image named in the first."""
    if answer.problem is not None:
        return [{"image": str(answer.image), "class": "", "probability": f"not read: {answer.problem}"}]
    return [
        {
            "image": "" if place else str(answer.image),
            "class": guess.label,
            "probability": f"{guess.probability:.1%}",
        }
        for place, guess in enumerate(answer.guesses)
    ]

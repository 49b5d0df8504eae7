"""`netpress evaluate`: the accuracy of a network."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netpress.cli.options import (
    AllowImport,
    AsJson,
    ByNumber,
    DataChanges,
    DataFolder,
    DatasetName,
    DeviceName,
    NetworkName,
    Threads,
    print_json,
    print_table,
)
from netpress.errors import visible

if TYPE_CHECKING:
    from netpress.evaluation import Evaluation, ExactEvaluation


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command()(evaluate)


def evaluate(
    network: NetworkName,
    data: DataFolder = None,
    dataset: DatasetName = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Sum in integers, and show every layer's largest accumulator.")
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Show the accuracy on each class too, the least first.")
    ] = False,
    overrides: DataChanges = None,
    classes_by_number: ByNumber = False,
    device: DeviceName = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
    allow_import: AllowImport = False,
) -> None:
    """Measure a network's accuracy on the test images of the data that it was trained on, or of other data.

    Classes are matched by name.
    """
    from netpress import api
    from netpress.evaluation import ExactEvaluation
    from netpress.process.console import Console
    from netpress.process.devices import set_threads

    if threads is not None:
        set_threads(threads)
    loaded = api.load(network, allow_import=allow_import)
    console = Console(quiet=as_json)
    measured = api.evaluate(
        loaded,
        data=data,
        dataset=dataset,
        exact=exact,
        device=device,
        console=console,
        set=overrides or [],
        classes_by_number=classes_by_number,
    )
    classes = _by_class(measured, loaded.classes) if per_class else []
    if classes and not as_json:
        print_table([row | {"accuracy": f"{row['accuracy']:.2%}"} for row in classes])
        print()
    told = {"classes": classes} if per_class else {}
    if isinstance(measured, ExactEvaluation):
        _show_exact(measured, as_json, told)
        return
    if as_json:
        figures = {
            "accuracy": measured.accuracy,
            "top5": measured.top5,
            "loss": measured.loss,
            "images": measured.count,
        }
        print_json(figures | told)
        return
    print(f"accuracy    {measured.accuracy:.2%} of {measured.count:,} test images")
    _print_rest(measured)


def _by_class(measured: "Evaluation", names: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class that has images, the least accurate first."""
    right, images = (counts.tolist() for counts in measured.by_class(len(names)))
    rows = [
        {"class": name, "images": images[place], "right": right[place], "accuracy": right[place] / images[place]}
        for place, name in enumerate(names)
        if images[place]
    ]
    return sorted(rows, key=lambda row: row["accuracy"])


def _print_rest(measured: "Evaluation") -> None:
    if measured.top5 is not None:
        print(f"top-5       {measured.top5:.2%}")
    print(f"loss        {measured.loss:.4f}")


def _show_exact(measured: "ExactEvaluation", as_json: bool, told: dict[str, Any]) -> None:
    """Print what the integers gave; then a Failure if some input could overflow what the network claims."""
    from netpress.numerics.claims import check_claims

    figures = measured.as_json() | told
    if as_json:
        print_json(figures)
    else:
        print_table(figures["layers"])
        print()
        for name in measured.float_layers:
            print(f"in floats   {visible(name)}")
        print(f"accuracy    {measured.accuracy:.2%} of {measured.count:,} test images, in exact integers")
        print(f"simulated   {measured.simulated_accuracy:.2%}, {measured.equal_answers:.2%} of the answers equal")
        print(f"logits      differ by at most {measured.largest_difference:.2g} of the largest")
        _print_rest(measured)
    check_claims(measured.sums)

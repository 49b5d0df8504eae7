"""`netpress evaluate`: the accuracy of a network."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netpress.cli.asking import COSINES
from netpress.cli.options import (
    AllowImport,
    AsCsv,
    AsJson,
    ByNumber,
    Cache,
    DataChanges,
    DataFolder,
    DatasetName,
    DeviceName,
    NetworkName,
    Scale,
    Threads,
    print_json,
    print_table,
    refuse_together,
)
from netpress.cli.tables import print_as_csv, print_tables, tables_as_json, wanted_tables
from netpress.errors import UserError, visible

if TYPE_CHECKING:
    from netpress.evaluation import Evaluation, ExactEvaluation

ONE_TABLE = "--csv prints one table; give one of --per-class, --confusion, --calibration and --mistakes"


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
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Show which classes are taken for which, and the most confused pairs.")
    ] = False,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Show accuracy against probability, in 15 bins.")
    ] = False,
    mistakes: Annotated[
        int | None, typer.Option("--mistakes", min=1, metavar="N", help="Show the N wrong answers given most surely.")
    ] = None,
    scale: Scale = 1.0,
    cache: Cache = None,
    overrides: DataChanges = None,
    classes_by_number: ByNumber = False,
    device: DeviceName = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    allow_import: AllowImport = False,
) -> None:
    """Measure the accuracy of a network on test images.

    They are those of the data that it was trained on, or of other data, whose classes are matched by name.
    """
    from netpress import api
    from netpress.data.store import cache_near
    from netpress.evaluation import ExactEvaluation, ends_in_cosines
    from netpress.process.console import Console
    from netpress.process.devices import set_threads

    refuse_together(json=as_json, csv=as_csv)
    if as_csv and [per_class, confusion, calibration, mistakes is not None].count(True) != 1:
        raise UserError(ONE_TABLE)
    if threads is not None:
        set_threads(threads)
    loaded = api.load(network, allow_import=allow_import)
    console = Console(quiet=as_json or as_csv)
    measured = api.evaluate(
        loaded,
        data=data,
        dataset=dataset,
        exact=exact,
        device=device,
        console=console,
        set=overrides or [],
        classes_by_number=classes_by_number,
        scale=scale,
        cache=cache_near(network, cache).path,
    )
    if ends_in_cosines(loaded):
        console.warn(COSINES.format(scale=scale))
    tables = wanted_tables(measured, loaded.classes, per_class, confusion, calibration, mistakes)
    if as_csv:
        print_as_csv(tables)
    elif as_json:
        figures = measured.as_json() if isinstance(measured, ExactEvaluation) else _plain(measured)
        print_json(figures | _judged(measured) | tables_as_json(tables, loaded.classes))
    else:
        print_tables(tables)
        if isinstance(measured, ExactEvaluation):
            _print_exact(measured)
        else:
            print(f"accuracy    {measured.accuracy:.2%} of {measured.count:,} test images")
        _print_rest(measured)
    if isinstance(measured, ExactEvaluation):
        from netpress.numerics.claims import check_claims

        check_claims(measured.sums)


def _plain(measured: "Evaluation") -> dict[str, Any]:
    return {
        "accuracy": measured.accuracy,
        "top5": measured.top5,
        "loss": measured.loss,
        "images": measured.count,
    }


def _judged(measured: "Evaluation") -> dict[str, Any]:
    """How far the accuracy can be trusted, and the probabilities."""
    from netpress.evaluation import accuracy_interval, calibrate

    right = int((measured.predicted == measured.labels.cpu()).sum())
    return {
        "interval": list(accuracy_interval(right, measured.count)),
        "calibration_error": calibrate(measured).error,
    }


def _print_exact(measured: "ExactEvaluation") -> None:
    print_table(measured.as_json()["layers"])
    print()
    for name in measured.float_layers:
        print(f"in floats   {visible(name)}")
    print(f"accuracy    {measured.accuracy:.2%} of {measured.count:,} test images, in exact integers")
    print(f"simulated   {measured.simulated_accuracy:.2%}, {measured.equal_answers:.2%} of the answers equal")
    print(f"logits      differ by at most {measured.largest_difference:.2g} of the largest")
    if measured.saturated is not None:
        print(f"saturated   {_say_saturated(measured.saturated)}")


def _say_saturated(saturated: Mapping[str, int]) -> str:
    """How many values 16 bits did not hold, and where most of them."""
    if not saturated:
        return "no value: 16 bits held all"
    worst = max(saturated, key=lambda name: saturated[name])
    total = sum(saturated.values())
    return f"{total:,} values that 16 bits did not hold, {saturated[worst]:,} of them in {visible(worst)}"


def _print_rest(measured: "Evaluation") -> None:
    judged = _judged(measured)
    low, high = judged["interval"]
    print(f"interval    {low:.2%} to {high:.2%}, at 95% for other images of the kind")
    if measured.top5 is not None:
        print(f"top-5       {measured.top5:.2%}")
    print(f"loss        {measured.loss:.4f}")
    print(f"calibration {judged['calibration_error']:.2%} apart are probability and accuracy, in the mean over 15 bins")

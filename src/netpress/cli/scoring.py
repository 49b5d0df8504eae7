"""`netpress score` and `netpress verify`: the commands that count."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from netpress.cli.options import AllowImport, AsJson, print_json, print_table, refuse_together
from netpress.cli.sizes import print_footprint, tabulate_sizes
from netpress.errors import UserError, visible

if TYPE_CHECKING:
    from netpress.scoring import ScoreCard

LARGEST_IMAGE = 1 << 28
Grouping = Literal["layer", "kind", "block"]


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    for command in (score, verify):
        app.command()(command)


def score(
    networks: Annotated[
        list[str],
        typer.Argument(metavar="NETWORK", help="Network files, run folders, ONNX files, or models as NAME[:SETTINGS]."),
    ],
    convention: Annotated[str | None, typer.Option(help="Whose rules: see `netpress list conventions`.")] = None,
    track: Annotated[str | None, typer.Option(help="What it is relative to: cifar100, imagenet, ...")] = None,
    weight_bits: Annotated[int | None, typer.Option(help="Assume this width of weights.")] = None,
    activation_bits: Annotated[int | None, typer.Option(help="Assume this width of activations.")] = None,
    accumulator: Annotated[str | None, typer.Option(help="Assume sums in a tree, or of 16 or 32 bits.")] = None,
    input_size: Annotated[
        str | None,
        typer.Option(metavar="SIZES", help="Size of an image, as 3,224,224; for ONNX files that leave it open."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of a recipe's [score] table; repeatable."),
    ] = None,
    per: Annotated[Grouping | None, typer.Option(help="Rows of the table: by default block, in JSON layer.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the rules applied, with their sources.")] = False,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line a row.")] = False,
    allow_import: AllowImport = False,
) -> None:
    """Count parameters and operations by a convention.

    Several networks are compared. --set takes the settings of a recipe's [score] table by their own names, such as
    mask=cheaper.
    """
    from netpress.network import resolve
    from netpress.recipe.overrides import join_options
    from netpress.scoring import choose_settings
    from netpress.scoring import score as count

    refuse_together(json=as_json, csv=as_csv, explain=explain)
    if per is not None and (explain or (len(networks) > 1 and not as_json and not as_csv)):
        raise UserError(f"--per {per}: there are no rows of layers with --explain, nor where networks are compared")
    options = {"convention": convention, "track": track, "weight_bits": weight_bits}
    options |= {"activation_bits": activation_bits, "accumulator": accumulator}
    values = join_options(overrides or [], options)
    if "score" in values:
        raise UserError("--set score: leave out `score.`, as in --set mask=cheaper; only this table can be set here")
    settings = choose_settings(None, None, values)
    size = None if input_size is None else _size(input_size)
    cards = []
    for name in networks:
        network = Path(name) if name.lower().endswith(".onnx") else resolve(name, allow_import=allow_import)
        cards.append((name, count(network, size, settings=settings)))
    if as_json:
        # Every weight appears in a row of its layer; groups are for people.
        figures = [{"network": name} | card.as_json(per or "layer") for name, card in cards]
        print_json(figures[0] if len(figures) == 1 else figures)
    elif as_csv:
        for _, card in cards:
            print(visible(card.as_csv(per or "block")), end="")
    elif explain:
        print(visible("\n\n".join(f"{name}: {card.explain()}" for name, card in cards)))
    elif len(cards) == 1:
        _print_card(*cards[0], per or "block")
    else:
        print_table([{"network": name} | _totals(card) for name, card in cards])


def _size(text: str) -> tuple[int, ...]:
    """Lengths from text: 3,224,224 or 3x224x224."""
    parts = re.split(r"[,x]", text.strip("()[] "))
    lengths = [int(part) if part.strip().isdecimal() and len(part) < 6 else 0 for part in parts]
    if not all(lengths) or math.prod(lengths) > LARGEST_IMAGE:
        raise UserError(
            f"--input-size {text[:60]}: write the sizes of one image, as 3,224,224; "
            f"in all at most {LARGEST_IMAGE:,} values"
        )
    return tuple(lengths)


def _totals(card: "ScoreCard") -> dict[str, Any]:
    return {
        "score": f"{card.score:.6f}",
        "parameters": f"{card.params:,.2f}",
        "operations": f"{card.operations:,.0f}",
        "of_parameters": f"{card.params_score:.6f}",
        "of_operations": f"{card.operations_score:.6f}",
        "accuracy": "" if card.accuracy is None else f"{card.accuracy:.2%}",
        **({} if card.footprint is None else tabulate_sizes(card.footprint.totals())),
        "convention": card.convention,
    }


def _print_card(name: str, card: "ScoreCard", per: Grouping) -> None:
    rows = [
        {
            "name": row.name,
            "kind": row.kind,
            "weights": row.weights,
            "nonzeros": row.nonzeros,
            "params": f"{row.params:,.1f}",
            "multiplications": round(row.multiplications),
            "additions": round(row.additions),
            "operations": f"{row.operations:,.0f}",
            "note": row.note or row.uncounted,
        }
        for row in card.grouped(per)
    ]
    print_table(rows)
    print()
    _print_ranks(card)
    for line in (*(f"assumed: {text}" for text in card.assumed), *card.notes):
        print(visible(line))
    print(f"network     {name}")
    print(f"parameters  {card.params:,.2f} values of 32 bits: {card.params_score:.7f}")
    print(f"operations  {card.operations:,.0f} of 32 bits an image: {card.operations_score:.7f}")
    print(f"score       {card.score:.7f} by the {card.convention} convention, {_relative(card)}")
    if card.footprint is not None:
        print_footprint(card.footprint)
    if card.accuracy is None and Path(name).exists() and not name.lower().endswith(".onnx"):
        print("accuracy    not known: its file holds none; `netpress evaluate` measures it")
    if card.accuracy is not None:
        print(f"accuracy    {card.accuracy:.2%}{_gate(card)}")
    if card.printed:
        print(f"\nas the authors of {card.convention} print it")
        print("\n".join(card.printed))


def _print_ranks(card: "ScoreCard") -> None:
    """The layers in factors, if there are any, as a table of their own."""
    if not card.in_factors:
        return
    print("layers in factors")
    rows = [layer.as_json() for layer in card.in_factors]
    print_table(
        [
            {
                "layer": row["name"],
                "kernel": "x".join(map(str, row["kernel"])) or "linear",
                "ranks": ", ".join(map(str, row["ranks"])),
                "of": ", ".join(map(str, row["full_ranks"])),
                "weights_whole": row["whole"],
                "weights_now": row["weights"],
                "share": f"{row['weights'] / row['whole']:.0%}",
            }
            for row in rows
        ]
    )
    print()


def _relative(card: "ScoreCard") -> str:
    return f"relative to {card.track.baseline}" if card.track.gate is None else f"{card.track.name} track"


def _gate(card: "ScoreCard") -> str:
    if card.meets_gate is None or card.track.gate is None:
        return ""
    return f": {'meets' if card.meets_gate else 'misses'} the gate of {card.track.gate:.0%}"


def verify(
    vectors: Annotated[Path, typer.Argument(metavar="VECTORS.json", help="Cases of the official counter.")],
    as_json: AsJson = False,
) -> None:
    """Check the official counter against a file of cases.

    The exit code is 1 where any disagrees.
    """
    from netpress.scoring import verify as check

    result = check(vectors)
    if as_json:
        print_json({"cases": result.cases, "agreeing": result.agreeing, "disagreements": result.disagreements})
    else:
        for line in result.disagreements:
            print(visible(line))
        print(f"{result.agreeing} of {result.cases} cases agree with the official counter")
    if result.disagreements:
        raise typer.Exit(1)

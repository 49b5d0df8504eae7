"""The command line as a person meets it: what it prints, and how it says no."""

import json
import os
import re
from pathlib import Path

import pytest
import typer

from netpress.cli import app
from netpress.cli.options import print_table
from netpress.network import create, load, save


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "net.netpress"
    made = create("c_efficientnet", {"widths": "tiny", "width_factor": 0.5, "classes": 10}, seed=1)
    made.facts["dataset"] = "digits"
    save(made, path)
    return path


def test_version_and_help(call):
    code, out, _ = call("--version")
    assert code == 0
    assert out.startswith("netpress ")
    for command in ("run", "plan", "evaluate", "score", "apply", "report", "new", "list"):
        code, out, _ = call(command, "--help")
        assert code == 0
        assert "Usage" in out


def test_the_list_of_commands_cuts_no_sentence(call):
    code, out, _ = call("--help")
    commands = out.partition("Commands:")[2].splitlines()
    assert code == 0 and len([line for line in commands if line.startswith("  ")]) > 15
    assert not [line for line in commands if not line.endswith(".") and line]


@pytest.mark.parametrize(
    "what", ["recipes", pytest.param("models", marks=pytest.mark.slow), "stages", "datasets", "conventions"]
)
def test_lists(call, what):
    code, out, _ = call("list", what, "--json")
    rows = json.loads(out)
    assert code == 0
    assert rows
    assert all(row == rows[0] or row.keys() == rows[0].keys() for row in rows)
    assert call("list", what)[0] == 0


def test_evaluate_and_score(call, network):
    code, out, _ = call("evaluate", network, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["images"] == 300
    assert "classes" not in told
    told = json.loads(call("evaluate", network, "--json", "--per-class")[1])
    assert sorted(row["class"] for row in told["classes"]) == [str(digit) for digit in range(10)]
    assert sum(row["images"] for row in told["classes"]) == 300
    assert sum(row["right"] for row in told["classes"]) == round(300 * told["accuracy"])
    shown = call("evaluate", network, "--per-class")[1].splitlines()
    assert [line.split()[0] for line in shown[1:11]] == [row["class"] for row in told["classes"]]
    code, out, _ = call("score", network, "--json")
    assert code == 0
    figures = json.loads(out)
    assert figures["convention"] == "official"
    assert {"params", "operations", "score", "layers"} <= figures.keys()
    assert call("score", network)[0] == 0


def test_published_network_by_name(call):
    code, out, _ = call("score", "c_efficientnet:v1,expansion=3,classes=100", "--json")
    assert code == 0
    figures = json.loads(out)
    assert sum(layer["weights"] for layer in figures["layers"]) == 450_456


def test_apply_and_resume_folder(call, network, tmp_path):
    code, _, err = call("apply", "prune", network, "--set", "amount=0.5", "--out", tmp_path / "half.netpress")
    assert code == 0, err
    pruned = load(tmp_path / "half.netpress")
    weights = sum(weight.numel() for weight in pruned.weights().values())
    left = sum(int(weight.count_nonzero()) for weight in pruned.weights().values())
    assert left == weights - round(weights * 0.5) or abs(left / weights - 0.5) < 1e-3
    assert not (tmp_path / "half.netpress.work").exists()


def test_plan_of_the_published_recipe(call):
    code, out, _ = call("plan", "c-efficientnet", "--json")
    assert code == 0
    planned = json.loads(out)
    assert planned["weights"] == 450_456
    train, prune = planned["stages"]
    assert sum(row.get("epochs") or 0 for row in train["rows"]) == 600
    rounds = [row for row in prune["rows"] if "amount" in row]
    assert [row["amount"] for row in rounds] == pytest.approx([0.15, 0.30, 0.45, 0.60])
    assert rounds[-1]["left"] == pytest.approx(450_456 * 0.4, abs=1)
    assert call("plan", "c-efficientnet")[0] == 0


def test_new_plan(call, tmp_path):
    assert call("new", "mine")[0] == 0
    code, out, _ = call("plan", "mine.toml")
    assert code == 0
    assert "02-prune" in out
    code, _, err = call("new", "mine")
    assert code == 2
    assert "is there already" in err


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["run", "nonsense"], 2, "no recipe of this name"),
        (["run", "."], 2, ".: is a folder, not a recipe; --data takes folders of images"),
        (["evaluate", "nonsense"], 2, "nor is there a file or a run folder of this name"),
        (["run", "digits", "--set", "stages.1.amount=1.4"], 2, "stages.1.prune.amount: 1.4 is not between 0 and 1"),
        (["run", "digits", "--set", "stages.0.layers=3"], 2, "stages.0.train.layers: no such setting"),
        (["run", "digits", "--device", "tpu"], 2, "--device"),
        (["run", "digits", "--epochs-scale", "0"], 2, "--epochs-scale"),
        (["run", "digits", "--set", "data.dataset=folder"], 2, "--data"),
        (["run", "digits", "--set", "data.dataset=folder", "--data", "missing"], 2, "missing"),
        (["run", "digits", "--set", "stages.1.layers=blocks.99*"], 2, "blocks.99*"),
        (["evaluate", "missing.netpress"], 2, "no such file"),
        (["evaluate", "c_efficientnet:tiny,classes=10"], 2, "--dataset"),
        (["evaluate", "c_efficientnet:tiny,classes=7", "--dataset", "digits"], 2, "7 classes"),
        (["evaluate", "c_efficientnet:tiny", "--dataset", "mnist"], 2, "mnist"),
        (["score", "resnext:50"], 2, "no such model"),
        (["score", "c_efficientnet:tiny", "--convention", "mine"], 2, "mine"),
        (["apply", "shrink", "c_efficientnet:tiny", "--out", "x"], 2, "no such stage"),
        (["apply", "prune", "c_efficientnet:tiny", "--out", "x"], 2, "amount: is missing"),
        (["apply", "train", "c_efficientnet:tiny", "--out", "x"], 2, "data"),
        (["report", "nowhere"], 2, "nowhere"),
        (["list", "colours"], 2, "recipes"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_what_cannot_be_done_is_one_message(call, words, code, expected):
    got, _, err = call(*words)
    assert got == code, err
    assert expected in " ".join(err.replace("│", " ").split())


def test_damaged_network(call, network):
    network.write_bytes(network.read_bytes()[:-100])
    code, _, err = call("evaluate", network)
    assert code == 1
    assert err.startswith("netpress: ")
    assert len(err.strip().splitlines()) == 1


def test_inspect(call, network):
    code, out, _ = call("inspect", network, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["file_bytes"] == network.stat().st_size
    assert found["tensor_bits"] == sum(layer["tensor_bits"] for layer in found["layers"])
    assert found["tensor_bits"] < 8 * found["file_bytes"] < found["tensor_bits"] + 8 * 40_000
    assert call("inspect", network)[0] == 0


def test_import_of_what_is_no_release(call, network, tmp_path):
    code, _, err = call("import", "riair", network, "--out", tmp_path / "x.netpress")
    assert (code, "there are kaist and imt" in err) == (2, True)
    for source in ("kaist", "imt"):
        code, _, err = call("import", source, network, "--out", tmp_path / "x.netpress")
        assert code in (1, 2)
        assert str(network) in err
        assert not (tmp_path / "x.netpress").exists()


@pytest.mark.skipif("NETPRESS_RELEASED" not in os.environ, reason="set NETPRESS_RELEASED to the folder of .t7 files")
def test_the_2019_entry_scores_what_the_board_says(call, tmp_path):
    source = Path(os.environ["NETPRESS_RELEASED"]) / "micronet_v1_pr_60.t7"
    assert call("import", "kaist", source, "--out", "v1.netpress")[0] == 0
    code, out, _ = call("score", "v1.netpress", "--json")
    assert code == 0
    assert sum(layer["nonzeros"] for layer in json.loads(out)["layers"]) == 180_182


def test_the_nano_of_2022_scores_what_their_slides_say(call):
    source = Path(os.environ.get("NETPRESS_RELEASED", "none")).parent / "imt" / "nano.safetensors"
    if not source.exists():
        pytest.skip("there is no folder imt beside the one that NETPRESS_RELEASED names")
    assert call("import", "imt", source, "--out", "nano.netpress")[0] == 0
    code, out, _ = call("score", "nano.netpress", "--convention", "imt", "--set", "claimed_sparsity=0.197", "--json")
    figures = json.loads(out)
    assert (code, figures["operations"], int(figures["params"])) == (0, 22_675_830, 47_837)
    assert figures["score"] == pytest.approx(0.0357, abs=5e-5)
    slide = ["Flops: 22675830.0, Params: 47837.0", "Score flops: 0.0271 Score Params: 0.0086", "Final score: 0.0357"]
    assert figures["printed"] == slide
    code, out, _ = call("score", "nano.netpress", "--convention", "imt", "--set", "claimed_sparsity=0.197")
    assert (code, out.splitlines()[-4:]) == (0, ["as the authors of imt print it", *slide])
    assert "authors" not in call("score", "nano.netpress")[1]


def test_help_shows_what_stands_in_brackets(call):
    """Every bracket of every help text is printed: none is taken for markup."""
    root = typer.main.get_command(app)
    commands = [([name], command) for name, command in root.commands.items()]
    commands += [
        ([*words, name], inner)
        for words, command in commands
        for name, inner in getattr(command, "commands", {}).items()
    ]
    seen = 0
    for words, command in commands:
        texts = [command.help or "", *(getattr(parameter, "help", "") or "" for parameter in command.params)]
        wanted = [found for text in texts for found in re.findall(r"\[[^]\s]+\]", text)]
        _, out, _ = call(*words, "--help")
        assert all(found in out for found in wanted), words
        seen += len(wanted)
    assert seen >= 5
    assert "[sweep]" in call("run", "--help")[1]


def test_tables_show_what_stands_in_brackets(capsys):
    print_table([{"what": "[sweep] [bold]x[/bold]", "shape": [1, 2]}])
    assert "[sweep] [bold]x[/bold]" in capsys.readouterr().out


def test_a_recipe_that_cannot_be_is_told_with_what_to_do(call):
    code, _, err = call("plan", "digits", "--set", "model.family=resnet")
    assert code == 2
    assert "tiny, dropout: of c_efficientnet; a table for another family is replaced as a whole" in err
    change = re.search(r"--set '(model=.*?)'", err)[1]
    assert call("plan", "digits", "--set", change)[0] == 0
    for words in (
        ("--epochs-scale", "inf"),
        ("--set", f"seed={'1' * 5000}"),
        ("--set", f"model.classes={'[' * 5000}"),
        ("--set", f"{'a.' * 5000}b=1"),
        ("--set", "stages=[]"),
        ("--seed", "9" * 30),
    ):
        code, _, err = call("plan" if "--seed" not in words else "run", "digits", *words)
        assert code == 2, words
        assert len(err) < 1000

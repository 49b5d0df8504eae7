"""Searching a policy of augmentations: Fast AutoAugment (Lim et al. 2019, algorithm 1), by matching of densities.

The training images are divided into folds, and a network is trained without each of them. A good policy makes of the
fold's images ones that the network still knows: they lie where its training images lie. So a candidate costs one pass
over a fold's images and no training. The best candidates of every round of every fold are the policy.

Candidates of a round are compared on the same draws: each image has the same random numbers under every one of them.
A round's journal (`Journal`) says what was tried, and what is asked next depends on nothing else but the seed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from netpress.data import Dataset, Images
from netpress.data.dataset import checksum_of
from netpress.data.operations import OPERATIONS
from netpress.data.policies import PolicySet, policy_of
from netpress.errors import UserError
from netpress.evaluation.accuracy import check_answers, evaluate_module
from netpress.files import atomic_write, parse_toml, read_text
from netpress.folders.policy_search import PolicySearchFolder
from netpress.network import Library
from netpress.process.devices import choose_device, generator_for, seed_for
from netpress.recipe.policy_schema import PolicySearch
from netpress.recipe.scaling import scale_recipe
from netpress.recipe.schema import Recipe, check_recipe
from netpress.recipe.search_schema import Candidates, Range
from netpress.runs.beginning import load_run_data
from netpress.runs.environment import describe_environment, settle_threads
from netpress.runs.jobs import RunOptions
from netpress.runs.planning import plan_network
from netpress.runs.search.folds import Fold, FoldWork, fold_stages
from netpress.runs.search.sampling import propose, require_optuna
from netpress.runs.search.trials import Journal, Trial
from netpress.scoring import Limits

STEPS = 2  # operations of a sub-policy, as published
METHOD = "Fast AutoAugment (Lim et al. 2019): density matching, TPE"


@dataclass(frozen=True)
class FoundPolicy:
    """What a search came to."""

    path: Path
    sub_policies: tuple[Any, ...]
    """Each a list of [operation, probability, level]."""
    rounds: tuple[Mapping[str, Any], ...]
    """Of each round of each fold: the figures of the images as they are, of the best candidate and of the worst that
    was taken."""


@dataclass(frozen=True)
class Choice:
    """What a round of a fold chooses from, as `propose` asks it."""

    space: Mapping[str, Candidates]
    objectives: tuple[str, ...]
    sampler: str
    random_trials: int

    @classmethod
    def of(cls, search: PolicySearch) -> "Choice":
        """The space of all candidates: of every step the operation, the probability and the level."""
        space: dict[str, Candidates] = {}
        for place in range(search.sub_policies * STEPS):
            step = f"{place // STEPS}.{place % STEPS}"
            space[f"{step}.operation"] = tuple(OPERATIONS)
            space[f"{step}.probability"] = space[f"{step}.level"] = Range(low=0.0, high=1.0)
        return cls(space, (search.objective,), search.sampler, search.random_trials)


def sub_policies_of(values: Mapping[str, Any]) -> list[Any]:
    """The sub-policies of a candidate, as a policy's file has them."""
    steps = sorted({path.rpartition(".")[0] for path in values}, key=lambda step: [int(n) for n in step.split(".")])
    listed = [[values[f"{step}.{what}"] for what in ("operation", "probability", "level")] for step in steps]
    return [listed[place : place + STEPS] for place in range(0, len(listed), STEPS)]


def search_policy(recipe: Recipe, out: Path, options: RunOptions, dataset: Dataset | None = None) -> FoundPolicy:
    """Search a policy for the training of `recipe` and write it to `out`; an interrupted search goes on.

    It may grow by rounds and candidates, and take more or fewer of them. Of the data only the training images are
    looked at. Of a sweep or search, the recipe counts that its members have in common. `dataset` is what the recipe
    reads, where it was read before. Raises UserError where Optuna is not installed, for a recipe that trains no new
    network, and where a search of another recipe or of other images lies beside `out`; Failure where a training fails.
    """
    require_optuna()
    if out.suffix != ".json":
        raise UserError(f"--out {out}: a policy is a JSON file; give it a name that ends in .json")
    search = recipe.policy_search or PolicySearch()
    recipe = recipe.model_copy(update={"policy_search": search, "sweep": None, "search": None})
    device, folder, library = choose_device(options.device), PolicySearchFolder(out), Library(options.allow_import)
    stages = tuple(fold_stages(recipe))
    # What the folds cannot train is refused before anything is read or written; what is asked of a result is not asked.
    plan_network(recipe.model_copy(update={"stages": stages, "limits": Limits()}), options.data, library)
    with folder.claimed():
        _settle(folder, recipe, options.fresh)
        console = options.console.with_log(folder.top.log)
        dataset = dataset or load_run_data(recipe.data, options.data, recipe.seed, None, console)
        images, checksum = dataset.train, checksum_of(dataset.train)
        where = {"seed": recipe.seed, **describe_environment(device, options.threads), "data_checksum": checksum}
        settle_threads(folder.top.settle_environment(where, console.warn))
        scaled = scale_recipe(recipe, search.epochs_scale)
        work = FoldWork(
            scaled, search, images, dataset.classes, dataset.name, folder, library, device, console,
            options.save_every_seconds,
        )  # fmt: skip
        taken, rounds = [], []
        for number in range(search.folds):
            fold = work.make(number)
            for index in range(search.rounds):
                best = _search_round(work, fold, index)
                taken += [sub for trial in best for sub in sub_policies_of(trial.values)]
                rounds.append(_tell(work, fold, index, best))
        found = FoundPolicy(out, tuple(taken), tuple(rounds))
        atomic_write(out, write_policy(found, scaled, images, checksum))
        return found


def _settle(folder: PolicySearchFolder, recipe: Recipe, fresh: bool) -> None:
    """Make the folder that of this search. Raises UserError where another one was begun here."""
    if fresh:
        folder.clear()
    if folder.recipe.exists():
        before = check_recipe(parse_toml(read_text(folder.recipe), str(folder.recipe)))
        if _without_amounts(before) != _without_amounts(recipe):
            raise UserError(
                f"{folder.path}: holds a policy search that was begun with another recipe; choose another --out, or "
                "give --fresh to begin anew in its place"
            )
    folder.begin(recipe.text)


def _without_amounts(recipe: Recipe) -> str:
    """The recipe without what a search may change as it grows: its networks and what it has tried stay good."""
    assert recipe.policy_search is not None
    search = recipe.policy_search.model_copy(update={"rounds": 1, "candidates": 1, "best": 1})
    return recipe.model_copy(update={"policy_search": search}).text


def _search_round(work: FoldWork, fold: Fold, index: int) -> list[Trial]:
    """Try the candidates of a round; the best of them, the best first."""
    search, journal = work.search, Journal(work.folder.journal(fold.number, index))
    choice, seed = Choice.of(search), seed_for(work.recipe.seed, "policy", fold.number, index)
    title = f"fold {fold.number + 1}, round {index + 1}"
    with work.console.progress(title, search.candidates) as progress:
        for number in range(search.candidates):
            trial = journal.trials.get(number)
            if trial is None:
                trial = Trial(number, propose(choice, seed, number, journal.history()))
                journal.ask(trial)
            if trial.state == "open":
                trial = replace(trial, state="done", figures=_judge(fold, trial.values, seed))
                journal.tell(trial)
            progress.update(number + 1, **trial.figures)
    sign = -1 if search.objective == "accuracy" else 1
    tried = [journal.trials[number] for number in range(search.candidates)]
    return sorted(tried, key=lambda trial: sign * trial.figures[search.objective])[: search.best]


def _judge(fold: Fold, values: Mapping[str, Any], seed: int) -> dict[str, float]:
    """What the fold's network makes of its images under a candidate: one pass over them, and no training."""
    policies = PolicySet([policy_of(sub_policies_of(values), "candidate", "candidate")])
    changed = Images(policies(fold.judged.images[:], generator_for(seed, "draws")), fold.judged.labels)
    spec = fold.network.input
    measured = evaluate_module(fold.network.module, changed, spec.mean, spec.std)
    check_answers(measured)
    return {"accuracy": measured.accuracy, "loss": measured.loss}


def _tell(work: FoldWork, fold: Fold, index: int, best: list[Trial]) -> Mapping[str, Any]:
    first, last = best[0].figures, best[-1].figures
    work.console.say(
        f"fold {fold.number + 1}, round {index + 1}: of {len(fold.judged):,} images {fold.plain.accuracy:.2%} as they "
        f"are (loss {fold.plain.loss:.3f}), {first['accuracy']:.2%} ({first['loss']:.3f}) under the best candidate, "
        f"{last['accuracy']:.2%} ({last['loss']:.3f}) under the last that is taken"
    )
    plain = {"accuracy": fold.plain.accuracy, "loss": fold.plain.loss}
    return {"fold": fold.number + 1, "round": index + 1, "plain": plain, "best": dict(first), "last": dict(last)}


def write_policy(found: FoundPolicy, recipe: Recipe, images: Images, checksum: str) -> str:
    """The text of the policy's file: what `augment` reads, and where it comes from; the recipe's epochs are scaled."""
    search = recipe.policy_search or PolicySearch()
    provenance = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "dataset": recipe.data.dataset,
        "train_images": len(images),
        "train_checksum": checksum,
        "model": recipe.model,
        "stages": [stage.model_dump(mode="json", exclude_none=True) for stage in fold_stages(recipe)],
        "policy_search": search.model_dump(mode="json", exclude_none=True),
        "versions": {name: metadata.version(name) for name in ("netpress", "torch", "optuna")},
        "rounds": list(found.rounds),
    }
    lines = ",\n".join(json.dumps(sub) for sub in found.sub_policies)
    head = {"name": found.path.stem, "dataset": recipe.data.dataset, "source": METHOD, "provenance": provenance}
    return json.dumps(head, indent=1)[:-2] + f',\n "sub_policies": [\n{lines}\n]}}\n'

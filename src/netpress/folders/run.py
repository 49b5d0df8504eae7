"""A run's folder: the names of what lies in it, who may write there, and what it holds.

runs/NAME/recipe.toml        the resolved recipe: every setting stated
          environment.json   seed, versions, git commit, device, threads, data checksum
          data.json          what the images are: counts, copies, what was left out, warnings
          log.txt            what was said
          01-train/ ...      one folder a stage, see `netpress.folders.stage`
          metrics.jsonl      the metrics of all stages
          log.tsv            of these, accuracy on the training and the selection images after each epoch, in percent
          network.netpress   the result
          predictions.safetensors    the class that the result gives to each test image
          judgement.json     what the networks of all stages say of the test images
          pictures/          examples.png augmented.png mistakes.png: what is learnt from, and what is mistaken
          score.json         its accuracy and score card: the run is finished
          report.html        the page
          stages.json        of a sweep's member that was asked for it: what each stage and round left
          failure.json       of a run that failed: the message; gone once it goes on
          events.out.tfevents...     what each stage came to, for TensorBoard, where that was asked for
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.errors import Failure, UserError
from netpress.files import atomic_write, read_object, read_text
from netpress.folders.holding import (
    LOCK,
    find_written,
    held,
    is_empty,
    refuse_other_contents,
    remove_empty,
    remove_written,
)
from netpress.folders.stage import (
    EVENTS,
    METRICS,
    NETWORK,
    STAGE_FILES,
    StageFolder,
    format_accuracies,
    format_metrics,
)

RECIPE = "recipe.toml"
ENVIRONMENT = "environment.json"
DATA = "data.json"
LOG = "log.txt"
ACCURACIES = "log.tsv"
PREDICTIONS = "predictions.safetensors"
SCORE = "score.json"
REPORT = "report.html"
JUDGEMENT = "judgement.json"
PICTURES = "pictures"
EXAMPLES = "examples.json"
"""In the pictures' folder: what those of examples show; the last that is written of them."""
PICTURE_FILES = (EXAMPLES, "examples.png", "augmented.png", "mistakes.png")
STAGES = "stages.json"
FAILURE = "failure.json"
RUN_FILES = (
    *(STAGES, FAILURE, EVENTS, METRICS, ACCURACIES, SCORE, JUDGEMENT, PREDICTIONS, REPORT),
    *(NETWORK, DATA, ENVIRONMENT, LOG, RECIPE),
)
"""What is written in a run's own folder, in the order in which it is removed. The recipe is the last, so that a
clearing that was interrupted is seen."""
DRAFT_FILES = (*STAGE_FILES, ENVIRONMENT, RECIPE)
"""What `RunFolder.begin_with` writes before the folder has its name."""
Resolve = Callable[[str], str]
SEVERAL = {"sweep": b"\n[sweep]\n", "search": b"\n[search]\n", "chain": b"\n[networks]\n"}
"""How the recipes of several runs are told from that of one: a sweep may be one of chains, so it comes first."""
NEEDED = "networks"
"""Of the environment of a chain's network: which others it began with."""
BITS_DEPEND_ON = ("versions", "device", "machine", "compiled_kernels", "processes")
"""Of the environment: a run that goes on where one of these differs may end with other bits."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Making the object touches nothing on disk."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / RECIPE

    @property
    def environment(self) -> Path:
        return self.path / ENVIRONMENT

    @property
    def data(self) -> Path:
        return self.path / DATA

    @property
    def log(self) -> Path:
        return self.path / LOG

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def accuracies(self) -> Path:
        return self.path / ACCURACIES

    @property
    def network(self) -> Path:
        return self.path / NETWORK

    @property
    def predictions(self) -> Path:
        return self.path / PREDICTIONS

    @property
    def score(self) -> Path:
        return self.path / SCORE

    @property
    def report(self) -> Path:
        return self.path / REPORT

    @property
    def judgement(self) -> Path:
        return self.path / JUDGEMENT

    @property
    def examples(self) -> Path:
        return self.path / PICTURES / EXAMPLES

    def picture(self, name: str) -> Path:
        """The picture called `name`, one of PICTURE_FILES, whether it is there or not."""
        return self.path / PICTURES / f"{name}.png"

    @property
    def stage_figures(self) -> Path:
        return self.path / STAGES

    @property
    def failure(self) -> Path:
        return self.path / FAILURE

    @property
    def is_finished(self) -> bool:
        return self.score.exists()

    @property
    def holds_run(self) -> bool:
        """Whether a run, a sweep or a chain was begun here."""
        return self.recipe.is_file()

    @property
    def was_begun(self) -> bool:
        """As `holds_run`, and that the recipe is not just somebody's own: what a run writes at once lies beside it."""
        beside = (self.path / LOCK, self.environment, self.score)
        return self.holds_run and any(path.is_file() for path in beside)

    @property
    def kind(self) -> str:
        """What the recipe here stands for: a run, or several in folders below: a sweep, a search, a chain."""
        text = self.recipe.read_bytes() if self.holds_run else b""
        return next((kind for kind, header in SEVERAL.items() if header in text), "run")

    def stage(self, name: str) -> StageFolder:
        """The folder of the stage called `name`, as 01-train, whether it is there or not."""
        return StageFolder(self.path / name)

    def stages(self) -> list[StageFolder]:
        """The folders of the stages that have begun, in order."""
        return [StageFolder(path) for path in sorted(self.path.glob("[0-9][0-9]-*")) if path.is_dir()]

    def finished_stages(self) -> list[StageFolder]:
        """The stages at the beginning of the run that are done, up to the first that is not."""
        stages = self.stages()
        count = next((place for place, stage in enumerate(stages) if not stage.is_done), len(stages))
        return stages[:count]

    def networks(self) -> list[Path]:
        """What the stages left, in order: of a stage with rounds each round's, whose last is the stage's."""
        return [network for stage in self.stages() for network in stage.networks()]

    def label(self, network: Path) -> str:
        """What a network of `networks` is called in tables: 02-prune/round-1."""
        return network.parent.relative_to(self.path).as_posix()

    def read_score(self) -> dict[str, Any]:
        """The final figures. Raises UserError where the run is not finished, Failure where the file is damaged."""
        return read_object(self.score)

    def read_judgement(self) -> dict[str, Any]:
        """What was measured on the test images so far; empty where nothing was, or what was written is damaged."""
        try:
            return read_object(self.judgement, stages=dict)
        except (UserError, Failure):  # it is measured again
            return {}

    def write_score(self, figures: dict[str, Any]) -> None:
        """Write the final figures, after which the run is finished."""
        atomic_write(self.score, json.dumps(figures, indent=1))

    def write_data(self, findings: dict[str, Any]) -> None:
        """Write what a look at the data found."""
        atomic_write(self.data, json.dumps(findings, indent=1, ensure_ascii=False))

    def read_summaries(self) -> list[dict[str, Any]]:
        """What each finished stage came to, in order. Raises Failure where a mark is damaged."""
        return [stage.read_summary() for stage in self.stages() if stage.done.exists()]

    def collect_metrics(self) -> None:
        """Write the run's metrics anew from its stages' own, and the table of accuracies that is made of them."""
        lines = [line for stage in self.stages() for line in stage.read_metrics()]
        atomic_write(self.metrics, format_metrics(lines))
        atomic_write(self.accuracies, format_accuracies(lines))

    @contextmanager
    def claimed(self, recipe: str, fresh: bool = False, resolve: Resolve = str) -> Iterator[None]:
        """Make this the folder of the run of `recipe`, a TOML text, and keep other processes out of it.

        A run of the same recipe goes on; with `fresh` whatever run is here is removed. `resolve` states a recipe that
        an older version wrote as this one would. Raises UserError where the
        folder holds a run of another recipe, a sweep, or something else; Failure where another process holds it.
        """
        refuse_other_contents(self.path, RECIPE, "run")
        with held(self.path):
            self._settle_recipe(recipe, fresh, resolve)
            self.failure.unlink(missing_ok=True)
            try:
                yield
            except Exception as error:
                with suppress(OSError, Failure):  # a full disk may be why it failed
                    atomic_write(self.failure, json.dumps({"message": str(error)}))
                raise

    def _settle_recipe(self, recipe: str, fresh: bool, resolve: Resolve) -> None:
        if self.kind != "run":
            raise UserError(f"--out {self.path}: holds a {self.kind} of several runs; choose another folder")
        if fresh and self.recipe.exists():
            self.clear()
        elif self.is_of_another(recipe, resolve):
            raise UserError(
                f"{self.path}: holds a run of another recipe (see {self.recipe}); "
                "choose another --out, or give --fresh to begin anew in its place"
            )
        atomic_write(self.recipe, recipe)

    def is_of_another(self, recipe: str, resolve: Resolve = str) -> bool:
        """Whether a run of another recipe than this TOML text was begun here. `resolve` as for `claimed`."""
        if not self.recipe.exists():
            return False
        text = read_text(self.recipe)
        return recipe not in (text, resolve(text))

    def settle_environment(self, now: dict[str, Any], warn: Callable[[str], None]) -> dict[str, Any]:
        """Record where the run happens; what was recorded when it began.

        Raises UserError where a run goes on with other data. Where one goes on with what makes other bits, `warn` is
        told so.
        """
        if not self.environment.exists():
            atomic_write(self.environment, json.dumps(now, indent=1))
            return now
        before = read_object(self.environment, data_checksum=str, versions=dict, device=str, threads=int)
        if before["data_checksum"] != now["data_checksum"]:
            raise UserError(
                f"{self.path}: this run began with other data; give the same --data, or --fresh to begin anew"
            )
        for key in BITS_DEPEND_ON:
            if key in before and before[key] != now[key]:
                warn(f"{self.path}: the run began with {key} {before[key]}, now {now[key]}: bits may differ")
        resumed = [*before.get("resumed", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")]
        before = before | {"resumed": resumed}
        atomic_write(self.environment, json.dumps(before, indent=1))
        return before

    def read_needed(self) -> dict[str, str] | None:
        """The networks of the same chain that the run began with: name -> what tells it from others.

        None where the run has not begun, or is not of a chain. Raises Failure where the record is damaged.
        """
        return read_object(self.environment).get(NEEDED) if self.environment.exists() else None

    def begin_with(self, stages: Sequence[StageFolder], origin: "RunFolder", recipe: str) -> None:
        """Begin the run of `recipe` with copies of finished `stages` of the run `origin`, as if it had run them.

        The folder must be empty. It appears at once or not at all.
        """
        draft = RunFolder(self.path.with_name(f".{self.path.name}.draft"))
        remove_written(draft.path, DRAFT_FILES)
        for stage in stages:
            shutil.copytree(stage.path, draft.stage(stage.name).path)
        shutil.copy(origin.environment, draft.environment)
        atomic_write(draft.recipe, recipe)
        remove_written(self.path, ())  # an empty one, with a lock
        draft.path.rename(self.path)

    @property
    def is_empty(self) -> bool:
        return is_empty(self.path)

    def below(self) -> list[Path]:
        """The folders that a run made here."""
        return [*(stage.path for stage in self.stages()), self.path / PICTURES]

    def written(self) -> Iterator[Path]:
        """What a run wrote here, in the order in which it is to be removed."""
        for stage in self.stages():
            yield from find_written(stage.path, STAGE_FILES)
        yield from find_written(self.path / PICTURES, PICTURE_FILES, below=False)
        for name in RUN_FILES:
            yield from find_written(self.path, (name,), below=False)

    def clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for path in self.written():
            path.unlink(missing_ok=True)
        for place in self.below():
            remove_empty(place)

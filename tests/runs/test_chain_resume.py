"""A chain killed in each of its networks and stages ends with the bytes of one that nothing interrupted."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from netpress.files import dump_toml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TRAIN = {"kind": "train", "epochs": 2, "batch_size": 32}
CHAIN: dict[str, Any] = {
    "name": "killed",
    "data": {"dataset": "digits", "train_images": 256, "image_size": 8},
    "model": {"family": "resnet", "blocks": [1], "width": 8},
    "stages": [TRAIN],
    "networks": {
        "pupil": {"stages": {"0": {"distillation": {"teachers": ["large"]}}}},
        "large": {"model": {"width": 12}},
        "cut": {
            "model": {"network": "pupil"},
            "stages": [
                {"kind": "prune", "amount": 0.5, "rounds": 2, "train": {"epochs": 2, "batch_size": 32}},
                {"kind": "quantize", "preset": "int8"},
            ],
        },
    },
}
# In every network and every stage: under way, between two stages, and between what a network's end writes.
MOMENTS = [
    "large/01-train/state.safetensors",
    "large/network.netpress",
    "pupil/01-train/state.safetensors",
    "cut/recipe.toml",
    "cut/01-prune/round-1/state.safetensors",
    "cut/02-quantize/network.netpress",
    "cut/score.json",
]
UNEQUAL = {"log.txt", "report.html", ".netpress.lock"}  # hold times of the day or seconds


def start(recipe: Path, out: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "netpress", "run", str(recipe), "--out", str(out), "--save-every", "0.01"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8")


def contents(folder: Path) -> dict[str, Any]:
    """Every file below by its path, but for what times it tells."""
    files: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in UNEQUAL:
            files[path.relative_to(folder).as_posix()] = untimed(path)
    return files


def untimed(path: Path) -> Any:
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    if path.name in ("metrics.jsonl", "done.json", "environment.json"):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        timed = {"seconds", "images_per_second", "resumed", "started"}
        return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]
    return path.read_bytes()


def test_killed_anywhere_gives_the_same_bytes(tmp_path: Path) -> None:
    recipe = tmp_path / "killed.toml"
    recipe.write_text(dump_toml(CHAIN), encoding="utf-8")
    whole, out = tmp_path / "whole", tmp_path / "out"
    said, _ = start(recipe, whole).communicate(timeout=120)
    kills = []
    for moment in MOMENTS:
        process = start(recipe, out)
        began = time.monotonic()
        while process.poll() is None and not (out / moment).exists() and time.monotonic() - began < 60:
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills.append(moment)
        process.communicate(timeout=60)
    assert len(kills) >= 5, f"ended before it could be killed often enough to prove anything: {kills}, {said}"
    process = start(recipe, out)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "large: done before" in told and "pupil: done before" in told
    assert not re.search(r"large/01-train|large: network", told)
    again, before = contents(out), contents(whole)
    assert again.keys() == before.keys()
    for name, content in before.items():
        assert again[name] == content, name

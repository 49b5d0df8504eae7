"""Limits: how they are written, what is refused in which words, and that what is said to fit does."""

import re

import pytest
import torch

from netpress.compression.masks import add_masks
from netpress.errors import UserError
from netpress.network import Network, create
from netpress.scoring import Limits, check_limits, list_excess, list_taken, score
from netpress.settings import SettingsError, parse
from netpress.stage import STAGES, Outlook

KIB = 1024


def tiny(**more: object) -> Network:
    settings = {"widths": "tiny", "width_factor": 0.5, "classes": 10, "image_size": 16, **more}
    return create("c_efficientnet", settings, shapes=True)


def flash_of(network: Network) -> int:
    return score(network).footprint.flash_bytes  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "bytes"),
    [
        ("256K", 256 * KIB),
        ("1.5M", 3 * KIB**2 // 2),
        ("64 kb", 64 * KIB),
        ("64KiB", 64 * KIB),
        ("65536", 65536),
        (7, 7),
    ],
)
def test_sizes(text: object, bytes: int) -> None:
    assert parse(Limits, {"flash": text}).flash == bytes


@pytest.mark.parametrize("value", [0, -0.1, True, "0.002", "2K", 1e31])
def test_what_is_no_score_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match=r"limits\.score"):
        parse(Limits, {"score": value}, "limits")


@pytest.mark.parametrize("text", ["", "K", "-1K", "256 kilo", "1e3", "0", 0, "9999999G", "1" * 400, True, 1.5])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(SettingsError, match=r"limits\.ram"):
        parse(Limits, {"ram": text}, "limits")


def test_what_fits_is_let_through() -> None:
    network = tiny()
    card = score(network)
    footprint = card.footprint
    assert footprint is not None
    limits = Limits(flash=footprint.flash_bytes, ram=footprint.ram_bytes, score=card.score)
    check_limits(limits, card, network)
    tight = Limits(flash=footprint.flash_bytes - 1, ram=footprint.ram_bytes - 1, score=card.score * 0.999)
    assert list(list_excess(tight, card, network)) == ["flash", "ram", "score"]
    check_limits(tight, card, network, undecided=("flash", "ram", "score"))
    with pytest.raises(UserError, match=r"limits\.ram") as refused:
        check_limits(tight, card, network, undecided=("flash", "score"))
    assert "flash" not in str(refused.value)
    assert [taken.fits for taken in list_taken(limits, card)] == [True] * 3
    assert [taken.fits for taken in list_taken(tight, card)] == [False] * 3
    assert list_taken(Limits(), card) == []


def test_the_score_is_that_of_the_convention_and_its_parts_add_up() -> None:
    network = tiny()
    for convention in ("official", "kaist"):
        card = score(network, convention=convention)
        text = list_excess(Limits(score=card.score / 2), card, network)["score"]
        assert (
            f"scores {card.score:.5f} of {card.score / 2:.5f}, " in text and f"by the {convention} convention" in text
        )
        stored, operations = (float(part) for part in re.findall(r"(0\.\d+) for", text))
        assert stored + operations == pytest.approx(card.score, abs=2e-5)


def test_the_words_say_how_much_and_where() -> None:
    network = tiny()
    card = score(network)
    footprint = card.footprint
    assert footprint is not None
    text = list_excess(Limits(ram=10 * KIB), card, network)["ram"]
    most = max(footprint.needs, key=lambda need: need.bytes)
    assert f"{most.bytes / KIB:.1f} KiB of 10.0 KiB, {most.bytes / KIB - 10:.1f} KiB too many, at {most.name} " in text
    for name, size in footprint.alive:
        assert f"{name} {size / KIB:.1f} KiB" in text


@pytest.mark.parametrize("share", [0.85, 0.6, 0.35])
def test_the_sparsity_that_is_said_to_fit_does_and_a_smaller_one_does_not(share: float) -> None:
    network = tiny()
    limit = int(flash_of(network) * share)
    text = list_excess(Limits(flash=limit), score(network), network)["flash"]
    percent = int(re.search(r"(\d+)% of all weights pruned", text)[1])  # type: ignore[index]

    def sizes(amount: float, scope: str) -> int:
        stage = STAGES["prune"]
        settings = parse(stage.settings, {"kind": "prune", "amount": amount, "scope": scope})
        return flash_of(stage.plan(Outlook(network), settings).network)

    assert max(sizes(percent / 100, scope) for scope in ("layer", "global")) <= limit
    assert sizes(percent / 100 - 0.01, "layer") > limit


@pytest.mark.parametrize(("share", "bits"), [(0.6, 16), (0.45, 8), (0.36, None)])
def test_the_width_that_is_said_to_fit_does(share: float, bits: int | None) -> None:
    network = tiny()
    limit = int(flash_of(network) * share)
    text = list_excess(Limits(flash=limit), score(network), network)["flash"]
    said = re.search(r"weights of (\d+) bits \(now 32\)", text)
    assert said is not None and (bits is None or int(said[1]) == bits)
    weights = {"kind": "float16"} if bits == 16 else {"kind": "int", "bits": int(said[1])}
    stage = STAGES["quantize"]
    arithmetic = "float16" if bits == 16 else "integer"  # which has no floats
    settings = parse(stage.settings, {"kind": "quantize", "weights": weights, "arithmetic": arithmetic})
    assert flash_of(stage.plan(Outlook(network), settings).network) <= limit


def test_masks_and_widths_that_are_there_are_told() -> None:
    network = tiny()
    add_masks(
        network, {name: torch.arange(one.numel()).view(one.shape) % 2 == 0 for name, one in network.weights().items()}
    )
    text = list_excess(Limits(flash=flash_of(network) * 2 // 3), score(network), network)["flash"]
    assert "(now 50%)" in text and "(now 32)" in text


def test_what_nothing_fits_is_said() -> None:
    network = tiny()
    text = list_excess(Limits(flash=1), score(network), network)["flash"]
    assert text.endswith("would fit: take a smaller network")

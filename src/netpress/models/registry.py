"""The families of networks, by name, and how a person writes one down.

`NAME[:SETTINGS]` names a model: settings are separated by commas, a bare word is a
preset of the family, `key=value` sets one value as TOML would write it (text may go
without quotes), and what stands later wins: `c_efficientnet:v1,expansion=3,classes=100`.

Importing this file imports no torch; a family is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from netpress.errors import UserError
from netpress.files import parse_toml_value
from netpress.registry import Registry, suggest
from netpress.settings import Count, Positive, Settings, at_most, parse

if TYPE_CHECKING:
    import torch
    from torch import nn

Factor = Annotated[Positive, at_most(1000)]  # of widths and depths
Classes = Annotated[Count, at_most(1_000_000)]


class ModelSettings(Settings):
    """What every family's settings have in common."""

    classes: Classes = 100
    """How many classes the network tells apart: the length of its output."""
    channels: Annotated[Count, at_most(1024)] = 3
    """Channels of the input image: 3 for colour, 1 for grey."""
    image_size: Annotated[Count, at_most(4096)] = 32
    """Height and width of the input image, in pixels."""


@dataclass(frozen=True)
class Family:
    """One kind of network: its settings, its published settings by name, and how to build it.

    `make` gives the module for settings, also under `torch.device("meta")`; `initialize` sets every
    parameter from the given generator; `presets` maps a bare word to the settings it stands for.
    """

    name: str
    settings: type[ModelSettings]
    make: Callable[[Any], nn.Module]
    initialize: Callable[[nn.Module, Any, torch.Generator], None]
    presets: Mapping[str, Mapping[str, Any]]
    description: str

    def build(self, settings: ModelSettings) -> nn.Module:
        """The module, with whatever weights its layers' constructors draw."""
        from netpress.numerics.strided import keep_in_bounds  # which imports torch

        return keep_in_bounds(self.make(settings))

    def build_shapes(self, settings: ModelSettings) -> nn.Module:
        """The module of a built-in family with shapes only (on the meta device). Raises TooLarge, naming the family."""
        import torch

        from netpress.models.bounds import TooLarge, bounded_building

        try:
            with bounded_building(), torch.device("meta"):
                return self.build(settings)
        except TooLarge as error:
            raise TooLarge(f"model {self.name}: {error}") from None
        except (RuntimeError, OverflowError, TypeError) as error:  # a size beyond 64 bits
            raise TooLarge(f"model {self.name}: its settings ask for tensors beyond all bounds ({error})") from None


@dataclass(frozen=True)
class ModelChoice:
    """What `NAME:SETTINGS` means: a family and its complete settings."""

    family: Family
    settings: ModelSettings

    def build(self, generator: torch.Generator | None = None) -> nn.Module:
        """The module, as `build_model` makes it."""
        return build_model(self.family.name, self.settings.model_dump(mode="json"), generator)


IMPORTED = "import"
"""The family of users' own modules, whose constructors may compute with values: never built on the meta device."""
FAMILIES = Registry[Family](
    "model",
    {
        "c_efficientnet": "netpress.models.c_efficientnet",
        "densenet": "netpress.models.densenet",
        "efficientnet": "netpress.models.efficientnet",
        IMPORTED: "netpress.models.imported",
        "pyramidnet": "netpress.models.pyramidnet",
        "resnet": "netpress.models.resnet",
        "wide_resnet": "netpress.models.wide_resnet",
    },
)


def register_family(
    name: str,
    settings: type[ModelSettings],
    make: Callable[[Any], nn.Module],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    initialize: Callable[[nn.Module, Any, torch.Generator], None] | None = None,
) -> Family:
    """Make a family known by `name`. The first line of its settings' docstring describes it.

    Without `initialize`, first weights are drawn as `netpress.models.blocks.initialize` does.
    """
    description = (settings.__doc__ or "").strip().split("\n")[0]
    return FAMILIES.add(name, Family(name, settings, make, initialize or _initialize, dict(presets or {}), description))


def _initialize(module: nn.Module, settings: ModelSettings, generator: torch.Generator) -> None:
    from netpress.models.blocks import initialize  # which imports torch

    initialize(module, generator)


def choose_model(
    name: str, presets: Iterable[str] = (), values: Mapping[str, Any] | None = None, path: str = "model"
) -> ModelChoice:
    """The family `name` with `presets` applied in order and `values` on top.

    `path` is put before the keys that error messages name. Raises UserError for an unknown
    family or preset, SettingsError with every wrong setting at once.
    """
    family = FAMILIES[name]
    merged: dict[str, Any] = {}
    for preset in presets:
        merged |= _preset(family, preset)
    return ModelChoice(family, parse(family.settings, merged | dict(values or {}), path))


def parse_model(text: str) -> ModelChoice:
    """The model that `NAME[:SETTINGS]` names (see the head of this file). Raises UserError."""
    name, _, rest = text.partition(":")
    family = FAMILIES[name.strip()]
    values: dict[str, Any] = {}
    for item in _split(rest):
        key, equals, value = item.partition("=")
        if equals:
            values[key.strip()] = parse_toml_value(value.strip())
        else:
            values |= _preset(family, item)
    return ModelChoice(family, parse(family.settings, values, family.name))


def build_model(name: str, settings: Mapping[str, Any], generator: torch.Generator | None = None) -> nn.Module:
    """The module of family `name` with these settings, initialized from `generator` (default: seed 0).

    Under `torch.device("meta")` it has shapes only, and nothing is drawn.
    torch's global generator is left as it was.
    """
    import torch

    family = FAMILIES[name]
    parsed = parse(family.settings, settings, "model")
    if torch.get_default_device().type == "meta":
        return family.build(parsed)
    if name != IMPORTED:
        family.build_shapes(parsed)
    generator = generator or torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        # Constructors of torch's own modules know no other generator than the global one.
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        module = family.build(parsed)
    family.initialize(module, parsed, generator)
    return module


def _preset(family: Family, name: str) -> Mapping[str, Any]:
    if name in family.presets:
        return family.presets[name]
    if not family.presets:
        raise UserError(f"{family.name}: it has no presets, so {name!r} means nothing; write key=value")
    keys = ", ".join(family.settings.model_fields)
    raise UserError(
        f"{family.name}: {name!r} is not a preset; {suggest(name, list(family.presets))}, "
        f"or key=value with one of {keys}"
    )


def _split(text: str) -> list[str]:
    """`a,b=[1,2],c="x,y"` -> its items; commas inside brackets, braces and quotes do not separate."""
    items, depth, quote, start = [], 0, "", 0
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth == 0:
            items.append(text[start:index])
            start = index + 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]

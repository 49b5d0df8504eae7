"""How to score: the `[score]` table of a recipe, and the options of `netpress score`."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from netpress.settings import Fraction, Settings

ConventionName = Literal["official", "kaist", "wave", "uci", "imt"]
TrackName = Literal["cifar100", "imagenet", "wikitext103", "imt-cifar10"]
Accumulator = Literal["tree", "16", "32"]


def _width(bits: int) -> int:
    if not (1 <= bits <= 16 or bits == 32):
        raise ValueError(f"{bits} is not a width: 1 to 15 for integers, 16 or 32 for floats")
    return bits


Bits = Annotated[int, AfterValidator(_width)]


class ScoreSettings(Settings):
    """Counting rules. An option that the chosen convention does not have is an error."""

    convention: ConventionName = "official"
    """Whose counting rules: the challenge's own, or those of one of the four solutions."""
    track: TrackName | None = None
    """What the score is relative to; by default what the convention and the data set belong to."""
    weight_bits: Bits | None = None
    """Assumed width of weights instead of the network's own: 1 to 15 integers, 16 and 32 floats."""
    activation_bits: Bits | None = None
    """Assumed width of what enters convolutions and linear layers, likewise."""
    accumulator: Accumulator | None = None
    """Width of sums of products: an exact adder tree (integers only), or fixed. Default: tree for integers, else 32."""
    float_bits: Literal[16, 32] | None = None
    """Width of everything that stays in floating point; 16 must really run so. Default: the network's, else 32."""
    freebie: bool = True
    """Official and wave: 16 bits for values and multiplications of a network that quantizes nothing."""
    mask: Literal["charged", "cheaper", "none"] | None = None
    """Official: mask for every tensor with zeros, as the counter does, or only where it pays (default if quantized).
    kaist: charged for every tensor (default), or none."""
    norms: Literal["folded", "forward", "kept"] | None = None
    """Norms folded where data flow allows (default), or kept (default of wave, and of networks with number formats of
    their own, which fold before they round); forward: official only, each taken as
    folded into what it feeds, which gives the WideResNet baseline."""
    clamp: Literal["free", "charged"] = "free"
    """Scaling, rounding and clamping of a quantized activation: nothing, as accepted in 2019, or three operations."""
    float_adds: Literal["own", "32"] = "own"
    """Width of additions outside sums of products (biases, residual additions, scaled norms): their inputs', or 32."""
    counting: Literal["strict", "winner"] = "strict"
    """Official, quantized: every scale and every place of a pool, or as the winner of 2019 (RIAIR) counted and the
    board has it: one scale a tensor however many channels have their own, pools of one dimension, float_adds 32."""
    residual_adds: bool = False
    """wave: count the residual additions, which an error in that team's counter left out."""
    multiply: Literal["half", "one"] = "half"
    """uci: a multiplication, and a stored value, as half (16 bits) or one."""
    claimed_sparsity: Fraction = 0.0
    """imt: part of all parameters that is taken as pruned, whatever the network holds."""
    modules: bool = False
    """imt: count ReLU and average pools too, as that counter does where they are modules; in its networks none is."""
    complete: bool = False
    """kaist: count also what their hooks do not see: residual additions, gates, additions of the classifier's bias."""
    totals: Literal["exact", "float32"] | None = None
    """Sums over layers exact (default of imt), or in float32 as both teams' counters do (default of kaist)."""
    sparsity: Fraction | None = None
    """Official: part of every weight tensor assumed to be zero, as the counter has it, instead of the real zeros."""

    @model_validator(mode="after")
    def _options_of_the_convention(self) -> Self:
        allowed = OPTIONS[self.convention] | {"convention", "track"}
        defaults = ScoreSettings.model_fields
        for name in sorted(self.model_fields_set - allowed):
            if getattr(self, name) != defaults[name].default:
                raise ValueError(
                    f"{name} is no option of the convention {self.convention}; "
                    f"it has {', '.join(sorted(OPTIONS[self.convention]))}"
                )
        if self.mask == "none" and self.convention != "kaist":
            raise ValueError("mask: which weights exist must be stored somehow; choose charged or cheaper")
        if self.mask == "cheaper" and self.convention == "kaist":
            raise ValueError("mask: kaist charges a mask for every tensor; choose charged or none")
        if self.norms == "forward" and self.convention != "official":
            raise ValueError("norms: forward is only for the official convention; choose folded or kept")
        return self


OPTIONS: dict[str, set[str]] = {
    "official": {
        "weight_bits",
        "activation_bits",
        "accumulator",
        "float_bits",
        "freebie",
        "mask",
        "norms",
        "clamp",
        "float_adds",
        "counting",
        "sparsity",
    },
    "kaist": {"mask", "complete", "totals"},
    "wave": {"weight_bits", "activation_bits", "norms", "residual_adds", "freebie"},
    "uci": {"multiply"},
    "imt": {"claimed_sparsity", "modules", "totals"},
}

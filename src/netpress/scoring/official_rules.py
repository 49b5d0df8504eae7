"""The official rules in words, each with its source: what a card explains."""

from netpress.scoring.card import Rule
from netpress.scoring.settings import ScoreSettings
from netpress.scoring.widths import Widths


def rules(settings: ScoreSettings, widths: Widths, mask: str, norms: str) -> tuple[Rule, ...]:
    """The rules that a count applied. `mask` and `norms` as they were chosen."""
    mask_rules = {
        "charged": Rule("a tensor with zeros stores its non-zeros and a mask of 1 bit an element", "text, counter"),
        "cheaper": Rule(
            "a tensor stores non-zeros and a mask where that is less than all values", "MSUNet, and the file"
        ),
    }
    norm_rules = {
        "folded": Rule(
            "a norm fed only by a convolution is folded: a bias value a channel, an addition an output; other "
            "norms are a multiplication and an addition an element, two values a channel",
            "notebook; RIAIR, MSUNet",
        ),
        "forward": Rule(
            "every norm is taken as folded into the first convolution or linear layer that it feeds, through "
            "activations too: a bias value a channel, an addition an output",
            "the count that gives the WideResNet baseline of 36.5 M and 10.49 G",
        ),
        "kept": Rule("no norm is folded: a multiplication and an addition an element, 2 values a channel", "text"),
    }
    if widths.freebie:
        width = Rule("nothing is quantized: values and multiplications at 16 bits, additions at 32", "text")
    else:
        width = Rule("an operation is as wide as its widest input", "text")
    applied = [
        Rule("score = parameters / baseline's + operations / baseline's, in units of 32 bits", "text"),
        width,
        mask_rules[mask],
        norm_rules[norms],
        Rule("n non-zero weights of an output: n multiplications, n - 1 additions, one more for a bias", "counter"),
        Rule("padding counts like any other place", "counter"),
        Rule("relu 1 multiplication, sigmoid 2 and 1 addition, swish 3 and 1", "counter"),
        Rule("relu6 2 multiplications, hard-swish 4 and 1 addition", "KAIST, Rocker"),
        Rule("other functions: 1 for each operation, comparison or transcendental function", "text"),
        Rule("mean of n values: n - 1 additions, 1 multiplication; maximum: n - 1 comparisons", "counter; MB-PM"),
        Rule("residual additions and scaling by a gate: 1 an element", "counter"),
        Rule("a permutation of channels is a product with a sparse matrix", "text"),
        Rule("an upsampled value is 1 multiplication", "OSI AI"),
        Rule("moving and joining values, padding, dropout at evaluation: nothing", "notebook; the text is silent"),
    ]
    if widths.quantized:
        applied += [
            Rule("exact adder tree: weight + activation bits at the first level, 1 more at each next", "RIAIR"),
            Rule("a finished sum of integers is scaled by 1 multiplication in floating point", "RIAIR, MSUNet"),
            Rule(f"scaling, rounding and clamping an activation: {settings.clamp}", "text; RIAIR: free"),
        ]
    return tuple(applied)

"""Modules that know of the whole batch in place of those that see their part alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.errors import UserError
from netpress.training.accelerated.plain import plain_type
from netpress.training.together.draws import SharedDropConnect, SharedDropout, SharedShakeDrop
from netpress.training.together.norms import SharedNorm1d, SharedNorm2d, SharedNorm3d
from netpress.training.together.share import Share

SHARED: dict[type[nn.Module], type[nn.Module]] = {
    shared.plain: shared
    for shared in (SharedNorm1d, SharedNorm2d, SharedNorm3d, SharedDropout, SharedDropConnect, SharedShakeDrop)
}


def check_shareable(module: nn.Module) -> None:
    """Raise UserError where a norm of the module could not see the whole batch."""
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and plain_type(part) not in SHARED:
            raise UserError(
                f"{name}: a {type(part).__name__} takes statistics of a batch, and several processes cannot share "
                "them; train with one process, or with torch's own batch norms"
            )


@contextmanager
def shared(modules: Sequence[nn.Module], share: Share) -> Iterator[None]:
    """Inside this context what looks at a batch in these modules, or draws for it, does so for the whole batch.

    Copies made inside are plain, and know of no share.
    """
    parts = [part for module in modules for part in module.modules() if type(part) in SHARED]
    classes = {plain: type(kind.__name__, (kind,), {"share": share}) for plain, kind in SHARED.items()}
    try:
        for part in parts:
            part.__class__ = classes[type(part)]
        yield
    finally:
        for part in parts:
            part.__class__ = plain_type(part)

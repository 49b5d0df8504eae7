"""Whether a C file answers as the reference, found by compiling and running it here."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from netpress.data import Images
from netpress.errors import Failure, UserError
from netpress.evaluation import best_class
from netpress.export.c import CFiles
from netpress.export.c.building import FLAGS, BrokenCompiler, find_compiler
from netpress.export.c.calling import CHECKED, build_checked, count_differences
from netpress.network import Network

BATCH = 256
COMPARED = 1000  # test images: the reference is slow


@dataclass(frozen=True)
class CCheck:
    """What came of it."""

    compared: int
    """Images whose logits are the reference's, bit for bit; 0 where nothing could be run."""
    problem: str | None = None
    """Why nothing could be run."""
    compiler: str | None = None
    """What compiled it, as a command."""
    path: str | None = None
    """The instructions that it was compiled for."""
    images: int | None = None
    """Test images in all."""
    accuracy: float | None = None
    """Of the C, on these."""

    def lines(self) -> list[str]:
        """For people."""
        if self.problem is not None:
            return [f"checked     not: {self.problem}"]
        kind = f"{CHECKED} images of noise" if self.images is None else f"{self.compared:,} test images"
        lines = [
            f"checked     compiled by {self.compiler} ({self.path}): the reference's logits, bit for bit, of {kind}"
        ]
        if self.accuracy is not None:
            lines.append(f"accuracy    {self.accuracy:.2%} of {self.images:,} test images, in C")
        return lines


def check_c(network: Network, written: CFiles, name: str, images: Images | None = None) -> CCheck:
    """Compile what `export_c` wrote as `name`, run it, and compare; with `images` on up to COMPARED of these.

    Where there is no compiler, or none that works, the result says so. Raises Failure where the file cannot be compiled
    by one that works, or where an answer differs: there is a bug.
    """
    try:
        compiler = find_compiler()
    except UserError as error:
        return CCheck(0, str(error))
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            kernels = build_checked(network, written, name, Path(folder) / "net.so", compiler)
        except BrokenCompiler as error:
            return CCheck(0, str(error))
        compiled = " ".join((compiler.said, *FLAGS))
        if images is None or not len(images):
            return CCheck(CHECKED, None, compiled, kernels.path)
        shown = images.images[:: max(1, len(images) // COMPARED)][:COMPARED]
        if different := count_differences(kernels, network, shown):
            raise Failure(
                f"{written.source}: {different} of {len(shown)} answers to test images are not those of the reference; "
                "please report this, with the compiler's version"
            )
        found = torch.cat([best_class(kernels(batch)) for batch in images.images.split(BATCH)])
        right = int((found == images.labels.cpu()).sum())
    return CCheck(len(shown), None, compiled, kernels.path, len(images), right / len(images))

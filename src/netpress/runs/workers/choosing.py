"""Where tasks run, by what a command was given."""

from netpress.errors import UserError
from netpress.process.console import Console
from netpress.runs.workers.places import Place
from netpress.runs.workers.processes import Processes


def choose_place(workers: int | None, cluster: str | None, console: Console) -> Place | None:
    """Processes of this machine, a Ray cluster, or None where neither was asked for. Raises UserError for both."""
    if cluster is not None:
        if workers is not None:
            raise UserError("--workers and --cluster: give one; a cluster has as many workers as processors")
        from netpress.runs.workers.cluster import Cluster

        return Cluster(cluster, console)
    return None if workers is None else Processes(workers, console)

"""Which part of a batch this process computes."""

from netpress.process.team import Team


class Share:
    """The part of the present batch that this process has; before the first step, and of a batch too small, all."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.whole = 0
        """Images of the whole batch."""
        self.is_split = False

    def divide(self, whole: int) -> bool:
        """Begin a step on so many images; whether there is one for each process at least. Else the leader has all."""
        self.whole, self.is_split = whole, whole >= self.team.size
        return self.is_split

    @property
    def rows(self) -> slice:
        """This process's images."""
        return self.rows_of(self.team.rank)

    @property
    def fraction(self) -> float:
        """Of the batch."""
        return (self.rows.stop - self.rows.start) / self.whole if self.is_split else 1.0

    @property
    def most(self) -> int:
        """Images of the largest part: what all decide by must not differ between them."""
        return -(-self.whole // self.team.size)

    def rows_of(self, rank: int) -> slice:
        """The images of any process: parts differ by one image at most."""
        size = self.team.size
        return slice(self.whole * rank // size, self.whole * (rank + 1) // size)

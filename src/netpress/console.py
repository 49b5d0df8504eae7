"""`Console`, which the functions of `netpress` take: where their messages go.

A name for programs that import it: the package itself takes it from `netpress.process.console`.
"""

from netpress.process.console import Console

__all__ = ["Console"]

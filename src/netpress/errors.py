"""The two ways a command can end badly, and what a person is told.

Messages say what was wrong, where, and what to do. The command line prints them
without a traceback and exits with `exit_code`.
"""


class NetpressError(Exception):
    """Anything that netpress itself reports. Not raised directly."""

    exit_code = 1


class UserError(NetpressError):
    """What the user wrote cannot be done: a setting, a name, a path, a file of a wrong kind."""

    exit_code = 2


class Failure(NetpressError):
    """What was asked is sound, but it failed: a full disk, a damaged file, a divergence."""

    exit_code = 1

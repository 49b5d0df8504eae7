"""`python -m netpress` is `netpress`."""

from netpress.cli import main

main()

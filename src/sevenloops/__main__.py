"""`python -m sevenloops` is the `sevenloops` command."""

from .cli.main import main

main()

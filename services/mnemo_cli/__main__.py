"""`python -m mnemo_cli` is `mnemo`."""

from mnemo_cli.main import main

main()

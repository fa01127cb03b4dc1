"""``python -m encamp`` is the command ``encamp``."""

from encamp.cli.main import main

main()

"""``python -m encamp`` is the command ``encamp``."""

from encamp.cli.start import main

main()

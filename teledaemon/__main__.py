"""The daemon's command: ``python3 -m teledaemon``, without arguments; ``TELEPRESENCE_TOKEN`` is its environment."""

import sys

from teledaemon.process import main

if __name__ == "__main__":
    sys.exit(main())

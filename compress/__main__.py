"""The command line as `python -m compress`, which launchers such as torchrun take."""

import sys

from compress.cli import main

sys.exit(main())

"""`python -m bedplate`."""

import sys

from bedplate.cli import main

sys.exit(main())

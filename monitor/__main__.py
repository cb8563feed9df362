"""`python -m monitor` is the program."""

from __future__ import annotations

import sys

from monitor.main import main

sys.exit(main())

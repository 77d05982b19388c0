"""``python -m gateway`` is the console script ``edge-gateway``."""

import sys

from gateway.service.main import main

sys.exit(main())

"""Process 1 of the image: `bentoml serve` of the packed Bento, on VITRINE_HOST and VITRINE_PORT.

The image's arguments are passed on to `bentoml serve`.
"""

import signal
import sys
from pathlib import Path

BENTO = Path(__file__).resolve().parent / "bento"

# Process 1 ignores SIGTERM unless it has a handler, and BentoML sets its own only once it has started.
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))

sys.path.insert(0, str(BENTO / "src"))

from errors import SettingsError  # noqa: E402
from settings import load_settings  # noqa: E402

try:
    settings = load_settings()
except SettingsError as error:
    sys.exit(str(error))

from bentoml_cli.cli import cli  # noqa: E402

# BentoML runs in this very process, so that the handler above holds until BentoML's own takes over.
address = ["--host", settings.host, "--port", str(settings.port)]
sys.argv = ["bentoml", "serve", str(BENTO), *address, *sys.argv[1:]]
cli()

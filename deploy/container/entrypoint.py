"""Process 1 of the image: `bentoml serve` of the packed Bento, where VITRINE_HOST and VITRINE_PORT say.

Arguments go to `bentoml serve`.
"""

import signal
import sys
from pathlib import Path

BENTO = Path(__file__).resolve().parent / "bento"

# Process 1 ignores SIGTERM unless it asks for it, and BentoML does so only once it has started.
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))

sys.path.insert(0, str(BENTO / "src"))

from settings import SettingsError, load_settings  # noqa: E402

try:
    settings = load_settings()
except SettingsError as error:
    sys.exit(str(error))

from bentoml_cli.cli import cli  # noqa: E402

# In this very process, not in its place: what is set above must hold until BentoML's own takes over.
where = ["--host", settings.host, "--port", str(settings.port)]
sys.argv = ["bentoml", "serve", str(BENTO), *where, *sys.argv[1:]]
cli()

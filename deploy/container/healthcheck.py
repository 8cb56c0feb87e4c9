"""Whether the server in this container is ready: what HEALTHCHECK runs; the slim base has no curl."""

import os
import sys
import urllib.request

host = os.environ.get("VITRINE_HOST") or "127.0.0.1"
host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
url = f"http://{f'[{host}]' if ':' in host else host}:{os.environ.get('VITRINE_PORT') or 3000}/readyz"
try:
    urllib.request.urlopen(url, timeout=4).close()
except OSError as error:
    sys.exit(f"{url}: {error}")

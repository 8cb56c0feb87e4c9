"""HEALTHCHECK of the image: exits with 0 if the server in this container is ready. The slim base has no curl."""

import http.client
import os
import sys

host = os.environ.get("VITRINE_HOST") or "127.0.0.1"
host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
port = int(os.environ.get("VITRINE_PORT") or 3000)
try:
    connection = http.client.HTTPConnection(host, port, timeout=4)  # http.client uses no proxy
    connection.request("GET", "/readyz")
    status = connection.getresponse().status
except OSError as error:
    sys.exit(f"{host}, port {port}: {error}")
if status != 200:
    sys.exit(f"{host}, port {port}: not ready ({status})")

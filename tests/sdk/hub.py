"""A hub as a process of its own, for tests that are written in Python: tests/support/hub.mjs is the same in JavaScript.

    hub = Hub({"auth.reject": "close"})
    hub.address, hub.key; hub.sign({"sub": "ann"}); hub.api("publish", {...}); hub.stop()
"""

import atexit
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

SECRET = "the secret of the tests in Python, long enough"
# Nothing that is waited for takes longer.
PATIENCE_SECONDS = 20

# A `timeout` around us says TERM: leave by the way that ends hubs.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


class Hub:
    """Is there when it is made; ends with the tests at the latest."""

    def __init__(self, settings=None):
        settings = {"server.bind": "127.0.0.1:0", "auth.hmac_secret": SECRET, **(settings or {})}
        flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
        command = [os.environ["WARDCAST"], "serve", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env={"PATH": os.environ["PATH"]})
        atexit.register(self.process.kill)
        late = threading.Timer(PATIENCE_SECONDS, self.process.kill)
        late.start()
        banner = ""
        for line in self.process.stdout:
            banner += line
            if "Ctrl-C stops." in line:
                break
        late.cancel()
        found = re.search(r"ws://([^/]+)/.*X-API-Key: ([^']+)'", banner, re.DOTALL)
        if not found:
            raise RuntimeError(f"the hub does not listen: {banner}")
        self.address, self.key = found.groups()

    @staticmethod
    def sign(claims, ttl=3600, secret=SECRET):
        """A token, HS256; claims win over `ttl`, in seconds."""

        def part(raw):
            return base64.urlsafe_b64encode(raw).rstrip(b"=")

        claims = {"exp": int(time.time()) + ttl, **claims}
        text = b".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256"}, claims))
        return (text + b"." + part(hmac.digest(secret.encode(), text, hashlib.sha256))).decode()

    def api(self, method, request):
        """A method of the server API."""
        url = f"http://{self.address}/api/{method}"
        call = urllib.request.Request(url, json.dumps(request).encode(), {"X-API-Key": self.key})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(call, timeout=PATIENCE_SECONDS) as answer:
            body = json.load(answer)
        if "error" in body:
            raise RuntimeError(f"{method}: {body}")
        return body["result"]

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()
        atexit.unregister(self.process.kill)

"""Starts a hub as a process for tests in Python, like tests/support/hub.mjs in JavaScript.

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
# Maximum time of every wait.
PATIENCE_SECONDS = 20

# `timeout` sends TERM: exit normally, so that atexit stops the hubs.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


class Hub:
    """A running hub; stopped at the latest when the tests exit."""

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
        """Returns a token signed with HS256; `ttl` is in seconds, and an `exp` claim takes precedence."""

        def part(raw):
            return base64.urlsafe_b64encode(raw).rstrip(b"=")

        claims = {"exp": int(time.time()) + ttl, **claims}
        text = b".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256"}, claims))
        return (text + b"." + part(hmac.digest(secret.encode(), text, hashlib.sha256))).decode()

    def api(self, method, request):
        """Calls a method of the server API."""
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

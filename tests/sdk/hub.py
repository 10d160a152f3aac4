"""Starts a hub as a process for tests in Python, like tests/support/hub.mjs in JavaScript; or two of them on one Redis, like
tests/support/nodes.mjs.

    hub = start_hub({"auth.reject": "close"})
    hub.address, hub.key; hub.sign({"sub": "ann"}); hub.api("publish", {...}); hub.stop()
"""

import atexit
import base64
import hashlib
import hmac
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

SECRET = "the secret of the tests in Python, long enough"
KEY = "the API key of the tests in Python, long enough"
# Maximum time of every wait.
PATIENCE_SECONDS = 20
# Whether every hub is two nodes on one Redis, set by `run`.
HAS_NODES = os.environ.get("WARDCAST_NODES") == "2"
# The path prefix of every hub, set by `run`; empty: none.
PATH_PREFIX = os.environ.get("WARDCAST_PATH_PREFIX", "")

# `timeout` sends TERM: exit normally, so that atexit stops the hubs.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


class Hub:
    """A running hub; stopped at the latest when the tests exit."""

    def __init__(self, settings=None):
        settings = {"server.bind": "127.0.0.1:0", "auth.hmac_secret": SECRET, **(settings or {})}
        if PATH_PREFIX:
            settings["server.path_prefix"] = PATH_PREFIX
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
        url = f"http://{self.address}{PATH_PREFIX}/api/{method}"
        call = urllib.request.Request(url, json.dumps(request).encode(), {"X-API-Key": self.key})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(call, timeout=PATIENCE_SECONDS) as answer:
            body = json.load(answer)
        if "error" in body:
            raise RuntimeError(f"{method}: {body}")
        return body["result"]

    def knows_nodes(self, count):
        """Returns whether so many nodes answer, itself included."""
        try:
            return len(self.api("info", {})["nodes"]) == count
        except RuntimeError:
            return False

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()
        atexit.unregister(self.process.kill)


class Redis:
    """An empty Redis on a unix socket; killed at the latest when the tests exit."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="wardcast-redis-")
        self.socket = f"{self.folder}/redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no", "--dir", self.folder]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        atexit.register(self.stop)
        if not any("ready to accept connections" in line for line in self.process.stdout):
            raise RuntimeError("redis-server does not start")
        # A full pipe would block the server.
        self.reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self.reader.start()

    def empty(self):
        subprocess.run(["redis-cli", "-s", self.socket, "FLUSHALL"], check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.stop)


class Nodes:
    """Two hubs on one Redis that are used like one: each connection and each call goes to the next of them."""

    sign = staticmethod(Hub.sign)

    def __init__(self, settings=None):
        self.redis = Redis()
        shared = {"api.key": KEY, **(settings or {}), "broker.type": "redis", "broker.redis.url": f"unix://{self.redis.socket}"}
        self.hubs = [Hub(shared), Hub(shared)]
        self.turn = itertools.cycle(self.hubs)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(hub.knows_nodes(len(self.hubs)) for hub in self.hubs):
            if time.monotonic() > deadline:
                raise RuntimeError("the hubs do not find each other")

    @property
    def address(self):
        return next(self.turn).address

    def api(self, method, request):
        return next(self.turn).api(method, request)

    def lose_state(self):
        self.redis.empty()

    def stop(self):
        for hub in self.hubs:
            hub.stop()
        self.redis.stop()


def start_hub(settings=None):
    """Starts a hub, or nodes that are used like one."""
    return (Nodes if HAS_NODES else Hub)(settings)

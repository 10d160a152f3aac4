"""Helpers of the SDK tests: clients of PyPI `centrifuge-python`, and their events in order."""

import asyncio
import json
import sys
import unittest

from centrifuge import Client, ClientEventHandler, SubscriptionEventHandler

from hub import PATH_PREFIX, PATIENCE_SECONDS, Hub, start_hub
from proxy import Proxy


class Events(ClientEventHandler, SubscriptionEventHandler):
    """Queues the events of a client or a subscription."""

    def __init__(self):
        self.heard = []
        self.woken = asyncio.Event()

    async def wait_for(self, name):
        """Returns the next event of this name; removes it and all earlier events."""
        # One deadline for the whole wait: other events must not extend it.
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            for number, (heard, context) in enumerate(self.heard):
                if heard == name:
                    del self.heard[: number + 1]
                    return context
            self.woken.clear()
            try:
                await asyncio.wait_for(self.woken.wait(), deadline - asyncio.get_running_loop().time())
            except asyncio.TimeoutError:
                raise AssertionError(f"timed out: {name}; received instead: {self.heard}") from None

    def has(self, name):
        """Returns whether an event of this name is queued."""
        return any(heard == name for heard, _ in self.heard)


def _records(name):
    async def on_event(self, context):
        self.heard.append((name, context))
        self.woken.set()

    return on_event


for _name in ["connecting", "connected", "disconnected", "subscribing", "subscribed", "unsubscribed", "publication",
              "join", "leave", "error"]:
    setattr(Events, f"on_{_name}", _records(_name))


class Tests(unittest.IsolatedAsyncioTestCase):
    """Tests that share one hub with `settings`; clients are disconnected when their test ends."""

    settings = {}
    uses_protobuf = False

    @classmethod
    def setUpClass(cls):
        cls.hub = start_hub(cls.settings)

    @classmethod
    def tearDownClass(cls):
        cls.hub.stop()

    async def asyncSetUp(self):
        # Starting and stopping hubs blocks the event loop; asyncio need not report it.
        asyncio.get_running_loop().slow_callback_duration = PATIENCE_SECONDS

    def start_hub(self, settings):
        """Starts another hub for this test."""
        hub = start_hub(settings)
        self.addCleanup(hub.stop)
        return hub

    def create_client(self, hub=None, query="", **options):
        """Creates a client with short reconnect delays; `query` is appended to the URL."""
        url = f"ws://{(hub or self.hub).address}{PATH_PREFIX}/connection/websocket{query}"
        options = {"min_reconnect_delay": 0.02, "max_reconnect_delay": 0.2, "proxy": None,
                   "use_protobuf": self.uses_protobuf, **options}
        client = Client(url, events=Events(), **options)
        self.addAsyncCleanup(client.disconnect)
        return client

    async def connect_client(self, user="ann", hub=None, **options):
        options = {"token": Hub.sign({"sub": user}), **options}
        client = self.create_client(hub, **options)
        await client.connect()
        client.connected_event = await client.events.wait_for("connected")
        return client

    async def subscribe(self, client, channel, **options):
        subscription = client.new_subscription(channel, events=Events(), **options)
        await subscription.subscribe()
        await subscription.events.wait_for("subscribed")
        return subscription

    async def api(self, method, request, hub=None):
        return await asyncio.to_thread((hub or self.hub).api, method, request)

    async def expect_publication(self, subscription, data, hub=None):
        """Publishes with the server API and checks that the subscription receives it."""
        await self.api("publish", {"channel": subscription.channel, "data": data}, hub)
        self.assertEqual(await self.receive_data(subscription, 1), [data])

    def encode(self, value):
        """Converts a value to data of the format under test: in Protobuf, bytes that contain JSON."""
        return json.dumps(value).encode() if self.uses_protobuf else value

    def decode(self, data):
        return json.loads(data) if self.uses_protobuf else data

    async def receive_data(self, listener, count):
        """Returns the data of the next `count` publications of a client or a subscription."""
        return [self.decode((await listener.events.wait_for("publication")).pub.data) for _ in range(count)]

    async def publish(self, channel, values, hub=None, **options):
        """Publishes values one after another."""
        for value in values:
            await self.api("publish", {"channel": channel, "data": value, **options}, hub)

    async def open_proxy(self, hub=None, **options):
        """Opens a proxy to the hub, closed when the test ends."""
        proxy = await Proxy(hub or self.hub, **options).open()
        self.addAsyncCleanup(proxy.close)
        return proxy


def in_both_formats(tests):
    """Replaces a class of tests by one class for each format."""
    module = sys.modules[tests.__module__]
    for name, uses_protobuf in (("Json", False), ("Protobuf", True)):
        named = type(f"{tests.__name__}In{name}", (tests,), {"uses_protobuf": uses_protobuf, "__module__": module.__name__})
        setattr(module, named.__name__, named)
    return None

"""What these tests are written in: clients of PyPI `centrifuge-python`, and their events one after the other."""

import asyncio
import json
import sys
import unittest

from centrifuge import Client, ClientEventHandler, SubscriptionEventHandler

from hub import PATIENCE_SECONDS, Hub
from line import Line


class Events(ClientEventHandler, SubscriptionEventHandler):
    """Events of a client or a subscription. Those that have not been asked for wait."""

    def __init__(self):
        self.heard = []
        self.woken = asyncio.Event()

    async def next(self, name):
        """The next event of this name, which is forgotten with all before it."""
        # One deadline for all: a client that comes and goes wakes us for ever.
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
                raise AssertionError(f"never: {name}; instead: {self.heard}") from None

    def had(self, name):
        """Whether there was an event of this name that nobody has asked for."""
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
    """Tests of one hub with `settings`; clients leave with their test."""

    settings = {}
    uses_protobuf = False

    @classmethod
    def setUpClass(cls):
        cls.hub = Hub(cls.settings)

    @classmethod
    def tearDownClass(cls):
        cls.hub.stop()

    async def asyncSetUp(self):
        # Hubs are started and stopped by calls that block: no news.
        asyncio.get_running_loop().slow_callback_duration = PATIENCE_SECONDS

    def hub_with(self, settings):
        """Another hub, for this test."""
        hub = Hub(settings)
        self.addCleanup(hub.stop)
        return hub

    def client(self, hub=None, query="", **options):
        """A client that comes back sooner than it would by itself; `query` is put behind the URL."""
        url = f"ws://{(hub or self.hub).address}/connection/websocket{query}"
        options = {"min_reconnect_delay": 0.02, "max_reconnect_delay": 0.2, "proxy": None,
                   "use_protobuf": self.uses_protobuf, **options}
        client = Client(url, events=Events(), **options)
        self.addAsyncCleanup(client.disconnect)
        return client

    async def connected(self, user="ann", hub=None, **options):
        options = {"token": Hub.sign({"sub": user}), **options}
        client = self.client(hub, **options)
        await client.connect()
        client.greeting = await client.events.next("connected")
        return client

    async def subscribed(self, client, channel, **options):
        subscription = client.new_subscription(channel, events=Events(), **options)
        await subscription.subscribe()
        await subscription.events.next("subscribed")
        return subscription

    async def api(self, method, request, hub=None):
        return await asyncio.to_thread((hub or self.hub).api, method, request)

    async def hears(self, subscription, data, hub=None):
        """A publication sent now comes."""
        await self.api("publish", {"channel": subscription.channel, "data": data}, hub)
        self.assertEqual(await self.values(subscription, 1), [data])

    def data(self, value):
        """Data as the format of these tests has it: in Protobuf it is bytes, which are JSON all the same."""
        return json.dumps(value).encode() if self.uses_protobuf else value

    def value(self, data):
        return json.loads(data) if self.uses_protobuf else data

    async def values(self, listener, count):
        """The data of so many publications that a client or a subscription hears."""
        return [self.value((await listener.events.next("publication")).pub.data) for _ in range(count)]

    async def publish(self, channel, values, hub=None, **options):
        """Publications one after the other."""
        for value in values:
            await self.api("publish", {"channel": channel, "data": value, **options}, hub)

    async def line(self, hub=None):
        """A line to the hub that is gone with the test."""
        line = await Line(hub or self.hub).open()
        self.addAsyncCleanup(line.close)
        return line


def in_both_formats(tests):
    """The same tests once for each format, in the place of this class."""
    module = sys.modules[tests.__module__]
    for name, uses_protobuf in (("Json", False), ("Protobuf", True)):
        named = type(f"{tests.__name__}In{name}", (tests,), {"uses_protobuf": uses_protobuf, "__module__": module.__name__})
        setattr(module, named.__name__, named)
    return None

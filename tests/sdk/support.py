"""What these tests are written in: clients of PyPI `centrifuge-python`, and their events one after the other."""

import asyncio
import unittest

from centrifuge import Client, ClientEventHandler, SubscriptionEventHandler

from hub import PATIENCE_SECONDS, Hub


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
              "error"]:
    setattr(Events, f"on_{_name}", _records(_name))


class Tests(unittest.IsolatedAsyncioTestCase):
    """Tests of one hub with `settings`; clients leave with their test."""

    settings = {}

    @classmethod
    def setUpClass(cls):
        cls.hub = Hub(cls.settings)

    @classmethod
    def tearDownClass(cls):
        cls.hub.stop()

    def hub_with(self, settings):
        """Another hub, for this test."""
        hub = Hub(settings)
        self.addCleanup(hub.stop)
        return hub

    def client(self, hub=None, query="", **options):
        """A client that comes back sooner than it would by itself; `query` is put behind the URL."""
        url = f"ws://{(hub or self.hub).address}/connection/websocket{query}"
        options = {"min_reconnect_delay": 0.02, "max_reconnect_delay": 0.2, "proxy": None, **options}
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
        self.assertEqual((await subscription.events.next("publication")).pub.data, data)

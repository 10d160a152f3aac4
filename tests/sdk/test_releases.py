"""PyPI `centrifuge-python`, JSON and Protobuf: how it takes the codes that end or refresh a connection.

`run` runs this file with the newest release and with older ones that people still use.
"""

import asyncio
import importlib.metadata

from centrifuge import ClientState

from hub import Hub
from support import Tests, in_both_formats

EXPIRED = 1_600_000_000
# Before 0.7, the SDK calls on_disconnected also when it is about to reconnect.
RELEASE = tuple(int(part) for part in importlib.metadata.version("centrifuge-python").split(".")[:2])
LOST = "connecting" if RELEASE >= (0, 7) else "disconnected"


def answering(*tokens):
    """A get_token that gives one token after the other."""
    left = list(tokens)

    async def get_token(*_):
        return left.pop(0)

    return get_token


@in_both_formats
class Codes(Tests):
    settings = {"channels.history_size": 10}

    async def test_invalid_token_ends_the_client_with_3500(self):
        ann = self.create_client(token="a.b.c")
        await ann.connect()
        context = await ann.events.wait_for("disconnected")
        self.assertEqual((context.code, context.reason, ann.state), (3500, "invalid token", ClientState.DISCONNECTED))

    async def test_disconnect_of_the_server_api_ends_the_client_with_3503(self):
        ann = await self.connect_client("forced")
        await self.api("disconnect", {"user": "forced"})
        context = await ann.events.wait_for("disconnected")
        self.assertEqual((context.code, context.reason, ann.state), (3503, "force disconnect", ClientState.DISCONNECTED))

    async def test_disconnect_with_a_temporary_code_makes_the_client_reconnect(self):
        ann = await self.connect_client("moved")
        await self.api("disconnect", {"user": "moved", "disconnect": {"code": 4000, "reason": "moved"}})
        context = await ann.events.wait_for(LOST)
        self.assertEqual((context.code, context.reason), (4000, "moved"))
        await ann.events.wait_for("connected")

    async def test_refresh_with_expired_token_closes_with_3005_and_the_next_token_recovers(self):
        tokens = answering(Hub.sign({"sub": "ann"}, ttl=3), Hub.sign({"sub": "ann", "exp": EXPIRED}), Hub.sign({"sub": "ann"}))
        ann = await self.connect_client(token="", get_token=tokens)
        channel = f"refreshed-{self.uses_protobuf}"
        news = await self.subscribe(ann, channel, recoverable=True)
        await self.expect_publication(news, 1)
        self.assertEqual((await ann.events.wait_for(LOST)).code, 3005)
        await ann.events.wait_for("connected")
        self.assertTrue((await news.events.wait_for("subscribed")).recovered)
        await self.expect_publication(news, 2)

    async def test_refresh_with_expired_subscription_token_ends_with_2501_and_the_next_token_subscribes_again(self):
        channel = f"$ended-{self.uses_protobuf}"
        of = {"sub": "ann", "channel": channel}
        tokens = answering(Hub.sign(of, ttl=3), Hub.sign({**of, "exp": EXPIRED}), Hub.sign(of))
        ann = await self.connect_client()
        secret = await self.subscribe(ann, channel, get_token=tokens, min_resubscribe_delay=0.02)
        self.assertEqual((await secret.events.wait_for("subscribing")).code, 2501)
        await secret.events.wait_for("subscribed")
        await self.expect_publication(secret, 1)
        self.assertFalse(ann.events.has(LOST))

    async def test_stopping_hub_closes_with_3001_and_the_client_returns_to_the_next(self):
        key = "the API key of these tests, long enough"
        first = Hub({"api.key": key})
        ann = await self.connect_client(hub=first)
        news = await self.subscribe(ann, "news")
        stopped = asyncio.ensure_future(asyncio.to_thread(first.stop))
        self.assertEqual((await ann.events.wait_for(LOST)).code, 3001)
        await stopped
        second = await asyncio.to_thread(self.start_hub, {"server.bind": first.address, "api.key": key})
        await news.events.wait_for("subscribed")
        await self.expect_publication(news, "of the second", second)

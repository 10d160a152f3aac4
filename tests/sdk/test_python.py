"""PyPI `centrifuge-python` (JSON) on a real hub: every supported way to send a token, channels, expiring tokens, API controls, outages."""

import asyncio
import signal

from centrifuge import ClientState, ReplyError, SubscriptionState, UnauthorizedError

from hub import Hub
from support import Events, Tests

EXPIRED = 1_600_000_000


def answering(*answers):
    """A get_token that gives one answer after the other; an exception is raised, an event is waited for."""
    left = list(answers)

    async def get_token(*_):
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, asyncio.Future):
            return await answer
        return answer

    get_token.left = left
    return get_token


class Connecting(Tests):
    async def test_client_with_token_connects(self):
        ann = await self.connect_client()
        self.assertRegex(ann.connected_event.client, "^[0-9a-f-]{36}$")

    async def test_client_without_token_calls_get_token(self):
        ann = self.create_client(get_token=answering(Hub.sign({"sub": "ann"})))
        await ann.connect()
        await ann.ready()

    async def test_client_with_token_in_url_connects(self):
        ann = self.create_client(query=f"?token={Hub.sign({'sub': 'ann'})}")
        await ann.connect()
        await ann.ready()
        await self.expect_publication(await self.subscribe(ann, "door"), 1)

    async def test_client_with_token_in_header_connects(self):
        ann = self.create_client(headers={"Authorization": f"Bearer {Hub.sign({'sub': 'ann'})}"})
        await ann.connect()
        await ann.ready()

    async def test_invalid_token_closes_with_3500_for_good(self):
        ann = self.create_client(token=Hub.sign({"sub": "ann"}, secret="another secret than the hub's, long enough"))
        await ann.connect()
        context = await ann.events.wait_for("disconnected")
        self.assertEqual((context.code, context.reason), (3500, "invalid token"))

    async def test_expired_token_fails_with_109_and_the_next_one_connects(self):
        get_token = answering(Hub.sign({"sub": "ann", "exp": EXPIRED}), Hub.sign({"sub": "ann"}))
        ann = self.create_client(get_token=get_token)
        await ann.connect()
        self.assertEqual((await ann.events.wait_for("error")).error.code, 109)
        await ann.events.wait_for("connected")

    async def test_unauthorized_from_get_token_disconnects_for_good_and_other_errors_are_retried(self):
        lost = self.create_client(get_token=answering(UnauthorizedError()))
        await lost.connect()
        self.assertEqual((await lost.events.wait_for("disconnected")).code, 1)
        found = self.create_client(get_token=answering(RuntimeError("backend away"), Hub.sign({"sub": "ann"})))
        await found.connect()
        await found.events.wait_for("error")
        await found.events.wait_for("connected")

    async def test_invalid_token_in_url_closes_with_3500_if_auth_reject_is_close(self):
        # A client that has received the close before it sends its connect command does not look at the code, and reconnects.
        proxy = await self.open_proxy(self.start_hub({"auth.reject": "close"}), client_speaks_first=True)
        ann = self.create_client(proxy, query="?token=a.b.c")
        await ann.connect()
        self.assertEqual((await ann.events.wait_for("disconnected")).code, 3500)

    async def test_client_without_token_is_closed_with_3501(self):
        anonymous = self.create_client()
        await anonymous.connect()
        self.assertEqual((await anonymous.events.wait_for("disconnected")).code, 3501)


class Channels(Tests):
    async def test_two_clients_receive_their_own_and_each_others_and_rest_publications(self):
        ann, bob = await self.connect_client("ann"), await self.connect_client("bob")
        anns, bobs = await self.subscribe(ann, "two"), await self.subscribe(bob, "two")
        await anns.publish("of ann")
        await bob.publish("two", "of bob")
        await self.api("publish", {"channel": "two", "data": "of REST"})
        for subscription in (anns, bobs):
            pubs = [(await subscription.events.wait_for("publication")).pub for _ in range(3)]
            self.assertEqual([pub.data for pub in pubs], ["of ann", "of bob", "of REST"])
            self.assertEqual([pub.info and pub.info.user for pub in pubs], ["ann", "bob", None])
            self.assertEqual(pubs[0].info.client, ann.connected_event.client)

    async def test_every_kind_of_json_data_arrives_unchanged(self):
        news = await self.subscribe(await self.connect_client(), "kinds")
        kinds = [None, True, False, 0, -0.5, 2**53 + 1, 12345678901234567890, "", "two\nlines\r\n\t\"\\", "\u2028\0",
                 "Grüße, 世界, 🦊, \ud83d", [], {}, [[[None]]], {"": {"a b": [1, {"ü": "\n"}]}}, "x" * 30_000]
        for kind in kinds:
            await news.publish(kind)
        self.assertEqual([(await news.events.wait_for("publication")).pub.data for _ in kinds], kinds)

    async def test_unsubscribed_client_receives_nothing_until_it_subscribes_again(self):
        news = await self.subscribe(await self.connect_client(), "again")
        await news.unsubscribe()
        await self.api("publish", {"channel": "again", "data": "missed"})
        await news.subscribe()
        await news.ready()
        await self.expect_publication(news, "heard")

    async def test_channels_of_the_token_become_server_side_subscriptions(self):
        claims = {"sub": "ann", "channels": ["server-side"], "subs": {"with-data": {"data": {"hello": 1}}}}
        for options in ({"token": Hub.sign(claims)}, {"query": f"?token={Hub.sign(claims)}"}):
            ann = self.create_client(**options)
            await ann.connect()
            first, second = await ann.events.wait_for("subscribed"), await ann.events.wait_for("subscribed")
            self.assertEqual((first.channel, second.channel, second.data), ("server-side", "with-data", {"hello": 1}))
            await self.api("publish", {"channel": "server-side", "data": "to you"})
            heard = await ann.events.wait_for("publication")
            self.assertEqual((heard.channel, heard.pub.data), ("server-side", "to you"))

    async def test_refused_subscriptions_end_with_their_code(self):
        narrow = self.start_hub({"limits.channels_per_session": 2})
        ann = await self.connect_client(hub=narrow, token=Hub.sign({"sub": "ann", "channels": ["server-side"]}))
        await self.subscribe(ann, "second")
        for channel, code in [("nowhere:1", 102), ("dialog#bob,eve", 103), ("$secret", 103), ("server-side", 105),
                              ("third", 106), ("a*", 107)]:
            refused = ann.new_subscription(channel, events=Events())
            await refused.subscribe()
            self.assertEqual((await refused.events.wait_for("unsubscribed")).code, code, channel)
        await ann.ready()

    async def test_unavailable_methods_fail_with_108_and_the_client_stays_connected(self):
        ann = await self.connect_client()
        news = await self.subscribe(ann, "empty")
        for call in (ann.presence("empty"), ann.presence_stats("empty"), ann.history("empty", limit=1), ann.rpc("m", {}),
                     news.presence(), news.history(limit=1)):
            with self.assertRaises(ReplyError) as raised:
                await call
            self.assertEqual(raised.exception.code, 108)
        for channel, code in [("nowhere:1", 102), ("a*", 107)]:
            with self.assertRaises(ReplyError) as raised:
                await ann.publish(channel, 1)
            self.assertEqual(raised.exception.code, code)
        await self.expect_publication(news, 1)

    async def test_message_over_the_limit_makes_the_client_reconnect(self):
        ann = await self.connect_client()
        with self.assertRaises(Exception):
            await ann.publish("news", "x" * 100_000)
        self.assertEqual((await ann.events.wait_for("connecting")).code, 3)
        await ann.events.wait_for("connected")


class Compression(Tests):
    settings = {"server.compression.enabled": "true"}

    async def test_client_receives_compressed_publications(self):
        # The library offers a window of 4 KiB.
        proxy = await self.open_proxy()
        ann = await self.connect_client(hub=proxy)
        news = await self.subscribe(ann, "news")
        before = proxy.bytes
        data = [[number, "the same words again and again " * 1000] for number in range(5)]
        await self.publish("news", data)
        self.assertEqual(await self.receive_data(news, 5), data)
        self.assertLess(proxy.bytes - before, 15_000)
        # Its own commands are compressed, too.
        await news.publish(data[0])
        self.assertEqual(await self.receive_data(news, 1), [data[0]])


class Tokens(Tests):
    # The hub sends clients half of the remaining lifetime of a short token as its ttl, at least one second.

    async def test_client_refreshes_repeatedly_before_its_token_expires(self):
        fifth = asyncio.Event()
        calls = []

        async def get_token():
            calls.append(None)
            if len(calls) == 5:
                fifth.set()
            return Hub.sign({"sub": "ann"}, ttl=3)

        ann = await self.connect_client(token="", get_token=get_token)
        news = await self.subscribe(ann, "refreshed")
        await asyncio.wait_for(fifth.wait(), 20)
        await self.expect_publication(news, 1)
        self.assertFalse(ann.events.has("connecting") or ann.events.has("error"))

    async def test_client_that_refreshes_too_late_gets_3005_then_109_and_reconnects(self):
        # Refreshes of the open connection get no answer. On a busy machine it may expire before the client asks for one.
        stuck = asyncio.get_running_loop().create_future()
        ttl = 2

        async def get_token():
            if ann.state is ClientState.CONNECTED:
                return await stuck
            return Hub.sign({"sub": "ann"}, ttl=ttl)

        ann = self.create_client(token="", get_token=get_token)
        await ann.connect()
        await ann.events.wait_for("connected")
        ttl = 60
        news = await self.subscribe(ann, "late")
        context = await ann.events.wait_for("connecting")
        self.assertEqual((context.code, context.reason), (3005, "connection expired"))
        self.assertEqual((await ann.events.wait_for("error")).error.code, 109)
        await news.events.wait_for("subscribed")
        await self.expect_publication(news, "back")
        stuck.set_result("")

    async def test_refresh_with_invalid_token_closes_with_3500(self):
        tokens = answering(Hub.sign({"sub": "ann"}, ttl=3), "a.b.c")
        ann = await self.connect_client(token="", get_token=tokens)
        self.assertEqual((await ann.events.wait_for("disconnected")).code, 3500)

    async def test_subscription_token_permits_its_channel_and_is_refreshed(self):
        third = asyncio.Event()
        channels = []

        async def get_token(channel):
            channels.append(channel)
            if len(channels) == 3:
                third.set()
            return Hub.sign({"sub": "ann", "channel": channel}, ttl=3)

        secret = await self.subscribe(await self.connect_client(), "$secret", get_token=get_token)
        await asyncio.wait_for(third.wait(), 20)
        await self.expect_publication(secret, "psst")
        self.assertEqual((set(channels), secret.state), ({"$secret"}, SubscriptionState.SUBSCRIBED))
        self.assertFalse(secret.events.has("subscribing") or secret.events.has("error"))

    async def test_invalid_subscription_token_fails_with_103(self):
        ann = await self.connect_client()
        secret = ann.new_subscription("$x", events=Events(), get_token=answering("a.b.c"))
        await secret.subscribe()
        self.assertEqual((await secret.events.wait_for("unsubscribed")).code, 103)
        await self.expect_publication(await self.subscribe(ann, "stays"), 1)

    async def test_subscription_token_of_another_channel_closes_with_3500(self):
        ann = await self.connect_client()
        token = Hub.sign({"sub": "ann", "channel": "$y"})
        await ann.new_subscription("$x", get_token=answering(token)).subscribe()
        self.assertEqual((await ann.events.wait_for("disconnected")).code, 3500)


class Controls(Tests):
    settings = {"server.ping_interval": "1s", "server.pong_timeout": "500ms"}

    async def test_disconnect_is_final_with_3503_and_temporary_with_a_code_below_3500(self):
        ann = await self.connect_client("away")
        await self.api("disconnect", {"user": "away", "disconnect": {"code": 3011, "reason": "moved"}})
        context = await ann.events.wait_for("connecting")
        self.assertEqual((context.code, context.reason), (3011, "moved"))
        await ann.events.wait_for("connected")
        await self.api("disconnect", {"user": "away"})
        self.assertEqual((await ann.events.wait_for("disconnected")).code, 3503)

    async def test_unsubscribe_ends_one_subscription_with_2000(self):
        ann = await self.connect_client("two")
        news, sport = await self.subscribe(ann, "news"), await self.subscribe(ann, "sport")
        await self.api("unsubscribe", {"user": "two", "channel": "news"})
        self.assertEqual((await news.events.wait_for("unsubscribed")).code, 2000)
        await self.expect_publication(sport, 1)

    async def test_refresh_keeps_the_client_connected(self):
        ann = await self.connect_client("refreshed")
        news = await self.subscribe(ann, "orders")
        await self.api("refresh", {"user": "refreshed", "expire_at": 4_000_000_000})
        await self.expect_publication(news, 1)

    async def test_stopping_hub_closes_with_3001_and_clients_reconnect_with_their_subscriptions(self):
        key = "the API key of these tests, long enough"
        first = Hub({"api.key": key})
        own = await self.connect_client(hub=first)
        door = self.create_client(first, query=f"?token={Hub.sign({'sub': 'bob', 'channels': ['server-side']})}")
        await door.connect()
        await door.events.wait_for("subscribed")
        news = await self.subscribe(own, "news")
        stopping = asyncio.to_thread(first.stop)
        stopped = asyncio.ensure_future(stopping)
        for client in (own, door):
            self.assertEqual((await client.events.wait_for("connecting")).code, 3001)
        await stopped
        second = await asyncio.to_thread(self.start_hub, {"server.bind": first.address, "api.key": key})
        await news.events.wait_for("subscribed")
        await self.expect_publication(news, "of the second", second)
        await door.events.wait_for("subscribed")
        await self.api("publish", {"channel": "server-side", "data": 1}, second)
        self.assertEqual((await door.events.wait_for("publication")).channel, "server-side")

    async def test_client_that_answers_pings_stays_connected(self):
        ann = await self.connect_client()
        news = await self.subscribe(ann, "pings")
        pings, handle, third = [], ann._handle_ping, asyncio.Event()

        async def counting():
            await handle()
            pings.append(None)
            if len(pings) == 3:
                third.set()

        ann._handle_ping = counting
        await asyncio.wait_for(third.wait(), 20)
        await self.expect_publication(news, 1)
        self.assertFalse(ann.events.has("connecting"))

    async def test_client_notices_a_frozen_hub_and_reconnects(self):
        frozen = self.start_hub({"server.ping_interval": "1s"})
        self.addCleanup(frozen.process.send_signal, signal.SIGCONT)
        ann = await self.connect_client(hub=frozen, max_server_ping_delay=0.5, timeout=1)
        frozen.process.send_signal(signal.SIGSTOP)
        self.assertEqual((await ann.events.wait_for("connecting")).code, 2)
        frozen.process.send_signal(signal.SIGCONT)
        await ann.events.wait_for("connected")

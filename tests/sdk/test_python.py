"""PyPI `centrifuge-python` (JSON) on a real hub: every door it can use, channels, tokens that end, orders, outages."""

import asyncio
import signal

from centrifuge import ReplyError, SubscriptionState, UnauthorizedError

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
    async def test_a_client_with_a_token_is_connected(self):
        ann = await self.connected()
        self.assertRegex(ann.greeting.client, "^[0-9a-f-]{36}$")

    async def test_a_client_asks_its_get_token_when_it_has_none(self):
        ann = self.client(get_token=answering(Hub.sign({"sub": "ann"})))
        await ann.connect()
        await ann.ready()

    async def test_a_url_with_a_token_needs_no_token_of_the_client(self):
        ann = self.client(query=f"?token={Hub.sign({'sub': 'ann'})}")
        await ann.connect()
        await ann.ready()
        await self.hears(await self.subscribed(ann, "door"), 1)

    async def test_a_header_with_a_token_needs_no_token_of_the_client(self):
        ann = self.client(headers={"Authorization": f"Bearer {Hub.sign({'sub': 'ann'})}"})
        await ann.connect()
        await ann.ready()

    async def test_a_bad_token_is_3500_and_the_client_stays_away(self):
        ann = self.client(token=Hub.sign({"sub": "ann"}, secret="the secret of somebody else"))
        await ann.connect()
        context = await ann.events.next("disconnected")
        self.assertEqual((context.code, context.reason), (3500, "invalid token"))

    async def test_an_expired_token_is_109_and_the_next_one_gets_in(self):
        get_token = answering(Hub.sign({"sub": "ann", "exp": EXPIRED}), Hub.sign({"sub": "ann"}))
        ann = self.client(get_token=get_token)
        await ann.connect()
        self.assertEqual((await ann.events.next("error")).error.code, 109)
        await ann.events.next("connected")

    async def test_a_get_token_that_raises_unauthorized_is_the_end_and_one_that_fails_is_asked_again(self):
        lost = self.client(get_token=answering(UnauthorizedError()))
        await lost.connect()
        self.assertEqual((await lost.events.next("disconnected")).code, 1)
        found = self.client(get_token=answering(RuntimeError("backend away"), Hub.sign({"sub": "ann"})))
        await found.connect()
        await found.events.next("error")
        await found.events.next("connected")

    async def test_a_url_with_a_bad_token_is_3500_where_auth_reject_is_close(self):
        telling = self.hub_with({"auth.reject": "close"})
        ann = self.client(telling, query="?token=a.b.c")
        await ann.connect()
        self.assertEqual((await ann.events.next("disconnected")).code, 3500)

    async def test_without_a_token_the_client_is_told_3501(self):
        nobody = self.client()
        await nobody.connect()
        self.assertEqual((await nobody.events.next("disconnected")).code, 3501)


class Channels(Tests):
    async def test_two_clients_hear_their_own_and_each_others_publications_and_those_of_rest(self):
        ann, bob = await self.connected("ann"), await self.connected("bob")
        anns, bobs = await self.subscribed(ann, "two"), await self.subscribed(bob, "two")
        await anns.publish("of ann")
        await bob.publish("two", "of bob")
        await self.api("publish", {"channel": "two", "data": "of REST"})
        for subscription in (anns, bobs):
            pubs = [(await subscription.events.next("publication")).pub for _ in range(3)]
            self.assertEqual([pub.data for pub in pubs], ["of ann", "of bob", "of REST"])
            self.assertEqual([pub.info and pub.info.user for pub in pubs], ["ann", "bob", None])
            self.assertEqual(pubs[0].info.client, ann.greeting.client)

    async def test_data_of_every_kind_arrives_as_it_was_sent(self):
        news = await self.subscribed(await self.connected(), "kinds")
        kinds = [None, True, False, 0, -0.5, 2**53 + 1, 12345678901234567890, "", "two\nlines\r\n\t\"\\", "\u2028\0",
                 "Grüße, 世界, 🦊, \ud83d", [], {}, [[[None]]], {"": {"a b": [1, {"ü": "\n"}]}}, "x" * 30_000]
        for kind in kinds:
            await news.publish(kind)
        self.assertEqual([(await news.events.next("publication")).pub.data for _ in kinds], kinds)

    async def test_who_has_unsubscribed_hears_nothing_and_who_subscribes_again_hears_what_comes_then(self):
        news = await self.subscribed(await self.connected(), "again")
        await news.unsubscribe()
        await self.api("publish", {"channel": "again", "data": "missed"})
        await news.subscribe()
        await news.ready()
        await self.hears(news, "heard")

    async def test_a_tokens_channels_are_the_clients_own(self):
        claims = {"sub": "ann", "channels": ["brought"], "subs": {"told": {"data": {"hello": 1}}}}
        for options in ({"token": Hub.sign(claims)}, {"query": f"?token={Hub.sign(claims)}"}):
            ann = self.client(**options)
            await ann.connect()
            first, second = await ann.events.next("subscribed"), await ann.events.next("subscribed")
            self.assertEqual((first.channel, second.channel, second.data), ("brought", "told", {"hello": 1}))
            await self.api("publish", {"channel": "brought", "data": "to you"})
            heard = await ann.events.next("publication")
            self.assertEqual((heard.channel, heard.pub.data), ("brought", "to you"))

    async def test_what_is_refused_ends_a_subscription_with_its_code(self):
        narrow = self.hub_with({"limits.channels_per_session": 2})
        ann = await self.connected(hub=narrow, token=Hub.sign({"sub": "ann", "channels": ["brought"]}))
        await self.subscribed(ann, "second")
        for channel, code in [("nowhere:1", 102), ("dialog#bob,eve", 103), ("$secret", 103), ("brought", 105),
                              ("third", 106), ("a*", 107)]:
            refused = ann.new_subscription(channel, events=Events())
            await refused.subscribe()
            self.assertEqual((await refused.events.next("unsubscribed")).code, code, channel)
        await ann.ready()

    async def test_what_is_not_available_is_108_and_the_client_goes_on(self):
        ann = await self.connected()
        news = await self.subscribed(ann, "empty")
        for call in (ann.presence("empty"), ann.presence_stats("empty"), ann.history("empty", limit=1), ann.rpc("m", {}),
                     news.presence(), news.history(limit=1)):
            with self.assertRaises(ReplyError) as raised:
                await call
            self.assertEqual(raised.exception.code, 108)
        for channel, code in [("nowhere:1", 102), ("a*", 107)]:
            with self.assertRaises(ReplyError) as raised:
                await ann.publish(channel, 1)
            self.assertEqual(raised.exception.code, code)
        await self.hears(news, 1)

    async def test_a_message_over_the_limit_makes_the_client_come_back(self):
        ann = await self.connected()
        with self.assertRaises(Exception):
            await ann.publish("news", "x" * 100_000)
        self.assertEqual((await ann.events.next("connecting")).code, 3)
        await ann.events.next("connected")


class Tokens(Tests):
    # Clients are told half of what a short token has left, at least a second.

    async def test_a_client_refreshes_before_its_token_ends_again_and_again_and_stays_connected(self):
        fifth = asyncio.Event()
        calls = []

        async def get_token():
            calls.append(None)
            if len(calls) == 5:
                fifth.set()
            return Hub.sign({"sub": "ann"}, ttl=3)

        ann = await self.connected(token="", get_token=get_token)
        news = await self.subscribed(ann, "refreshed")
        await asyncio.wait_for(fifth.wait(), 20)
        await self.hears(news, 1)
        self.assertFalse(ann.events.had("connecting") or ann.events.had("error"))

    async def test_a_client_that_does_not_refresh_in_time_is_3005_then_109_and_comes_back(self):
        stuck = asyncio.get_running_loop().create_future()
        tokens = answering(Hub.sign({"sub": "ann"}, ttl=2), stuck, Hub.sign({"sub": "ann"}))
        ann = await self.connected(token="", get_token=tokens)
        news = await self.subscribed(ann, "late")
        context = await ann.events.next("connecting")
        self.assertEqual((context.code, context.reason), (3005, "connection expired"))
        self.assertEqual((await ann.events.next("error")).error.code, 109)
        await news.events.next("subscribed")
        await self.hears(news, "back")
        stuck.set_result("")

    async def test_a_refresh_with_a_bad_token_is_3500(self):
        tokens = answering(Hub.sign({"sub": "ann"}, ttl=3), "a.b.c")
        ann = await self.connected(token="", get_token=tokens)
        self.assertEqual((await ann.events.next("disconnected")).code, 3500)

    async def test_a_subscription_token_opens_its_channel_and_is_refreshed_before_it_ends(self):
        third = asyncio.Event()
        channels = []

        async def get_token(channel):
            channels.append(channel)
            if len(channels) == 3:
                third.set()
            return Hub.sign({"sub": "ann", "channel": channel}, ttl=3)

        secret = await self.subscribed(await self.connected(), "$secret", get_token=get_token)
        await asyncio.wait_for(third.wait(), 20)
        await self.hears(secret, "psst")
        self.assertEqual((set(channels), secret.state), ({"$secret"}, SubscriptionState.SUBSCRIBED))
        self.assertFalse(secret.events.had("subscribing") or secret.events.had("error"))

    async def test_a_bad_subscription_token_is_103_and_the_connection_stays(self):
        ann = await self.connected()
        secret = ann.new_subscription("$x", events=Events(), get_token=answering("a.b.c"))
        await secret.subscribe()
        self.assertEqual((await secret.events.next("unsubscribed")).code, 103)
        await self.hears(await self.subscribed(ann, "stays"), 1)

    async def test_a_subscription_token_of_another_channel_is_3500(self):
        ann = await self.connected()
        token = Hub.sign({"sub": "ann", "channel": "$y"})
        await ann.new_subscription("$x", get_token=answering(token)).subscribe()
        self.assertEqual((await ann.events.next("disconnected")).code, 3500)


class Orders(Tests):
    settings = {"server.ping_interval": "1s", "server.pong_timeout": "500ms"}

    async def test_a_disconnect_order_is_3503_for_good_and_a_code_below_3500_is_come_back_from(self):
        ann = await self.connected("away")
        await self.api("disconnect", {"user": "away", "disconnect": {"code": 3000, "reason": "moved"}})
        context = await ann.events.next("connecting")
        self.assertEqual((context.code, context.reason), (3000, "moved"))
        await ann.events.next("connected")
        await self.api("disconnect", {"user": "away"})
        self.assertEqual((await ann.events.next("disconnected")).code, 3503)

    async def test_an_unsubscribe_order_is_2000_and_others_go_on(self):
        ann = await self.connected("two")
        news, sport = await self.subscribed(ann, "news"), await self.subscribed(ann, "sport")
        await self.api("unsubscribe", {"user": "two", "channel": "news"})
        self.assertEqual((await news.events.next("unsubscribed")).code, 2000)
        await self.hears(sport, 1)

    async def test_a_refresh_order_leaves_the_client_where_it_is(self):
        ann = await self.connected("refreshed")
        news = await self.subscribed(ann, "orders")
        await self.api("refresh", {"user": "refreshed", "expire_at": 4_000_000_000})
        await self.hears(news, 1)

    async def test_a_hub_that_stops_says_3001_and_clients_come_back_to_the_next_one_with_all_they_had(self):
        key = "the API key of these tests, long enough"
        first = Hub({"api.key": key})
        own = await self.connected(hub=first)
        door = self.client(first, query=f"?token={Hub.sign({'sub': 'bob', 'channels': ['brought']})}")
        await door.connect()
        await door.events.next("subscribed")
        news = await self.subscribed(own, "news")
        stopping = asyncio.to_thread(first.stop)
        stopped = asyncio.ensure_future(stopping)
        for client in (own, door):
            self.assertEqual((await client.events.next("connecting")).code, 3001)
        await stopped
        second = await asyncio.to_thread(self.hub_with, {"server.bind": first.address, "api.key": key})
        await news.events.next("subscribed")
        await self.hears(news, "of the second", second)
        await door.events.next("subscribed")
        await self.api("publish", {"channel": "brought", "data": 1}, second)
        self.assertEqual((await door.events.next("publication")).channel, "brought")

    async def test_a_client_answers_pings_and_stays(self):
        ann = await self.connected()
        news = await self.subscribed(ann, "pings")
        pings, handle, third = [], ann._handle_ping, asyncio.Event()

        async def counting():
            await handle()
            pings.append(None)
            if len(pings) == 3:
                third.set()

        ann._handle_ping = counting
        await asyncio.wait_for(third.wait(), 20)
        await self.hears(news, 1)
        self.assertFalse(ann.events.had("connecting"))

    async def test_a_hub_that_is_frozen_is_noticed_by_its_silence_and_come_back_to(self):
        frozen = self.hub_with({"server.ping_interval": "1s"})
        self.addCleanup(frozen.process.send_signal, signal.SIGCONT)
        ann = await self.connected(hub=frozen, max_server_ping_delay=0.5, timeout=1)
        frozen.process.send_signal(signal.SIGSTOP)
        self.assertEqual((await ann.events.next("connecting")).code, 2)
        frozen.process.send_signal(signal.SIGCONT)
        await ann.events.next("connected")

"""PyPI `centrifuge-python` and channels with history and presence. Each test runs in JSON and in Protobuf."""

import asyncio

from centrifuge import DeltaType, Filter, ReplyError, StreamPosition

from hub import HAS_NODES, Hub, start_hub
from support import Events, Tests, in_both_formats

WITH_HISTORY = {"channels.history_size": 10, "channels.allow_history": "user", "limits.recovered_publications": 8,
               "channels.presence": "true", "channels.allow_presence": "user", "channels.join_leave": "true",
               "channels.allowed_delta_types": '["fossil"]'}


class HistoryTests(Tests):
    settings = WITH_HISTORY

    def channel(self):
        """Returns a channel name of this test alone."""
        return self.id().rsplit(".", 1)[1][:200]

    async def expect_error(self, code, call):
        with self.assertRaises(ReplyError) as raised:
            await call
        self.assertEqual(raised.exception.code, code)

    async def subscribe_through_proxy(self, hub=None, **options):
        """Returns a proxy and a subscription over it that has received 1 and 2."""
        proxy = await self.open_proxy(hub)
        client = await self.connect_client(hub=proxy)
        news = await self.subscribe(client, self.channel(), **options)
        await self.publish(news.channel, [1, 2], hub)
        self.assertEqual(await self.receive_data(news, 2), [1, 2])
        return proxy, news

    async def restore(self, proxy, news):
        """Restores the connection. Returns the subscribed event's was_recovering and recovered."""
        proxy.restore()
        context = await news.events.wait_for("subscribed")
        return context.was_recovering, context.recovered

    async def cut(self, proxy, news):
        proxy.cut()
        self.assertEqual((await news.events.wait_for("subscribing")).code, 1)


@in_both_formats
class Channels(HistoryTests):
    async def test_clients_receive_their_own_and_rest_publications(self):
        ann = await self.connect_client()
        news = await self.subscribe(ann, self.channel())
        kinds = [None, False, 0, -0.5, "", "two\nlines\r\n\t\"\\", "Grüße, 世界, 🦊\u2028\0", [], {}, {"a": [1, {"ü": None}]}]
        for kind in kinds:
            await news.publish(self.encode(kind))
        await self.publish(news.channel, kinds)
        pubs = [(await news.events.wait_for("publication")).pub for _ in kinds + kinds]
        self.assertEqual([self.decode(pub.data) for pub in pubs], kinds + kinds)
        self.assertEqual([pub.info and pub.info.client for pub in (pubs[0], pubs[-1])], [ann.connected_event.client, None])

    async def test_refused_commands_fail_with_their_codes(self):
        ann = await self.connect_client()
        for channel, code in [("nowhere:1", 102), ("$secret", 103), ("a*", 107)]:
            refused = ann.new_subscription(channel, events=Events())
            await refused.subscribe()
            self.assertEqual((await refused.events.wait_for("unsubscribed")).code, code, channel)
        await self.expect_error(107, ann.publish("a*", self.encode(1)))
        thief = self.create_client(token="a.b.c")
        await thief.connect()
        self.assertEqual((await thief.events.wait_for("disconnected")).code, 3500)

    async def test_connection_and_subscription_tokens_are_refreshed(self):
        calls, third = {"client": 0, "subscription": 0}, asyncio.Event()
        secret = "$" + self.channel()

        async def get_token():
            calls["client"] += 1
            return Hub.sign({"sub": "ann"}, ttl=3)

        async def get_subscription_token(channel):
            calls["subscription"] += 1
            if calls["subscription"] == 3:
                third.set()
            return Hub.sign({"sub": "ann", "channel": channel}, ttl=3)

        ann = await self.connect_client(token="", get_token=get_token)
        news = await self.subscribe(ann, secret, get_token=get_subscription_token)
        await asyncio.wait_for(third.wait(), 20)
        await self.expect_publication(news, "still")
        self.assertGreater(calls["client"], 2)
        self.assertFalse(ann.events.has("connecting") or news.events.has("subscribing"))

    async def test_server_side_subscriptions_recover_on_reconnect(self):
        forced = self.start_hub({**WITH_HISTORY, "channels.force_recovery": "true"})
        proxy = await self.open_proxy(forced)
        ann = self.create_client(proxy, token=Hub.sign({"sub": "ann", "channels": [self.channel()]}))
        await ann.connect()
        first = await ann.events.wait_for("subscribed")
        self.assertEqual((first.channel, first.recoverable, first.was_recovering), (self.channel(), True, False))
        await self.publish(first.channel, [1, 2], forced)
        self.assertEqual(await self.receive_data(ann, 2), [1, 2])
        proxy.cut()
        await ann.events.wait_for("connecting")
        await self.publish(first.channel, [3, 4, 5], forced)
        proxy.restore()
        again = await ann.events.wait_for("subscribed")
        self.assertEqual((again.was_recovering, again.recovered), (True, True))
        await self.publish(first.channel, [6], forced)
        self.assertEqual(await self.receive_data(ann, 4), [3, 4, 5, 6])

    async def test_server_side_subscription_without_options_is_subscribed(self):
        bare = self.start_hub({})
        ann = self.create_client(bare, token=Hub.sign({"sub": "ann", "channels": ["server-side"]}))
        await ann.connect()
        self.assertEqual((await ann.events.wait_for("subscribed")).channel, "server-side")
        await self.publish("server-side", [1], bare)
        self.assertEqual(await self.receive_data(ann, 1), [1])

    async def test_server_api_subscribes_with_data_and_unsubscribes(self):
        ann = await self.connect_client(self.channel())
        target = {"user": self.channel(), "channel": self.channel()}
        await self.publish(self.channel(), [1])
        await self.api("subscribe", {**target, "data": {"hello": 1}})
        given = await ann.events.wait_for("subscribed")
        self.assertEqual((given.channel, self.decode(given.data)), (self.channel(), {"hello": 1}))
        await self.publish(self.channel(), [2])
        self.assertEqual(await self.receive_data(ann, 1), [2])
        await self.api("unsubscribe", target)
        self.assertEqual((await ann.events.wait_for("unsubscribed")).channel, self.channel())

    async def test_disconnect_is_final_with_3503_and_temporary_with_a_code_below_3500(self):
        ann = await self.connect_client(self.channel())
        await self.api("disconnect", {"user": self.channel(), "disconnect": {"code": 4000, "reason": "moved"}})
        self.assertEqual((await ann.events.wait_for("connecting")).code, 4000)
        await ann.events.wait_for("connected")
        await self.api("disconnect", {"user": self.channel()})
        self.assertEqual((await ann.events.wait_for("disconnected")).code, 3503)


@in_both_formats
class History(HistoryTests):
    async def test_history_is_read_page_by_page_in_both_directions(self):
        ann, channel = await self.connect_client(), self.channel()
        await self.publish(channel, range(1, 13), tags={"kind": "number"})
        top = await ann.history(channel)
        self.assertEqual((top.publications, top.offset), ([], 12))
        for options, since, offsets in [({"limit": 100}, None, range(3, 13)), ({"limit": 3}, None, [3, 4, 5]),
                                        ({"limit": 3}, 5, [6, 7, 8]), ({"limit": 3}, 12, []),
                                        ({"limit": 3, "reverse": True}, None, [12, 11, 10]),
                                        ({"limit": 3, "reverse": True}, 5, [4, 3])]:
            position = since and StreamPosition(offset=since, epoch=top.epoch)
            page = await ann.history(channel, since=position, **options)
            self.assertEqual([pub.offset for pub in page.publications], list(offsets), (options, since))
            self.assertEqual([self.decode(pub.data) for pub in page.publications], list(offsets))
            self.assertEqual({pub.tags["kind"] for pub in page.publications} - {"number"}, set())
            self.assertEqual((page.offset, page.epoch), (12, top.epoch))

    async def test_history_of_another_epoch_fails_with_112_of_the_future_is_empty_and_a_negative_limit_is_none(self):
        ann, channel = await self.connect_client(), self.channel()
        await self.publish(channel, [1])
        epoch = (await ann.history(channel)).epoch
        await self.expect_error(112, ann.history(channel, limit=1, since=StreamPosition(offset=1, epoch="no epoch")))
        for offset in [2, 2**64 - 1]:
            page = await ann.history(channel, limit=1, since=StreamPosition(offset=offset, epoch=epoch))
            self.assertEqual((page.publications, page.offset), ([], 1))
        page = await ann.history(channel, limit=-1)
        self.assertEqual([self.decode(pub.data) for pub in page.publications], [1])

    async def test_history_and_presence_fail_with_103_without_permission_and_108_where_disabled(self):
        closed = self.start_hub({"channels.history_size": 10, "channels.presence": "true"})
        without = self.start_hub({"channels.allow_history": "user", "channels.allow_presence": "user"})
        for hub, code in [(closed, 103), (without, 108)]:
            news = await self.subscribe(await self.connect_client(hub=hub), self.channel())
            for call in (news.history(limit=1), news.presence(), news.presence_stats()):
                await self.expect_error(code, call)

    async def test_presence_returns_every_subscriber(self):
        ann = await self.connect_client(token=Hub.sign({"sub": "ann", "info": {"name": "Ann"}}))
        bob = await self.connect_client("bob")
        secret = "$" + self.channel()
        for client, user in [(ann, "ann"), (bob, "bob")]:
            token = Hub.sign({"sub": user, "channel": secret, "info": {"of": user}})
            news = await self.subscribe(client, secret, token=token)
        clients = (await ann.presence(secret)).clients
        self.assertEqual(set(clients), {ann.connected_event.client, bob.connected_event.client})
        info = clients[ann.connected_event.client]
        self.assertEqual((info.user, self.decode(info.conn_info), self.decode(info.chan_info)),
                         ("ann", {"name": "Ann"}, {"of": "ann"}))
        stats = await ann.presence_stats(secret)
        self.assertEqual((stats.num_clients, stats.num_users), (2, 2))
        await news.unsubscribe()
        await bob.publish("elsewhere", self.encode(1))
        self.assertEqual((await ann.presence_stats(secret)).num_clients, 1)

    async def test_only_subscribers_that_request_joins_and_leaves_receive_them(self):
        watching = await self.subscribe(await self.connect_client("watch"), self.channel(), join_leave=True)
        bob = await self.connect_client("bob")
        bobs = await self.subscribe(bob, self.channel())
        await bobs.unsubscribe()
        for event in ("join", "leave"):
            while (context := await watching.events.wait_for(event)).info.user != "bob":
                pass
            self.assertEqual(context.info.client, bob.connected_event.client)
        self.assertFalse(bobs.events.has("join"))

    async def test_tags_filter_passes_matching_publications_live_and_recovered(self):
        either = Filter.any(Filter.all(Filter.eq("kind", "tick"), Filter.gte("price", "10")), Filter.eq("kind", "end"))
        proxy = await self.open_proxy()
        news = await self.subscribe(await self.connect_client(hub=proxy), self.channel(), tags_filter=either, recoverable=True)
        ticks = [(1, {"kind": "tick", "price": "9"}), (2, {"kind": "tick", "price": "10.5"}), (3, {}), (4, {"kind": "end"})]
        for value, tags in ticks:
            await self.publish(news.channel, [value], tags=tags)
        self.assertEqual(await self.receive_data(news, 2), [2, 4])
        await self.cut(proxy, news)
        for value, tags in ticks:
            await self.publish(news.channel, [value + 10], tags=tags)
        self.assertEqual(await self.restore(proxy, news), (True, True))
        self.assertEqual(await self.receive_data(news, 2), [12, 14])


@in_both_formats
class Recovery(HistoryTests):
    async def test_reconnecting_client_receives_every_missed_publication_once_and_in_order(self):
        proxy, news = await self.subscribe_through_proxy(recoverable=True)
        await self.cut(proxy, news)
        await self.publish(news.channel, range(3, 10))
        self.assertEqual(await self.restore(proxy, news), (True, True))
        await self.publish(news.channel, [10])
        pubs = [(await news.events.wait_for("publication")).pub for _ in range(8)]
        self.assertEqual([(self.decode(pub.data), pub.offset) for pub in pubs], [(n, n) for n in range(3, 11)])
        await self.cut(proxy, news)
        self.assertEqual(await self.restore(proxy, news), (True, True))
        await self.publish(news.channel, [11])
        self.assertEqual(await self.receive_data(news, 1), [11])

    async def test_recovery_fails_beyond_its_limits(self):
        proxy, news = await self.subscribe_through_proxy(recoverable=True)
        for first, last in [(3, 13), (14, 22)]:
            await self.cut(proxy, news)
            await self.publish(news.channel, range(first, last + 1))
            self.assertEqual(await self.restore(proxy, news), (True, False))
        await self.cut(proxy, news)
        await self.publish(news.channel, [23])
        await self.api("history_remove", {"channel": news.channel})
        self.assertEqual(await self.restore(proxy, news), (True, False))
        await self.publish(news.channel, [24])
        self.assertEqual(await self.receive_data(news, 1), [24])

    async def test_histories_that_were_lost_have_another_epoch(self):
        settings = {**WITH_HISTORY, "api.key": "the API key of these tests, long enough"}
        hub = await asyncio.to_thread(start_hub, settings)
        proxy, news = await self.subscribe_through_proxy(hub, recoverable=True)
        await self.cut(proxy, news)
        if HAS_NODES:
            self.addCleanup(hub.stop)
            await asyncio.to_thread(hub.lose_state)
        else:
            await asyncio.to_thread(hub.stop)
            hub = await asyncio.to_thread(self.start_hub, {**settings, "server.bind": hub.address})
        await self.publish(news.channel, [1, 2], hub)
        self.assertEqual(await self.restore(proxy, news), (True, False))
        await self.publish(news.channel, [3], hub)
        self.assertEqual(await self.receive_data(news, 1), [3])

    async def test_client_with_get_state_loads_its_state_again_after_112(self):
        loaded = []

        async def get_state(channel):
            top = await ann.history(channel)
            loaded.append(top.offset)
            return StreamPosition(offset=top.offset, epoch=top.epoch)

        proxy = await self.open_proxy()
        await self.publish(self.channel(), range(1, 6))
        ann = await self.connect_client(hub=proxy)
        news = await self.subscribe(ann, self.channel(), get_state=get_state, min_resubscribe_delay=0.01)
        await self.cut(proxy, news)
        await self.publish(news.channel, range(6, 17))
        self.assertEqual(await self.restore(proxy, news), (True, True))
        await self.publish(news.channel, [17])
        self.assertEqual((await self.receive_data(news, 1), loaded), ([17], [5, 16]))

    async def test_cache_mode_sends_the_newest_publication(self):
        cache = self.start_hub({**WITH_HISTORY, "channels.force_recovery": "true", "channels.force_recovery_mode": "cache"})
        proxy, news = await self.subscribe_through_proxy(cache)
        await self.cut(proxy, news)
        await self.publish(news.channel, range(3, 21), cache)
        self.assertEqual(await self.restore(proxy, news), (True, True))
        await self.publish(news.channel, [21], cache)
        self.assertEqual(await self.receive_data(news, 2), [20, 21])

    async def test_a_live_gap_ends_a_subscription_with_2500_and_it_subscribes_again_by_itself(self):
        little = {"limits.history_bytes": 65_536, "limits.publication_bytes": 16_384, "api.publication_bytes": 16_384}
        forgetful = self.start_hub({**WITH_HISTORY, **little})
        _, news = await self.subscribe_through_proxy(forgetful, positioned=True)
        if HAS_NODES:
            await asyncio.to_thread(forgetful.lose_state)
        else:
            others = {"channels": ["one", "two", "three", "four", "five", "six"], "data": "x" * 16_000}
            await self.api("broadcast", others, forgetful)
        await self.publish(news.channel, [3], forgetful)
        self.assertEqual((await news.events.wait_for("subscribing")).code, 2500)
        await news.events.wait_for("subscribed")
        await self.publish(news.channel, [4], forgetful)
        self.assertEqual(await self.receive_data(news, 1), [4])


@in_both_formats
class Deltas(HistoryTests):
    @staticmethod
    def boards(first, last):
        """Of which little changes from one to the next."""
        rows = [{"name": f"Zeile {row} – 世界 🦊", "price": 0} for row in range(60)]
        return [{"rows": rows, "tick": tick} for tick in range(first, last + 1)]

    async def test_differences_come_to_what_was_published_live_and_recovered_with_fewer_bytes(self):
        thin, wide = await self.open_proxy(), await self.open_proxy()
        options = {"delta": DeltaType.FOSSIL, "recoverable": True}
        small = await self.subscribe(await self.connect_client(hub=thin), self.channel(), **options)
        full = await self.subscribe(await self.connect_client("bob", hub=wide), self.channel(), recoverable=True)
        await self.publish(self.channel(), self.boards(1, 20), delta=True)
        for news in (small, full):
            self.assertEqual(await self.receive_data(news, 20), self.boards(1, 20))
        for proxy, news in ((thin, small), (wide, full)):
            await self.cut(proxy, news)
        await self.publish(self.channel(), self.boards(21, 28), delta=True)
        for proxy, news in ((thin, small), (wide, full)):
            self.assertEqual(await self.restore(proxy, news), (True, True))
        await self.publish(self.channel(), self.boards(29, 30), delta=True)
        for news in (small, full):
            self.assertEqual(await self.receive_data(news, 10), self.boards(21, 30))
        self.assertLess(thin.bytes * 4, wide.bytes)

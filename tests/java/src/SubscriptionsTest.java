import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.centrifugal.centrifuge.*;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/** Subscription tokens, recovery, presence, history and refusals. */
class SubscriptionsTest {
    private static String tokenOf(String channel, long ttl) {
        return Hub.token("\"sub\":\"ann\",\"channel\":\"%s\"".formatted(channel), ttl);
    }

    @Test
    void subscriptionTokenPermitsItsChannelAndIsRefreshed() throws InterruptedException {
        var calls = new CountDownLatch(4);
        try (var ann = TestClient.connected("ann")) {
            var secret = ann.subscribe("$renewed", TestClient.tokens(channel -> {
                calls.countDown();
                return tokenOf(channel, ConnectingTest.SHORT);
            }));
            assertTrue(calls.await(Hub.PATIENCE.toSeconds(), TimeUnit.SECONDS));
            Hub.shared().publish("$renewed", "\"psst\"");
            secret.events.expectNone("subscribing", "unsubscribed", "error");
            secret.expectPublications("\"psst\"");
        }
    }

    @Test
    void refreshWithExpiredSubscriptionTokenEndsWith2501AndTheNextTokenSubscribesAgain() {
        try (var ann = TestClient.connected("ann")) {
            var tokens = TestClient.tokens(() -> tokenOf("$ended", ConnectingTest.SHORT), () -> tokenOf("$ended", -60),
                    () -> tokenOf("$ended", 3600));
            var secret = ann.subscribe("$ended", tokens);
            secret.events.awaitCode("subscribing", 2501);
            // The client presents the expired token once more. This release then unsubscribes, although it has planned to try
            // again with another token, which later releases do.
            secret.events.awaitCode("unsubscribed", 109);
            secret.subscription.subscribe();
            secret.again();
            Hub.shared().publish("$ended", "1");
            secret.expectPublications("1");
            ann.expectConnected();
        }
    }

    @Test
    void invalidSubscriptionTokenFailsWith103() {
        try (var ann = TestClient.connected("ann")) {
            ann.newSubscription("$x", TestClient.tokens(() -> "a.b.c")).events.awaitCode("unsubscribed", 103);
            ann.expectConnected();
        }
    }

    @Test
    void subscriptionTokenOfAnotherChannelOrUserEndsWith3500() {
        for (String token : new String[] {tokenOf("$y", 3600), Hub.token("\"sub\":\"bob\",\"channel\":\"$x\"", 3600)}) {
            try (var ann = TestClient.connected("ann")) {
                ann.newSubscription("$x", TestClient.tokens(() -> token));
                ann.events.awaitCode("disconnected", 3500);
            }
        }
    }

    @Test
    void refusedSubscriptionsEndWithTheirCode() {
        try (var ann = TestClient.withToken(Hub.token("\"sub\":\"ann\",\"channels\":[\"taken\"]", 3600)).connect()) {
            Map.of("nowhere:1", 102, "dialog#bob,eve", 103, "$secret", 103, "taken", 105, "a*", 107)
                    .forEach((channel, code) -> ann.newSubscription(channel, o -> {}).events.awaitCode("unsubscribed", code));
            ann.expectConnected();
        }
    }

    @Test
    void unsubscribingARefusedNameKeepsTheConnection() {
        try (var ann = TestClient.connected("ann")) {
            for (String channel : new String[] {"a\0b", "a*", "nowhere:1", "dialog#bob,eve", "never-subscribed", "x".repeat(300)}) {
                ann.newSubscription(channel, options -> {}).subscription.unsubscribe();
            }
            ann.expectConnected();
        }
    }

    @Test
    void missedPublicationsAreRecovered() {
        try (var ann = TestClient.connected("ann")) {
            var news = ann.subscribe("recovered", options -> options.setRecoverable(true));
            Hub.shared().publish("recovered", "1");
            news.expectPublications("1");
            SubscribedEvent again = away(ann, news, "2", "3", "4");
            assertTrue(again.getRecovered() && again.wasRecovering());
            news.expectPublications("2", "3", "4");
            assertTrue(away(ann, news).getRecovered());
            // The history keeps ten publications.
            again = away(ann, news, "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16");
            assertTrue(!again.getRecovered() && again.wasRecovering());
            Hub.shared().publish("recovered", "17");
            news.expectPublications("17");
        }
    }

    /** Disconnects, publishes and connects again. Returns how the client was subscribed again. */
    private static SubscribedEvent away(TestClient client, TestClient.TestSubscription news, String... values) {
        client.client.disconnect();
        client.events.await("disconnected");
        Hub.shared().publish("recovered", values);
        client.connect();
        return news.again();
    }

    @Test
    void subscriptionOfTheServerAPIIsRecoveredAfterReconnect() {
        try (var ann = TestClient.connected("given")) {
            Hub.shared().api("subscribe", "{\"user\":\"given\",\"channel\":\"given:1\"}");
            ann.events.await("subscribed given:1");
            Hub.shared().publish("given:1", "1");
            assertEquals("1", ann.events.await("publication given:1").value());
            ann.client.disconnect();
            ann.events.await("disconnected");
            Hub.shared().publish("given:1", "2");
            ann.client.connect();
            assertTrue(((ServerSubscribedEvent) ann.events.await("subscribed given:1").value()).getRecovered());
            Hub.shared().publish("given:1", "3");
            for (String data : new String[] {"2", "3"}) assertEquals(data, ann.events.await("publication given:1").value());
        }
    }

    @Test
    void presenceJoinAndLeaveNameTheClients() {
        String claims = "\"sub\":\"ann\",\"info\":{\"name\":\"Ann\"}";
        try (var ann = TestClient.withToken(Hub.token(claims, 3600)).connect(); var bob = TestClient.connected("bob")) {
            var seen = ann.subscribe("presence", options -> options.setJoinLeave(true));
            seen.events.await("join ann");
            var bobs = bob.subscribe("presence");
            assertEquals(bob.id, ((ClientInfo) seen.events.await("join bob").value()).getClient());
            var clients = TestClient.<PresenceResult>call(bobs.subscription::presence).getClients();
            assertEquals(2, clients.size());
            assertEquals("bob", clients.get(bob.id).getUser());
            assertEquals("{\"name\":\"Ann\"}", TestClient.text(clients.get(ann.id).getConnInfo()));
            PresenceStatsResult stats = TestClient.call(done -> bob.client.presenceStats("presence", done));
            assertEquals(2, stats.getNumClients());
            assertEquals(2, stats.getNumUsers());
            bobs.subscription.unsubscribe();
            seen.events.await("leave bob");
        }
    }

    @Test
    void publicationsNameTheirPublisher() {
        try (var ann = TestClient.connected("ann"); var bob = TestClient.connected("bob")) {
            var news = ann.subscribe("named");
            bob.publish("named", "{\"a\":[1]}");
            Hub.shared().api("publish", "{\"channel\":\"named\",\"data\":2,\"tags\":{\"k\":\"v\"}}");
            var first = (PublicationEvent) news.events.await("publication").value();
            assertEquals(bob.id, first.getInfo().getClient());
            assertEquals("bob", first.getInfo().getUser());
            assertEquals("{\"a\":[1]}", TestClient.text(first.getData()));
            var second = (PublicationEvent) news.events.await("publication").value();
            assertEquals("v", second.getTags().get("k"));
            assertEquals(2, second.getOffset());
        }
    }

    @Test
    void historyHasPages() {
        try (var ann = TestClient.connected("ann")) {
            var news = ann.subscribe("history");
            Hub.shared().publish("history", "1", "2", "3");
            HistoryResult top = page(news, options -> {});
            assertEquals(3, top.getOffset());
            assertNotNull(top.getEpoch());
            assertEquals("", found(top));
            assertEquals("1 2", found(page(news, options -> options.withLimit(2))));
            assertEquals("1 2 3", found(page(news, options -> options.withLimit(-1))));
            assertEquals("3 2", found(page(news, options -> options.withLimit(2).withReverse(true))));
            assertEquals("3", found(page(news, options -> options.withLimit(5).withSince(new StreamPosition(2, top.getEpoch())))));
            assertEquals("", found(page(news, options -> options.withLimit(5).withSince(new StreamPosition(999, top.getEpoch())))));
        }
    }

    private static HistoryResult page(TestClient.TestSubscription news, Consumer<HistoryOptions.Builder> configure) {
        var builder = new HistoryOptions.Builder();
        configure.accept(builder);
        return TestClient.call(done -> news.subscription.history(builder.build(), done));
    }

    private static String found(HistoryResult page) {
        return page.getPublications().stream().map(it -> TestClient.text(it.getData())).collect(Collectors.joining(" "));
    }

    @Test
    void unavailableMethodsFailWith108AndTheClientStaysConnected() {
        try (var ann = TestClient.connected("ann")) {
            var bare = ann.subscribe("bare:1").subscription;
            TestClient.<PresenceResult>expectError(108, bare::presence);
            TestClient.<PresenceStatsResult>expectError(108, bare::presenceStats);
            TestClient.<HistoryResult>expectError(108, done -> bare.history(new HistoryOptions.Builder().withLimit(1).build(), done));
            TestClient.<PublishResult>expectError(102, done -> ann.client.publish("nowhere:1", TestClient.bytes("1"), done));
            TestClient.<PublishResult>expectError(107, done -> ann.client.publish("a*", TestClient.bytes("1"), done));
            ann.expectConnected();
        }
    }
}

import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.junit.jupiter.api.Test;

/** Ways to connect, and refreshes of the connection's token. */
class ConnectingTest {
    /** Seconds. The hub sends clients half of the remaining lifetime of a short token as its ttl, at least one second. */
    static final long SHORT = 5;

    @Test
    void clientWithTokenConnects() {
        try (var ann = TestClient.connected("ann")) {
            ann.expectConnected();
        }
    }

    @Test
    void clientWithTokenInHeaderConnects() {
        var header = Map.of("Authorization", "Bearer " + Hub.token("ann"));
        try (var ann = new TestClient(Hub.shared(), options -> options.setHeaders(header)).connect()) {
            ann.expectConnected();
        }
    }

    @Test
    void invalidTokenEndsWith3500() {
        for (String token : new String[] {"a.b.c", Hub.token("ann") + "x"}) {
            try (var ann = TestClient.withToken(token)) {
                ann.client.connect();
                ann.events.awaitCode("disconnected", 3500);
            }
        }
    }

    @Test
    void clientWithoutTokenEndsWith3501() {
        try (var client = new TestClient(Hub.shared(), options -> {})) {
            client.client.connect();
            client.events.awaitCode("disconnected", 3501);
        }
    }

    @Test
    void expiredTokenFailsWith109AndTheNextOneConnects() {
        try (var ann = TestClient.withTokens(() -> Hub.token("\"sub\":\"ann\"", -60), () -> Hub.token("ann"))) {
            ann.client.connect();
            ann.events.awaitError(109);
            ann.events.await("connected");
        }
    }

    @Test
    void clientRefreshesItsTokenRepeatedly() throws InterruptedException {
        var calls = new CountDownLatch(5);
        try (var ann = TestClient.askingFor(() -> {
            calls.countDown();
            return Hub.token("\"sub\":\"ann\"", SHORT);
        })) {
            ann.connect();
            assertTrue(calls.await(Hub.PATIENCE.toSeconds(), TimeUnit.SECONDS));
            ann.expectConnected();
            ann.events.expectNone("error");
        }
    }

    @Test
    void refreshWithExpiredTokenClosesWith3005AndTheNextTokenConnects() {
        String sub = "\"sub\":\"ann\"";
        Supplier<String> first = () -> Hub.token(sub, SHORT), expired = () -> Hub.token(sub, -60);
        try (var ann = TestClient.withTokens(first, expired, () -> Hub.token("ann")).connect()) {
            var news = ann.subscribe("refreshed", options -> options.setRecoverable(true));
            ann.events.awaitCode("connecting", 3005);
            Hub.shared().publish("refreshed", "1");
            // The client presents the expired token once more, and then asks for another one.
            ann.events.awaitError(109);
            ann.events.await("connected");
            assertTrue(news.again().getRecovered());
            news.expectPublications("1");
        }
    }

    @Test
    void refreshWithInvalidOrAnotherUsersTokenEndsWith3500() {
        for (String second : new String[] {"a.b.c", Hub.token("bob")}) {
            try (var ann = TestClient.withTokens(() -> Hub.token("\"sub\":\"ann\"", SHORT), () -> second).connect()) {
                ann.events.awaitCode("disconnected", 3500);
            }
        }
    }

    @Test
    void channelsOfRefreshedTokenAreAddedAndRemoved() {
        String first = "\"sub\":\"ann\",\"channels\":[\"older\",\"kept\"]";
        String second = "\"sub\":\"ann\",\"subs\":{\"kept\":{},\"newer\":{\"data\":{\"a\":1}}}";
        try (var ann = TestClient.withTokens(() -> Hub.token(first, SHORT), () -> Hub.token(second, 3600)).connect()) {
            ann.events.await("unsubscribed older");
            ann.events.await("subscribed newer");
            for (String channel : new String[] {"older", "kept", "newer"}) Hub.shared().publish(channel, "1");
            for (String channel : new String[] {"kept", "newer"}) ann.events.await("publication " + channel);
            ann.events.expectNone("publication older", "connecting");
        }
    }
}

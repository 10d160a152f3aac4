import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The codes of close frames: the SDK reconnects after some of them and stops for good after others. */
class CodesTest {
    @ParameterizedTest
    @ValueSource(ints = {3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013, 3014, 4000, 4499})
    void clientReconnectsAfterTheCode(int code) {
        String user = "closed-" + code;
        try (var ann = TestClient.askingFor(() -> Hub.token(user)).connect()) {
            expectClose(ann, user, code, "connecting");
            ann.events.await("connected");
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {3500, 3501, 3502, 3503, 3504, 3505, 3506, 3507, 3508, 3509, 3999, 4500, 4999})
    void clientStopsAfterTheCode(int code) {
        String user = "closed-" + code;
        try (var ann = TestClient.connected(user)) {
            expectClose(ann, user, code, "disconnected");
            ann.events.expectNone("connecting", "connected");
        }
    }

    private static void expectClose(TestClient client, String user, int code, String name) {
        Hub.shared().disconnect(user, code, "reason " + code);
        var closed = client.events.await(name);
        assertEquals(code, closed.code(), closed.toString());
        assertEquals("reason " + code, closed.reason());
    }

    @Test
    void disconnectWith3000CutsTheConnection() {
        try (var ann = TestClient.connected("cut")) {
            Hub.shared().disconnect("cut", 3000, "x");
            // 1: the transport closed without a close frame.
            ann.events.awaitCode("connecting", 1);
            ann.events.await("connected");
        }
    }

    @Test
    void messageOverTheLimitMakesTheClientReconnect() {
        try (var ann = TestClient.connected("large")) {
            ann.client.publish("large", TestClient.bytes("\"" + "x".repeat(100_000) + "\""), (error, result) -> {});
            // 3: the SDK's own code of a close frame 1009.
            ann.events.awaitCode("connecting", 3);
            ann.events.await("connected");
        }
    }

    @Test
    void stoppingHubClosesWith3001AndClientsReturnToTheNext() {
        Hub first = Hub.start("127.0.0.1:0");
        try (var ann = new TestClient(first, options -> options.setToken(Hub.token("ann"))).connect()) {
            var news = ann.subscribe("news");
            first.stop();
            ann.events.awaitCode("connecting", 3001);
            Hub second = Hub.start(first.address);
            news.again();
            second.publish("news", "2");
            news.expectPublications("2");
            second.stop();
        }
    }
}

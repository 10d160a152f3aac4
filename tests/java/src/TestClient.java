import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.fail;

import io.github.centrifugal.centrifuge.*;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.Supplier;

/** A client of the SDK, which speaks Protobuf, with its events. */
final class TestClient implements AutoCloseable {
    final Client client;
    final Events events = new Events();
    /** The id of the connection, set by `connect`. */
    String id;

    /** Creates a client that presents a token. */
    static TestClient withToken(String token) {
        return new TestClient(Hub.shared(), options -> options.setToken(token));
    }

    /** Creates a client that asks for its tokens, and fails if it asks for one more. */
    @SafeVarargs
    static TestClient withTokens(Supplier<String>... tokens) {
        return askingFor(answers(tokens));
    }

    static TestClient askingFor(Supplier<String> tokens) {
        return new TestClient(Hub.shared(), options -> options.setTokenGetter(getter(tokens)));
    }

    static TestClient connected(String user) {
        return withToken(Hub.token(user)).connect();
    }

    TestClient(Hub hub, Consumer<Options> configure) {
        var options = new Options();
        options.setTimeout((int) Hub.PATIENCE.toMillis());
        options.setMinReconnectDelay(20);
        options.setMaxReconnectDelay(200);
        configure.accept(options);
        client = new Client("ws://" + hub.address + "/connection/websocket", options, new EventListener() {
            @Override public void onConnecting(Client of, ConnectingEvent event) {
                events.add("connecting", event.getCode(), event.getReason(), event);
            }
            @Override public void onConnected(Client of, ConnectedEvent event) {
                events.add("connected", event);
            }
            @Override public void onDisconnected(Client of, DisconnectedEvent event) {
                events.add("disconnected", event.getCode(), event.getReason(), event);
            }
            @Override public void onError(Client of, ErrorEvent event) {
                events.addError(event.getError());
            }
            @Override public void onSubscribed(Client of, ServerSubscribedEvent event) {
                events.add("subscribed " + event.getChannel(), event);
            }
            @Override public void onUnsubscribed(Client of, ServerUnsubscribedEvent event) {
                events.add("unsubscribed " + event.getChannel(), event);
            }
            @Override public void onPublication(Client of, ServerPublicationEvent event) {
                events.add("publication " + event.getChannel(), text(event.getData()));
            }
        });
    }

    /** Connects and waits until the client is connected. */
    TestClient connect() {
        client.connect();
        id = ((ConnectedEvent) events.await("connected").value()).getClient();
        return this;
    }

    /** Checks that the client answers and was not disconnected meanwhile. */
    void expectConnected() {
        publish("connected", "1");
        events.expectNone("connecting", "disconnected");
    }

    void publish(String channel, String data) {
        TestClient.<PublishResult>call(done -> client.publish(channel, bytes(data), done));
    }

    TestSubscription newSubscription(String channel, Consumer<SubscriptionOptions> configure) {
        return new TestSubscription(client, channel, configure);
    }

    /** Subscribes and waits until the client is subscribed. */
    TestSubscription subscribe(String channel, Consumer<SubscriptionOptions> configure) {
        var it = newSubscription(channel, configure);
        it.events.await("subscribed");
        return it;
    }

    TestSubscription subscribe(String channel) {
        return subscribe(channel, options -> {});
    }

    @Override public void close() {
        try {
            client.close(1000);
        } catch (InterruptedException error) {
            throw new AssertionError(error);
        }
    }

    /** A function that answers with one token after another, each signed when it is asked for: a busy machine may start late. */
    @SafeVarargs
    private static Supplier<String> answers(Supplier<String>... tokens) {
        var left = new java.util.ArrayDeque<>(java.util.List.of(tokens));
        return () -> left.removeFirst().get();
    }

    private static ConnectionTokenGetter getter(Supplier<String> tokens) {
        return new ConnectionTokenGetter() {
            @Override public void getConnectionToken(ConnectionTokenEvent event, TokenCallback callback) {
                callback.Done(null, tokens.get());
            }
        };
    }

    /** Configures a subscription that asks for its tokens. */
    static Consumer<SubscriptionOptions> tokens(Function<String, String> ofChannel) {
        return options -> options.setTokenGetter(new SubscriptionTokenGetter() {
            @Override public void getSubscriptionToken(SubscriptionTokenEvent event, TokenCallback callback) {
                callback.Done(null, ofChannel.apply(event.getChannel()));
            }
        });
    }

    @SafeVarargs
    static Consumer<SubscriptionOptions> tokens(Supplier<String>... tokens) {
        var next = answers(tokens);
        return tokens(channel -> next.get());
    }

    /** Waits for the result of a call. */
    static <T> T call(Consumer<ResultCallback<T>> start) {
        var result = new CompletableFuture<T>();
        start.accept((error, value) -> {
            if (error == null) result.complete(value);
            else result.completeExceptionally(error);
        });
        try {
            return result.get(Hub.PATIENCE.toSeconds(), TimeUnit.SECONDS);
        } catch (ExecutionException error) {
            if (error.getCause() instanceof ReplyError refused) throw new Refused(refused.getCode());
            throw new AssertionError(error);
        } catch (InterruptedException | java.util.concurrent.TimeoutException error) {
            throw new AssertionError(error);
        }
    }

    /** Checks that a call fails with an error of the hub. */
    static <T> void expectError(int code, Consumer<ResultCallback<T>> start) {
        try {
            call(start);
        } catch (Refused refused) {
            assertEquals(code, refused.code);
            return;
        }
        fail("done instead of error " + code);
    }

    /** An error that the hub replied. */
    static final class Refused extends RuntimeException {
        final int code;

        Refused(int code) {
            super("error " + code);
            this.code = code;
        }
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] data) {
        return new String(data, StandardCharsets.UTF_8);
    }

    /** A subscription of the SDK with its events. */
    static final class TestSubscription {
        final Subscription subscription;
        final Events events = new Events();

        private TestSubscription(Client client, String channel, Consumer<SubscriptionOptions> configure) {
            var options = new SubscriptionOptions();
            options.setMinResubscribeDelay(20);
            options.setMaxResubscribeDelay(200);
            configure.accept(options);
            try {
                subscription = client.newSubscription(channel, options, new SubscriptionEventListener() {
                    @Override public void onSubscribing(Subscription of, SubscribingEvent event) {
                        events.add("subscribing", event.getCode(), event.getReason(), event);
                    }
                    @Override public void onSubscribed(Subscription of, SubscribedEvent event) {
                        events.add("subscribed", event);
                    }
                    @Override public void onUnsubscribed(Subscription of, UnsubscribedEvent event) {
                        events.add("unsubscribed", event.getCode(), event.getReason(), event);
                    }
                    @Override public void onError(Subscription of, SubscriptionErrorEvent event) {
                        events.addError(event.getError());
                    }
                    @Override public void onPublication(Subscription of, PublicationEvent event) {
                        events.add("publication", event);
                    }
                    @Override public void onJoin(Subscription of, JoinEvent event) {
                        events.add("join " + event.getInfo().getUser(), event.getInfo());
                    }
                    @Override public void onLeave(Subscription of, LeaveEvent event) {
                        events.add("leave " + event.getInfo().getUser(), event.getInfo());
                    }
                });
            } catch (DuplicateSubscriptionException error) {
                throw new AssertionError(error);
            }
            subscription.subscribe();
        }

        /** Checks the data, in JSON, of the next publications. */
        void expectPublications(String... expected) {
            for (String data : expected) assertEquals(data, text(((PublicationEvent) events.await("publication").value()).getData()));
        }

        /** Waits until the client is subscribed again. */
        SubscribedEvent again() {
            return (SubscribedEvent) events.await("subscribed").value();
        }
    }
}

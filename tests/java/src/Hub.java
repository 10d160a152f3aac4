import java.io.BufferedReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** A running wardcast process. It is killed at the latest when the tests end. */
final class Hub {
    /** Maximum time of every wait. */
    static final Duration PATIENCE = Duration.ofSeconds(20);
    private static final String SECRET = "the secret of the tests in Java, long enough";
    private static final String KEY = "the API key of the tests in Java, long enough";
    private static final String CONFIG = """
            [channels]
            history_size = 10
            allow_history = "user"
            presence = true
            allow_presence = "user"
            join_leave = true

            [[namespaces]]
            name = "given"
            history_size = 10
            force_recovery = true

            [[namespaces]]
            name = "bare"
            allow_subscribe = "user"
            allow_publish = "user"
            """;
    private static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private static Hub shared;

    final String address;
    private final Process guard;
    private final ProcessHandle process;

    /** Returns the hub of most tests. */
    static synchronized Hub shared() {
        if (shared == null) shared = start("127.0.0.1:0");
        return shared;
    }

    /** Starts a development hub. Returns when it has printed its banner. */
    static Hub start(String bind) {
        try {
            Path file = Files.createTempFile("wardcast-java-", ".toml");
            file.toFile().deleteOnExit();
            Files.writeString(file, CONFIG);
            ProcessBuilder builder = new ProcessBuilder(System.getenv("WARDCAST_GUARDED"), System.getenv("WARDCAST"), "serve",
                    "--config", file.toString(), "--set", "server.bind=" + bind, "--set", "auth.hmac_secret=" + SECRET,
                    "--set", "api.key=" + KEY);
            builder.environment().keySet().retainAll(Set.of("PATH"));
            builder.redirectError(ProcessBuilder.Redirect.DISCARD);
            return new Hub(builder.start());
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private Hub(Process guard) {
        this.guard = guard;
        Runtime.getRuntime().addShutdownHook(new Thread(guard::destroy));
        BufferedReader reader = guard.inputReader();
        var banner = new StringBuilder();
        CompletableFuture<Void> started = CompletableFuture.runAsync(() -> {
            try {
                while (banner.indexOf("Ctrl-C stops.") < 0) banner.append(reader.readLine().concat("\n"));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        });
        try {
            started.get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
        } catch (InterruptedException | ExecutionException | TimeoutException error) {
            throw new AssertionError("the hub does not listen: " + banner, error);
        }
        var drain = new Thread(() -> reader.lines().forEach(line -> {}));
        drain.setDaemon(true);
        drain.start();
        process = ProcessHandle.of(Long.parseLong(banner.substring(0, banner.indexOf("\n")))).orElseThrow();
        var found = Pattern.compile("ws://([^/\\s]+)/").matcher(banner);
        if (!found.find()) throw new AssertionError("the hub does not listen: " + banner);
        address = found.group(1);
    }

    /** Sends SIGTERM and returns when the process has ended. */
    void stop() {
        process.destroy();
        try {
            if (!guard.waitFor(PATIENCE.toSeconds(), TimeUnit.SECONDS)) throw new AssertionError("the hub does not stop");
        } catch (InterruptedException error) {
            throw new AssertionError(error);
        }
    }

    /** Calls a method of the server API with parameters in JSON. Returns its result. */
    String api(String method, String parameters) {
        var request = HttpRequest.newBuilder(URI.create("http://" + address + "/api/" + method)).timeout(PATIENCE)
                .header("X-API-Key", KEY).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(parameters)).build();
        try {
            var answer = HTTP.send(request, HttpResponse.BodyHandlers.ofString());
            if (answer.statusCode() != 200 || answer.body().startsWith("{\"error\""))
                throw new AssertionError(method + ": " + answer.statusCode() + " " + answer.body());
            return answer.body();
        } catch (IOException | InterruptedException error) {
            throw new AssertionError(error);
        }
    }

    /** Publishes values, in JSON, one after another. */
    void publish(String channel, String... values) {
        for (String value : values) api("publish", "{\"channel\":\"%s\",\"data\":%s}".formatted(channel, value));
    }

    /** Closes the connections of a user. */
    void disconnect(String user, int code, String reason) {
        api("disconnect", "{\"user\":\"%s\",\"disconnect\":{\"code\":%d,\"reason\":\"%s\"}}".formatted(user, code, reason));
    }

    /** Returns a token of a user that expires in an hour. */
    static String token(String user) {
        return token("\"sub\":\"%s\"".formatted(user), 3600);
    }

    /** Returns a token with the claims, members of a JSON object, that expires after `ttl` seconds; a negative one has expired. */
    static String token(String claims, long ttl) {
        long exp = Instant.now().getEpochSecond() + ttl;
        String text = part("{\"alg\":\"HS256\"}") + "." + part("{%s,\"exp\":%d}".formatted(claims, exp));
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(SECRET.getBytes(StandardCharsets.UTF_8), "HmacSHA256"));
            byte[] signature = mac.doFinal(text.getBytes(StandardCharsets.UTF_8));
            return text + "." + Base64.getUrlEncoder().withoutPadding().encodeToString(signature);
        } catch (GeneralSecurityException error) {
            throw new AssertionError(error);
        }
    }

    private static String part(String json) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(json.getBytes(StandardCharsets.UTF_8));
    }
}

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.fail;

import io.github.centrifugal.centrifuge.ReplyError;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;

/** The events of a client or a subscription, in order. */
final class Events {
    /** What a listener received. */
    record Event(String name, int code, String reason, Object value) {}

    private final List<Event> received = new ArrayList<>();

    synchronized void add(String name, int code, String reason, Object value) {
        received.add(new Event(name, code, reason, value));
        notifyAll();
    }

    void add(String name, Object value) {
        add(name, 0, "", value);
    }

    /** Adds an error with the code of the hub's error that caused it, if one did. */
    void addError(Throwable error) {
        ReplyError refused = reply(error);
        if (refused == null) add("error", 0, String.valueOf(error), error);
        else add("error", refused.getCode(), refused.getMessage(), error);
    }

    /** Returns the hub's error in an error of the SDK, whose classes keep their cause in a field of their own. */
    static ReplyError reply(Throwable error) {
        if (error == null || error instanceof ReplyError) return (ReplyError) error;
        try {
            return reply((Throwable) error.getClass().getMethod("getError").invoke(error));
        } catch (ReflectiveOperationException none) {
            return reply(error.getCause());
        }
    }

    /** Returns the next event of this name; removes it and all earlier events. */
    synchronized Event await(String name) {
        long deadline = System.nanoTime() + Hub.PATIENCE.toNanos();
        for (;;) {
            for (int number = 0; number < received.size(); number++) {
                Event event = received.get(number);
                if (event.name.equals(name)) {
                    received.subList(0, number + 1).clear();
                    return event;
                }
            }
            long left = (deadline - System.nanoTime()) / 1_000_000;
            if (left <= 0) return fail("timed out: " + name + "; received instead: " + received);
            try {
                wait(left);
            } catch (InterruptedException error) {
                throw new AssertionError(error);
            }
        }
    }

    /** Waits for an event and checks its code. */
    void awaitCode(String name, int code) {
        Event event = await(name);
        assertEquals(code, event.code, event.toString());
    }

    /** Waits for an error of the hub with this code, and passes over the SDK's own errors, as of requests without a reply. */
    void awaitError(int code) {
        Event event;
        do event = await("error"); while (event.code == 0);
        assertEquals(code, event.code, event.toString());
    }

    /** Checks that no event of these names is queued. */
    synchronized void expectNone(String... names) {
        for (Event event : received) if (Set.of(names).contains(event.name)) fail("unexpected: " + event);
    }
}

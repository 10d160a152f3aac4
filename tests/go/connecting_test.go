package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// The hub sends clients half of the remaining lifetime of a short token as its ttl, at least one second.
const short = 4 * time.Second

func TestClientWithTokenConnects(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		connectUser(t, f, "ann").expectConnected(t)
	})
}

func TestClientWithTokenInHeaderConnects(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		header := http.Header{"Authorization": {"Bearer " + userToken("ann")}}
		connectClient(t, f, shared, centrifuge.Config{Header: header}).expectConnected(t)
	})
}

func TestInvalidTokenEndsWith3500(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		for _, token := range []string{"a.b.c", userToken("ann") + "x"} {
			ann := newClient(t, f, shared, centrifuge.Config{Token: token})
			ann.connect(t)
			ann.events.waitForCode(t, "disconnected", 3500)
		}
	})
}

func TestClientWithoutTokenEndsWith3501(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		nobody := newClient(t, f, shared, centrifuge.Config{})
		nobody.connect(t)
		nobody.events.waitForCode(t, "disconnected", 3501)
	})
}

func TestExpiredTokenFailsWith109AndTheNextOneConnects(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		tokens := connectionAnswers(t, expiredToken(claims{"sub": "ann"}), userToken("ann"))
		ann := newClient(t, f, shared, centrifuge.Config{GetToken: tokens})
		ann.connect(t)
		ann.events.waitForError(t, 109)
		ann.events.wait(t, "connected")
	})
}

func TestClientRefreshesItsTokenRepeatedly(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		calls := make(chan struct{}, 8)
		tokens := func(centrifuge.ConnectionTokenEvent) (string, error) {
			calls <- struct{}{}
			return sign(short, claims{"sub": "ann"}), nil
		}
		ann := connectClient(t, f, shared, centrifuge.Config{GetToken: tokens})
		for range 5 {
			receive(t, calls)
		}
		ann.expectConnected(t)
		ann.events.expectNone(t, "error")
	})
}

func TestRefreshWithExpiredTokenClosesWith3005AndTheNextTokenConnects(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		tokens := connectionAnswers(t, sign(short, claims{"sub": "ann"}), expiredToken(claims{"sub": "ann"}), userToken("ann"))
		ann := connectClient(t, f, shared, centrifuge.Config{GetToken: tokens})
		channel := "refreshed-" + f.name
		news := ann.subscribe(t, channel, centrifuge.SubscriptionConfig{Recoverable: true})
		ann.events.waitForCode(t, "connecting", 3005)
		shared.publish(t, channel, 1)
		// The client presents the expired token once more, and then asks for another one.
		ann.events.waitForError(t, 109)
		ann.events.wait(t, "connected")
		if again := news.events.wait(t, "subscribed").value.(centrifuge.SubscribedEvent); !again.Recovered {
			t.Fatalf("%+v", again)
		}
		news.expectPublications(t, 1)
	})
}

func TestRefreshWithInvalidOrAnotherUsersTokenEndsWith3500(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		for _, second := range []string{"a.b.c", userToken("bob")} {
			tokens := connectionAnswers(t, sign(short, claims{"sub": "ann"}), second)
			ann := connectClient(t, f, shared, centrifuge.Config{GetToken: tokens})
			ann.events.waitForCode(t, "disconnected", 3500)
		}
	})
}

func TestChannelsOfRefreshedTokenAreAddedAndRemoved(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		older, newer, kept := "older-"+f.name, "newer-"+f.name, "kept-"+f.name
		tokens := connectionAnswers(t,
			sign(short, claims{"sub": "ann", "channels": []string{older, kept}}),
			sign(time.Hour, claims{"sub": "ann", "subs": map[string]any{kept: claims{}, newer: claims{"data": claims{"a": 1}}}}))
		ann := connectClient(t, f, shared, centrifuge.Config{GetToken: tokens})
		ann.events.wait(t, "unsubscribed "+older)
		subscribed := ann.events.wait(t, "subscribed "+newer).value.(centrifuge.ServerSubscribedEvent)
		expectJSON(t, subscribed.Data, claims{"a": 1})
		shared.publish(t, older, older)
		// One after the other: publications of different channels have no order, and wait removes earlier events.
		for _, channel := range []string{kept, newer} {
			shared.publish(t, channel, channel)
			expectJSON(t, ann.events.wait(t, "publication "+channel).value.(centrifuge.Publication).Data, channel)
		}
		ann.events.expectNone(t, "publication "+older, "connecting")
	})
}

// receive waits for the next element of a channel.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case it := <-from:
		return it
	case <-time.After(patience):
		t.Fatal("timed out")
		panic("unreachable")
	}
}

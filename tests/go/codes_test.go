package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/centrifugal/centrifuge-go"
)

// The codes of close frames: the SDK reconnects after some of them and stops for good after others.
var (
	reconnecting = []uint32{3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013, 3014, 4000, 4499}
	terminal     = []uint32{3500, 3501, 3502, 3503, 3504, 3505, 3506, 3507, 3508, 3509, 3999, 4500, 4999}
)

func TestEveryCloseCodeEndsOrReconnectsAndArrivesWithItsReason(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		for number, code := range append(append([]uint32{}, reconnecting...), terminal...) {
			user, reason := fmt.Sprintf("closed-%s-%d", f.name, code), fmt.Sprintf("reason %d", code)
			// After 3014 the SDK asks for another token.
			tokens := connectionAnswers(t, userToken(user), userToken(user))
			ann := connectClient(t, f, shared, centrifuge.Config{GetToken: tokens})
			shared.api(t, "disconnect", params{"user": user, "disconnect": params{"code": code, "reason": reason}})
			name := "connecting"
			if number >= len(reconnecting) {
				name = "disconnected"
			}
			closed := ann.events.wait(t, name)
			if closed.code != code || closed.reason != reason {
				t.Fatalf("%+v instead of %d", closed, code)
			}
			if name == "connecting" {
				ann.events.wait(t, "connected")
			} else {
				ann.events.expectNone(t, "connecting", "connected")
			}
		}
	})
}

func TestDisconnectWith3000CutsTheConnection(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		user := "cut-" + f.name
		ann := connectUser(t, f, user)
		shared.api(t, "disconnect", params{"user": user, "client": ann.id, "disconnect": params{"code": 3000, "reason": "x"}})
		// 1: the transport closed without a close frame.
		ann.events.waitForCode(t, "connecting", 1)
		ann.events.wait(t, "connected")
	})
}

func TestMessageOverTheLimitMakesTheClientReconnect(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		ann := connectUser(t, f, "ann")
		go ann.Publish(t.Context(), "large", []byte(`"`+strings.Repeat("x", 100_000)+`"`))
		// 3: the SDK's own code of a close frame 1009.
		ann.events.waitForCode(t, "connecting", 3)
		ann.events.wait(t, "connected")
	})
}

func TestStoppingHubClosesWith3001AndClientsReturnToTheNext(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	first, err := startHub(folder, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	clients, channels := []*client{}, []*subscription{}
	for _, f := range []format{{"json", centrifuge.NewJsonClient}, {"protobuf", centrifuge.NewProtobufClient}} {
		ann := connectClient(t, f, first, centrifuge.Config{Token: userToken("ann")})
		clients = append(clients, ann)
		channels = append(channels, ann.subscribe(t, "news", centrifuge.SubscriptionConfig{}))
	}
	first.stop()
	for _, ann := range clients {
		ann.events.waitForCode(t, "connecting", 3001)
	}
	second, err := startHub(folder, first.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.stop)
	for _, news := range channels {
		news.events.wait(t, "subscribed")
	}
	second.publish(t, "news", "of the second")
	for _, news := range channels {
		news.expectPublications(t, "of the second")
	}
}

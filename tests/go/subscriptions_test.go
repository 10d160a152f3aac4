package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

func TestSubscriptionTokenPermitsItsChannelAndIsRefreshed(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		channel := "$renewed-" + f.name
		calls := make(chan string, 8)
		tokens := func(e centrifuge.SubscriptionTokenEvent) (string, error) {
			calls <- e.Channel
			return sign(short, claims{"sub": "ann", "channel": e.Channel}), nil
		}
		secret := connectUser(t, f, "ann").subscribe(t, channel, centrifuge.SubscriptionConfig{GetToken: tokens})
		for range 4 {
			if asked := receive(t, calls); asked != channel {
				t.Fatal(asked)
			}
		}
		shared.publish(t, channel, "psst")
		secret.events.expectNone(t, "subscribing", "unsubscribed", "error")
		secret.expectPublications(t, "psst")
	})
}

func TestRefreshWithExpiredSubscriptionTokenEndsWith2501AndTheNextTokenRecovers(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		channel := "$ended-" + f.name
		of := claims{"sub": "ann", "channel": channel}
		tokens := subscriptionAnswers(t, sign(short, of), expiredToken(of), sign(time.Hour, of))
		ann := connectUser(t, f, "ann")
		secret := ann.subscribe(t, channel, centrifuge.SubscriptionConfig{GetToken: tokens, Recoverable: true})
		secret.events.waitForCode(t, "subscribing", 2501)
		shared.publish(t, channel, 1)
		if again := secret.events.wait(t, "subscribed").value.(centrifuge.SubscribedEvent); !again.Recovered {
			t.Fatalf("%+v", again)
		}
		secret.expectPublications(t, 1)
		ann.expectConnected(t)
	})
}

func TestInvalidSubscriptionTokenFailsWith103(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		ann := connectUser(t, f, "ann")
		secret := ann.newSubscription(t, "$x", centrifuge.SubscriptionConfig{GetToken: subscriptionAnswers(t, "a.b.c")})
		secret.events.waitForCode(t, "unsubscribed", 103)
		ann.expectConnected(t)
	})
}

func TestSubscriptionTokenOfAnotherChannelOrUserEndsWith3500(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		for _, of := range []claims{{"sub": "ann", "channel": "$y"}, {"sub": "bob", "channel": "$x"}} {
			ann := connectUser(t, f, "ann")
			ann.newSubscription(t, "$x", centrifuge.SubscriptionConfig{GetToken: subscriptionAnswers(t, sign(time.Hour, of))})
			ann.events.waitForCode(t, "disconnected", 3500)
		}
	})
}

func TestRefusedSubscriptionsEndWithTheirCode(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		ann := connectClient(t, f, shared, centrifuge.Config{Token: sign(time.Hour, claims{"sub": "ann", "channels": []string{"taken"}})})
		for channel, code := range map[string]uint32{"nowhere:1": 102, "dialog#bob,eve": 103, "$secret": 103, "taken": 105, "a*": 107} {
			ann.newSubscription(t, channel, centrifuge.SubscriptionConfig{}).events.waitForCode(t, "unsubscribed", code)
		}
		ann.expectConnected(t)
	})
}

func TestUnsubscribingARefusedNameKeepsTheConnection(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		ann := connectUser(t, f, "ann")
		for _, channel := range []string{"a\x00b", "a*", "nowhere:1", "dialog#bob,eve", "never-subscribed", strings.Repeat("x", 300)} {
			// The SDK sends both commands before the hub can refuse the first.
			refused := ann.newSubscription(t, channel, centrifuge.SubscriptionConfig{})
			if err := refused.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
		}
		ann.expectConnected(t)
	})
}

func TestMissedPublicationsAreRecovered(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		dialer, channel, user := &gate{}, "recovered-"+f.name, "recovering-"+f.name
		ann := connectClient(t, f, shared, centrifuge.Config{Token: userToken(user), NetDialContext: dialer.dial})
		news := ann.subscribe(t, channel, centrifuge.SubscriptionConfig{Recoverable: true})
		shared.publish(t, channel, 1)
		news.expectPublications(t, 1)
		away := func(values ...any) centrifuge.SubscribedEvent {
			t.Helper()
			dialer.Lock()
			shared.api(t, "disconnect", params{"user": user, "disconnect": params{"code": 3011, "reason": "away"}})
			ann.events.waitForCode(t, "connecting", 3011)
			shared.publish(t, channel, values...)
			dialer.Unlock()
			return news.events.wait(t, "subscribed").value.(centrifuge.SubscribedEvent)
		}
		if again := away(2, 3, 4); !again.Recovered || !again.WasRecovering {
			t.Fatalf("%+v", again)
		}
		news.expectPublications(t, 2, 3, 4)
		if again := away(); !again.Recovered || again.StreamPosition.Offset != 4 {
			t.Fatalf("%+v", again)
		}
		// The history keeps ten publications.
		if again := away(5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16); again.Recovered || !again.WasRecovering {
			t.Fatalf("%+v", again)
		}
		shared.publish(t, channel, 17)
		news.expectPublications(t, 17)
	})
}

func TestSubscriptionOfTheServerAPIIsRecoveredAfterReconnect(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		// Clients may subscribe to the channels of one of these namespaces themselves.
		for _, channel := range []string{"given:" + f.name, "open:" + f.name} {
			dialer, user := &gate{}, "of-"+channel
			ann := connectClient(t, f, shared, centrifuge.Config{Token: userToken(user), NetDialContext: dialer.dial})
			shared.api(t, "subscribe", params{"user": user, "channel": channel})
			ann.events.wait(t, "subscribed "+channel)
			receiveNext := func(expected int) {
				t.Helper()
				expectJSON(t, ann.events.wait(t, "publication "+channel).value.(centrifuge.Publication).Data, expected)
			}
			shared.publish(t, channel, 1)
			receiveNext(1)
			dialer.Lock()
			shared.api(t, "disconnect", params{"user": user, "disconnect": params{"code": 3011, "reason": "away"}})
			ann.events.waitForCode(t, "connecting", 3011)
			shared.publish(t, channel, 2)
			dialer.Unlock()
			if again := ann.events.wait(t, "subscribed "+channel).value.(centrifuge.ServerSubscribedEvent); !again.Recovered {
				t.Fatalf("%+v", again)
			}
			receiveNext(2)
			shared.publish(t, channel, 3)
			receiveNext(3)
		}
	})
}

func TestDeltasYieldTheirPublications(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		// Deltas of single publications of the server API, and of a whole namespace, from clients as well.
		for channel, publish := range map[string]func(*client, string, any){
			"delta-" + f.name: func(_ *client, channel string, state any) {
				shared.api(t, "publish", params{"channel": channel, "data": state, "delta": true})
			},
			"states:" + f.name: func(by *client, channel string, state any) {
				raw, _ := json.Marshal(state)
				if _, err := by.Publish(t.Context(), channel, raw); err != nil {
					t.Fatal(err)
				}
			},
		} {
			dialer, filler := &gate{}, strings.Repeat("the same text ", 1000)
			ann := connectClient(t, f, shared, centrifuge.Config{Token: userToken("ann"), NetDialContext: dialer.dial})
			news := ann.subscribe(t, channel, centrifuge.SubscriptionConfig{Delta: centrifuge.DeltaTypeFossil})
			bob := connectUser(t, f, "bob")
			for number := range 5 {
				state := claims{"number": number, "filler": filler, "name": "Grüße 🦊"}
				publish(bob, channel, state)
				news.expectPublications(t, state)
			}
			if received := dialer.received.Load(); received > int64(2*len(filler)) {
				t.Fatalf("%s: %d bytes received for deltas of %d", channel, received, len(filler))
			}
		}
	})
}

func TestPresenceJoinAndLeaveNameTheClients(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		channel := "presence-" + f.name
		ann := connectClient(t, f, shared, centrifuge.Config{Token: sign(time.Hour, claims{"sub": "ann", "info": claims{"name": "Ann"}})})
		seen := ann.subscribe(t, channel, centrifuge.SubscriptionConfig{JoinLeave: true})
		seen.events.wait(t, "join ann")
		bob := connectUser(t, f, "bob")
		bobs := bob.subscribe(t, channel, centrifuge.SubscriptionConfig{})
		if joined := seen.events.wait(t, "join bob").value.(centrifuge.ClientInfo); joined.Client != bob.id {
			t.Fatalf("%+v", joined)
		}
		presence, err := bobs.Presence(t.Context())
		if err != nil || len(presence.Clients) != 2 || presence.Clients[bob.id].User != "bob" {
			t.Fatalf("%+v %v", presence, err)
		}
		expectJSON(t, presence.Clients[ann.id].ConnInfo, claims{"name": "Ann"})
		stats, err := bob.PresenceStats(t.Context(), channel)
		if err != nil || stats.NumClients != 2 || stats.NumUsers != 2 {
			t.Fatalf("%+v %v", stats, err)
		}
		if err := bobs.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		seen.events.wait(t, "leave bob")
	})
}

func TestPublicationsNameTheirPublisher(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		channel := "named-" + f.name
		ann, bob := connectUser(t, f, "ann"), connectUser(t, f, "bob")
		news := ann.subscribe(t, channel, centrifuge.SubscriptionConfig{})
		if _, err := bob.Publish(t.Context(), channel, []byte(`{"a":[1]}`)); err != nil {
			t.Fatal(err)
		}
		shared.api(t, "publish", params{"channel": channel, "data": 2, "tags": map[string]string{"k": "v"}})
		of := news.events.wait(t, "publication").value.(centrifuge.Publication)
		if of.Info == nil || of.Info.User != "bob" || of.Info.Client != bob.id || string(of.Data) != `{"a":[1]}` || of.Offset != 1 {
			t.Fatalf("%+v", of)
		}
		of = news.events.wait(t, "publication").value.(centrifuge.Publication)
		if of.Info != nil || of.Tags["k"] != "v" || of.Offset != 2 {
			t.Fatalf("%+v", of)
		}
	})
}

func TestHistoryHasPages(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		channel := "history-" + f.name
		news := connectUser(t, f, "ann").subscribe(t, channel, centrifuge.SubscriptionConfig{})
		shared.publish(t, channel, 1, 2, 3)
		page := func(options ...centrifuge.HistoryOption) (centrifuge.HistoryResult, string) {
			t.Helper()
			result, err := news.History(t.Context(), options...)
			if err != nil {
				t.Fatal(err)
			}
			found := []string{}
			for _, publication := range result.Publications {
				found = append(found, string(publication.Data))
			}
			return result, strings.Join(found, " ")
		}
		top, found := page()
		if top.Offset != 3 || top.Epoch == "" || found != "" {
			t.Fatalf("%+v", top)
		}
		since := func(offset uint64) centrifuge.HistoryOption {
			return centrifuge.WithHistorySince(&centrifuge.StreamPosition{Offset: offset, Epoch: top.Epoch})
		}
		for _, row := range []struct {
			options  []centrifuge.HistoryOption
			expected string
		}{
			{[]centrifuge.HistoryOption{centrifuge.WithHistoryLimit(2)}, "1 2"},
			{[]centrifuge.HistoryOption{centrifuge.WithHistoryLimit(-1)}, "1 2 3"},
			{[]centrifuge.HistoryOption{centrifuge.WithHistoryLimit(2), centrifuge.WithHistoryReverse(true)}, "3 2"},
			{[]centrifuge.HistoryOption{centrifuge.WithHistoryLimit(5), since(2)}, "3"},
			{[]centrifuge.HistoryOption{centrifuge.WithHistoryLimit(5), since(999)}, ""},
		} {
			if _, found := page(row.options...); found != row.expected {
				t.Fatalf("%q instead of %q", found, row.expected)
			}
		}
	})
}

func TestUnavailableMethodsFailWith108AndTheClientStaysConnected(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		ann := connectUser(t, f, "ann")
		bare := ann.subscribe(t, "bare:"+f.name, centrifuge.SubscriptionConfig{})
		for _, call := range []func(context.Context) error{
			func(c context.Context) error { _, err := bare.Presence(c); return err },
			func(c context.Context) error { _, err := bare.PresenceStats(c); return err },
			func(c context.Context) error { _, err := bare.History(c, centrifuge.WithHistoryLimit(1)); return err },
			func(c context.Context) error { _, err := ann.RPC(c, "method", []byte("{}")); return err },
		} {
			expectError(t, call(t.Context()), 108)
		}
		_, err := ann.Publish(t.Context(), "nowhere:1", []byte("1"))
		expectError(t, err, 102)
		_, err = ann.Publish(t.Context(), "a*", []byte("1"))
		expectError(t, err, 107)
		ann.expectConnected(t)
	})
}

func TestFilteredSubscriptionReceivesMatchesOnlyAndRecovers(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		dialer, channel, user := &gate{}, "filtered-"+f.name, "filtered-"+f.name
		ann := connectClient(t, f, shared, centrifuge.Config{Token: userToken(user), NetDialContext: dialer.dial})
		news := ann.subscribe(t, channel, centrifuge.SubscriptionConfig{
			Recoverable: true, TagsFilter: centrifuge.FilterEq("kind", "wanted"),
		})
		publish := func(kind string, data any) {
			t.Helper()
			shared.api(t, "publish", params{"channel": channel, "data": data, "tags": map[string]string{"kind": kind}})
		}
		publish("other", 1)
		publish("wanted", 2)
		news.expectPublications(t, 2)
		dialer.Lock()
		shared.api(t, "disconnect", params{"user": user, "disconnect": params{"code": 3011, "reason": "away"}})
		ann.events.waitForCode(t, "connecting", 3011)
		publish("other", 3)
		publish("wanted", 4)
		dialer.Unlock()
		if again := news.events.wait(t, "subscribed").value.(centrifuge.SubscribedEvent); !again.Recovered {
			t.Fatalf("%+v", again)
		}
		news.expectPublications(t, 4)
	})
}

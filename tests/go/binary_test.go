package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

var protobuf = format{"protobuf", centrifuge.NewProtobufClient}

// update returns bytes that are neither JSON nor text, with white space, line breaks and zeros around them.
func update(number int) []byte {
	data := []byte{' ', '\n', 0, 0xff, 0xfe, '"', '\r', byte(number)}
	for value := range 600 {
		data = append(data, byte(value))
	}
	return append(data, byte(number), ' ')
}

// expectBytes checks the data of the next publications of a subscription.
func (s *subscription) expectBytes(t *testing.T, expected ...[]byte) {
	t.Helper()
	for _, data := range expected {
		if of := s.events.wait(t, "publication").value.(centrifuge.Publication); !bytes.Equal(of.Data, data) {
			t.Fatalf("%q instead of %q", of.Data, data)
		}
	}
}

func TestBinaryDataArrivesUnchangedLiveRecoveredAndFromTheHistory(t *testing.T) {
	t.Parallel()
	dialer, channel, user := &gate{}, "doc:unchanged", "reader"
	ann := connectClient(t, protobuf, shared, centrifuge.Config{
		Token:          sign(time.Hour, claims{"sub": user, "info": claims{"name": "Ann"}}),
		NetDialContext: dialer.dial,
	})
	reader := ann.subscribe(t, channel, centrifuge.SubscriptionConfig{Recoverable: true})
	bob := connectUser(t, protobuf, "writer")
	writer := bob.subscribe(t, channel, centrifuge.SubscriptionConfig{})
	publish := func(data []byte) {
		t.Helper()
		if _, err := writer.Publish(t.Context(), data); err != nil {
			t.Fatal(err)
		}
	}
	all := [][]byte{update(0), update(1), []byte(" {\n\"a\": 1 } "), {0}}
	for _, data := range all {
		publish(data)
	}
	reader.expectBytes(t, all...)
	// From a backend.
	shared.api(t, "publish", params{"channel": channel, "b64data": base64.StdEncoding.EncodeToString(update(2))})
	all = append(all, update(2))
	reader.expectBytes(t, update(2))
	writer.expectBytes(t, all...)
	// After a disconnect.
	dialer.Lock()
	shared.api(t, "disconnect", params{"user": user, "disconnect": params{"code": 3011, "reason": "away"}})
	ann.events.waitForCode(t, "connecting", 3011)
	publish(update(3))
	publish(update(4))
	all = append(all, update(3), update(4))
	dialer.Unlock()
	if again := reader.events.wait(t, "subscribed").value.(centrifuge.SubscribedEvent); !again.Recovered {
		t.Fatalf("%+v", again)
	}
	reader.expectBytes(t, update(3), update(4))
	// The histories of clients and of the server API.
	history, err := reader.History(t.Context(), centrifuge.WithHistoryLimit(-1))
	if err != nil || len(history.Publications) != len(all) {
		t.Fatalf("%+v %v", history, err)
	}
	var stored struct {
		Publications []struct {
			Data []byte `json:"b64data"`
		}
	}
	if err := json.Unmarshal(shared.api(t, "history", params{"channel": channel, "limit": 100}), &stored); err != nil {
		t.Fatal(err)
	}
	if len(stored.Publications) != len(all) {
		t.Fatalf("%+v", stored)
	}
	for number, data := range all {
		if !bytes.Equal(history.Publications[number].Data, data) || !bytes.Equal(stored.Publications[number].Data, data) {
			t.Fatalf("publication %d: %q and %q", number, history.Publications[number].Data, stored.Publications[number].Data)
		}
	}
	// What is said about clients stays JSON.
	presence, err := writer.Presence(t.Context())
	if err != nil || len(presence.Clients) != 2 || presence.Clients[bob.id].User != "writer" {
		t.Fatalf("%+v %v", presence, err)
	}
	for _, info := range presence.Clients {
		if info.User == user {
			expectJSON(t, info.ConnInfo, claims{"name": "Ann"})
		}
	}
}

func TestJSONClientIsRefusedWith108WhereTheDataIsBinaryAndStaysConnected(t *testing.T) {
	t.Parallel()
	ann := connectUser(t, format{"json", centrifuge.NewJsonClient}, "ann")
	ann.newSubscription(t, "doc:refused", centrifuge.SubscriptionConfig{}).events.waitForCode(t, "unsubscribed", 108)
	_, err := ann.Publish(t.Context(), "doc:refused", []byte("1"))
	expectError(t, err, 108)
	_, err = ann.History(t.Context(), "doc:refused", centrifuge.WithHistoryLimit(1))
	expectError(t, err, 108)
	ann.expectConnected(t)
}

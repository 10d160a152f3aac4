package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// format is one of the two formats of the protocol.
type format struct {
	name string
	open func(endpoint string, config centrifuge.Config) *centrifuge.Client
}

// inBothFormats runs a test for JSON and for Protobuf, in parallel with all other tests.
func inBothFormats(t *testing.T, body func(t *testing.T, f format)) {
	t.Parallel()
	for _, f := range []format{{"json", centrifuge.NewJsonClient}, {"protobuf", centrifuge.NewProtobufClient}} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			body(t, f)
		})
	}
}

// event is what a handler of the SDK received.
type event struct {
	name   string
	code   uint32
	reason string
	value  any
}

// events queues events in order.
type events struct {
	mutex    sync.Mutex
	received []event
	woken    chan struct{}
}

func newEvents() *events {
	return &events{woken: make(chan struct{}, 1)}
}

func (e *events) add(received event) {
	e.mutex.Lock()
	e.received = append(e.received, received)
	e.mutex.Unlock()
	select {
	case e.woken <- struct{}{}:
	default:
	}
}

// wait returns the next event of this name; removes it and all earlier events.
func (e *events) wait(t *testing.T, name string) event {
	t.Helper()
	deadline := time.After(patience)
	for {
		e.mutex.Lock()
		for number, received := range e.received {
			if received.name == name {
				e.received = e.received[number+1:]
				e.mutex.Unlock()
				return received
			}
		}
		seen := fmt.Sprint(e.received)
		e.mutex.Unlock()
		select {
		case <-e.woken:
		case <-deadline:
			t.Fatalf("timed out: %s; received instead: %s", name, seen)
		}
	}
}

// waitForCode waits for an event and checks its code.
func (e *events) waitForCode(t *testing.T, name string, code uint32) {
	t.Helper()
	if received := e.wait(t, name); received.code != code {
		t.Fatalf("%s with code %d %q instead of %d", name, received.code, received.reason, code)
	}
}

// waitForError waits for an error of the hub with this code, and passes over the SDK's own errors, as of requests without a reply.
func (e *events) waitForError(t *testing.T, code uint32) {
	t.Helper()
	for {
		if received := e.wait(t, "error"); received.code == code {
			return
		} else if received.code != 0 {
			t.Fatalf("%v instead of error %d", received, code)
		}
	}
}

// expectNone checks that no event of these names is queued.
func (e *events) expectNone(t *testing.T, names ...string) {
	t.Helper()
	e.mutex.Lock()
	defer e.mutex.Unlock()
	for _, received := range e.received {
		for _, name := range names {
			if received.name == name {
				t.Fatalf("unexpected event: %v", received)
			}
		}
	}
}

// client is a client of the SDK, closed when its test ends.
type client struct {
	*centrifuge.Client
	events *events
	// The id of the connection, set by connectClient.
	id string
}

func newClient(t *testing.T, f format, h *hub, c centrifuge.Config) *client {
	c.MinReconnectDelay, c.MaxReconnectDelay = 20*time.Millisecond, 200*time.Millisecond
	c.HandshakeTimeout, c.ReadTimeout, c.WriteTimeout = patience, patience, patience
	it := &client{Client: f.open("ws://"+h.address+"/connection/websocket", c), events: newEvents()}
	t.Cleanup(it.Close)
	it.OnConnecting(func(e centrifuge.ConnectingEvent) { it.events.add(event{"connecting", e.Code, e.Reason, nil}) })
	it.OnConnected(func(e centrifuge.ConnectedEvent) { it.events.add(event{name: "connected", value: e}) })
	it.OnDisconnected(func(e centrifuge.DisconnectedEvent) { it.events.add(event{"disconnected", e.Code, e.Reason, nil}) })
	it.OnError(func(e centrifuge.ErrorEvent) { it.events.add(errorEvent(e.Error)) })
	it.OnSubscribed(func(e centrifuge.ServerSubscribedEvent) {
		it.events.add(event{name: "subscribed " + e.Channel, value: e})
	})
	it.OnSubscribing(func(e centrifuge.ServerSubscribingEvent) { it.events.add(event{name: "subscribing " + e.Channel}) })
	it.OnUnsubscribed(func(e centrifuge.ServerUnsubscribedEvent) { it.events.add(event{name: "unsubscribed " + e.Channel}) })
	it.OnPublication(func(e centrifuge.ServerPublicationEvent) {
		it.events.add(event{name: "publication " + e.Channel, value: e.Publication})
	})
	return it
}

// connectClient connects a client and waits until it is connected.
func connectClient(t *testing.T, f format, h *hub, c centrifuge.Config) *client {
	t.Helper()
	it := newClient(t, f, h, c)
	it.connect(t)
	it.id = it.events.wait(t, "connected").value.(centrifuge.ConnectedEvent).ClientID
	return it
}

func connectUser(t *testing.T, f format, user string) *client {
	t.Helper()
	return connectClient(t, f, shared, centrifuge.Config{Token: userToken(user)})
}

func (c *client) connect(t *testing.T) {
	t.Helper()
	if err := c.Connect(); err != nil {
		t.Fatal(err)
	}
}

// expectConnected checks that the client answers and was not disconnected meanwhile.
func (c *client) expectConnected(t *testing.T) {
	t.Helper()
	if _, err := c.Publish(t.Context(), "connected", []byte("1")); err != nil {
		t.Fatal(err)
	}
	c.events.expectNone(t, "connecting", "disconnected")
}

// subscription is a subscription of the SDK.
type subscription struct {
	*centrifuge.Subscription
	events *events
}

func (c *client) newSubscription(t *testing.T, channel string, options centrifuge.SubscriptionConfig) *subscription {
	t.Helper()
	options.MinResubscribeDelay, options.MaxResubscribeDelay = 20*time.Millisecond, 200*time.Millisecond
	created, err := c.NewSubscription(channel, options)
	if err != nil {
		t.Fatal(err)
	}
	it := &subscription{created, newEvents()}
	it.OnSubscribing(func(e centrifuge.SubscribingEvent) { it.events.add(event{"subscribing", e.Code, e.Reason, nil}) })
	it.OnSubscribed(func(e centrifuge.SubscribedEvent) { it.events.add(event{name: "subscribed", value: e}) })
	it.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) { it.events.add(event{"unsubscribed", e.Code, e.Reason, nil}) })
	it.OnError(func(e centrifuge.SubscriptionErrorEvent) { it.events.add(errorEvent(e.Error)) })
	it.OnPublication(func(e centrifuge.PublicationEvent) { it.events.add(event{name: "publication", value: e.Publication}) })
	it.OnJoin(func(e centrifuge.JoinEvent) { it.events.add(event{name: "join " + e.User, value: e.ClientInfo}) })
	it.OnLeave(func(e centrifuge.LeaveEvent) { it.events.add(event{name: "leave " + e.User, value: e.ClientInfo}) })
	if err := it.Subscribe(); err != nil {
		t.Fatal(err)
	}
	return it
}

// subscribe subscribes and waits until the client is subscribed.
func (c *client) subscribe(t *testing.T, channel string, options centrifuge.SubscriptionConfig) *subscription {
	t.Helper()
	it := c.newSubscription(t, channel, options)
	it.events.wait(t, "subscribed")
	return it
}

// expectPublications checks the data of the next publications.
func (s *subscription) expectPublications(t *testing.T, expected ...any) {
	t.Helper()
	for _, data := range expected {
		expectJSON(t, s.events.wait(t, "publication").value.(centrifuge.Publication).Data, data)
	}
}

// expectJSON checks that data is the JSON of a value.
func expectJSON(t *testing.T, data []byte, expected any) {
	t.Helper()
	raw, err := json.Marshal(expected)
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != string(raw) {
		t.Fatalf("%s instead of %s", data, raw)
	}
}

// errorEvent returns an event with the code of an error of the hub.
func errorEvent(err error) event {
	var refused *centrifuge.Error
	if errors.As(err, &refused) {
		return event{"error", refused.Code, refused.Message, err}
	}
	return event{name: "error", reason: err.Error(), value: err}
}

// expectError checks that an error is the hub's, with this code.
func expectError(t *testing.T, err error, code uint32) {
	t.Helper()
	if err == nil || errorEvent(err).code != code {
		t.Fatalf("%v instead of error %d", err, code)
	}
}

// answers returns a function that returns one token after another, and fails the test if it is called once more.
func answers(t *testing.T, tokens ...string) func() (string, error) {
	var mutex sync.Mutex
	return func() (string, error) {
		mutex.Lock()
		defer mutex.Unlock()
		if len(tokens) == 0 {
			t.Error("one more token is requested than expected")
			return "", centrifuge.ErrUnauthorized
		}
		token := tokens[0]
		tokens = tokens[1:]
		return token, nil
	}
}

func connectionAnswers(t *testing.T, tokens ...string) func(centrifuge.ConnectionTokenEvent) (string, error) {
	next := answers(t, tokens...)
	return func(centrifuge.ConnectionTokenEvent) (string, error) { return next() }
}

func subscriptionAnswers(t *testing.T, tokens ...string) func(centrifuge.SubscriptionTokenEvent) (string, error) {
	next := answers(t, tokens...)
	return func(centrifuge.SubscriptionTokenEvent) (string, error) { return next() }
}

// gate is a dialer that waits while it is locked, and counts the bytes that its connections receive.
type gate struct {
	sync.RWMutex
	received atomic.Int64
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	g.RLock()
	defer g.RUnlock()
	connection, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return meter{connection, g}, err
}

// meter is a connection of a gate.
type meter struct {
	net.Conn
	gate *gate
}

func (m meter) Read(into []byte) (int, error) {
	count, err := m.Conn.Read(into)
	m.gate.received.Add(int64(count))
	return count, err
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
	"github.com/centrifugal/gocent/v3"
)

// params are the parameters of a method of the server API.
type params map[string]any

// api calls a method of the server API, with parameters that gocent does not have.
func (h *hub) api(t *testing.T, method string, p params) json.RawMessage {
	t.Helper()
	body, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+h.address+"/api/"+method, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-API-Key", apiKey)
	answer, err := (&http.Client{Timeout: patience}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var reply gocent.Reply
	if err := json.NewDecoder(answer.Body).Decode(&reply); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v", method, answer.StatusCode, err)
	}
	if reply.Error != nil {
		t.Fatalf("%s: %v", method, reply.Error)
	}
	return reply.Result
}

// publish publishes values one after another.
func (h *hub) publish(t *testing.T, channel string, values ...any) {
	t.Helper()
	for _, value := range values {
		h.api(t, "publish", params{"channel": channel, "data": value})
	}
}

// apiClient returns a gocent client with this key.
func (h *hub) apiClient(key string) *gocent.Client {
	return gocent.New(gocent.Config{Addr: "http://" + h.address + "/api", Key: key, HTTPClient: &http.Client{Timeout: patience}})
}

// succeeded returns the result of a call of gocent.
func succeeded[R any](result R, err error) func(*testing.T) R {
	return func(t *testing.T) R {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
}

// expectSuccess checks that a call of gocent without a result succeeded.
func expectSuccess(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expectHistory checks the offsets and the top of a history.
func expectHistory(t *testing.T, history gocent.HistoryResult, top uint64, offsets ...uint64) {
	t.Helper()
	matches := history.Offset == top && len(history.Publications) == len(offsets)
	for number, offset := range offsets {
		matches = matches && history.Publications[number].Offset == offset
	}
	if !matches {
		t.Fatalf("%+v instead of %v and top %d", history, offsets, top)
	}
}

func TestAPIClientPublishesAndReadsChannels(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		api, user, channel := shared.apiClient(apiKey), "api-reads-"+f.name, "api-reads-"+f.name
		token := sign(time.Hour, claims{"sub": user, "info": params{"name": "Ann"}})
		listener := connectClient(t, f, shared, centrifuge.Config{Token: token})
		news := listener.subscribe(t, channel, centrifuge.SubscriptionConfig{})

		first := succeeded(api.Publish(t.Context(), channel, []byte(`{"n":1}`)))(t)
		if first.Offset != 1 || first.Epoch == "" {
			t.Fatalf("%+v", first)
		}
		skipped := succeeded(api.Publish(t.Context(), channel, []byte(`"passing"`), gocent.WithSkipHistory(true)))(t)
		if skipped.Offset != 0 {
			t.Fatalf("%+v", skipped)
		}
		responses := succeeded(api.Broadcast(t.Context(), []string{channel, "nowhere:1", channel}, []byte("2")))(t).Responses
		if len(responses) != 3 || responses[0].Result.Offset != 2 || responses[1].Error.Code != 102 || responses[2].Result.Offset != 3 {
			t.Fatalf("%+v", responses)
		}
		news.expectPublications(t, params{"n": 1}, "passing", 2, 2)

		history := func(options ...gocent.HistoryOption) gocent.HistoryResult {
			t.Helper()
			return succeeded(api.History(t.Context(), channel, options...))(t)
		}
		expectHistory(t, history(), 3)
		expectHistory(t, history(gocent.WithLimit(gocent.NoLimit)), 3, 1, 2, 3)
		expectHistory(t, history(gocent.WithLimit(2), gocent.WithReverse(true)), 3, 3, 2)
		since := gocent.StreamPosition{Offset: 1, Epoch: first.Epoch}
		expectHistory(t, history(gocent.WithSince(&since), gocent.WithLimit(1)), 3, 2)
		expectSuccess(t, api.HistoryRemove(t.Context(), channel))
		expectHistory(t, history(gocent.WithLimit(gocent.NoLimit)), 3)

		presence := succeeded(api.Presence(t.Context(), channel))(t).Presence
		if present := presence[listener.id]; len(presence) != 1 || present.User != user || present.Client != listener.id {
			t.Fatalf("%+v", presence)
		}
		expectJSON(t, presence[listener.id].ConnInfo, params{"name": "Ann"})
		if stats := succeeded(api.PresenceStats(t.Context(), channel))(t); stats.NumClients != 1 || stats.NumUsers != 1 {
			t.Fatalf("%+v", stats)
		}
		channels := succeeded(api.Channels(t.Context(), gocent.WithPattern("api-reads-"+f.name[:2]+"*")))(t).Channels
		if _, found := channels[channel]; !found || len(channels) != 1 {
			t.Fatalf("%+v", channels)
		}
		if nodes := succeeded(api.Info(t.Context()))(t).Nodes; len(nodes) != 1 || nodes[0].UID == "" || nodes[0].NumClients < 1 {
			t.Fatalf("%+v", nodes)
		}
	})
}

func TestAPIClientSubscribesUnsubscribesAndDisconnects(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		api, user, channel, given := shared.apiClient(apiKey), "api-"+f.name, "api-"+f.name, "given:api-"+f.name
		ann, other := connectUser(t, f, user), connectUser(t, f, user)
		news := ann.subscribe(t, channel, centrifuge.SubscriptionConfig{})

		from := succeeded(api.Publish(t.Context(), given, []byte("1")))(t)
		succeeded(api.Publish(t.Context(), given, []byte("2")))(t)
		expectSuccess(t, api.Subscribe(t.Context(), given, user, gocent.WithSubscribeClient(ann.id), gocent.WithRecover(true),
			gocent.WithRecoverSince(&gocent.StreamPosition{Offset: from.Offset, Epoch: from.Epoch}),
			gocent.WithSubscribeData([]byte(`"welcome"`))))
		subscribed := ann.events.wait(t, "subscribed "+given).value.(centrifuge.ServerSubscribedEvent)
		expectJSON(t, subscribed.Data, "welcome")
		expectJSON(t, ann.events.wait(t, "publication "+given).value.(centrifuge.Publication).Data, 2)
		expectSuccess(t, api.Unsubscribe(t.Context(), given, user, gocent.WithUnsubscribeClient(ann.id)))
		ann.events.wait(t, "unsubscribed "+given)
		expectSuccess(t, api.Unsubscribe(t.Context(), channel, user))
		news.events.waitForCode(t, "unsubscribed", 2000)
		other.events.expectNone(t, "subscribed "+given)

		expectSuccess(t, api.Disconnect(t.Context(), user, gocent.WithDisconnectClient(ann.id),
			gocent.WithDisconnect(&gocent.Disconnect{Code: 4001, Reason: "away"})))
		away := ann.events.wait(t, "connecting")
		for away.code == 0 {
			away = ann.events.wait(t, "connecting")
		}
		if away.code != 4001 || away.reason != "away" {
			t.Fatalf("%+v", away)
		}
		ann.events.wait(t, "connected")
		expectSuccess(t, api.Disconnect(t.Context(), user, gocent.WithDisconnectClientWhitelist([]string{other.id})))
		ann.events.waitForCode(t, "disconnected", 3503)
		if _, err := other.Publish(t.Context(), channel, []byte("1")); err != nil {
			t.Fatal(err)
		}
		other.events.expectNone(t, "disconnected")
		expectSuccess(t, api.Disconnect(t.Context(), user))
		other.events.waitForCode(t, "disconnected", 3503)
	})
}

func TestAPIClientSendsSeveralCallsInOnePipe(t *testing.T) {
	t.Parallel()
	api := shared.apiClient(apiKey)
	pipe := api.Pipe()
	for _, added := range []error{
		pipe.AddPublish("pipe", []byte("1")),
		pipe.AddPublish("nowhere:1", []byte("2")),
		pipe.AddBroadcast([]string{"pipe"}, []byte("3")),
		pipe.AddSubscribe("pipe", "absent"),
		pipe.AddHistory("pipe", gocent.WithLimit(5)),
		pipe.AddPresenceStats("pipe"),
		pipe.AddInfo(),
	} {
		expectSuccess(t, added)
	}
	replies := succeeded(api.SendPipe(t.Context(), pipe))(t)
	for number, reply := range replies {
		if refused := reply.Error != nil; refused != (number == 1) {
			t.Fatalf("reply %d: %+v", number, reply.Error)
		}
	}
	if replies[1].Error.Code != 102 {
		t.Fatalf("%+v", replies[1].Error)
	}
	var history gocent.HistoryResult
	if err := json.Unmarshal(replies[4].Result, &history); err != nil {
		t.Fatal(err)
	}
	expectHistory(t, history, 2, 1, 2)
	expectJSON(t, history.Publications[1].Data, 3)
}

func TestAPIClientGetsErrors(t *testing.T) {
	t.Parallel()
	_, err := shared.apiClient(apiKey).Publish(t.Context(), "nowhere:1", []byte("1"))
	var refused *gocent.Error
	if !errors.As(err, &refused) || refused.Code != 102 {
		t.Fatalf("%v instead of error 102", err)
	}
	_, err = shared.apiClient("not the key").Info(t.Context())
	var status gocent.ErrStatusCode
	if !errors.As(err, &status) || status.Code != http.StatusUnauthorized {
		t.Fatalf("%v instead of status 401", err)
	}
}

func TestServerAPIHistoryOfEmptyChannelHasPublicationsAndOffset(t *testing.T) {
	t.Parallel()
	var history map[string]json.RawMessage
	if err := json.Unmarshal(shared.api(t, "history", params{"channel": "empty", "limit": 5}), &history); err != nil {
		t.Fatal(err)
	}
	if string(history["publications"]) != "[]" || string(history["offset"]) != "0" {
		t.Fatalf("%s", history)
	}
}

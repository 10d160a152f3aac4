package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/centrifugal/centrifuge-go"
)

// reply is what the server API answers to a command.
type reply struct {
	Result json.RawMessage
	Error  *struct {
		Code    uint32
		Message string
	}
}

// send posts a body to the server API with the header in which API clients for Go send the key, and returns the replies.
func (h *hub) send(t *testing.T, path string, commands ...any) []reply {
	t.Helper()
	var body bytes.Buffer
	for _, command := range commands {
		if err := json.NewEncoder(&body).Encode(command); err != nil {
			t.Fatal(err)
		}
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+h.address+path, &body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "apikey "+apiKey)
	request.Header.Set("Content-Type", "application/json")
	answer, err := (&http.Client{Timeout: patience}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d", path, answer.StatusCode)
	}
	replies := []reply{}
	for decoder := json.NewDecoder(answer.Body); ; {
		var next reply
		if err := decoder.Decode(&next); err == io.EOF {
			return replies
		} else if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, next)
	}
}

// params are the parameters of a method of the server API.
type params map[string]any

// api calls a method of the server API.
func (h *hub) api(t *testing.T, method string, p params) json.RawMessage {
	t.Helper()
	answer := h.send(t, "/api/"+method, p)[0]
	if answer.Error != nil {
		t.Fatalf("%s: %+v", method, *answer.Error)
	}
	return answer.Result
}

// publish publishes values one after another.
func (h *hub) publish(t *testing.T, channel string, values ...any) {
	t.Helper()
	for _, value := range values {
		h.api(t, "publish", params{"channel": channel, "data": value})
	}
}

// command is a command in the form of `POST /api`: API clients for Centrifugo before v5 send one or several of them, a line each.
func command(method string, p params) map[string]any {
	return map[string]any{"method": method, "params": p}
}

func TestServerAPITakesCommandsWithMethodAndParams(t *testing.T) {
	inBothFormats(t, func(t *testing.T, f format) {
		user, channel := "api-"+f.name, "api-"+f.name
		listener := connectUser(t, f, user)
		news := listener.subscribe(t, channel, centrifuge.SubscriptionConfig{})
		call := func(method string, p params) reply {
			t.Helper()
			replies := shared.send(t, "/api", command(method, p))
			if len(replies) != 1 {
				t.Fatalf("%s: %d replies", method, len(replies))
			}
			return replies[0]
		}
		result := func(method string, p params, into any) {
			t.Helper()
			answer := call(method, p)
			if answer.Error != nil {
				t.Fatalf("%s: %+v", method, *answer.Error)
			}
			if err := json.Unmarshal(answer.Result, into); err != nil {
				t.Fatalf("%s: %v: %s", method, err, answer.Result)
			}
		}

		var published struct {
			Offset uint64
			Epoch  string
		}
		result("publish", params{"channel": channel, "data": params{"n": 1}}, &published)
		if published.Offset != 1 || published.Epoch == "" {
			t.Fatalf("%+v", published)
		}
		result("broadcast", params{"channels": []string{channel}, "data": 2}, &struct{}{})
		news.expectPublications(t, params{"n": 1}, 2)

		var history struct {
			Publications []struct{ Data json.RawMessage }
			Offset       uint64
		}
		result("history", params{"channel": channel, "limit": 5}, &history)
		if len(history.Publications) != 2 || history.Offset != 2 {
			t.Fatalf("%+v", history)
		}
		var presence struct {
			Presence map[string]struct{ User string }
		}
		result("presence", params{"channel": channel}, &presence)
		if presence.Presence[listener.id].User != user || len(presence.Presence) != 1 {
			t.Fatalf("%+v", presence)
		}
		var stats struct {
			Clients int `json:"num_clients"`
			Users   int `json:"num_users"`
		}
		result("presence_stats", params{"channel": channel}, &stats)
		if stats.Clients != 1 || stats.Users != 1 {
			t.Fatalf("%+v", stats)
		}
		var channels struct {
			Channels map[string]struct {
				Clients int `json:"num_clients"`
			}
		}
		result("channels", params{"pattern": channel}, &channels)
		if channels.Channels[channel].Clients != 1 {
			t.Fatalf("%+v", channels)
		}
		var info struct {
			Nodes []struct{ Version string }
		}
		result("info", params{}, &info)
		if len(info.Nodes) != 1 {
			t.Fatalf("%+v", info)
		}
		result("history_remove", params{"channel": channel}, &struct{}{})

		result("subscribe", params{"channel": "given-" + channel, "user": user}, &struct{}{})
		listener.events.wait(t, "subscribed given-"+channel)
		result("unsubscribe", params{"channel": channel, "user": user}, &struct{}{})
		news.events.waitForCode(t, "unsubscribed", 2000)
		result("disconnect", params{"user": user}, &struct{}{})
		listener.events.waitForCode(t, "disconnected", 3503)
	})
}

func TestServerAPIAnswersEachLine(t *testing.T) {
	t.Parallel()
	replies := shared.send(t, "/api",
		command("publish", params{"channel": "lines", "data": 1}),
		command("publish", params{"channel": "nowhere:1", "data": 2}),
		command("publish", params{"channel": "lines", "data": 3}),
		command("history", params{"channel": "lines", "limit": 5}))
	if len(replies) != 4 {
		t.Fatalf("%d replies", len(replies))
	}
	if refused := replies[1].Error; refused == nil || refused.Code != 102 {
		t.Fatalf("%+v", replies[1])
	}
	var history struct {
		Publications []struct{ Data int }
	}
	if err := json.Unmarshal(replies[3].Result, &history); err != nil {
		t.Fatal(err)
	}
	if len(history.Publications) != 2 || history.Publications[1].Data != 3 {
		t.Fatalf("%+v", history)
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

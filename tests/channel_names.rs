//! Channel names with invisible characters are refused wherever a name or a pattern comes in: two names that look the same
//! are the same.

use serde_json::{Value, json};
use wardcast::config::ChannelAccess;

use crate::support::{API_KEY, TestHub, http, start_hub_with};

/// Names that look like `news`: with a soft hyphen, a combining grapheme joiner, a zero-width space, a variation selector, a
/// Hangul filler, a tag character, an interlinear annotation, and in Braille a blank.
const INVISIBLE: [&str; 8] = [
    "new\u{ad}s",
    "new\u{34f}s",
    "\u{200b}news",
    "news\u{fe0f}",
    "news\u{3164}",
    "n\u{e0065}ews",
    "n\u{fff9}ews",
    "news\u{2800}",
];

async fn start_open_hub() -> TestHub {
    start_hub_with(|config| {
        config.channels.presence = true;
        (config.channels.allow_presence, config.channels.allow_history) = (ChannelAccess::User, ChannelAccess::User);
        (config.channels.history_size, config.limits.commands_per_second) = (10, 0);
    })
    .await
}

#[actix_rt::test]
async fn commands_with_invisible_characters_in_channel_get_107() {
    let hub = start_open_hub().await;
    let mut ann = hub.connect("ann").await;
    for channel in INVISIBLE {
        for command in [
            json!({"id": 1, "subscribe": {"channel": channel}}),
            json!({"id": 1, "publish": {"channel": channel, "data": 1}}),
            json!({"id": 1, "presence": {"channel": channel}}),
            json!({"id": 1, "presence_stats": {"channel": channel}}),
            json!({"id": 1, "history": {"channel": channel}}),
        ] {
            assert_eq!(ann.request(command.clone()).await["error"]["code"], 107, "{command}");
        }
    }
    ann.subscribe("новости 日本").await;
}

#[actix_rt::test]
async fn server_api_and_rest_refuse_invisible_characters_in_channel() {
    let hub = start_open_hub().await;
    for channel in INVISIBLE {
        for (method, request) in [
            ("publish", json!({"channel": channel, "data": 1})),
            ("subscribe", json!({"user": "ann", "channel": channel})),
            ("unsubscribe", json!({"user": "ann", "channel": channel})),
            ("presence", json!({"channel": channel})),
            ("history", json!({"channel": channel})),
            ("channels", json!({"pattern": format!("{channel}*")})),
        ] {
            assert_eq!(hub.call_api(method, request).await["error"]["code"], 107, "{method} {channel:?}");
        }
        let broadcast = hub.call_api("broadcast", json!({"channels": ["news", channel], "data": 1})).await;
        assert_eq!(broadcast["result"]["responses"][1]["error"]["code"], 107, "{broadcast}");
        let encoded: String = channel.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/v1/channels/{encoded}/messages");
        let request = http::post(hub.address, &path).header("X-API-Key", API_KEY);
        let response = request.json(json!(1)).send().await;
        assert_eq!(response.json()["error"]["code"], 107, "{response:?}");
    }
}

#[actix_rt::test]
async fn tokens_with_invisible_characters_in_channels_and_patterns_are_401() {
    let hub = start_open_hub().await;
    let status = async |claims: Value| {
        let token = hub.token_with_claims(claims);
        hub.try_handshake(&format!("/socket?token={token}"), &[]).await.status
    };
    for channel in INVISIBLE {
        let cap = |kind: &str| json!([{"channels": [channel], "match": kind, "allow": ["sub"]}]);
        for (claim, value) in [
            ("channels", json!([channel])),
            ("subs", json!({channel: {}})),
            ("caps", cap("exact")),
            ("caps", cap("wildcard")),
            ("caps", cap("regex")),
        ] {
            let mut claims = json!({"sub": "ann", "exp": 60});
            claims[claim] = value;
            assert_eq!(status(claims).await, 401, "{claim} {channel:?}");
        }
    }
    assert_eq!(status(json!({"sub": "ann", "exp": 60, "channels": ["новости 日本"]})).await, 101);
}

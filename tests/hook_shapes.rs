//! Requests and answers of hooks in every form that the documentation of Centrifugo's proxies has, since version 3.

use serde_json::{Value, json};
use wardcast::config::{AllowSubscribe, Config, Namespace};

use crate::support::{TestHub, backend::Backend, http, start_hub_with};

/// A hub with all hooks, which ask the paths with their names.
async fn start(backend: &Backend) -> TestHub {
    start_hub_with(|config: &mut Config| {
        backend.configure_connect(config);
        backend.configure(&mut config.hooks.refresh, "/refresh");
        backend.configure(&mut config.hooks.subscribe, "/subscribe");
        backend.configure(&mut config.hooks.sub_refresh, "/sub_refresh");
        backend.configure(&mut config.hooks.publish, "/publish");
        backend.configure(&mut config.hooks.rpc, "/rpc");
        config.channels.allow_subscribe = AllowSubscribe::None;
        let mut channels = config.channels.clone();
        (channels.subscribe_hook, channels.publish_hook) = (true, true);
        channels.history_size = 10;
        config.namespaces.push(Namespace { name: "ask".to_owned(), channels });
    })
    .await
}

fn names(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[actix_rt::test]
async fn connect_request_names_the_channels_of_the_client_and_the_answer_may_have_every_documented_member() {
    let backend = Backend::start().await;
    let hub = start(&backend).await;
    let result = json!({
        "user": "56", "expire_at": 0, "info": {"name": "Ann"}, "b64info": "", "data": null, "b64data": "eyJhIjoxfQ==",
        "channels": ["news"],
        "subs": {"chat": {"info": {"n": 1}, "b64info": "", "data": {"x": 1}, "b64data": "",
            "override": {"presence": {"value": true}, "join_leave": {"value": false}, "force_recovery": {},
                "force_positioning": {"value": false}, "force_push_join_leave": {"value": false}},
            "cache_recover": false}},
        "meta": {"key": "value"}, "caps": [], "labels": {"pro": "only"},
    });
    backend.answer_json("/connect", json!({"result": result, "error": null, "disconnect": null}));
    let mut ann = hub.connect_without_token().await;
    let connect = json!({"data": {"d": 1}, "name": "js", "version": "5.0",
        "subs": {"news": {"recover": true, "epoch": "x", "offset": 1}, "other": {}}});
    let reply = ann.request(json!({"id": 1, "connect": connect})).await;
    assert_eq!(reply["connect"]["data"], json!({"a": 1}), "{reply}");
    assert_eq!(names(&reply["connect"]["subs"]), ["chat", "news"]);
    assert_eq!(reply["connect"]["subs"]["chat"]["data"], json!({"x": 1}));
    let request = backend.calls("/connect").pop().unwrap().json();
    let expected = ["channels", "client", "data", "encoding", "name", "protocol", "transport", "version"];
    assert_eq!(names(&request), expected);
    assert_eq!(request["channels"], json!(["news", "other"]));
    // Every later hook gets `meta`.
    backend.answer_json("/rpc", json!({"result": {"data": {"answer": "2019"}, "b64data": ""}}));
    let reply = ann.request(json!({"id": 2, "rpc": {"data": {"object_id": 12}}})).await;
    assert_eq!(reply["rpc"], json!({"data": {"answer": "2019"}}));
    let request = backend.calls("/rpc").pop().unwrap().json();
    assert_eq!(names(&request), ["client", "data", "encoding", "meta", "method", "protocol", "transport", "user"]);
    assert_eq!((&request["meta"], &request["user"]), (&json!({"key": "value"}), &json!("56")));
}

#[actix_rt::test]
async fn disconnect_and_error_of_every_version_reach_the_client() {
    let backend = Backend::start().await;
    let hub = start(&backend).await;
    for (disconnect, expected) in [
        // Centrifugo 3 has `reconnect`; later ones derive it from the code.
        (json!({"code": 4000, "reconnect": false, "reason": "custom disconnect"}), (4000, "custom disconnect")),
        (json!({"code": 4501, "reason": "unauthorized"}), (4501, "unauthorized")),
        (json!({"code": 4500}), (4500, "")),
        (json!({"code": 4500, "reason": null}), (4500, "")),
    ] {
        for hook in ["/connect", "/rpc"] {
            backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
            backend.answer_json(hook, json!({"disconnect": disconnect}));
            let mut ann = hub.connect_without_token().await;
            ann.send(json!({"id": 1, "connect": {}})).await;
            if hook == "/rpc" {
                ann.receive().await;
                ann.send(json!({"id": 2, "rpc": {"method": "m"}})).await;
            }
            let (code, reason) = expected;
            assert_eq!(ann.wait_for_close().await, (Some(code), reason.to_owned()), "{hook} {disconnect}");
        }
    }
    for (error, expected) in [
        (json!({"code": 1000, "message": "custom error"}), json!({"code": 1000, "message": "custom error"})),
        (
            json!({"code": 403, "message": "permission denied", "temporary": null}),
            json!({"code": 403, "message": "permission denied"}),
        ),
        // Centrifugo 3 allows any code; 2000 and above mean something else to clients.
        (
            json!({"code": 4030, "message": "too high"}),
            json!({"code": 100, "message": "internal server error", "temporary": true}),
        ),
    ] {
        backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
        backend.answer_json("/rpc", json!({"error": error}));
        let mut ann = hub.connect_without_token().await;
        ann.request(json!({"id": 1, "connect": {}})).await;
        assert_eq!(ann.request(json!({"id": 2, "rpc": {"method": "m"}})).await["error"], expected);
    }
}

#[actix_rt::test]
async fn subscription_and_publication_are_answered_with_every_documented_member() {
    let backend = Backend::start().await;
    let hub = start(&backend).await;
    let (mut ann, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 36_000})).await;
    // `recover` and `position` are the names of Centrifugo 3.
    let result = json!({"info": {"n": 1}, "b64info": null, "data": {"d": 1}, "b64data": "", "expire_at": null, "allow": ["pub"],
        "override": {"presence": {"value": true}, "position": {"value": true}, "recover": {"value": true}}});
    backend.answer_json("/subscribe", json!({"result": result}));
    let reply = ann.subscribe_with("ask:1", json!({"data": {"why": 1}})).await;
    let subscribed = &reply["subscribe"];
    assert_eq!((&subscribed["data"], &subscribed["recoverable"]), (&json!({"d": 1}), &json!(true)), "{reply}");
    let request = backend.calls("/subscribe").pop().unwrap().json();
    assert_eq!(names(&request), ["channel", "client", "data", "encoding", "protocol", "transport", "user"]);

    backend
        .answer_json("/subscribe", json!({"result": {"server_tags_filter": {"key": "role", "cmp": "eq", "val": "x"}}}));
    let refused = ann.subscribe_with("ask:2", json!({})).await;
    assert_eq!(refused["error"]["code"], 100, "a filter that is not applied would show too much: {refused}");
    backend.answer_json("/subscribe", json!({"result": {}}));
    let filter = json!({"key": "role", "cmp": "eq", "val": "admin"});
    ann.subscribe_with("ask:2", json!({"tf": filter})).await;

    let result = json!({"data": {"checked": true}, "b64data": "", "skip_history": false, "tags": {"role": "admin"},
        "idempotency_key": "once", "delta": true, "version": 0, "version_epoch": ""});
    backend.answer_json("/publish", json!({"result": result}));
    for id in [5, 6] {
        let channel = "ask:2";
        ann.send(json!({"id": id, "publish": {"channel": channel, "data": {"n": id}}})).await;
    }
    let token = hub.bearer("ann");
    // The key of the hook counts, not that of the client.
    let over_rest = http::post(hub.address, "/v1/channels/ask:2/messages").header("Authorization", &token);
    let over_rest = over_rest.header("Idempotency-Key", "another");
    assert_eq!(over_rest.json(json!(7)).send().await.status, 200);
    let mut publications = Vec::new();
    for _ in 0..3 {
        let message = ann.receive().await;
        publications.extend(message["push"].get("pub").cloned());
    }
    hub.call_api("publish", json!({"channel": "ask:2", "data": "end", "tags": {"role": "admin"}})).await;
    let end = ann.receive_publication().await;
    assert_eq!(end, json!("end"));
    // The key lets one of the three through, and the filter of the client sees the tags.
    assert_eq!(publications.len(), 1, "{publications:?}");
    assert_eq!(
        (&publications[0]["data"], &publications[0]["tags"]),
        (&json!({"checked": true}), &json!({"role": "admin"}))
    );
    let calls: Vec<Value> = backend.calls("/publish").iter().map(|call| call.json()).collect();
    let request = calls.iter().find(|call| call.get("client").is_some()).expect("a call of the client's connection");
    assert_eq!(names(request), ["channel", "client", "data", "encoding", "protocol", "transport", "user"]);
    backend.answer_json("/publish", json!({"result": {"tags": null, "skip_history": null, "data": null}}));
    assert_eq!(ann.request(json!({"id": 9, "publish": {"channel": "ask:1", "data": 1}})).await["publish"], json!({}));
}

//! `server.path_prefix`: everything is below it, for load balancers that forward paths unchanged.

use std::net::SocketAddr;

use serde_json::json;
use wardcast::config::Config;

use crate::support::{
    API_KEY, Client, TestHub, http, mark_secret,
    process::{run, wardcast},
    start_hub_with,
};

const PREFIX: &str = "/realtime";

async fn start_prefixed_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.server.path_prefix = PREFIX.to_owned();
        config.web.demo_page = true;
        change(config);
    })
    .await
}

async fn status(address: SocketAddr, path: &str) -> u16 {
    http::get(address, path).header("X-API-Key", API_KEY).send().await.status
}

#[actix_rt::test]
async fn all_paths_are_below_the_prefix_and_only_health_is_at_the_root() {
    let plain = start_hub_with(|config| config.web.demo_page = true).await;
    let hub = start_prefixed_hub(|_| ()).await;
    for path in [
        "/",
        "/demo/app.js",
        "/demo/hub.json",
        "/metrics",
        "/api/info",
        "/v1/openapi.json",
        "/v1/reference",
        "/v1/reference.css",
        "/auth/login",
        "/auth/ticket",
        "/connection/websocket",
        "/connection/sse",
        "/connection/http_stream",
        "/emulation",
        "/nothing",
    ] {
        let expected = status(plain.address, path).await;
        assert_eq!(status(hub.address, &format!("{PREFIX}{path}")).await, expected, "{path}");
        assert_eq!(status(hub.address, path).await, 404, "{path}");
    }
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(status(hub.address, path).await, 200);
        assert_eq!(status(hub.address, &format!("{PREFIX}{path}")).await, 200);
    }
    for path in ["/realtimes/metrics", "/realtime/realtime/metrics", "/RealTime/metrics"] {
        assert_eq!(status(hub.address, path).await, 404, "{path}");
    }
}

#[actix_rt::test]
async fn clients_connect_and_backends_publish_below_the_prefix() {
    let hub = start_prefixed_hub(|_| ()).await;
    for path in ["/connection/websocket", "/socket", "/", ""] {
        let mut client =
            Client::connect(hub.address, &format!("{PREFIX}{path}?token={}", hub.token("ann"))).await.expect(path);
        client.receive_connect_push().await;
        client.subscribe("news").await;
        let call = http::post(hub.address, &format!("{PREFIX}/api/publish")).header("X-API-Key", API_KEY);
        assert_eq!(call.json(json!({"channel": "news", "data": path})).send().await.status, 200);
        assert_eq!(client.receive_publication().await, path);
    }
    assert!(Client::connect(hub.address, &hub.path_for("ann")).await.is_err(), "it is not at the root");
}

#[actix_rt::test]
async fn prefix_without_its_slash_leads_to_the_page() {
    let hub = start_prefixed_hub(|_| ()).await;
    let moved = http::get(hub.address, "/realtime?a=b").send().await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("realtime/?a=b")), "{moved:?}");
    let deeper = start_hub_with(|config| config.server.path_prefix = "/apps/realtime".to_owned()).await;
    let moved = http::get(deeper.address, "/apps/realtime").send().await;
    assert_eq!(moved.header("location"), Some("realtime/"), "{moved:?}");
}

#[actix_rt::test]
async fn cookies_are_for_the_prefix_unless_their_name_needs_the_root() {
    for (name, access, refresh) in
        [("wardcast_token", "Path=/realtime;", "Path=/realtime/auth;"), ("__Host-token", "Path=/;", "Path=/;")]
    {
        let hub = start_prefixed_hub(|config| {
            config.auth.cookie = name.to_owned();
            config.login.cookie = true;
            config.login.demo_password = wardcast::config::Secret::new(mark_secret("right horse"));
        })
        .await;
        let logout = http::post(hub.address, "/realtime/auth/logout")
            .header("Origin", &format!("http://{}", hub.address))
            .send()
            .await;
        let cookies: Vec<&str> =
            logout.head.lines().filter(|line| line.to_lowercase().starts_with("set-cookie: ")).collect();
        assert_eq!(cookies.len(), 2, "{logout:?}");
        assert!(cookies[0].contains(access) && cookies[1].contains(refresh), "{cookies:?}");
    }
}

#[actix_rt::test]
async fn both_listeners_have_the_prefix() {
    let hub = start_prefixed_hub(|config| config.server.internal_bind = Some(([127, 0, 0, 1], 0).into())).await;
    let internal = hub.internal_address();
    assert_eq!(status(internal, "/realtime/metrics").await, 200);
    assert_eq!(status(internal, "/realtime/api/info").await, status(internal, "/realtime/api/nodes").await);
    assert_eq!((status(internal, "/metrics").await, status(internal, "/health/ready").await), (404, 200));
    assert_eq!(status(internal, "/realtime").await, 404, "it serves no page");
    assert_eq!(status(hub.address, "/realtime/metrics").await, 404);
}

#[actix_rt::test]
async fn commands_add_the_prefix_of_the_configuration() {
    let hub = start_prefixed_hub(|_| ()).await;
    let bind = format!("server.bind={}", hub.address);
    let command = move |arguments: &[&str]| {
        let all: Vec<&str> =
            arguments.iter().copied().chain(["--set", &bind, "--set", "server.path_prefix=/realtime"]).collect();
        run(wardcast(&all).env("WARDCAST_API__KEY", API_KEY))
    };
    let mut ann = Client::connect(hub.address, &format!("{PREFIX}{}", hub.path_for("ann"))).await.unwrap();
    ann.receive_connect_push().await;
    ann.subscribe("news").await;
    let (health, published) =
        actix_rt::task::spawn_blocking(move || (command(&["health"]), command(&["pub", "news", "1"]))).await.unwrap();
    assert_eq!((health.code, published.code), (Some(0), Some(0)), "{} {}", health.stderr, published.stderr);
    assert_eq!(ann.receive_publication().await, 1);
}

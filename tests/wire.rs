//! The JSON protocol, byte for byte: conversations in `golden/*.jsonl` run against a hub. A change of these files is a change
//! for every client. Each line is one step:
//!
//! ```text
//! ann joins [PATH]        ann connects. In PATH and in texts, {token}, {token of bob}, {expired} and {forged} are replaced
//!                         by tokens, and {signed CLAIMS} by one with these claims, whose dates count from now
//! ann> TEXT               ann sends a text message
//! ann< TEXT               ann receives exactly this
//! ann! CODE REASON        the connection of ann is closed with this, and she receives nothing before
//! REST> METHOD PATH BODY  an HTTP request with the API key
//! REST< STATUS BODY       its response is exactly this
//! time passes             an hour, which is how long the tokens are valid
//! with history            configuration: channels of the namespace `kept` have history, presence, joins and leaves, and
//!                         deltas
//! limit NAME N            configuration: the value of this key of [limits]. Otherwise a session may have two channels and
//!                         two protocol errors
//! ```
//!
//! Values that differ from run to run are replaced by names: the id of a client by its own name (`<ann>`), others by
//! `<request>`, `<node>`, `<epoch>`, `<version>`, `<time>`, `<ttl>` (of an hour) and `<ttl of 2 h>`. Lines that begin with `#` are
//! comments.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use serde_json::{Value, json, value::RawValue};
use wardcast::{
    auth::{Signer, users::UserClaims},
    config::{ChannelAccess, ChannelOptions, DeltaType, Limits, Namespace},
    protocol,
};

use crate::support::{API_KEY, Client, TestHub, http, start_hub_with};

const HOUR: Duration = Duration::from_secs(3600);

const CONVERSATIONS: [&str; 11] =
    ["channels", "closes", "errors", "history", "limits", "null", "plain", "refresh", "rest", "sdk", "subscriptions"];

#[actix_rt::test]
async fn plain_session_matches_golden_conversation() {
    run_conversation("plain").await;
}

#[actix_rt::test]
async fn sdk_session_matches_golden_conversation() {
    run_conversation("sdk").await;
}

#[actix_rt::test]
async fn channels_match_golden_conversation() {
    run_conversation("channels").await;
}

#[actix_rt::test]
async fn errors_match_golden_conversation() {
    run_conversation("errors").await;
}

#[actix_rt::test]
async fn closes_match_golden_conversation() {
    run_conversation("closes").await;
}

#[actix_rt::test]
async fn limits_match_golden_conversation() {
    run_conversation("limits").await;
}

#[actix_rt::test]
async fn refresh_matches_golden_conversation() {
    run_conversation("refresh").await;
}

#[actix_rt::test]
async fn subscriptions_match_golden_conversation() {
    run_conversation("subscriptions").await;
}

#[actix_rt::test]
async fn rest_api_matches_golden_conversation() {
    run_conversation("rest").await;
}

#[actix_rt::test]
async fn null_data_matches_golden_conversation() {
    run_conversation("null").await;
}

#[actix_rt::test]
async fn history_and_presence_match_golden_conversation() {
    run_conversation("history").await;
}

#[test]
fn every_golden_file_is_tested() {
    let mut files: Vec<String> = fs::read_dir(golden_folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files, CONVERSATIONS);
}

fn golden_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"))
}

async fn run_conversation(name: &str) {
    let script = fs::read_to_string(golden_folder().join(name).with_extension("jsonl")).unwrap();
    let hub = start_hub_with(|config| {
        (config.limits.channels_per_session, config.limits.errors) = (2, 2);
        if script.lines().any(|line| line == "with history") {
            config
                .namespaces
                .push(Namespace { name: "kept".to_owned(), channels: with_history_and_presence(&config.channels) });
        }
        script
            .lines()
            .filter_map(|line| line.strip_prefix("limit "))
            .for_each(|limit| set_limit(&mut config.limits, limit));
    })
    .await;
    let mut conversation = Conversation { hub, clients: BTreeMap::new(), names: Vec::new(), response: None };
    for (number, line) in script.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let found = conversation.run_line(line).await;
        assert!(found == line, "golden/{name}.jsonl:{}\n  expected {line}\n  found    {found}", number + 1);
    }
}

fn with_history_and_presence(channels: &ChannelOptions) -> ChannelOptions {
    ChannelOptions {
        history_size: 4,
        presence: true,
        join_leave: true,
        allow_history: ChannelAccess::Subscriber,
        allow_presence: ChannelAccess::Subscriber,
        allowed_delta_types: vec![DeltaType::Fossil],
        ..channels.clone()
    }
}

fn set_limit(limits: &mut Limits, limit: &str) {
    let (name, value) = limit.split_once(' ').expect("a name and a value");
    match name {
        "commands_per_second" => limits.commands_per_second = value.parse().unwrap(),
        "connections_per_user" => limits.connections_per_user = value.parse().unwrap(),
        _ => panic!("conversations cannot set this limit: {name}"),
    }
}

struct Conversation {
    hub: TestHub,
    clients: BTreeMap<String, Client>,
    /// Values of this run, and the names that replace them.
    names: Vec<(String, String)>,
    response: Option<http::Response>,
}

impl Conversation {
    /// Executes a line; returns the line as it should be written for what has happened.
    async fn run_line(&mut self, line: &str) -> String {
        let (client_name, rest) = line.split_at(line.find(|c: char| !c.is_alphanumeric()).unwrap_or(line.len()));
        let (what, text) = rest.split_at(rest.len().min(2));
        match (client_name, what) {
            ("time", _) => {
                self.hub.clock.advance(HOUR);
                line.to_owned()
            }
            ("limit" | "with", _) => line.to_owned(),
            ("REST", "> ") => {
                self.send_http(text).await;
                line.to_owned()
            }
            ("REST", "< ") => {
                let response = self.response.take().expect("a request before its response");
                let id = response.header("x-request-id").expect("an id").to_owned();
                let http::Response { status, body, .. } = response;
                let body = body.replace(&id, "<request>");
                format!("REST< {status} {}", self.name_ids(client_name, &body))
            }
            (_, " j") => {
                let path = rest.trim_start_matches(" joins").trim();
                let path = if path.is_empty() { "/socket" } else { path };
                let client = Client::connect(self.hub.address, &self.fill_in(path)).await.unwrap();
                self.clients.insert(client_name.to_owned(), client);
                line.to_owned()
            }
            (_, "> ") => {
                let text = self.fill_in(text);
                self.client_named(client_name).send_text(&text).await;
                line.to_owned()
            }
            // Both lines wait for whatever comes next; the comparison shows whether it was expected.
            (_, "< " | "! ") => match self.client_named(client_name).next().await {
                Ok(text) => format!("{client_name}< {}", self.name_ids(client_name, &text)),
                Err(closed) => format!("{client_name}! {} {}", closed.code.unwrap_or_default(), closed.reason),
            },
            _ => panic!("not a line of a conversation: {line}"),
        }
    }

    fn client_named(&mut self, client_name: &str) -> &mut Client {
        self.clients.get_mut(client_name).unwrap_or_else(|| panic!("{client_name} has not joined"))
    }

    async fn send_http(&mut self, request: &str) {
        let mut parts = request.splitn(3, ' ');
        let (method, path) = (parts.next().unwrap(), parts.next().unwrap());
        let request = http::request(self.hub.address, method, path).header("X-API-Key", API_KEY);
        let request = request.header("Content-Type", "application/json").body(parts.next().unwrap_or_default());
        self.response = Some(request.send().await);
    }

    /// Replaces placeholders by tokens, and the name of the epoch by its value.
    fn fill_in(&self, text: &str) -> String {
        let info = Some(RawValue::from_string(r#"{"name":"Bob"}"#.to_owned()).unwrap());
        let claims = UserClaims { info, ..UserClaims::default() };
        let text = self.sign_claims_in(text);
        let epoch = self.names.iter().find(|(_, name)| name == "<epoch>");
        let text = epoch.map_or(text.clone(), |(epoch, name)| text.replace(name, epoch));
        let signer = Signer::new(&self.hub.config.auth, self.hub.clock.clone());
        text.replace("{token}", &self.hub.token("ann"))
            .replace("{token of bob}", &signer.sign("bob", HOUR, &claims).unwrap())
            .replace("{expired}", &self.hub.expired_token("ann"))
            .replace("{forged}", &self.hub.forged_token("ann"))
    }

    /// Replaces each `{signed CLAIMS}` by a token.
    fn sign_claims_in(&self, text: &str) -> String {
        let Some((before, rest)) = text.split_once("{signed ") else { return text.to_owned() };
        let mut claims = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let mut value = claims.next().expect("claims").unwrap();
        let rest = rest[claims.byte_offset()..].strip_prefix('}').expect("a brace after the claims");
        // Shifts the dates within `subs`. `token_with_claims` shifts the others.
        let now = self.hub.clock.now().unix_seconds();
        for options in value["subs"].as_object_mut().into_iter().flat_map(|subs| subs.values_mut()) {
            if let Some(seconds) = options["expire_at"].as_i64() {
                options["expire_at"] = json!(now + seconds);
            }
        }
        format!("{before}{}{}", self.hub.token_with_claims(value), self.sign_claims_in(rest))
    }

    /// Replaces values that differ from run to run by names.
    fn name_ids(&mut self, client_name: &str, text: &str) -> String {
        let is_connect = text.contains(r#""connect":{"#);
        for (key, name) in [("client", client_name), ("node", "node"), ("epoch", "epoch")] {
            let may_name = is_connect || key == "epoch";
            if let Some(id) = value_of(text, key).filter(|id| may_name && !self.is_known_client(id)) {
                self.names.push((id.to_owned(), format!("<{name}>")));
            }
        }
        self.names
            .iter()
            .fold(without_times(&without_ttls(text)), |text, (id, name)| text.replace(id, name))
            .replace(protocol::VERSION, "<version>")
    }

    fn is_known_client(&self, id: &str) -> bool {
        self.names.iter().any(|(known, _)| known == id)
    }
}

/// Replaces ttls by names. A ttl is the lifetime without the margin of half a minute, and without the time since.
fn without_ttls(text: &str) -> String {
    let mut parts = text.split(r#""ttl":"#);
    let mut named = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (ttl, rest) = part.split_at(part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len()));
        let name = match ttl.parse().unwrap() {
            3500..=3570 => "<ttl>",
            7100..=7170 => "<ttl of 2 h>",
            _ => ttl,
        };
        named += &format!(r#""ttl":{name}{rest}"#);
    }
    named
}

/// Replaces the times of publications.
fn without_times(text: &str) -> String {
    let mut parts = text.split(r#""time":"#);
    let mut named = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        named += r#""time":<time>"#;
        named += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    named
}

/// The value of a member, without its quotes.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, value) = text.split_once(&format!(r#""{key}":"#))?;
    value.split([',', '}']).next().map(|value| value.trim_matches('"'))
}

//! Random operations at the same time: commands, new tokens, server API controls, publications and closes. A client must
//! receive publications of a channel only between the message that begins its subscription and the message that ends it;
//! each command must be answered once and in order; and in the end nothing must be left behind.

use std::collections::{HashSet, VecDeque};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::support::{Client, TestHub, allow_any_rate, http, start_hub_with};

const CHANNELS: [&str; 5] = ["a", "b", "c", "$d", "ann-only#ann"];

/// A generator that gives the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn channel(&mut self) -> &'static str {
        CHANNELS[self.below(CHANNELS.len())]
    }
}

/// A client that checks every reply and push against its subscriptions.
struct CheckedClient {
    client: Client,
    subscriptions: HashSet<String>,
    /// Commands without a reply yet: the id, and the channel that the reply is about.
    pending: VecDeque<(u64, String)>,
}

impl CheckedClient {
    fn check(&mut self, received: &Value) {
        let push = &received["push"];
        if let Some(id) = received["id"].as_u64() {
            let (expected, channel) = self.pending.pop_front().expect("a command before its reply");
            assert_eq!(id, expected, "replies must come in order: {received}");
            if received["subscribe"].is_object() {
                assert!(self.subscriptions.insert(channel), "subscribed twice: {received}");
            } else if received["unsubscribe"].is_object() {
                self.subscriptions.remove(&channel);
            }
        } else if let Some(channel) = push["channel"].as_str() {
            if push["pub"].is_object() {
                assert!(self.subscriptions.contains(channel), "not subscribed: {received}");
            } else if push["subscribe"].is_object() {
                assert!(self.subscriptions.insert(channel.to_owned()), "subscribed twice: {received}");
            } else if push["unsubscribe"].is_object() {
                assert!(self.subscriptions.remove(channel), "not subscribed: {received}");
            }
        }
        // A connect push or reply lists all server-side subscriptions of the token.
        let connect = push.get("connect").or(received.get("connect"));
        if let Some(subs) = connect.and_then(|connect| connect["subs"].as_object()) {
            self.subscriptions.extend(subs.keys().cloned());
        }
    }

    /// Reads until every command has its reply; returns `false` if the connection has ended.
    async fn wait_for_replies(&mut self) -> bool {
        while !self.pending.is_empty() {
            match self.client.next().await {
                Ok(text) => self.check(&serde_json::from_str(&text).unwrap()),
                Err(_) => return false,
            }
        }
        true
    }
}

fn random_token(hub: &TestHub, random: &mut Random, user: &str) -> String {
    let mut claims = json!({"sub": user, "exp": 3600 + random.below(1000)});
    let some =
        |random: &mut Random| -> Vec<&str> { CHANNELS[..4].iter().copied().filter(|_| random.below(3) == 0).collect() };
    claims["channels"] = json!(some(random));
    claims["caps"] = json!([{"channels": some(random), "allow": ["sub", "pub"]}]);
    hub.token_with_claims(claims)
}

fn random_command(hub: &TestHub, random: &mut Random, user: &str, id: u64) -> (Value, String) {
    let channel = random.channel();
    let mut command = match random.below(8) {
        0 | 1 => json!({"id": id, "subscribe": {"channel": channel}}),
        2 => json!({"id": id, "unsubscribe": {"channel": channel}}),
        3 => json!({"id": id, "publish": {"channel": channel, "data": id}}),
        4 => json!({"id": id, "refresh": {"token": random_token(hub, random, user)}}),
        5 => {
            let granted = hub.token_with_claims(json!({"sub": user, "channel": channel, "exp": 3600}));
            let method = ["subscribe", "sub_refresh"][random.below(2)];
            json!({"id": id, method: {"channel": channel, "token": granted}})
        }
        6 => json!({"id": id, "presence": {"channel": channel}}),
        _ => json!({"id": id, "ping": {}}),
    };
    if random.below(6) == 0 {
        command["token"] = json!(random_token(hub, random, user));
    }
    (command, channel.to_owned())
}

async fn run_client(hub: &TestHub, user: &str, seed: u64) {
    let mut random = Random(seed);
    for _ in 0..4 {
        let path = format!("/socket?token={}", random_token(hub, &mut random, user));
        let client = Client::connect(hub.address, &path).await.unwrap();
        let mut checked = CheckedClient { client, subscriptions: HashSet::new(), pending: VecDeque::new() };
        let mut id = 0;
        for _ in 0..40 {
            let mut lines = Vec::new();
            for _ in 0..=random.below(8) {
                id += 1;
                let (command, channel) = random_command(hub, &mut random, user, id);
                checked.pending.push_back((id, channel));
                lines.push(command.to_string());
            }
            // A control may close the connection at any time.
            let is_sent = checked.client.try_send_text(&lines.join("\n")).await;
            if !is_sent || !checked.wait_for_replies().await {
                break;
            }
        }
    }
}

async fn send_random_controls(hub: &TestHub, rounds: usize) {
    let mut random = Random(7);
    for round in 0..rounds {
        let user = ["ann", "bob"][random.below(2)];
        match random.below(12) {
            0 => hub.call_api("disconnect", json!({"user": user})).await,
            1 | 2 => hub.call_api("refresh", json!({"user": user, "info": {"round": round}})).await,
            3..=6 => hub.call_api("unsubscribe", json!({"user": user, "channel": random.channel()})).await,
            _ => hub.call_api("publish", json!({"channel": random.channel(), "data": round})).await,
        };
    }
}

#[actix_rt::test]
async fn random_concurrent_operations_deliver_only_permitted_data_and_leave_nothing_behind() {
    let hub = start_hub_with(|config| {
        config.channels.allow_subscribe = wardcast::config::AllowSubscribe::None;
        config.channels.allow_publish = wardcast::config::ChannelAccess::Subscriber;
        allow_any_rate(config);
        config.limits.channels_per_session = CHANNELS.len();
    })
    .await;
    let users = ["ann", "bob", "ann", "bob", "eve", "ann"];
    let clients = join_all(users.iter().zip(1..).map(|(user, seed)| run_client(&hub, user, seed)));
    join(clients, send_random_controls(&hub, 400)).await;
    hub.wait_for_connections(0).await;
    hub.wait_for_channels(&[]).await;
    let node = hub.call_api("info", json!({})).await["result"]["nodes"][0].clone();
    assert!(["num_clients", "num_users", "num_subs"].iter().all(|name| node[name] == 0), "{node}");
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200, "a hub has died");
}

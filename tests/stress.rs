//! Everybody does anything at once: commands, newer tokens, orders of the server API, publications and closes, by random.
//! Whatever happens, a client hears of a channel only between the word that it receives it and the word that it does not
//! any more, each command is answered once and in its order, and in the end nothing is left.

use std::collections::{HashSet, VecDeque};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::support::{Client, TestHub, http, start_hub_with, wait_until};

const CHANNELS: [&str; 5] = ["a", "b", "c", "$d", "ann-only#ann"];

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        // xorshift64*: good enough to be anything.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn channel(&mut self) -> &'static str {
        CHANNELS[self.below(CHANNELS.len())]
    }
}

/// A client that checks what it hears against what it was told.
struct ReceivedLog {
    client: Client,
    receives: HashSet<String>,
    /// Commands that are not answered yet: their id, and the channel that an answer is about.
    sent_ids: VecDeque<(u64, String)>,
}

impl ReceivedLog {
    fn record(&mut self, heard: &Value) {
        let push = &heard["push"];
        if let Some(id) = heard["id"].as_u64() {
            let (sent_ids, channel) = self.sent_ids.pop_front().expect("a question before an answer");
            assert_eq!(id, sent_ids, "replies come in order: {heard}");
            if heard["subscribe"].is_object() {
                assert!(self.receives.insert(channel), "twice: {heard}");
            } else if heard["unsubscribe"].is_object() {
                self.receives.remove(&channel);
            }
        } else if let Some(channel) = push["channel"].as_str() {
            if push["pub"].is_object() {
                assert!(self.receives.contains(channel), "not sent_ids for: {heard}");
            } else if push["subscribe"].is_object() {
                assert!(self.receives.insert(channel.to_owned()), "twice: {heard}");
            } else if push["unsubscribe"].is_object() {
                assert!(self.receives.remove(channel), "it did not receive it: {heard}");
            }
        }
        // A greeting tells of everything that the token brings.
        let greeting = push.get("connect").or(heard.get("connect"));
        if let Some(subs) = greeting.and_then(|greeting| greeting["subs"].as_object()) {
            self.receives.extend(subs.keys().cloned());
        }
    }

    /// Hears until everything is answered; `false` when the connection has ended.
    async fn catch_up(&mut self) -> bool {
        while !self.sent_ids.is_empty() {
            match self.client.next().await {
                Ok(text) => self.record(&serde_json::from_str(&text).unwrap()),
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
        let mut received = ReceivedLog { client, receives: HashSet::new(), sent_ids: VecDeque::new() };
        let mut id = 0;
        for _ in 0..40 {
            let mut lines = Vec::new();
            for _ in 0..=random.below(8) {
                id += 1;
                let (command, channel) = random_command(hub, &mut random, user, id);
                received.sent_ids.push_back((id, channel));
                lines.push(command.to_string());
            }
            // It may be closed by an order at any time.
            let sent = received.client.try_send_text(&lines.join("\n")).await;
            if !sent || !received.catch_up().await {
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
        (config.limits.commands_per_second, config.limits.publications_per_second) = (0, 0);
        config.limits.channels_per_session = CHANNELS.len();
    })
    .await;
    let users = ["ann", "bob", "ann", "bob", "eve", "ann"];
    let clients = join_all(users.iter().zip(1..).map(|(user, seed)| run_client(&hub, user, seed)));
    join(clients, send_random_controls(&hub, 400)).await;
    wait_until("nothing is left", async || {
        let node = hub.call_api("info", json!({})).await["result"]["nodes"][0].clone();
        ["num_clients", "num_users", "num_subs", "num_channels"].iter().all(|name| node[name] == 0)
            && hub.connections() == 0
    })
    .await;
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200, "no hub has died");
}

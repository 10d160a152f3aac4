//! `check-token`: what a token says, and what the hub's own verifier says to it. The token comes from standard input: the
//! arguments of a process can be read by everybody on the machine.

use std::{
    fmt::Write,
    io::{self, IsTerminal, Read},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    CliError, CommandResult,
    configuration::ConfigInputs,
    escape_control, print_error_line,
    remedy::{self, TokenKind},
};
use crate::{
    auth::{Permissions, TokenError, Verifier},
    clock::{Clock, Millis, NEVER},
    config::{Config, Environment},
};

/// More is read of nobody; the longest token is shorter.
const MAX_INPUT_BYTES: u64 = 64 * 1024;
/// Claims that are dates (RFC 7519 §4.1).
const DATE_CLAIMS: [&str; 4] = ["exp", "nbf", "iat", "expire_at"];

/// `check-token`.
pub(super) fn check(inputs: &ConfigInputs, as_json: bool) -> CommandResult {
    let config = inputs.load()?;
    let token = read_token()?;
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let clock = Clock::default();
    let verifier = Verifier::new(&config, permissions, clock.clone()).map_err(|bad| bad.to_string())?;
    let [header, claims] = decode_parts(&token);
    let is_subscription = claims.as_ref().is_some_and(|claims| claims.get("channel").is_some());
    let kind = if is_subscription { TokenKind::Subscription } else { TokenKind::Connection };
    let result = match kind {
        TokenKind::Connection => verifier.verify(&token).map(|claims| claims.expires_at),
        TokenKind::Subscription => verifier.verify_subscription(&token).map(|claims| claims.expires_at),
    };
    let report = TokenReport {
        header,
        claims,
        kind,
        result,
        now: clock.now(),
        config: &config,
        environment: inputs.environment,
    };
    let output = if as_json { report.json() } else { report.text() };
    match report.result {
        Ok(_) => Ok(output),
        Err(refusal) => Err(CliError { output, message: format!("the hub would refuse this token: {refusal}") }),
    }
}

fn read_token() -> Result<String, String> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        print_error_line("Paste the token, then press Enter and Ctrl-D:");
    }
    let mut text = String::new();
    let read = stdin.lock().take(MAX_INPUT_BYTES).read_to_string(&mut text);
    read.map_err(|error| format!("standard input: {error}"))?;
    let text = text.trim();
    // As it stands in a header, a line of a log or a script.
    let text = text.strip_prefix("Authorization:").map_or(text, str::trim);
    let token = text.strip_prefix("Bearer ").unwrap_or(text).trim_matches(['"', '\'', ' ']);
    if token.is_empty() {
        return Err("there is no token on standard input: wardcast check-token < token.txt".to_owned());
    }
    Ok(token.to_owned())
}

/// Header and payload, as far as they can be read by anybody.
fn decode_parts(token: &str) -> [Option<Value>; 2] {
    let mut parts = token.split('.');
    let mut read = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(parts.next()?.trim_end_matches('=')).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    [read(), read()]
}

struct TokenReport<'a> {
    header: Option<Value>,
    claims: Option<Value>,
    kind: TokenKind,
    result: Result<Millis, TokenError>,
    now: Millis,
    config: &'a Config,
    environment: Environment,
}

impl TokenReport<'_> {
    fn json(&self) -> String {
        let kind = if self.kind == TokenKind::Subscription { "subscription" } else { "connection" };
        let result = match &self.result {
            Ok(end) => json!({"good": true, "expires_in": (*end != NEVER).then(|| (end - self.now) / 1000)}),
            Err(refusal) => {
                json!({"good": false, "reason": refusal.to_string(), "remedy": remedy::for_received_token(refusal, self.config)})
            }
        };
        format!("{}\n", json!({"header": self.header, "claims": self.claims, "kind": kind, "verdict": result}))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for (name, part) in [("Header", &self.header), ("Claims", &self.claims)] {
            let _ = writeln!(text, "{name}");
            match part {
                Some(Value::Object(members)) => members.iter().for_each(|(name, value)| {
                    let _ = writeln!(text, "  {:<10} {}", escape_control(name), self.value(name, value));
                }),
                _ => text += "  cannot be read: not base64url, or not a JSON object\n",
            }
        }
        text += "Verdict\n";
        let _ = match &self.result {
            Ok(end) => writeln!(text, "  good: {}{}", self.purpose(), self.expiry_text(*end)),
            Err(refusal) => {
                writeln!(text, "  refused: {refusal}\n  {}", remedy::for_received_token(refusal, self.config))
            }
        };
        if self.result.is_ok() {
            text += &self.permissions_text();
        }
        text + "Anybody who holds a token can read all of this, and use it until it ends: keep it as a password.\n"
    }

    fn value(&self, name: &str, value: &Value) -> String {
        match value.as_f64().filter(|_| DATE_CLAIMS.contains(&name)) {
            Some(seconds) => format!("{value}  {}", self.date(seconds)),
            None => escape_control(&value.to_string()),
        }
    }

    fn date(&self, seconds: f64) -> String {
        // Beyond the year 9999 nobody reads it.
        let Some(since) = Duration::try_from_secs_f64(seconds).ok().filter(|since| since.as_secs() < 253_402_300_800)
        else {
            return "no date".to_owned();
        };
        let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + since);
        let away = since.as_secs() as i64 - self.now / 1000;
        let span = format_span(away.unsigned_abs());
        if away > 0 { format!("{date}, in {span}") } else { format!("{date}, {span} ago") }
    }

    fn purpose(&self) -> String {
        let text = |name: &str| {
            escape_control(self.claims.as_ref().and_then(|claims| claims[name].as_str()).unwrap_or_default())
        };
        match (self.kind, text("sub")) {
            (TokenKind::Subscription, user) => {
                format!("it lets the user \"{user}\" subscribe to the channel \"{}\"", text("channel"))
            }
            (TokenKind::Connection, user) if user.is_empty() => "it opens connections without a user".to_owned(),
            (TokenKind::Connection, user) => format!("it opens connections of the user \"{user}\""),
        }
    }

    fn expiry_text(&self, end: Millis) -> String {
        match end {
            NEVER => ", and never expires".to_owned(),
            end => format!(", and expires in {}", format_span(((end - self.now) / 1000).unsigned_abs())),
        }
    }

    /// What a connection token grants by itself, and what the configuration adds.
    fn permissions_text(&self) -> String {
        let (TokenKind::Connection, Some(claims)) = (self.kind, &self.claims) else { return String::new() };
        let mut text = String::from("It may\n");
        let list = |value: &Value| match value {
            Value::Array(names) => {
                names.iter().filter_map(Value::as_str).map(escape_control).collect::<Vec<_>>().join(", ")
            }
            Value::Object(names) => names.keys().map(|name| escape_control(name)).collect::<Vec<_>>().join(", "),
            _ => String::new(),
        };
        for claim in ["channels", "subs"] {
            let names = list(&claims[claim]);
            if !names.is_empty() {
                let _ = writeln!(text, "  receive, without asking: {names}");
            }
        }
        for rule in claims["caps"].as_array().into_iter().flatten() {
            let kind = rule["match"].as_str().unwrap_or("exact");
            let _ = writeln!(text, "  {} in {} ({kind})", list(&rule["allow"]), list(&rule["channels"]));
        }
        let channels = &self.config.channels;
        let (subscribe, publish) = (format!("{:?}", channels.allow_subscribe), format!("{:?}", channels.allow_publish));
        let (subscribe, publish) = (subscribe.to_lowercase(), publish.to_lowercase());
        let where_it_is = match self.environment {
            Environment::Development => "development; WARDCAST_ENV=production asks for that",
            Environment::Production => "production",
        };
        let allows = format!("subscribe {subscribe}, publish {publish} (in {where_it_is})");
        text + &format!("  and in plain channels what [channels] allows: {allows}\n")
    }
}

/// Two units are enough: "13m 59s", "23h 59m".
fn format_span(seconds: u64) -> String {
    let rounded = if seconds >= 3600 { seconds / 60 * 60 } else { seconds };
    let text = humantime::format_duration(Duration::from_secs(rounded)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

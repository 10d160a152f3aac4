//! `check-token`: shows what a token contains, and whether the hub's own verifier accepts it. The token comes from standard
//! input, since everyone on the machine can read the arguments of a process.

use std::{
    fmt::Write,
    io::{self, IsTerminal, Read},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    CliError, CommandResult, configuration::ConfigInputs, escape_control, print_error_line, token_input::find_token,
};
use crate::{
    auth::{Claims, Permissions, SubscriptionClaims, TokenError, Verifier, ignored_members},
    channel::Pattern,
    clock::{Clock, NEVER, WallTime},
    config::{ChannelOptions, Config, Environment, TokenKind},
};

/// Maximum input. The longest valid token is shorter.
const MAX_INPUT_BYTES: u64 = 256 * 1024;
/// Claims that are dates (RFC 7519 §4.1).
const DATE_CLAIMS: [&str; 4] = ["exp", "nbf", "iat", "expire_at"];

/// Runs `check-token`.
pub(super) fn check(inputs: &ConfigInputs, as_json: bool) -> CommandResult {
    let config = inputs.load_with_kept_secrets()?;
    let token = read_token()?;
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let clock = Clock::default();
    let verifier = Verifier::new(&config, permissions, clock.clone()).map_err(|error| error.to_string())?;
    let [header, claims] = decode_parts(&token);
    let is_subscription = claims.as_ref().is_some_and(|claims| claims.get("channel").is_some());
    let verify = || match is_subscription {
        true => verifier.verify_subscription(&token).map(VerifiedClaims::Subscription),
        false => verifier.verify(&token).map(VerifiedClaims::Connection),
    };
    let (system, mut result, mut fetched) = (actix_rt::System::new(), verify(), Ok(()));
    // The first fetch brings the keys. The second one is for a `kid` that is not among them, as a hub would look for it.
    for _ in 0..2 {
        if result.as_ref().is_err_and(|error| error.is_temporary()) {
            fetched = system.block_on(verifier.key_sets().fetch_all());
            result = verify();
        }
    }
    if result.as_ref().is_err_and(|error| error.is_temporary()) {
        fetched?;
    }
    let environment = inputs.environment;
    let report =
        TokenReport { header, claims, is_subscription, result, now: clock.now(), config: &config, environment };
    let output = if as_json { report.json() } else { report.text() };
    match report.result {
        Ok(_) => Ok(output),
        Err(error) => Err(CliError { output, message: format!("the hub would refuse this token: {error}") }),
    }
}

/// Reads a token as it appears in a header, a URL, a log line or a script.
fn read_token() -> Result<String, String> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        print_error_line("Paste the token, then press Enter and Ctrl-D:");
    }
    let mut text = String::new();
    let read = stdin.lock().take(MAX_INPUT_BYTES).read_to_string(&mut text);
    read.map_err(|error| format!("cannot read standard input: {error}"))?;
    find_token(&text).map(str::to_owned)
}

/// Decodes header and payload without verifying anything.
fn decode_parts(token: &str) -> [Option<Value>; 2] {
    let mut parts = token.split('.');
    let mut decode = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(parts.next()?.trim_end_matches('=')).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    [decode(), decode()]
}

enum VerifiedClaims {
    Connection(Claims),
    Subscription(SubscriptionClaims),
}

impl VerifiedClaims {
    fn expires_at(&self) -> WallTime {
        match self {
            Self::Connection(claims) => claims.expires_at,
            Self::Subscription(claims) => claims.expires_at,
        }
    }
}

struct TokenReport<'a> {
    header: Option<Value>,
    claims: Option<Value>,
    is_subscription: bool,
    result: Result<VerifiedClaims, TokenError>,
    now: WallTime,
    config: &'a Config,
    environment: Environment,
}

impl TokenReport<'_> {
    fn json(&self) -> String {
        let kind = if self.is_subscription { "subscription" } else { "connection" };
        let verdict = match &self.result {
            Ok(claims) => {
                let end = claims.expires_at();
                json!({"good": true, "expires_in": (end != NEVER).then(|| end.saturating_duration_since(self.now).as_secs())})
            }
            Err(error) => {
                json!({"good": false, "reason": error.to_string(), "remedy": error.remedy(self.config)})
            }
        };
        let ignored = self.ignored();
        format!(
            "{}\n",
            json!({"header": self.header, "claims": self.claims, "kind": kind, "ignored": ignored, "verdict": verdict})
        )
    }

    /// Returns the names of what the hub ignores in the token.
    fn ignored(&self) -> Vec<String> {
        let kind = if self.is_subscription { TokenKind::Subscription } else { TokenKind::Connection };
        let part = |part: &Option<Value>| part.clone().unwrap_or_default();
        ignored_members(&part(&self.header), &part(&self.claims), kind)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for (name, part) in [("Header", &self.header), ("Claims", &self.claims)] {
            let _ = writeln!(text, "{name}");
            match part {
                Some(Value::Object(members)) => members.iter().for_each(|(name, value)| {
                    let _ = writeln!(text, "  {:<10} {}", escape_control(name), self.value_text(name, value));
                }),
                _ => text += "  cannot be decoded: not base64url, or not a JSON object\n",
            }
        }
        let ignored = self.ignored();
        if !ignored.is_empty() {
            let _ = writeln!(
                text,
                "Ignored, because the hub does not know them\n  {}",
                escape_control(&ignored.join(", "))
            );
        }
        let _ = match &self.result {
            Ok(claims) => write!(text, "Verdict\n  valid: {}", self.verified_text(claims)),
            Err(error) => {
                writeln!(text, "Verdict\n  refused: {error}\n  what to do: {}", error.remedy(self.config))
            }
        };
        text + "Anyone who holds this token can read all of this, and use it until it expires: keep it like a password.\n"
    }

    fn value_text(&self, name: &str, value: &Value) -> String {
        match value.as_f64().filter(|_| DATE_CLAIMS.contains(&name)) {
            Some(seconds) => format!("{value}  {}", self.date_text(seconds)),
            None => escape_control(&value.to_string()),
        }
    }

    fn date_text(&self, seconds: f64) -> String {
        // A cast saturates.
        let date = WallTime::from_unix_seconds(seconds as i64);
        if seconds.is_nan() || seconds < 0.0 || date > WallTime::LATEST_DATE {
            return "no date".to_owned();
        }
        let away = date.unix_seconds() - self.now.unix_seconds();
        let span = format_span(away.unsigned_abs());
        if away > 0 { format!("{date}, in {span}") } else { format!("{date}, {span} ago") }
    }

    fn verified_text(&self, claims: &VerifiedClaims) -> String {
        let expiry = match claims.expires_at() {
            NEVER => "never expires".to_owned(),
            end => format!("expires in {}", format_span(end.saturating_duration_since(self.now).as_secs())),
        };
        match claims {
            VerifiedClaims::Subscription(claims) => {
                let SubscriptionClaims { user, channel, .. } = claims;
                format!("lets the user {user:?} subscribe to the channel \"{channel}\", {expiry}\n")
            }
            VerifiedClaims::Connection(claims) => {
                let user = if claims.is_anonymous() {
                    "without a user".into()
                } else {
                    format!("of the user {:?}", claims.user)
                };
                format!("opens connections {user}, {expiry}\nPermissions\n{}", self.permissions_text(claims))
            }
        }
    }

    /// Lists what the claims grant, and what the configuration adds.
    fn permissions_text(&self, claims: &Claims) -> String {
        let (mut text, grants) = (String::new(), claims.grants.as_deref());
        let join = |names: Vec<String>| names.join(", ");
        let subscriptions = grants.map_or(&[][..], |grants| &grants.subscriptions);
        if !subscriptions.is_empty() {
            let names = subscriptions.iter().map(|subscription| subscription.channel.to_string());
            let _ = writeln!(text, "  is subscribed automatically to {}", join(names.collect()));
        }
        for cap in grants.iter().flat_map(|grants| &grants.caps) {
            let rights = [
                (cap.subscribe, "subscribe"),
                (cap.publish, "publish"),
                (cap.presence, "read presence"),
                (cap.history, "read history"),
            ];
            let rights = rights.iter().filter(|(is_granted, _)| *is_granted).map(|(_, right)| (*right).to_owned());
            let patterns = cap.channels.iter().map(|pattern| match pattern {
                Pattern::Exact(_) => pattern.to_string(),
                Pattern::Wildcard(_) => format!("{pattern} (wildcard)"),
                Pattern::Regex(_) => format!("{pattern} (regular expression)"),
            });
            let patterns = escape_control(&join(patterns.collect()));
            let _ = writeln!(text, "  may {} in {patterns}", join(rights.collect()));
        }
        let environment = match self.environment {
            Environment::Development => "in development; set WARDCAST_ENV=production to see those of production",
            Environment::Production => "in production",
        };
        let _ = writeln!(text, "  and what the configuration allows ({environment}):");
        let _ = writeln!(text, "    channels without a namespace: {}", options_text(&self.config.channels));
        for namespace in &self.config.namespaces {
            let _ = writeln!(text, "    channels {}:…: {}", namespace.name, options_text(&namespace.channels));
        }
        if !claims.is_anonymous() {
            let _ =
                writeln!(text, "    the channel \"#{}\" and others that name the user", escape_control(&claims.user));
        }
        text
    }
}

/// Lists who may do what in the channels with these options.
fn options_text(options: &ChannelOptions) -> String {
    let ChannelOptions { allow_subscribe, allow_publish, allow_history, allow_presence, .. } = options;
    format!(
        "allow_subscribe = {}, allow_publish = {}, allow_history = {}, allow_presence = {}",
        json!(allow_subscribe),
        json!(allow_publish),
        json!(allow_history),
        json!(allow_presence)
    )
}

/// Formats a time span in at most two units: "13m 59s", "23h 59m".
fn format_span(seconds: u64) -> String {
    let rounded = if seconds >= 3600 { seconds / 60 * 60 } else { seconds };
    let text = humantime::format_duration(Duration::from_secs(rounded)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

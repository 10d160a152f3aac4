//! Remedies for the errors of a run: which limit, secret or option to change. They are recognised by the words of the operating
//! system, of the hub and of this program.

use std::collections::BTreeMap;

use crate::report::{Report, thousands};

/// A connection that ends without a close frame. A client that reads too slowly cannot be sent one.
const CONNECTION_RESET: &str = "the hub aborts connections of clients that read too slowly: raise limits.outbox_bytes, lower \
    the rate, or raise --threads if this program was too slow; the hub's log at debug level says why";
/// A token that the hub does not accept.
const WRONG_TOKEN: &str = "the hub does not accept the token: set WARDCAST_BENCH_SECRET to its auth.hmac_secret \
    (WARDCAST_AUTH__HMAC_SECRET), or give --token with one of its tokens if it checks auth.issuer, auth.audience or auth.typ";

/// Words that a reason contains, and its remedy. The first match counts.
const REMEDIES: &[(&[&str], &str)] = &[
    (
        &["(os error 24)"],
        "this program may not open more files: raise `ulimit -n` (up to `ulimit -Hn`), or connect fewer",
    ),
    (
        &["(os error 99)"],
        "the source address has no free port: connect from more with --source-addresses, or widen \
         net.ipv4.ip_local_port_range with sysctl",
    ),
    (
        &["connecting:", "(os error 98)"],
        "the source address has no free port, since ports of closed connections stay in use for a minute: raise \
         --source-addresses, wait a minute, or widen net.ipv4.ip_local_port_range with sysctl",
    ),
    (
        &["(os error 111)"],
        "nothing listens there: is a hub running, and is --url right? Without --url and secret this program starts a hub",
    ),
    (&["(os error 110)"], "the listen queue was full for too long: lower --concurrency, or raise net.core.somaxconn"),
    (&["API key"], "set WARDCAST_BENCH_API_KEY to the hub's api.key (WARDCAST_API__KEY; a development hub prints it)"),
    (&["token expired"], "make a new token (wardcast token), or set WARDCAST_BENCH_SECRET instead of --token"),
    (&["HTTP/1.1 401"], WRONG_TOKEN),
    (&["close 3500"], WRONG_TOKEN),
    (
        &["HTTP/1.1 403"],
        "this program sends no Origin: a proxy refused it, or added one that origins.allowed does not have",
    ),
    (
        &["HTTP/1.1 404"],
        "the path of --url is not in the hub's server.websocket_paths, or --publish-url has no server API",
    ),
    (&["HTTP/1.1 426"], "the path of --url does not upgrade: use one of the hub's server.websocket_paths"),
    (&["HTTP/1.1 413"], "raise api.body_bytes (WARDCAST_API__BODY_BYTES), or lower --size or --batch"),
    (&["handshakes from this address"], "raise limits.handshakes_per_second (0: no limit) or --source-addresses"),
    (&["requests from this address"], "raise limits.handshakes_per_second (0: no limit)"),
    (&["wait for a token", "of this address"], "raise limits.waiting_per_address"),
    (&["wait for a token"], "raise limits.waiting"),
    (&["connections of this address"], "raise limits.connections_per_address (0: no limit) or --source-addresses"),
    (
        &["connections of this user"],
        "raise limits.connections_per_user (0: no limit); --token makes all connections one user, WARDCAST_BENCH_SECRET \
         makes each its own",
    ),
    (&["close 3504"], "raise limits.connections_per_user (0: no limit)"),
    (&["HTTP/1.1 503", "too many connections"], "raise limits.connections (WARDCAST_LIMITS__CONNECTIONS)"),
    (&["HTTP/1.1 503"], "the hub was too busy to answer: lower --concurrency"),
    (
        &["server.internal_bind"],
        "this listener serves no API: start the hub with server.internal_bind = \"\" (WARDCAST_SERVER__INTERNAL_BIND) for the \
         measurement",
    ),
    (&["\"code\":102"], "the namespace of the channel is not in the hub's [[namespaces]]: use another --channel"),
    (
        &["\"code\":103"],
        "the hub does not permit it: set channels.allow_subscribe=user (and channels.allow_publish=user to publish over \
         sockets); in production only the configuration permits anything",
    ),
    (
        &["\"code\":106"],
        "too large: raise api.publication_bytes (for sockets limits.publication_bytes and limits.message_bytes), or lower --size; for a broadcast \
         to many channels raise limits.broadcast_channels",
    ),
    (
        &["has no history"],
        "set channels.history_size and channels.history_ttl on the hub, and do not --hub-set them to 0",
    ),
    (&["close 1009"], "raise limits.message_bytes (and limits.publication_bytes), or lower --size"),
    (
        &["\"code\":111", "socket"],
        "the session is rate limited: raise limits.publications_per_second and limits.commands_per_second (0: no limit), or \
         --connections",
    ),
    (
        &["\"code\":111"],
        "the hub delivers more slowly than this program publishes: raise limits.hub_queue_bytes, or lower --rate or \
         --closed-loop",
    ),
    (
        &["close 3013"],
        "raise limits.publications_per_second and limits.commands_per_second (0: no limit), or lower --rate",
    ),
    (
        &["close 3008"],
        "subscribers did not read fast enough: raise limits.outbox_bytes, lower the rate, or raise --threads if this program \
         was too slow",
    ),
    (&["(os error 104)"], CONNECTION_RESET),
    (&["end of stream without a close frame"], CONNECTION_RESET),
    (&["close 3012"], "this program was too busy to answer a ping: raise --threads, or server.pong_timeout"),
    (&["close 3005"], "the token expired during the run: give one that lives longer, or set WARDCAST_BENCH_SECRET"),
    (&["close 3001"], "the hub was stopped"),
    (&["certificate"], "give --ca FILE with the certificate that signed the server's, or --insecure"),
];

/// The remedy for a reason, if one is known.
pub(crate) fn find_remedy(reason: &str) -> Option<&'static str> {
    let matches = |words: &&[&str]| words.iter().all(|word| reason.contains(word));
    REMEDIES.iter().find(|(words, _)| matches(words)).map(|(_, remedy)| *remedy)
}

/// Adds a note for each remedy of the counted reasons.
pub(crate) fn add_notes(report: &mut Report, reasons: &BTreeMap<String, u64>) {
    let mut counts: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for (reason, count) in reasons {
        if let Some(remedy) = find_remedy(reason) {
            counts.entry(remedy).or_insert((0, reason)).0 += count;
        }
    }
    for (remedy, (count, reason)) in counts {
        report.add_note(format!("{} × {reason}: {remedy}", thousands(count)));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use wardcast::protocol::ErrorCode;
    use wardcast::protocol::disconnect::{Disconnect, VIOLATIONS};

    use super::*;
    use crate::args::Cli;
    use crate::hub_under_test::{API_KEY_VARIABLE, SECRET_VARIABLE};

    #[test]
    fn reasons_lead_to_the_setting_to_change() {
        for (reason, setting) in [
            ("connecting: Too many open files (os error 24)", "ulimit -n"),
            ("connecting: Cannot assign requested address (os error 99)", "--source-addresses"),
            ("connecting: Address already in use (os error 98)", "--source-addresses"),
            (r#"HTTP/1.1 503: {"message":"too many connections; try again soon"}"#, "limits.connections "),
            (r#"HTTP/1.1 503: {"message":"too many connections wait for a token"}"#, "limits.waiting"),
            (r#"HTTP/1.1 401: {"message":"invalid token"}"#, "WARDCAST_BENCH_SECRET"),
            (r#"HTTP/1.1 401: {"message":"the API key is missing or wrong"}"#, "WARDCAST_BENCH_API_KEY"),
            (r#"{"code":111,"message":"too many requests"}"#, "limits.hub_queue_bytes"),
            (r#"socket: {"code":111,"message":"too many requests"}"#, "limits.publications_per_second"),
            ("close 3008 slow", "limits.outbox_bytes"),
            ("close 3013 too many requests", "limits.commands_per_second"),
        ] {
            assert!(find_remedy(reason).is_some_and(|remedy| remedy.contains(setting)), "{reason}");
        }
        assert_eq!(find_remedy("connecting: No route to host (os error 113)"), None);
    }

    /// The text of all files of the hub below a folder of the source.
    fn hub_source(folder: &str) -> String {
        let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("bin"));
        let text = |path: PathBuf| match path.is_dir() {
            true => hub_source(path.to_str().unwrap()),
            false => fs::read_to_string(&path).unwrap_or_default(),
        };
        paths.map(text).collect()
    }

    #[test]
    fn words_of_a_reason_are_those_of_the_hub_the_system_or_this_program() {
        let (source, recover) = (hub_source("src"), include_str!("simulated_client.rs"));
        // Each form of a word, and how it is known that there is such a one.
        let is_known = |word: &str| {
            let number = |start: &str| word.strip_prefix(start)?.trim_end_matches(')').parse::<u32>().ok();
            if let Some(code) = number("close ") {
                return Disconnect::ALL.iter().chain(VIOLATIONS).any(|info| info.code == code);
            }
            if let Some(code) = number("\"code\":") {
                return ErrorCode::ALL.iter().any(|(error, _)| error.code() == code);
            }
            // Of the system, of HTTP and TLS, and of this program, which puts what it did before the error.
            let others = ["(os error ", "HTTP/1.1 ", "certificate", "connecting:", "socket", "end of stream without"];
            others.iter().any(|start| word.starts_with(start)) || source.contains(word) || recover.contains(word)
        };
        for word in REMEDIES.iter().flat_map(|(words, _)| *words) {
            assert!(is_known(word), "no source contains {word:?}");
        }
    }

    #[test]
    fn remedies_name_settings_and_options_that_exist() {
        let defaults: toml::Table = include_str!("../../../config/default.toml").parse().unwrap();
        let is_setting = |section: &str, key: &str| defaults.get(section).is_some_and(|keys| keys.get(key).is_some());
        let options = <Cli as clap::CommandFactory>::command();
        let is_option = |name: &str| {
            let mut commands = options.get_subcommands();
            commands.any(|command| command.get_arguments().any(|argument| argument.get_long() == Some(name)))
        };
        let is_punctuation = |letter: char| !letter.is_alphanumeric() && !"._-[".contains(letter);
        let mut checked = 0;
        for (_, remedy) in REMEDIES {
            for word in remedy.split(is_punctuation).map(|word| word.trim_end_matches('.')) {
                let exists = match (word.strip_prefix("--"), word.strip_prefix("WARDCAST_"), word.split_once('.')) {
                    (Some(option), ..) => is_option(option),
                    (None, Some(variable), _) if variable.starts_with("BENCH_") => {
                        [SECRET_VARIABLE, API_KEY_VARIABLE].contains(&word)
                    }
                    (None, Some(variable), _) => variable
                        .split_once("__")
                        .is_some_and(|(section, key)| is_setting(&section.to_lowercase(), &key.to_lowercase())),
                    // Of the system's settings, the names have more parts or other sections.
                    (None, None, Some((section, key))) if section != "net" => is_setting(section, key),
                    _ => continue,
                };
                assert!(exists, "there is no {word}: {remedy}");
                checked += 1;
            }
        }
        assert!(checked > 40, "{checked}");
    }

    #[test]
    fn reasons_with_one_remedy_are_one_note() {
        let mut report = Report::new("connect");
        let reasons = ["writing: reset (os error 104)", "reading: reset (os error 104)", "unheard of"];
        add_notes(&mut report, &reasons.map(|reason| (reason.to_owned(), 600)).into());
        let json: serde_json::Value = report.to_json().parse().unwrap();
        assert_eq!(json["notes"].as_array().unwrap().len(), 1);
        assert!(json["notes"][0].as_str().unwrap().starts_with("1,200 × "), "{json}");
    }
}

//! What to do about what a run met: which limit, secret or option to change, and how. Told by the words of the system, of the
//! hub, and of this program's own connections.

use std::collections::BTreeMap;

use crate::report::{Report, thousands};

/// Who is too slow to read cannot be told.
const CONNECTION_RESET: &str = "the hub cut the connection, as it does when a client reads too slowly (limits.outbox_bytes): raise it, \
    lower the rate, or give --threads if this program was the slow one; the hub's log at debug says why";

/// Words that stand together in a reason, and what helps. The first that fits is told.
const REMEDIES: &[(&[&str], &str)] = &[
    (
        &["(os error 24)"],
        "this program may not open more files: raise `ulimit -n` (`ulimit -Hn` is the most), or connect fewer",
    ),
    (
        &["(os error 99)"],
        "the source address has no free port: give --source-addresses N to come from 127.0.0.1 to 127.0.0.N, or widen \
         net.ipv4.ip_local_port_range with sysctl",
    ),
    (
        &["connecting:", "(os error 98)"],
        "the source address has no free port (those of connections closed within the last minute are not free yet): give a \
         greater --source-addresses, wait a minute, or widen net.ipv4.ip_local_port_range with sysctl",
    ),
    (
        &["(os error 111)"],
        "nothing listens there: is a hub running, and is --url right? Without --url, and with no secret set, a hub of its own \
         is started",
    ),
    (
        &["(os error 110)"],
        "the listener's queue was full too long: lower --concurrency, or raise net.core.somaxconn with sysctl",
    ),
    (
        &["API key"],
        "set WARDCAST_BENCH_API_KEY to the hub's api.key (WARDCAST_API__KEY; the banner's curl line has it)",
    ),
    (&["token expired"], "make a new one (wardcast token), or set WARDCAST_BENCH_SECRET instead of --token"),
    (
        &["HTTP/1.1 401"],
        "the token is not the hub's: set WARDCAST_BENCH_SECRET to its auth.hmac_secret (WARDCAST_AUTH__HMAC_SECRET), or give \
         --token with one of its tokens, if it asks for auth.issuer, auth.audience or auth.typ too",
    ),
    (&["close 3500"], "the token is not the hub's: set WARDCAST_BENCH_SECRET to its auth.hmac_secret, or give --token"),
    (&["HTTP/1.1 403"], "no Origin is sent here, so a proxy refuses, or origins.allowed with a header that it adds"),
    (&["HTTP/1.1 404"], "the path of --url is none of the hub's server.websocket_paths (or --publish-url is no API)"),
    (&["HTTP/1.1 426"], "the path of --url does not upgrade: give one of the hub's server.websocket_paths"),
    (&["HTTP/1.1 413"], "raise api.body_bytes (WARDCAST_API__BODY_BYTES), or lower --size or --batch"),
    (&["handshakes from this address"], "raise limits.handshakes_per_second (0 is any), or give --source-addresses"),
    (&["requests from this address"], "raise limits.handshakes_per_second (0 is any)"),
    (&["wait for a token", "of this address"], "raise limits.waiting_per_address"),
    (&["wait for a token"], "raise limits.waiting"),
    (&["connections of this address"], "raise limits.connections_per_address (0 is any), or give --source-addresses"),
    (
        &["connections of this user"],
        "raise limits.connections_per_user (0 is any); with --token all connections are one user, with \
         WARDCAST_BENCH_SECRET each is its own",
    ),
    (&["close 3504"], "raise limits.connections_per_user (0 is any)"),
    (&["HTTP/1.1 503", "too many connections"], "raise limits.connections (WARDCAST_LIMITS__CONNECTIONS)"),
    (&["HTTP/1.1 503"], "the hub was too busy to answer: lower --concurrency"),
    (&["\"code\":102"], "the channel's namespace is not in the hub's [[namespaces]]: choose another --channel"),
    (
        &["\"code\":103"],
        "the hub does not grant it: channels.allow_subscribe=user (and channels.allow_publish=user to publish over sockets); \
         in production nothing is granted unless the configuration says so",
    ),
    (
        &["\"code\":106"],
        "too big: raise limits.publication_bytes (and limits.message_bytes for sockets) or lower --size; for a broadcast, \
         limits.broadcast_channels",
    ),
    (
        &["has no history"],
        "the hub keeps none: channels.history_size and channels.history_ttl (a hub of our own has them; --hub-set may not \
         take them away)",
    ),
    (&["close 1009"], "raise limits.message_bytes (and limits.publication_bytes), or lower --size"),
    (
        &["\"code\":111", "socket"],
        "a session's pace: raise limits.publications_per_second and limits.commands_per_second (0 is any), or give more \
         --connections",
    ),
    (
        &["\"code\":111"],
        "publications came faster than the hub delivers them: raise limits.hub_queue_bytes, or lower --rate or --closed-loop",
    ),
    (
        &["close 3013"],
        "raise limits.publications_per_second and limits.commands_per_second (0 is any), or lower --rate",
    ),
    (
        &["close 3008"],
        "subscribers did not read fast enough: raise limits.outbox_bytes, lower the rate, or give --threads if this program \
         was the slow one",
    ),
    (&["(os error 104)"], CONNECTION_RESET),
    (&["end of stream without a close frame"], CONNECTION_RESET),
    (
        &["close 3012"],
        "a ping was not answered in time: this program was too busy (--threads), or raise server.pong_timeout",
    ),
    (&["close 3005"], "the token ran out during the run: give one that lives longer, or WARDCAST_BENCH_SECRET"),
    (&["close 3001"], "the hub was stopped"),
    (&["certificate"], "give --ca FILE with the certificate that signed the server's, or --insecure"),
];

/// What helps against `reason`, if it is known.
pub(crate) fn remedy(reason: &str) -> Option<&'static str> {
    let fits = |words: &&[&str]| words.iter().all(|word| reason.contains(word));
    REMEDIES.iter().find(|(words, _)| fits(words)).map(|(_, remedy)| *remedy)
}

/// Notes in the report what helps against the reasons that were counted.
pub(crate) fn note(report: &mut Report, reasons: &BTreeMap<String, u64>) {
    let mut counts: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for (reason, count) in reasons {
        if let Some(remedy) = remedy(reason) {
            counts.entry(remedy).or_insert((0, reason)).0 += count;
        }
    }
    for (remedy, (count, reason)) in counts {
        report.add_note(format!("{} × {reason}: {remedy}", thousands(&count.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_lead_to_the_setting_to_change() {
        let http = |status: &str, message: &str| format!("answered HTTP/1.1 {status}: {{\"message\":\"{message}\"}}");
        for (reason, key) in [
            ("connecting: Too many open files (os error 24)".to_owned(), "ulimit -n"),
            ("connecting: Cannot assign requested address (os error 99)".to_owned(), "--source-addresses"),
            ("connecting: Address already in use (os error 98)".to_owned(), "--source-addresses"),
            ("connecting: Connection refused (os error 111)".to_owned(), "is a hub running"),
            (http("503 Service Unavailable", "too many connections; try again soon"), "limits.connections "),
            (http("503 Service Unavailable", "too many connections wait for a token"), "limits.waiting"),
            (http("429 Too Many Requests", "too many connections of this user"), "limits.connections_per_user"),
            (http("401 Unauthorized", "invalid token"), "WARDCAST_BENCH_SECRET"),
            (http("401 Unauthorized", "the API key is missing or wrong"), "WARDCAST_BENCH_API_KEY"),
            (http("413 Payload Too Large", "the body is too long"), "api.body_bytes"),
            ("{\"code\":111,\"message\":\"too many requests\"}".to_owned(), "limits.hub_queue_bytes"),
            ("socket: {\"code\":111,\"message\":\"too many requests\"}".to_owned(), "limits.publications_per_second"),
            ("close 3008 slow".to_owned(), "limits.outbox_bytes"),
            ("close 3013 too many requests".to_owned(), "limits.commands_per_second"),
        ] {
            assert!(remedy(&reason).is_some_and(|remedy| remedy.contains(key)), "{reason}: {:?}", remedy(&reason));
        }
        assert_eq!(remedy("connecting: No route to host (os error 113)"), None);
    }

    #[test]
    fn reasons_with_one_remedy_are_one_note() {
        let mut report = Report::new("connect");
        let reasons = ["writing: reset (os error 104)", "reading: reset (os error 104)", "unheard of"];
        note(&mut report, &reasons.into_iter().map(|reason| (reason.to_owned(), 600)).collect());
        let json: serde_json::Value = report.to_json().parse().unwrap();
        assert_eq!(json["notes"].as_array().unwrap().len(), 1);
        assert!(json["notes"][0].as_str().unwrap().starts_with("1,200 × "), "{json}");
    }
}

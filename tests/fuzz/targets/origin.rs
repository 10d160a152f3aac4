//! Origins: each has one normal form, and a pattern of `origins.allowed` matches what it lists and nothing similar.

use wardcast::origin::{Origin, OriginPattern};

const PARENT: &str = "example.com";

/// The first line is an origin, the second an entry of `origins.allowed`.
pub fn origin(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let (text, rule) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let origin = Origin::parse(text);
    let of_parts = text.split_once("://").and_then(|(scheme, authority)| Origin::from_parts(scheme, authority));
    assert_eq!(origin, of_parts);
    let Some(origin) = origin else { return };
    let lower = text.to_ascii_lowercase();
    assert!(text.is_ascii() && !text.contains(['/', '@', '?', '#', '\\', '%', ' ']) || text.matches('/').count() == 2);
    for same in [&lower, &text.to_ascii_uppercase()] {
        assert_eq!(Origin::parse(same).as_ref(), Some(&origin), "{same}");
    }
    for more in ["/", ".", "?", "#", "@", "\\", " ", "\0", "/x", ":1:1", "%"] {
        assert_eq!(Origin::parse(&format!("{text}{more}")), None, "{text}{more}");
    }
    assert_eq!(OriginPattern::parse(text), Some(OriginPattern::Exact(origin.clone())));
    // The expected result, from a comparison of texts without the default port.
    let (scheme, authority) = lower.split_once("://").unwrap_or_default();
    let port = if scheme == "https" { ":443" } else { ":80" };
    let bare = authority.strip_suffix(port).filter(|_| ["http", "https"].contains(&scheme)).unwrap_or(authority);
    let below = format!("https://*.{PARENT}");
    let is_below =
        scheme == "https" && bare.strip_suffix(PARENT).is_some_and(|host| host.len() > 1 && host.ends_with('.'));
    assert_eq!(OriginPattern::parse(&below).map(|rule| rule.lists(&origin)), Some(is_below), "{text}");
    if let Some(rule) = OriginPattern::parse(rule) {
        check_rule(&rule, &origin);
    }
}

fn check_rule(rule: &OriginPattern, origin: &Origin) {
    match rule {
        OriginPattern::Any => assert!(!rule.lists(origin), "it lets in without naming"),
        OriginPattern::Exact(exact) => assert_eq!(rule.lists(origin), exact == origin),
        OriginPattern::Subdomains(parent) => assert!(!rule.lists(parent), "a host is not below itself"),
    }
}

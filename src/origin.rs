//! Origins of web pages (RFC 6454) in one normal form, and the patterns of `origins.allowed`. Scheme, host and port must match
//! exactly, so that a look-alike of an allowed origin is not allowed.

use std::net::Ipv6Addr;

/// Maximum length of a host name (RFC 1035 §2.3.4).
const HOST_BYTES: usize = 253;

/// `scheme://host[:port]` in lower case, without the default port of `http` and `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// Parses an origin. Returns `None` if the text has any other part of a URL (user, path, query, a trailing dot or slash), or
    /// is `null`, which browsers send for pages without an origin.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        Self::from_parts(scheme, authority)
    }

    /// Creates an origin from a scheme and the `host[:port]` of a `Host` header.
    pub fn from_parts(scheme: &str, authority: &str) -> Option<Self> {
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let scheme = is_scheme.then(|| scheme.to_ascii_lowercase())?;
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
        } else {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (is_host(host).then(|| host.to_ascii_lowercase())?, port)
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return None,
            Some(digits) => Some(parse_port(digits)?),
        };
        let is_default = matches!((&*scheme, port), ("http", Some(80)) | ("https", Some(443)));
        Some(Self { scheme, host, port: port.filter(|_| !is_default) })
    }

    /// Returns whether the scheme is `http` or `https`.
    pub fn is_http(&self) -> bool {
        ["http", "https"].contains(&&*self.scheme)
    }
}

/// Returns whether the text is a host name or an IPv4 address. Internationalized names arrive as ASCII (RFC 5891).
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    host.len() <= HOST_BYTES && host.split('.').all(is_label)
}

fn parse_port(digits: &str) -> Option<u16> {
    // `parse` alone would accept `+80` and `0443`.
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    is_number.then(|| digits.parse().ok())?
}

/// An entry of `origins.allowed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`: every origin.
    Any,
    /// One origin.
    Exact(Origin),
    /// `scheme://*.host[:port]`: every subdomain of this host, but not the host itself.
    Subdomains(Origin),
}

impl OriginPattern {
    /// Parses an entry. Returns `None` if it has none of the three forms.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        match text.split_once("://*.") {
            Some((scheme, authority)) => Origin::from_parts(scheme, authority).map(Self::Subdomains),
            None => Origin::parse(text).map(Self::Exact),
        }
    }

    /// Returns whether the entry names this origin. `*` allows every origin, but names none.
    pub fn lists(&self, origin: &Origin) -> bool {
        match self {
            Self::Any => false,
            Self::Exact(exact) => exact == origin,
            Self::Subdomains(parent) => {
                let below = origin.host.strip_suffix(&parent.host);
                (&origin.scheme, origin.port) == (&parent.scheme, parent.port)
                    && below.is_some_and(|below| below.len() > 1 && below.ends_with('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lists(rule: &str, origin: &str) -> bool {
        OriginPattern::parse(rule).unwrap().lists(&Origin::parse(origin).unwrap())
    }

    #[test]
    fn equivalent_origins_are_equal() {
        let same = |one: &str, other: &str| assert_eq!(Origin::parse(one).unwrap(), Origin::parse(other).unwrap());
        same("https://App.Example.COM", "https://app.example.com");
        same("HTTPS://app.example.com:443", "https://app.example.com");
        same("http://app.example.com:80", "http://app.example.com");
        same("http://[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000");
        assert_ne!(Origin::parse("http://a.example:443"), Origin::parse("https://a.example"));
        assert_ne!(Origin::parse("http://a.example:80"), Origin::parse("https://a.example:80"));
        assert_eq!(Origin::parse("https://hub.example:8443"), Origin::from_parts("https", "HUB.example:8443"));
    }

    #[test]
    fn text_that_is_not_exactly_an_origin_is_refused() {
        for text in [
            "null",
            "",
            "https://",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://app.example.com.",
            "https://app..example.com",
            "https://.example.com",
            "https://ann@app.example.com",
            "https://ann:secret@app.example.com",
            "https://app.example.com:",
            "https://app.example.com:0",
            "https://app.example.com:+443",
            "https://app.example.com:0443",
            "https://app.example.com:65536",
            "https://app.example.com:443:443",
            "https://app.example.com?x",
            "https://app.example.com#x",
            "https://app.example.com\\@evil.com",
            "https://app.example.com https://evil.com",
            "https://*.example.com",
            "https://app%2eexample.com",
            "https://\u{ff41}pp.example.com",
            "https://[::1",
            "https://[::1]x",
            "https://[fe80::1%25eth0]",
            "://app.example.com",
            "1https://app.example.com",
        ] {
            assert_eq!(Origin::parse(text), None, "{text:?}");
        }
        assert_eq!(Origin::parse(&format!("https://{}", "a".repeat(300))), None);
    }

    #[test]
    fn look_alike_origins_do_not_match() {
        let rule = "https://app.example.com";
        assert!(lists(rule, "https://app.example.com:443"));
        for other in [
            "https://app.example.com.evil.com",
            "https://evil-app.example.com",
            "https://app.example.com:8443",
            "http://app.example.com",
            "https://example.com",
            "https://www.app.example.com",
        ] {
            assert!(!lists(rule, other), "{other}");
        }
    }

    #[test]
    fn a_wildcard_matches_subdomains_only() {
        let rule = "https://*.example.com";
        assert!(lists(rule, "https://app.example.com") && lists(rule, "https://a.b.EXAMPLE.com:443"));
        for other in [
            "https://example.com",
            "https://evil-example.com",
            "https://evilexample.com",
            "https://app.example.com.evil.com",
            "http://app.example.com",
            "https://app.example.com:8443",
        ] {
            assert!(!lists(rule, other), "{other}");
        }
        assert!(lists("http://*.example.com:8000", "http://app.example.com:8000"));
        assert!(!lists("*", "https://app.example.com"), "* names no origin");
        for rule in ["https://app.*.com", "https://*", "*.example.com", "https://*example.com", "https://**.com", "**"]
        {
            assert_eq!(OriginPattern::parse(rule), None, "{rule}");
        }
    }

    proptest! {
        /// Only hosts that end with a dot and the parent host are its subdomains.
        #[test]
        fn no_text_panics_and_only_subdomains_match_a_wildcard(text in "(https|http|://|:|[a-z]|\\.|443|\\[|\\]|@|/|é|example\\.com){0,8}") {
            if let (Some(origin), Some(rule)) = (Origin::parse(&text), OriginPattern::parse("https://*.example.com")) {
                let is_below = origin.host.ends_with(".example.com") && origin.scheme == "https" && origin.port.is_none();
                prop_assert_eq!(rule.lists(&origin), is_below, "{}", text);
            }
        }
    }
}

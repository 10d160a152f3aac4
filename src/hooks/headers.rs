//! The headers of a client's handshake that hooks get: only those of the allow-lists, kept as long as the connection.

use std::{fmt, sync::Arc};

/// Maximum bytes of names and values that are kept for a connection.
const MAX_BYTES: usize = 8192;

/// Headers for hooks, by lowercase name. They may hold credentials, so `Debug` shows none. Without a configured allow-list it
/// is one empty word.
#[derive(Clone, Default)]
pub struct ForwardedHeaders(Option<Arc<Vec<Header>>>);

/// A name with one value.
type Header = (String, Vec<u8>);

/// The headers for hooks are too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the headers that are forwarded to hooks have more than {MAX_BYTES} bytes")]
pub struct TooManyHeaderBytes;

impl ForwardedHeaders {
    /// Takes the headers with these names.
    pub(super) fn collect<V: Iterator<Item: AsRef<[u8]>>>(
        names: &[String],
        values: impl Fn(&str) -> V,
    ) -> Result<Self, TooManyHeaderBytes> {
        let (mut headers, mut bytes) = (Vec::new(), 0);
        for name in names {
            for value in values(name) {
                let value = value.as_ref();
                bytes += name.len() + value.len();
                if bytes > MAX_BYTES {
                    return Err(TooManyHeaderBytes);
                }
                headers.push((name.clone(), value.to_vec()));
            }
        }
        Ok(Self((!headers.is_empty()).then(|| Arc::new(headers))))
    }

    /// Returns the headers that are in an allow-list.
    pub(super) fn allowed_by<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let headers = self.0.iter().flat_map(|headers| headers.iter());
        let allowed = headers.filter(|(name, _)| names.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)));
        allowed.map(|(name, value)| (name.as_str(), value.as_slice()))
    }
}

impl fmt::Debug for ForwardedHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForwardedHeaders")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(names: &[&str], sent: &[(&str, &str)]) -> Result<ForwardedHeaders, TooManyHeaderBytes> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        ForwardedHeaders::collect(&names, |wanted| {
            let found: Vec<&[u8]> =
                sent.iter().filter(|(name, _)| *name == wanted).map(|(_, value)| value.as_bytes()).collect();
            found.into_iter()
        })
    }

    #[test]
    fn hook_gets_only_the_headers_of_its_own_allow_list() {
        let sent = [("cookie", "a=1"), ("cookie", "b=2"), ("authorization", "secret"), ("x-other", "x")];
        let headers = collect(&["authorization", "cookie"], &sent).unwrap();
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            headers.allowed_by(&names).map(|(_, value)| String::from_utf8(value.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of(&["Cookie"]), ["a=1", "b=2"]);
        assert_eq!(of(&["x-other"]), [""; 0]);
        assert!(!format!("{headers:?}").contains("secret"));
        assert!(collect(&[], &sent).unwrap().0.is_none());
    }

    #[test]
    fn long_headers_are_refused() {
        let at_limit = "x".repeat(MAX_BYTES - "cookie".len());
        assert!(collect(&["cookie"], &[("cookie", &at_limit)]).is_ok());
        assert!(collect(&["cookie"], &[("cookie", &format!("{at_limit}x"))]).is_err());
    }
}

//! The addresses of a listener, as `server.bind` and `server.internal_bind` name them.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de::Error};

/// The beginning of an address that is the path of a Unix socket.
pub(crate) const UNIX: &str = "unix:";
/// The beginning of an address that stands for sockets of the service manager.
const SYSTEMD: &str = "systemd:";
/// Maximum length of the path of a Unix socket: `sun_path` without the zero at its end.
const MAX_UNIX_PATH_BYTES: usize = 107;
/// Maximum addresses of one listener. Each has a service of its own in each worker.
const MAX_ADDRESSES: usize = 32;

/// One address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindAddress {
    /// An IP address with a port.
    Ip(SocketAddr),
    /// A host name with a port: all addresses that the name has when the hub starts.
    Host {
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// Listening sockets that the service manager passes: those with this name, or without one all that no other address names.
    Systemd(Option<String>),
}

impl BindAddress {
    /// Returns whether other machines cannot reach the address. Whether they can reach the sockets of a service manager is only
    /// known when the hub has them; the start checks it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().is_loopback(),
            Self::Host { name, .. } => name == "localhost" || name.ends_with(".localhost"),
            Self::Unix(_) | Self::Systemd(_) => true,
        }
    }

    /// Returns whether both cannot be listened on. Port 0 is any free port.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ip(one), Self::Ip(other)) => {
                let is_same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
                let is_same_family = one.is_ipv4() == other.is_ipv4();
                // Both wildcards may be in one list: then the one of IPv6 is for IPv6 only.
                let are_both_families = one.ip().is_unspecified() && other.ip().is_unspecified() && !is_same_family;
                one.port() != 0 && one.port() == other.port() && is_same_host && !are_both_families
            }
            (Self::Host { port: 0, .. }, _) => false,
            (one, other) => one == other,
        }
    }
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return unix_address(text, Path::new(path));
        }
        if let Some(name) = text.strip_prefix(SYSTEMD) {
            return Ok(Self::Systemd(Some(name.to_owned()).filter(|name| !name.is_empty())));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let host = text.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
        match host.filter(|(name, _)| is_host_name(name)) {
            Some((name, port)) => Ok(Self::Host { name: name.to_ascii_lowercase(), port }),
            None => Err(format!(
                "{text:?} is not an address with a port, like \"127.0.0.1:8000\", \"[::1]:8000\" or \"localhost:8000\", \
                 nor \"unix:/run/wardcast.sock\" or \"systemd:\""
            )),
        }
    }
}

fn unix_address(text: &str, path: &Path) -> Result<BindAddress, String> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if !path.is_absolute() || path.file_name().is_none() || bytes.ends_with(b"/") || bytes.contains(&0) {
        return Err(format!("{text:?} must have the absolute path of a socket, like \"unix:/run/wardcast.sock\""));
    }
    if bytes.len() > MAX_UNIX_PATH_BYTES {
        let length = bytes.len();
        return Err(format!(
            "{text:?} has a path of {length} bytes; the path of a Unix socket has at most {MAX_UNIX_PATH_BYTES}"
        ));
    }
    Ok(BindAddress::Unix(path.to_owned()))
}

/// Returns whether a text is a host name, and not a misspelt address: its last label is not a number.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
            Self::Systemd(name) => write!(f, "{SYSTEMD}{}", name.as_deref().unwrap_or_default()),
        }
    }
}

/// The addresses of a listener: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindAddresses(Vec<BindAddress>);

impl BindAddresses {
    /// Returns the addresses, in the order in which the configuration names them.
    pub fn iter(&self) -> std::slice::Iter<'_, BindAddress> {
        self.0.iter()
    }

    /// Returns the Unix sockets among them.
    pub fn unix_paths(&self) -> impl Iterator<Item = &Path> {
        self.iter().filter_map(|address| match address {
            BindAddress::Unix(path) => Some(path.as_path()),
            _ => None,
        })
    }

    fn parse(texts: &[String]) -> Result<Self, String> {
        match texts.len() {
            0 => Err("must name at least one address".to_owned()),
            1..=MAX_ADDRESSES => texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Self),
            count => Err(format!("names {count} addresses; the maximum is {MAX_ADDRESSES}")),
        }
    }
}

impl<T: Into<SocketAddr>> From<T> for BindAddresses {
    fn from(address: T) -> Self {
        Self(vec![BindAddress::Ip(address.into())])
    }
}

/// Reads one address, or several that commas separate, or a list in JSON.
impl FromStr for BindAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = || text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
        Self::parse(&serde_json::from_str::<Vec<String>>(text).unwrap_or_else(|_| split()))
    }
}

impl fmt::Display for BindAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.iter().map(BindAddress::to_string).collect();
        f.write_str(&texts.join(", "))
    }
}

/// A text or a list of texts, as a file may write the addresses.
#[derive(Deserialize)]
#[serde(untagged, expecting = "must be an address, or a list of addresses")]
enum TextOrList {
    Text(String),
    List(Vec<String>),
}

impl TextOrList {
    fn parse<E: Error>(self) -> Result<BindAddresses, E> {
        match self {
            Self::Text(text) => text.parse(),
            Self::List(texts) => BindAddresses::parse(&texts),
        }
        .map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for BindAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TextOrList::deserialize(deserializer)?.parse()
    }
}

/// Reads the addresses of a listener. With `""` or `[]` there is no such listener.
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BindAddresses>, D::Error> {
    match TextOrList::deserialize(deserializer)? {
        TextOrList::Text(text) if text.is_empty() => Ok(None),
        TextOrList::List(texts) if texts.is_empty() => Ok(None),
        named => named.parse().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_or_several_of_each_kind_are_read_and_printed() {
        for (text, printed) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("[::1]:8000", "[::1]:8000"),
            ("LocalHost:0", "localhost:0"),
            ("unix:/run/wardcast.sock", "unix:/run/wardcast.sock"),
            ("systemd:", "systemd:"),
            ("systemd:public, unix:/a", "systemd:public, unix:/a"),
            ("127.0.0.1:1,[::1]:1", "127.0.0.1:1, [::1]:1"),
            (r#"["a.example:80", "unix:/with, comma"]"#, "a.example:80, unix:/with, comma"),
        ] {
            assert_eq!(text.parse::<BindAddresses>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn text_that_is_no_address_is_refused_with_what_would_be_one() {
        let long = format!("unix:/{}", "a".repeat(107));
        for (text, problem) in [
            ("", "at least one"),
            ("here", "localhost:8000"),
            ("localhost:", "localhost:8000"),
            ("localhost:70000", "localhost:8000"),
            ("256.0.0.1:80", "127.0.0.1:8000"),
            ("-:x", "localhost:8000"),
            ("a..b:80", "localhost:8000"),
            ("unix:run.sock", "absolute path"),
            ("unix:/", "absolute path"),
            ("unix:/run/", "absolute path"),
            (&long, "at most 107"),
            (&["127.0.0.1:1"; 33].join(","), "maximum is 32"),
        ] {
            let error = text.parse::<BindAddresses>().unwrap_err();
            assert!(error.contains(problem), "{text:?}: {error}");
        }
    }
}

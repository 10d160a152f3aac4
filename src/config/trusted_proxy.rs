//! The load balancers of `server.trusted_proxies`.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};

use super::value::parse_network;
use crate::address::UNKNOWN_ADDRESS;

/// The entry that trusts the peers of Unix sockets.
const UNIX: &str = "unix";

/// A load balancer whose headers name the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Every peer with an address of this network.
    Network(IpNet),
    /// Every peer of a Unix socket.
    Unix,
}

impl TrustedProxy {
    /// Returns whether a peer with this address, without IPv4 in IPv6, is trusted. Peers of Unix sockets are only those of
    /// [`Self::Unix`], although `0.0.0.0/0` contains the address that stands for theirs.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        match self {
            Self::Network(network) => address != UNKNOWN_ADDRESS && network.contains(&address),
            Self::Unix => address == UNKNOWN_ADDRESS,
        }
    }
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = || parse_network(text).map(Self::Network);
        if text == UNIX { Ok(Self::Unix) } else { network().map_err(|error| format!("{error}, nor \"{UNIX}\"")) }
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => write!(f, "{network}"),
            Self::Unix => f.write_str(UNIX),
        }
    }
}

impl<'de> Deserialize<'de> for TrustedProxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

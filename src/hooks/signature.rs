//! Signs what the hub sends to the backend (`hooks.secret`), so that the backend knows that it is from the hub.

use std::{fmt::Write, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use hyper::header::{HeaderName, HeaderValue};

use crate::{
    clock::WallTime,
    config::{HooksConfig, SIGNATURE_HEADER, Secret},
};

/// The header that carries the signatures of a call.
pub(super) const SIGNATURE: HeaderName = HeaderName::from_static(SIGNATURE_HEADER);

/// Signs calls with each configured secret. All hooks and the events of an instance share it.
#[derive(Default)]
pub struct CallSigner(ArcSwap<Vec<Key>>);

impl CallSigner {
    /// Takes the secrets from the configuration.
    pub(super) fn new(config: &HooksConfig) -> Self {
        Self(ArcSwap::from_pointee(keys_of(config)))
    }

    /// Replaces the secrets by those of a reloaded configuration, for the calls from now on.
    pub(super) fn replace(&self, config: &HooksConfig) {
        self.0.store(Arc::new(keys_of(config)));
    }

    /// Returns the value of the header for a body: its time, and for each secret the HMAC-SHA256 of the time, a dot and the body. `None`:
    /// there is no secret.
    pub(super) fn header(&self, body: &[u8], now: WallTime) -> Option<HeaderValue> {
        let keys = self.0.load();
        if keys.is_empty() {
            return None;
        }
        let time = now.unix_seconds();
        let signed = [format!("{time}.").as_bytes(), body].concat();
        let mut header = format!("t={time}");
        for key in &**keys {
            header.push_str(",v1=");
            // Writing to a String cannot fail.
            sign(key, &signed).as_ref().iter().for_each(|byte| _ = write!(header, "{byte:02x}"));
        }
        HeaderValue::try_from(header).ok()
    }
}

fn keys_of(config: &HooksConfig) -> Vec<Key> {
    let key = |secret: &Secret| Key::new(HMAC_SHA256, secret.expose().as_bytes());
    let secrets = [&config.secret, &config.previous_secret].into_iter().filter(|secret| !secret.is_empty());
    secrets.map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn call_has_one_signature_for_each_secret() {
        let mut config = Config::default().hooks;
        let header = |config: &HooksConfig| {
            let header = CallSigner::new(config).header(b"{}", WallTime::from_unix_seconds(7));
            header.map(|header| header.to_str().unwrap().to_owned())
        };
        assert_eq!(header(&config), None);
        config.previous_secret = Secret::new("old");
        let old = header(&config).unwrap();
        // echo -n '7.{}' | openssl dgst -sha256 -hmac old
        assert!(old.starts_with("t=7,v1=") && old.len() == 7 + 64, "{old}");
        config.secret = Secret::new("new");
        let both = header(&config).unwrap();
        assert!(both.ends_with(&old[4..]) && both.len() == 7 + 64 + 4 + 64, "{both}");
    }
}

//! Documents of identity providers: whatever a provider serves, the hub uses a bounded number of keys with different ids, finds
//! keys of the configured issuer over https only, and logs little.

use std::{collections::HashSet, sync::LazyLock};

use wardcast::{auth::KeySets, config::Config};

const ISSUER: &str = "https://id.example.com";
/// An error quotes the beginning of ten ids at most.
const MAX_ERROR_BYTES: usize = 8192;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let mut config = Config::default();
    config.auth.key_sets.keys = 8;
    config
});

/// The document, as a JWK set and as the configuration of a provider.
pub fn key_set(data: &[u8]) {
    let Ok(document) = std::str::from_utf8(data) else { return };
    let kids = KeySets::usable_kids(&CONFIG, document);
    match &kids {
        Ok(kids) => {
            assert!((1..=CONFIG.auth.key_sets.keys).contains(&kids.len()));
            assert_eq!(kids.iter().collect::<HashSet<_>>().len(), kids.len(), "ids are different");
            assert!(document.contains("\"kty\"") || document.contains('\\'));
        }
        Err(error) => assert!(error.len() < MAX_ERROR_BYTES, "{} bytes", error.len()),
    }
    match KeySets::discovered_url(document, ISSUER) {
        Ok(url) => {
            let authority = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
            assert!(authority.is_some_and(|authority| !authority.contains('@')) && !url.contains([' ', '\n']), "{url}");
        }
        Err(error) => assert!(error.len() < MAX_ERROR_BYTES, "{} bytes", error.len()),
    }
}

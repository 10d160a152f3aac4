//! Tests of the documents of a provider and what they change, without fetching them.

use super::*;
use crate::{
    auth::key::test_key_pairs::{ED25519, P256},
    clock::{Clock, WallTime},
    config::Secret,
    revocation::{RevocationState, TokenIdentity},
};

const ISSUER: &str = "one";

/// The only set of a configuration, and what ends the sessions of its keys.
struct Provider {
    sets: Arc<KeySets>,
    revocations: Arc<Revocations>,
    config: Config,
    files: tempfile::TempDir,
}

impl Provider {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let files = tempfile::tempdir().unwrap();
        let ca = files.path().join("ca.pem");
        std::fs::write(&ca, rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem()).unwrap();
        let mut config = Config::default();
        let set = format!("jwks_url = \"https://localhost/keys\"\nissuer = {ISSUER:?}\nca = {ca:?}");
        config.auth.keys.push(toml::from_str(&set).unwrap());
        change(&mut config);
        let revocations = Revocations::new(&config, Clock::default(), Arc::default());
        let (sets, _) = KeySets::read(&config, Some(revocations.clone())).unwrap();
        Self { sets: Arc::new(sets), revocations, config, files }
    }

    /// Reloads the configuration with a change of the entries.
    fn reload(&self, change: impl FnOnce(&mut Vec<KeyConfig>)) -> KeyChange {
        let mut config = self.config.clone();
        change(&mut config.auth.keys);
        self.sets.replace(&config).unwrap()
    }

    /// Reloads the configuration with other certificate authorities for the set.
    fn reload_with_another_ca(&self) {
        let ca = self.files.path().join("other.pem");
        std::fs::copy(self.files.path().join("ca.pem"), &ca).unwrap();
        self.reload(|keys| keys[0].ca = Some(ca));
    }

    /// Puts a document with these keys into force, as a fetch does.
    fn publish(&self, keys: &[String]) -> KeyChange {
        let document = format!("{{\"keys\":[{}]}}", keys.join(","));
        let sets = self.sets.sets.load();
        let KeySet { number, configured, schedule, .. } = &*sets[0];
        let (now, settings) = (Instant::now(), &self.sets.auth.key_sets);
        let mut schedule = schedule.lock();
        schedule.begin(now);
        let read = read_fetched_set(&self.sets.auth, configured, &document).unwrap();
        let change = self.sets.ring.replace_fetched(*number, read.keys);
        schedule.succeed(now, change.absent > 0, settings);
        change
    }

    /// Lets the keys of the set become stale.
    fn suspend(&self) {
        self.sets.ring.suspend_fetched(self.sets.sets.load()[0].number);
    }

    fn number(&self, kid: &str) -> Option<KeyNumber> {
        self.sets.ring.current().select(Some(kid), || Some(ISSUER.to_owned())).map(|key| key.number)
    }

    fn may_bring(&self, kid: &str, tried: Option<KeyNumber>) -> bool {
        self.sets.may_bring(Some(kid), Some(ISSUER), Algorithm::ES256, tried)
    }

    fn is_removed(&self, number: Option<KeyNumber>) -> bool {
        let token = TokenIdentity { key: number, ..TokenIdentity::default() };
        self.revocations.is_revoked("ann", &token)
    }
}

fn ec(kid: &str) -> String {
    let point = &P256.public_der[P256.public_der.len() - 64..];
    let (x, y) = (base64url(&point[..32]), base64url(&point[32..]));
    format!(r#"{{"kid":"{kid}","kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#)
}

fn ed(kid: &str) -> String {
    let x = base64url(&ED25519.public_der[12..]);
    format!(r#"{{"kid":"{kid}","kty":"OKP","crv":"Ed25519","x":"{x}"}}"#)
}

fn base64url(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn change(added: usize, absent: usize, removed: usize) -> KeyChange {
    KeyChange { added, absent, removed, other_ends: 0 }
}

#[test]
fn key_is_removed_when_two_documents_lack_it() {
    let provider = Provider::new(|_| ());
    assert_eq!(provider.publish(&[ec("a"), ec("b")]), change(2, 0, 0));
    let (a, b) = (provider.number("a"), provider.number("b"));
    assert_eq!(provider.publish(&[ec("a")]), change(0, 1, 0));
    assert_eq!((provider.number("b"), provider.is_removed(b)), (b, false), "it verifies tokens");
    assert_eq!(provider.publish(&[ec("a"), ec("b")]), change(0, 0, 0), "the same key");
    assert_eq!((provider.number("a"), provider.number("b")), (a, b));
    assert_eq!(provider.publish(&[ec("a")]), change(0, 1, 0), "the first one again");
    assert_eq!(provider.publish(&[ec("a"), ec("c")]), change(1, 0, 1));
    assert_eq!((provider.number("a"), provider.number("b"), provider.is_removed(b)), (a, None, true));
    assert!(!provider.is_removed(a) && !provider.is_removed(provider.number("c")));
}

#[test]
fn key_that_replaces_one_of_the_same_kid_counts_at_once_and_sessions_stay_until_that_is_confirmed() {
    let provider = Provider::new(|_| ());
    provider.publish(&[ec("a")]);
    let old = provider.number("a");
    assert_eq!(provider.publish(&[ed("a")]), change(1, 1, 0));
    assert!(provider.number("a") != old && !provider.is_removed(old));
    assert_eq!(provider.publish(&[ed("a")]), change(0, 0, 1));
    assert!(provider.is_removed(old));
}

#[test]
fn removed_keys_make_the_hubs_check_their_sessions() {
    let provider = Provider::new(|_| ());
    provider.publish(&[ec("a"), ec("b")]);
    provider.publish(&[ec("a")]);
    assert_eq!(provider.revocations.state(), RevocationState::INITIAL);
    provider.publish(&[ec("a")]);
    assert_ne!(provider.revocations.state(), RevocationState::INITIAL);
}

#[test]
fn key_that_was_put_into_force_since_its_token_was_compared_is_pending() {
    let provider = Provider::new(|_| ());
    provider.publish(&[ec("a")]);
    assert!(provider.may_bring("new", None), "the next fetch may bring it");
    provider.publish(&[ec("a"), ec("new")]);
    assert!(provider.may_bring("new", None), "it is there");
    assert!(provider.may_bring("new", provider.number("a")), "another key was tried");
    assert!(!provider.may_bring("new", provider.number("new")), "that key has refused the token");
}

#[test]
fn kid_that_a_fetch_has_not_brought_is_missing() {
    let provider = Provider::new(|_| ());
    provider.publish(&[ec("a")]);
    assert!(provider.may_bring("new", None));
    provider.publish(&[ec("a")]);
    assert!(!provider.may_bring("new", None));
    assert!(provider.may_bring("newer", None), "no fetch was for it");
    assert!(!provider.sets.may_bring(Some("newest"), Some("two"), Algorithm::ES256, None), "another issuer");
    assert!(!provider.sets.may_bring(Some("newest"), None, Algorithm::ES256, None), "no issuer");
}

#[test]
fn fetched_kid_has_255_bytes_at_most_as_those_of_tokens() {
    let (longest, too_long) = ("a".repeat(255), "b".repeat(256));
    let provider = Provider::new(|_| ());
    assert_eq!(provider.publish(&[ec(&longest), ed(&too_long)]), change(1, 0, 0));
    assert!(provider.number(&longest).is_some() && provider.number(&too_long).is_none());
}

#[test]
fn algorithm_of_an_entry_selects_among_the_keys_of_its_set() {
    let with_alg = |jwk: String, alg: &str| jwk.replacen('{', &format!(r#"{{"alg":"{alg}","#), 1);
    let set = [ec("usual"), with_alg(ec("same"), "ES256"), ed("other type"), with_alg(ed("other"), "EdDSA")];
    let all = Provider::new(|_| ());
    assert_eq!(all.publish(&set), change(4, 0, 0));
    let some = Provider::new(|config| config.auth.keys[0].algorithm = Some(Algorithm::ES256));
    assert_eq!(some.publish(&set), change(2, 0, 0));
    assert!(some.number("usual").is_some() && some.number("same").is_some());
    assert!(!some.sets.may_bring(Some("new"), Some(ISSUER), Algorithm::EdDSA, None), "no such key is taken");
}

#[test]
fn instance_is_ready_with_keys_of_every_set_or_with_some_after_the_start() {
    let none = Provider::new(|_| ());
    assert!(none.sets.problem().is_some());
    none.publish(&[ec("a")]);
    assert_eq!(none.sets.problem(), None);
    none.suspend();
    assert!(none.sets.problem().is_some(), "stale, and there are no other keys");

    let with_secret = |startup_timeout| {
        Provider::new(|config| {
            config.auth.hmac_secret = Secret::new("a secret of the tests, 32 bytes at least");
            config.auth.key_sets.startup_timeout = startup_timeout;
        })
    };
    assert!(with_secret(Duration::from_secs(60)).sets.problem().is_some(), "an update is to wait for the keys");
    let other = with_secret(Duration::ZERO);
    assert_eq!(other.sets.problem(), None, "the users of other issuers are served");
    other.publish(&[ec("a")]);
    other.suspend();
    assert_eq!(other.sets.problem(), None);
}

#[test]
fn end_of_a_key_is_known_while_it_is_stale_and_until_it_is_removed() {
    let end = WallTime::from_unix_seconds(4_000_000_000);
    let provider = Provider::new(|config| config.auth.keys[0].not_after = Some(end));
    provider.publish(&[ec("a")]);
    let key = provider.number("a").unwrap();
    assert_eq!(provider.sets.ring.not_after(key), Some(end));
    provider.suspend();
    assert_eq!(provider.sets.ring.not_after(key), Some(end));
    provider.publish(&[ec("b")]);
    provider.publish(&[ec("b")]);
    assert_eq!(provider.sets.ring.not_after(key), None);
}

#[test]
fn keys_from_servers_of_other_authorities_are_only_those_that_the_first_document_confirms() {
    let provider = Provider::new(|_| ());
    provider.publish(&[ec("a"), ec("b")]);
    let (a, b) = (provider.number("a"), provider.number("b"));
    provider.reload_with_another_ca();
    assert_eq!((provider.number("a"), provider.number("b")), (a, b), "they verify tokens until then");
    assert_eq!(provider.publish(&[ec("a")]), change(0, 0, 1), "at once, and not after a second document");
    assert_eq!((provider.number("a"), provider.is_removed(a)), (a, false));
    assert_eq!((provider.number("b"), provider.is_removed(b)), (None, true));
    provider.sets.drop_unconfirmed(Instant::now() + Duration::from_secs(3600));
    assert_eq!(provider.number("a"), a, "it is confirmed");
    assert_eq!(provider.publish(&[ec("c")]), change(1, 1, 0), "as before from now on");
}

#[test]
fn keys_that_no_document_confirms_in_time_are_dropped_and_not_suspended_before() {
    let provider = Provider::new(|_| ());
    provider.publish(&[ec("a"), ec("b")]);
    provider.publish(&[ec("a")]);
    let (a, b) = (provider.number("a"), provider.number("b"));
    let start = Instant::now();
    provider.reload_with_another_ca();
    let end = start + provider.config.auth.key_sets.startup_timeout;
    provider.suspend();
    // What changes meanwhile does not give them more time.
    provider.reload(|keys| keys[0].private_networks = Some(vec!["10.0.0.0/8".parse().unwrap()]));
    provider.sets.drop_unconfirmed(end - Duration::from_millis(1));
    assert_eq!((provider.number("a"), provider.number("b")), (a, b));
    provider.sets.drop_unconfirmed(Instant::now() + provider.config.auth.key_sets.startup_timeout);
    assert_eq!((provider.number("a"), provider.number("b")), (None, None));
    assert!(provider.is_removed(a) && provider.is_removed(b));
    assert!(provider.may_bring("a", None), "its tokens get the temporary error");
    provider.publish(&[ec("a")]);
    assert!(provider.number("a").is_some());
}

#[test]
fn keys_need_no_confirmation_if_their_servers_are_trusted_as_before() {
    let provider = Provider::new(|config| config.auth.key_sets.private_networks = vec!["10.0.0.0/8".parse().unwrap()]);
    provider.publish(&[ec("a"), ec("b")]);
    let a = provider.number("a");
    provider.reload(|keys| {
        keys[0].private_networks = Some(vec!["10.0.0.0/8".parse().unwrap()]);
        keys[0].not_after = Some(NEVER);
    });
    provider.sets.drop_unconfirmed(Instant::now() + Duration::from_secs(3600));
    assert_eq!(provider.number("a"), a);
    assert_eq!(provider.publish(&[ec("a")]), change(0, 1, 0));
}

/// An entry of `auth.keys` with this key, for the issuer of the provider.
fn static_entry(jwk: &str, algorithm: &str) -> KeyConfig {
    toml::from_str(&format!("jwk = '{jwk}'\nalgorithm = {algorithm:?}\nissuer = {ISSUER:?}")).unwrap()
}

#[test]
fn configured_key_ends_the_sessions_of_fetched_ones_with_its_kid_also_of_absent_and_stale_ones() {
    let provider = Provider::new(|_| ());
    provider.publish(&[ec("a"), ec("b"), ec("c")]);
    provider.publish(&[ec("a"), ec("c")]);
    let fetched = ["a", "b", "c"].map(|kid| provider.number(kid));
    provider.suspend();
    let with_keys = |keys: &mut Vec<KeyConfig>| {
        keys.extend([static_entry(&ed("a"), "EdDSA"), static_entry(&ed("b"), "EdDSA")]);
    };
    let added = provider.reload(with_keys);
    assert_eq!((added.added, added.removed), (2, 2));
    assert_eq!(fetched.map(|number| provider.is_removed(number)), [true, true, false]);
    assert!(!provider.is_removed(provider.number("a")) && provider.number("a") != fetched[0]);
    // It stays so with each further document.
    assert_eq!(provider.publish(&[ec("a"), ec("c"), ec("b")]), change(0, 0, 0));
    assert_eq!(fetched.map(|number| provider.is_removed(number)), [true, true, false]);
    // Without the configured key the fetched one counts again.
    provider.reload(|_| ());
    assert_eq!(provider.number("a"), fetched[0]);
    assert!(!provider.is_removed(fetched[0]));
}

#[test]
fn key_that_two_sets_have_with_equal_rules_keeps_its_sessions_whichever_counts() {
    let provider = Provider::new(|config| {
        let mut second = config.auth.keys[0].clone();
        second.jwks_url = Some("https://localhost/others".to_owned());
        config.auth.keys.push(second);
    });
    let second = provider.sets.sets.load()[1].number;
    let read = |jwk: &str| {
        let document = format!("{{\"keys\":[{jwk}]}}");
        read_fetched_set(&provider.config.auth, &provider.config.auth.keys[1], &document).unwrap().keys
    };
    provider.sets.ring.replace_fetched(second, read(&ec("a")));
    let of_second = provider.number("a");
    assert_eq!(provider.publish(&[ec("a")]), change(1, 0, 0));
    assert!(provider.number("a") != of_second && !provider.is_removed(of_second));
    assert_eq!(provider.publish(&[ed("a")]).removed, 1, "another key");
    assert!(provider.is_removed(of_second));
}

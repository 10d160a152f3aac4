//! The list of revocations.

use super::*;
use crate::{
    config::KeyPurpose,
    revocation::{IssuerScope, RevocationTarget, TokenIds},
};

#[test]
fn user_may_log_in_again_when_the_last_revocation_that_means_the_token_allows_it() {
    let mut list = RevocationList::new(10);
    let ids = TokenIds { issuer: Some("i".to_owned()), ..TokenIds::default() };
    let token = TokenIdentity::new(&ids, Some(at(1)));
    let until = |list: &RevocationList| list.revoked_until("ann", &token, at(1));
    assert_eq!(until(&list), None);
    for (scope, issued_before) in [(IssuerScope::Only("i".to_owned()), at(5)), (IssuerScope::Any, at(3))] {
        let target = RevocationTarget::User("ann".to_owned(), scope);
        list.add(Revocation { issued_before, ..Revocation::of_all(target, at(100)) }, at(1)).unwrap();
    }
    assert_eq!(until(&list), Some(at(5)));
    assert_eq!(list.revoked_until("bob", &token, at(1)), None);
    let of_then = TokenIdentity { issued_at: at(5), ..token };
    assert_eq!(list.revoked_until("ann", &of_then, at(1)), None);
}

#[test]
fn removed_key_revokes_its_tokens_and_no_others() {
    let (old, new) = (KeyNumber::unique(), KeyNumber::unique());
    let of = |key| TokenIdentity { key, ..TokenIdentity::default() };
    let mut list = RevocationList::new(1);
    let in_use = |number| KeyInUse { number, rules: KeyRules::default(), ends: NEVER };
    list.add_keys([old, new].map(in_use));
    assert!(!list.is_revoked("ann", &of(Some(old)), at(1)));
    list.remove_keys(&[old]);
    let revoked = [None, Some(new), Some(old)].map(|key| list.is_revoked("ann", &of(key), at(1)));
    assert_eq!(revoked, [false, false, true]);
    assert_eq!(list.changes_since(0), None, "every session is checked");
    list.add(jti("1", 100), at(1)).unwrap();
    assert_eq!(list.changes_since(0), None);
    assert_eq!(list.changes_since(1).map(|changes| changes.len()), Some(1));
    list.remove_keys(&[new]);
    assert_eq!(list.changes_since(2), None, "whatever was revoked before");
}

#[test]
fn key_revokes_its_tokens_when_its_end_has_come() {
    let (ending, other) = (KeyNumber::unique(), KeyNumber::unique());
    let mut list = RevocationList::new(1);
    let in_use = |number, ends| KeyInUse { number, rules: KeyRules::default(), ends };
    list.add_keys([in_use(ending, at(10)), in_use(other, NEVER)]);
    assert_eq!((list.next_key_end(), list.end_keys(at(9)), list.version()), (at(10), false, 0));
    let is_revoked = |list: &RevocationList, now| {
        [ending, other]
            .map(|key| list.is_revoked("ann", &TokenIdentity { key: Some(key), ..TokenIdentity::default() }, at(now)))
    };
    assert_eq!((is_revoked(&list, 9), is_revoked(&list, 10)), ([false, false], [true, false]));
    assert!(list.end_keys(at(10)));
    assert_eq!((list.changes_since(0), list.next_key_end()), (None, NEVER), "every session is checked");
    assert_eq!(is_revoked(&list, 9), [true, false], "also if the clock is set back");
    assert!(!list.end_keys(at(11)));
}

#[test]
fn new_prefix_revokes_tokens_of_other_keys_that_name_its_users() {
    let of = |prefix: &str, purpose| {
        let rules = KeyRules { user_prefix: prefix.to_owned(), purpose, ..KeyRules::default() };
        KeyInUse { number: KeyNumber::unique(), rules, ends: NEVER }
    };
    let (general, of_partner) = (of("", KeyPurpose::Any), of("p:", KeyPurpose::Any));
    let subscriptions = of("", KeyPurpose::Subscription);
    let mut list = RevocationList::new(1);
    list.add_keys([general.clone(), of_partner.clone(), subscriptions.clone()]);
    let is_revoked = |list: &RevocationList, user: &str| {
        [&general, &of_partner, &subscriptions].map(|key| {
            list.is_revoked(user, &TokenIdentity { key: Some(key.number), ..TokenIdentity::default() }, at(1))
        })
    };
    assert_eq!(is_revoked(&list, "p:5"), [false; 3]);
    let mut auth = crate::config::Config::default().auth;
    auth.keys = vec![toml::from_str("id = \"k\"\nalgorithm = \"HS256\"\nfile = \"f\"\nuser_prefix = \"p:\"").unwrap()];
    list.set_user_prefixes(UserPrefixes::new(&auth));
    assert_eq!(list.changes_since(0), None, "every session is checked");
    assert_eq!(is_revoked(&list, "p:5"), [true, false, false]);
    assert_eq!(is_revoked(&list, "5"), [false; 3]);
}

#[test]
fn hundred_thousand_and_first_revocation_is_refused_and_none_is_forgotten() {
    let max_entries = crate::config::Config::default().limits.revocations;
    let mut list = RevocationList::new(max_entries);
    for number in 0..max_entries {
        assert_eq!(list.add(jti(&number.to_string(), 100), at(0)), Ok(true));
    }
    assert_eq!((max_entries, list.add(jti("one more", 100), at(0))), (100_000, Err(ListFull)));
    let is_revoked = |id: &str| list.is_revoked("", &token(Some(id), None, None), at(99));
    assert!((0..max_entries).step_by(99).all(|number| is_revoked(&number.to_string())) && !is_revoked("one more"));
}

const DAY: i64 = 24 * 3600;

fn at(seconds: i64) -> WallTime {
    WallTime::from_unix_seconds(seconds)
}

fn jti(id: &str, expires_at: i64) -> Revocation {
    Revocation::of_all(RevocationTarget::Token(id.to_owned(), IssuerScope::Any), at(expires_at))
}

fn user(name: &str, issued_before: i64) -> Revocation {
    let target = RevocationTarget::User(name.to_owned(), IssuerScope::Any);
    Revocation { issued_before: at(issued_before), ..Revocation::of_all(target, at(1000)) }
}

fn token(jti: Option<&str>, sid: Option<&str>, issued_at: Option<i64>) -> TokenIdentity {
    let ids = TokenIds { issuer: None, jti: jti.map(str::to_owned), sid: sid.map(str::to_owned) };
    TokenIdentity::new(&ids, issued_at.map(at))
}

#[test]
fn revocation_of_one_issuer_means_no_token_of_another() {
    let only = |issuer: &str| IssuerScope::Only(issuer.to_owned());
    let token = |issuer: &str| {
        let (issuer, jti, sid) = (Some(issuer.to_owned()), Some("1".to_owned()), Some("1".to_owned()));
        TokenIdentity::new(&TokenIds { issuer, jti, sid }, Some(at(1)))
    };
    let kinds: [fn(String, IssuerScope) -> RevocationTarget; 3] =
        [RevocationTarget::Token, RevocationTarget::Session, RevocationTarget::User];
    for kind in kinds {
        for (scope, expected) in [
            (only("a"), [true, false, false]),
            (only(""), [false, false, true]),
            (only("c"), [false, false, false]),
            (IssuerScope::Any, [true, true, true]),
        ] {
            let mut list = RevocationList::new(10);
            let target = kind("1".to_owned(), scope);
            list.add(Revocation::of_all(target.clone(), NEVER), at(0)).unwrap();
            let revoked = ["a", "b", ""].map(|issuer| list.is_revoked("1", &token(issuer), at(1)));
            assert_eq!(revoked, expected, "{target:?}");
        }
    }
}

#[test]
fn tokens_without_a_session_are_revoked_apart_from_those_with_one() {
    let mut list = RevocationList::new(10);
    let target = RevocationTarget::UserWithoutSession("ann".to_owned(), IssuerScope::Only(String::new()));
    list.add(Revocation { issued_before: at(50), ..Revocation::of_all(target, NEVER) }, at(0)).unwrap();
    for (name, token, is_revoked) in [
        ("ann", token(None, None, Some(49)), true),
        ("ann", token(Some("t"), None, None), true),
        ("ann", token(None, None, Some(50)), false),
        ("ann", token(None, Some("s"), Some(49)), false),
        ("bob", token(None, None, Some(49)), false),
    ] {
        assert_eq!(list.is_revoked(name, &token, at(1)), is_revoked, "{name} {token:?}");
    }
}

#[test]
fn each_kind_means_its_own_tokens_only() {
    let mut list = RevocationList::new(10);
    let news = Channel::new("news").unwrap();
    let sid = Revocation::of_all(RevocationTarget::Session("s".to_owned(), IssuerScope::Any), NEVER);
    let channel = RevocationTarget::Channel("bob".to_owned(), news.clone());
    let channel = Revocation { issued_before: at(50), ..Revocation::of_all(channel, NEVER) };
    for revocation in [jti("t", 1000), sid, user("ann", 50), channel] {
        assert_eq!(list.add(revocation, at(0)), Ok(true));
    }
    for (name, token, is_revoked) in [
        ("x", token(Some("t"), None, Some(99)), true),
        ("x", token(Some("s"), Some("t"), Some(99)), false),
        ("x", token(None, Some("s"), Some(99)), true),
        ("ann", token(None, None, Some(49)), true),
        ("ann", token(None, None, Some(50)), false),
        ("ann", token(Some("u"), None, None), true),
        ("bob", token(None, None, Some(49)), false),
    ] {
        assert_eq!(list.is_revoked(name, &token, at(1)), is_revoked, "{name} {token:?}");
    }
    let in_channel =
        |name, channel, issued_at| list.is_revoked_in(name, channel, &token(None, None, Some(issued_at)), at(1));
    assert!(in_channel("bob", &news, 49));
    assert!(!in_channel("bob", &news, 50) && !in_channel("ann", &news, 49));
    assert!(!in_channel("bob", &Channel::new("other").unwrap(), 49));
}

#[test]
fn revocation_lasts_until_it_expires_and_later_times_replace_earlier_ones() {
    let mut list = RevocationList::new(10);
    assert_eq!(list.add(jti("t", 10), at(10 + DAY)), Ok(false), "it expired long ago");
    assert_eq!(list.add(jti("t", 10), at(0)), Ok(true));
    assert_eq!(list.add(jti("t", 5), at(0)), Ok(false));
    let token = token(Some("t"), None, None);
    assert!(list.is_revoked("", &token, at(9)) && !list.is_revoked("", &token, at(10)));
    assert_eq!(list.add(jti("t", 20), at(0)), Ok(true));
    assert!(list.is_revoked("", &token, at(19)));
    assert_eq!((list.add(user("ann", 7), at(0)), list.add(user("ann", 5), at(0))), (Ok(true), Ok(false)));
    assert!(list.is_revoked("ann", &TokenIdentity { issued_at: at(6), ..TokenIdentity::default() }, at(1)));
    assert_eq!(list.len(), 2);
}

#[test]
fn full_list_refuses_new_revocations_and_forgets_none() {
    let mut list = RevocationList::new(2);
    assert_eq!((list.add(jti("a", 10), at(0)), list.add(jti("b", 20), at(0))), (Ok(true), Ok(true)));
    assert_eq!(list.add(jti("c", 20), at(0)), Err(ListFull));
    assert_eq!(list.add(jti("a", 11), at(0)), Ok(true), "a known one needs no more room");
    let is_revoked = |list: &RevocationList, id| list.is_revoked("", &token(Some(id), None, None), at(1));
    assert!(is_revoked(&list, "a") && is_revoked(&list, "b") && !is_revoked(&list, "c"));
    assert_eq!(list.add(jti("c", 20), at(11)), Ok(true), "a has expired");
    assert_eq!(list.add(jti("d", 30), at(11)), Err(ListFull));
    assert_eq!(list.entries(at(11)).count(), 2);
}

#[test]
fn revocations_that_belong_together_are_added_all_or_none() {
    let mut list = RevocationList::new(3);
    list.add(jti("a", 10), at(0)).unwrap();
    assert_eq!(list.add_all(vec![jti("b", 20), jti("c", 20), jti("d", 20)], at(1)), Err(ListFull));
    assert_eq!((list.len(), list.version()), (1, 1));
    // Two for one target, and one that is known, need no more room.
    assert_eq!(list.add_all(vec![jti("b", 20), jti("b", 30), jti("a", 11), jti("c", 30)], at(1)), Ok(()));
    assert_eq!((list.len(), list.entries(at(25)).count()), (3, 2));
    assert_eq!(list.add_all(vec![jti("d", 40), jti("e", 40)], at(11)), Err(ListFull), "a has expired, the others not");
    assert_eq!(list.add_all(vec![jti("d", 40), jti("c", 40)], at(11)), Ok(()));
    assert_eq!(list.entries(at(11)).count(), 3);
}

/// What is asked of a list that has a revocation of each kind, by a clock that is an hour ahead and then set back.
#[test]
fn revocations_that_expired_by_a_clock_that_was_ahead_are_in_force_when_it_is_set_back() {
    const AHEAD: i64 = 3600;
    let news = Channel::new("news").unwrap();
    let channel = RevocationTarget::Channel("bob".to_owned(), news.clone());
    let of = |revocation: Revocation| Revocation { expires_at: at(900), ..revocation };
    let all = || {
        [
            jti("t", 900),
            of(user("ann", 50)),
            of(Revocation { issued_before: at(50), ..Revocation::of_all(channel.clone(), NEVER) }),
        ]
    };
    // They expire in the list, or have expired when they are added.
    for added_at in [0, AHEAD] {
        let mut list = RevocationList::new(3);
        for revocation in all() {
            assert_eq!(list.add(revocation.clone(), at(added_at)), Ok(true));
            assert_eq!(list.add(revocation, at(added_at)), Ok(false), "it is known");
        }
        assert_eq!(list.version(), 3);
        list.drop_expired(at(AHEAD));
        assert_eq!((list.len(), list.entries(at(AHEAD)).count(), list.is_empty()), (0, 0, false));
        let old = token(None, None, Some(49));
        let asked = |list: &RevocationList, now: i64| {
            (
                list.is_revoked("cho", &token(Some("t"), None, None), at(now)),
                list.revoked_until("ann", &old, at(now)),
                list.is_revoked_in("bob", &news, &old, at(now)),
            )
        };
        assert_eq!(asked(&list, AHEAD), (false, None, false));
        assert_eq!(asked(&list, 899), (true, Some(at(50)), true));
        assert!(!list.is_revoked_in("ann", &news, &old, at(899)));
        assert!(list.set_clock_back(at(1), at(AHEAD)));
        assert_eq!((list.changes_since(3), list.version()), (None, 4), "every session is checked");
        assert_eq!((list.len(), list.entries(at(1)).count()), (3, 3), "they count again");
        assert_eq!((list.add(jti("more", 900), at(1)), asked(&list, 1)), (Err(ListFull), (true, Some(at(50)), true)));
        assert!(!list.set_clock_back(at(1), at(899)), "none had expired");
    }
}

#[test]
fn revocations_for_which_a_list_has_no_room_when_the_clock_is_set_back_are_in_force() {
    let mut list = RevocationList::new(1);
    assert_eq!((list.add(jti("a", 900), at(0)), list.add(jti("b", 9000), at(3600))), (Ok(true), Ok(true)));
    assert!(list.set_clock_back(at(1), at(3600)));
    let is_revoked = |list: &RevocationList, id| list.is_revoked("", &token(Some(id), None, None), at(2));
    assert!(is_revoked(&list, "a") && is_revoked(&list, "b"));
    assert_eq!((list.len(), list.entries(at(2)).count()), (1, 2));
    assert_eq!(
        (list.add(jti("c", 900), at(2)), list.add_all(vec![jti("a", 950)], at(2))),
        (Err(ListFull), Err(ListFull))
    );
    assert!(is_revoked(&list, "a"));
    assert_eq!(list.add(jti("c", 9900), at(9000)), Ok(true), "there is room when b has expired");
}

#[test]
fn those_that_expired_first_are_dropped_when_more_have_expired_than_are_kept() {
    let mut list = RevocationList::new(3);
    let kept = |list: &RevocationList| {
        let is_kept = |id: &&str| list.is_revoked("", &token(Some(id), None, None), at(0));
        ["a", "b", "c", "d", "e", "f"].into_iter().filter(is_kept).collect::<String>()
    };
    list.add_each([jti("b", 20), jti("c", 30), jti("a", 10)], at(0)).unwrap();
    list.drop_expired(at(30));
    assert_eq!((list.len(), kept(&list)), (0, "abc".to_owned()));
    list.add_each([jti("e", 50), jti("d", 40)], at(30)).unwrap();
    list.drop_expired(at(50));
    assert_eq!(
        (list.len(), list.expired.len(), kept(&list)),
        (0, 3, "cde".to_owned()),
        "exactly as many as are too many"
    );
    // One that has expired already is treated alike.
    list.add(jti("f", 35), at(50)).unwrap();
    assert_eq!(kept(&list), "def");
    list.add_each([jti("a", 1), jti("b", 2)], at(50)).unwrap();
    assert_eq!(kept(&list), "def");
    let forgets_at = at(40 + DAY);
    list.add(jti("x", 40 + DAY), at(51)).unwrap();
    list.drop_expired(forgets_at);
    assert_eq!(kept(&list), "e");
}

#[test]
fn changes_are_returned_once_and_until_there_are_too_many() {
    let mut list = RevocationList::new(usize::MAX);
    for number in 0..KEPT_CHANGES as i64 {
        list.add(jti(&number.to_string(), 10), at(0)).unwrap();
    }
    assert_eq!(list.changes_since(0).map(|changes| changes.len()), Some(KEPT_CHANGES));
    list.add(jti("last", 10), at(0)).unwrap();
    assert_eq!(list.changes_since(0), None);
    assert_eq!(list.changes_since(list.version() - 1), Some(vec![jti("last", 10)]));
    assert_eq!(list.changes_since(list.version()), Some(Vec::new()));
}

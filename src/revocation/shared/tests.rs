//! The shared list.

use super::*;
use crate::revocation::TokenIds;

const HOUR: Duration = Duration::from_secs(3600);

fn of_jti(jti: &str, until: WallTime) -> Revocation {
    Revocation::of_all(RevocationTarget::Token(jti.to_owned(), IssuerScope::Any), until)
}

fn token(jti: &str) -> TokenIdentity {
    let (issuer, jti, sid) = (None, Some(jti.to_owned()), None);
    TokenIdentity::new(&TokenIds { issuer, jti, sid }, None)
}

/// As when an instance loads the list, or counts it for Redis, while its clock is ahead.
#[test]
fn revocations_that_were_loaded_or_counted_while_the_clock_was_ahead_are_in_force_when_it_is_set_back() {
    let revocations = Revocations::default();
    let soon = revocations.clock.now().saturating_add(HOUR / 4);
    revocations.add([of_jti("counted", soon)]).unwrap();
    revocations.clock.step_forward(HOUR);
    assert_eq!(revocations.count(), 0);
    revocations.add([of_jti("loaded", soon)]).unwrap();
    let are_revoked = || ["counted", "loaded"].map(|jti| revocations.is_revoked("", &token(jti)));
    assert_eq!((are_revoked(), revocations.entries().len()), ([false; 2], 0));
    revocations.clock.step_back(HOUR);
    assert_eq!(are_revoked(), [true; 2]);
    assert_eq!((revocations.count(), revocations.entries().len()), (2, 2), "Redis may lack them");
}

#[test]
fn hubs_check_all_sessions_once_when_the_clock_was_set_back_behind_the_expiry_of_a_revocation() {
    let revocations = Revocations::default();
    let (clock, list) = (&revocations.clock, &revocations);
    let tick = || {
        let before = list.state();
        list.note_time(clock.now());
        let (state, changes) = list.changes_since(before);
        assert_eq!(state, list.state());
        changes == Changes::Many
    };
    list.add([of_jti("1", clock.now().saturating_add(HOUR / 4))]).unwrap();
    assert!(!tick());
    for (by, expected) in [(HOUR / 8, false), (HOUR, true)] {
        clock.step_forward(by);
        assert!(!tick());
        clock.step_back(by);
        assert_eq!([tick(), tick()], [expected, false], "{by:?}");
    }
    // The clock was ahead between two ticks.
    clock.step_forward(HOUR);
    list.add([of_jti("2", clock.now().saturating_add(HOUR))]).unwrap();
    clock.step_back(HOUR);
    assert_eq!([tick(), tick()], [true, false]);
}

#[test]
fn logouts_of_one_user_need_few_entries_however_many_there_are() {
    let mut config = Config::default();
    config.limits.logouts_per_user = 10;
    let revocations = Revocations::new(&config, Clock::default(), Arc::default());
    let logout = |user: &str, number: u32| {
        let target = RevocationTarget::Token(number.to_string(), IssuerScope::Only("i".to_owned()));
        let now = revocations.clock.now();
        let end = revocations.default_expiry();
        let revocation = revocations.of_logout(user, target, end, now..=now, IssueTimes::Known);
        revocations.add([revocation.clone()]).unwrap();
        revocation.target
    };
    for number in 0..10 {
        assert!(matches!(logout("ann", number), RevocationTarget::Token(..)));
    }
    let all_of_ann = RevocationTarget::User("ann".to_owned(), IssuerScope::Only("i".to_owned()));
    assert!((10..1000).all(|number| logout("ann", number) == all_of_ann));
    assert_eq!(revocations.count(), 11);
    assert!(matches!(logout("bob", 1000), RevocationTarget::Token(..)), "others log out as before");
}

#[test]
fn repeated_logout_counts_once_and_means_no_newer_tokens() {
    let mut config = Config::default();
    config.limits.logouts_per_user = 2;
    let revocations = Revocations::new(&config, Clock::default(), Arc::default());
    let (start, end) = (revocations.clock.now(), revocations.default_expiry());
    let of_session = |sid: &str| {
        let target = RevocationTarget::Session(sid.to_owned(), IssuerScope::Any);
        Revocation::of_all(target, end)
    };
    // Its latest token was issued at the start, or up to a minute later.
    let limit = |sid: &str| {
        let latest_issue = start..=start.saturating_add(HOUR / 60);
        let limited = revocations.limit_per_user("ann", of_session(sid), latest_issue, IssueTimes::Known);
        revocations.add([limited.clone()]).unwrap();
        limited
    };
    for _ in 0..10 {
        assert_eq!(limit("1"), of_session("1"));
    }
    assert_eq!(limit("2"), of_session("2"), "the first counts once");
    let of_user = limit("3");
    assert_eq!(of_user.target, RevocationTarget::User("ann".to_owned(), IssuerScope::Any));
    assert_eq!(of_user.issued_before, revocations.issued_until_now());
    for _ in 0..10 {
        revocations.clock.advance(Duration::from_secs(10));
        assert_eq!(limit("3"), of_user, "a newer token is not meant");
    }
    assert_eq!(limit("4"), of_user, "the tokens of this session are as old");
    assert_eq!(revocations.count(), 3);
    // One of a session with a newer token means no token that may not be of it.
    let newer = revocations.clock.now()..=revocations.clock.now();
    revocations.clock.advance(HOUR);
    let limited = revocations.limit_per_user("ann", of_session("5"), newer.clone(), IssueTimes::Known);
    assert_eq!(limited.issued_before.unix_seconds(), newer.end().unix_seconds() + 1);
}

#[test]
fn logouts_by_sid_lock_nobody_out_while_the_list_is_less_than_half_full() {
    let mut config = Config::default();
    (config.limits.logouts_per_user, config.limits.revocations) = (2, 10);
    let revocations = Revocations::new(&config, Clock::default(), Arc::default());
    let targets: Vec<RevocationTarget> = (0..8)
        .map(|number| {
            let target = RevocationTarget::Session(number.to_string(), IssuerScope::Any);
            let (end, now) = (revocations.default_expiry(), revocations.clock.now());
            let revocation = revocations.of_logout("ann", target, end, now..=now, IssueTimes::Unknown);
            revocations.add([revocation.clone()]).unwrap();
            revocation.target
        })
        .collect();
    let is_of_session = |target: &RevocationTarget| matches!(target, RevocationTarget::Session(..));
    assert!(targets[..5].iter().all(is_of_session) && !targets[5..].iter().any(is_of_session), "{targets:?}");
    assert_eq!(revocations.count(), 6);
}

#[test]
fn known_revocation_lasts_longer_beside_one_that_has_no_room() {
    let mut config = Config::default();
    config.limits.revocations = 1;
    let revocations = Revocations::new(&config, Clock::default(), Arc::default());
    let now = revocations.clock.now();
    let of = |jti: &str, minutes: u64| {
        let target = RevocationTarget::Token(jti.to_owned(), IssuerScope::Any);
        Revocation::of_all(target, now.saturating_add(Duration::from_secs(60 * minutes)))
    };
    assert_eq!(revocations.add([of("1", 1)]), Ok(true));
    assert_eq!(revocations.add([of("2", 1), of("1", 2)]), Err(ListFull));
    assert_eq!(revocations.entries(), [of("1", 2)]);
}

#[test]
fn logout_revokes_a_session_until_all_of_its_tokens_have_expired() {
    let revocations = Revocations::default();
    let soon = WallTime::from_unix_seconds(revocations.clock.now().unix_seconds() + 60);
    let end = |target: fn(String, IssuerScope) -> RevocationTarget| {
        let (target, now) = (target("1".to_owned(), IssuerScope::Any), revocations.clock.now());
        revocations.of_logout("ann", target, soon, now..=now, IssueTimes::Known).expires_at
    };
    assert_eq!(end(RevocationTarget::Token), soon);
    assert!(end(RevocationTarget::Session) > soon);
}

//! Decides when a JWK set is fetched: regularly, again after a failure or when keys were absent, and at most once per interval
//! because of tokens whose `kid` is unknown. Pure.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use crate::config::KeySetsConfig;

/// Maximum number of unknown `kid`s that are remembered between two fetches. The tokens of others get the temporary error, too.
const MAX_UNKNOWN_KIDS: usize = 1024;

/// Maximum number of times that the time until the next attempt doubles. It is limited in length, too.
const MAX_DOUBLINGS: u32 = 16;

/// The answer to a token with an unknown `kid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnknownKid {
    /// A temporary error: the next fetch may bring the key.
    Pending,
    /// The last fetch was meant for it, and the key was not there.
    Missing,
}

/// The schedule of one set.
#[derive(Clone)]
pub(super) struct Schedule {
    next_fetch: Instant,
    /// When the last fetch began.
    last_begin: Option<Instant>,
    last_success: Option<Instant>,
    /// Failed fetches in a row while no keys were current.
    failures: u32,
    /// Hashes of the unknown `kid`s for which the next fetch looks.
    asked: HashSet<u64>,
    /// Hashes of those that the last fetch has not found.
    missing: HashSet<u64>,
    /// Those for which the running fetch looks.
    looking_for: HashSet<u64>,
    hasher: RandomState,
}

impl Schedule {
    /// Creates a schedule whose first fetch is at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_fetch: now,
            last_begin: None,
            last_success: None,
            failures: 0,
            asked: HashSet::new(),
            missing: HashSet::new(),
            looking_for: HashSet::new(),
            hasher: RandomState::new(),
        }
    }

    /// Returns this schedule with the next fetch at `now`, because the settings of the set have changed.
    pub(super) fn fetching_at(&self, now: Instant) -> Self {
        Self { next_fetch: now, ..self.clone() }
    }

    pub(super) fn next_fetch(&self) -> Instant {
        self.next_fetch
    }

    /// Returns whether there was a successful fetch.
    pub(super) fn was_fetched(&self) -> bool {
        self.last_success.is_some()
    }

    /// Returns whether the last successful fetch was less than `stale` ago.
    pub(super) fn is_current(&self, now: Instant, stale: Duration) -> bool {
        self.last_success.is_some_and(|last| now.saturating_duration_since(last) < stale)
    }

    /// Notes a token whose `kid` is unknown, and moves the next fetch if it may bring the key.
    pub(super) fn note_unknown(&mut self, kid: Option<&str>, now: Instant, settings: &KeySetsConfig) -> UnknownKid {
        if !self.is_current(now, settings.stale) {
            return UnknownKid::Pending;
        }
        // A token without kid selects the only key. There are several, and a fetch cannot tell which one is meant.
        let Some(kid) = kid else { return UnknownKid::Missing };
        let kid = self.hasher.hash_one(kid);
        let earliest = self.last_begin.map_or(now, |last| last + settings.unknown_kid_interval);
        if self.missing.contains(&kid) && now < earliest {
            return UnknownKid::Missing;
        }
        if self.asked.len() < MAX_UNKNOWN_KIDS {
            self.asked.insert(kid);
        }
        self.next_fetch = self.next_fetch.min(earliest.max(now));
        UnknownKid::Pending
    }

    /// Notes that a fetch begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.last_begin = Some(now);
        self.looking_for = std::mem::take(&mut self.asked);
        // Whether the provider has them is open again until the fetch has succeeded.
        self.missing.retain(|kid| !self.looking_for.contains(kid));
    }

    /// Notes that the fetch has succeeded. With `is_disputed` keys of the document before were absent: another fetch has to confirm
    /// that, apart from this one.
    pub(super) fn succeed(&mut self, now: Instant, is_disputed: bool, settings: &KeySetsConfig) {
        (self.last_success, self.failures) = (Some(now), 0);
        self.missing = std::mem::take(&mut self.looking_for);
        self.next_fetch = now + settings.refresh;
        if is_disputed || !self.asked.is_empty() {
            let earliest = self.last_begin.map_or(now, |last| last + settings.unknown_kid_interval);
            self.next_fetch = self.next_fetch.min(earliest.max(now));
        }
    }

    /// Notes that the fetch has failed. While keys are current, the next one is not before another one because of an unknown `kid`
    /// would be; without keys, it is sooner at first.
    pub(super) fn fail(&mut self, now: Instant, settings: &KeySetsConfig) {
        let room = MAX_UNKNOWN_KIDS.saturating_sub(self.asked.len());
        self.asked.extend(self.looking_for.drain().take(room));
        let longest = settings.unknown_kid_interval.min(settings.refresh);
        let delay = if self.is_current(now, settings.stale) {
            self.failures = 0;
            longest
        } else {
            let doublings = self.failures.min(MAX_DOUBLINGS);
            self.failures += 1;
            settings.retry.saturating_mul(1 << doublings).min(longest)
        };
        self.next_fetch = now + delay.max(settings.retry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const SECOND: Duration = Duration::from_secs(1);

    /// A schedule that has fetched at `now`, with the default settings: refresh 5 min, retry 5 s, interval 1 min, stale 24 h.
    fn fetched(now: Instant) -> (Schedule, KeySetsConfig) {
        let settings = Config::default().auth.key_sets;
        let mut schedule = Schedule::new(now);
        schedule.begin(now);
        schedule.succeed(now, false, &settings);
        (schedule, settings)
    }

    #[test]
    fn missing_kid_is_pending_again_while_it_is_looked_for() {
        let start = Instant::now();
        let (mut schedule, settings) = fetched(start);
        let ask =
            |schedule: &mut Schedule, seconds| schedule.note_unknown(Some("new"), start + SECOND * seconds, &settings);
        ask(&mut schedule, 0);
        schedule.begin(start + SECOND * 60);
        schedule.succeed(start + SECOND * 60, false, &settings);
        assert_eq!(ask(&mut schedule, 61), UnknownKid::Missing);
        assert_eq!(ask(&mut schedule, 121), UnknownKid::Pending);
        schedule.begin(start + SECOND * 122);
        assert_eq!(ask(&mut schedule, 123), UnknownKid::Pending, "the provider may have it by now");
        schedule.fail(start + SECOND * 124, &settings);
        assert_eq!(ask(&mut schedule, 125), UnknownKid::Pending, "a failed fetch has told nothing");
    }

    #[test]
    fn unknown_kids_cause_at_most_one_fetch_per_interval() {
        let start = Instant::now();
        let (mut schedule, settings) = fetched(start);
        for number in 0..5000 {
            let kid = format!("kid {number}");
            assert_eq!(schedule.note_unknown(Some(&kid), start + SECOND, &settings), UnknownKid::Pending);
            assert_eq!(schedule.next_fetch(), start + 60 * SECOND);
        }
        assert_eq!(schedule.asked.len(), MAX_UNKNOWN_KIDS);
        schedule.begin(start + 60 * SECOND);
        schedule.succeed(start + 61 * SECOND, false, &settings);
        assert_eq!(schedule.note_unknown(Some("kid 1"), start + 62 * SECOND, &settings), UnknownKid::Missing);
        assert_eq!(schedule.next_fetch(), start + 361 * SECOND, "the regular fetch");
        assert_eq!(schedule.note_unknown(Some("other"), start + 62 * SECOND, &settings), UnknownKid::Pending);
        assert_eq!(schedule.next_fetch(), start + 120 * SECOND);
        assert_eq!(schedule.note_unknown(Some("kid 1"), start + 121 * SECOND, &settings), UnknownKid::Pending, "again");
    }

    #[test]
    fn kid_that_arrives_during_a_fetch_is_looked_for_by_the_next_one() {
        let start = Instant::now();
        let (mut schedule, settings) = fetched(start);
        schedule.begin(start + 300 * SECOND);
        assert_eq!(schedule.note_unknown(Some("new"), start + 301 * SECOND, &settings), UnknownKid::Pending);
        schedule.succeed(start + 302 * SECOND, false, &settings);
        assert_eq!(schedule.next_fetch(), start + 360 * SECOND);
        assert_eq!(schedule.note_unknown(Some("new"), start + 303 * SECOND, &settings), UnknownKid::Pending);
    }

    #[test]
    fn tokens_wait_until_the_first_fetch_and_when_the_keys_are_stale() {
        let start = Instant::now();
        let settings = Config::default().auth.key_sets;
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.note_unknown(None, start, &settings), UnknownKid::Pending);
        schedule.begin(start);
        schedule.fail(start + SECOND, &settings);
        assert_eq!(schedule.next_fetch(), start + 6 * SECOND);
        assert!(!schedule.was_fetched() && !schedule.is_current(start, settings.stale));
        assert_eq!(schedule.note_unknown(Some("a"), start + SECOND, &settings), UnknownKid::Pending);
        let (mut schedule, settings) = fetched(start);
        assert_eq!(schedule.note_unknown(None, start + SECOND, &settings), UnknownKid::Missing);
        let day = start + 86_400 * SECOND;
        assert!(schedule.is_current(day - SECOND, settings.stale) && !schedule.is_current(day, settings.stale));
        assert_eq!(schedule.note_unknown(Some("a"), day, &settings), UnknownKid::Pending);
    }

    #[test]
    fn failed_fetch_does_not_make_a_kid_missing() {
        let start = Instant::now();
        let (mut schedule, settings) = fetched(start);
        schedule.note_unknown(Some("new"), start + SECOND, &settings);
        schedule.begin(start + 60 * SECOND);
        schedule.fail(start + 61 * SECOND, &settings);
        assert_eq!(schedule.note_unknown(Some("new"), start + 62 * SECOND, &settings), UnknownKid::Pending);
        assert_eq!(schedule.next_fetch(), start + 120 * SECOND, "the keys are current: one fetch per interval at most");
    }

    #[test]
    fn kid_that_is_asked_for_during_a_failed_fetch_is_looked_for_by_the_next_one() {
        let start = Instant::now();
        let (mut schedule, settings) = fetched(start);
        schedule.note_unknown(Some("before it"), start + 299 * SECOND, &settings);
        schedule.begin(start + 300 * SECOND);
        let ask =
            |schedule: &mut Schedule, second| schedule.note_unknown(Some("new"), start + second * SECOND, &settings);
        assert_eq!(ask(&mut schedule, 301), UnknownKid::Pending);
        schedule.fail(start + 302 * SECOND, &settings);
        assert_eq!(schedule.next_fetch(), start + 362 * SECOND);
        schedule.begin(start + 362 * SECOND);
        schedule.succeed(start + 363 * SECOND, false, &settings);
        assert_eq!(ask(&mut schedule, 364), UnknownKid::Missing, "that fetch was for it");
        let before = schedule.note_unknown(Some("before it"), start + 364 * SECOND, &settings);
        assert_eq!(before, UnknownKid::Missing, "and for what the failed one looked for");
        assert_eq!(schedule.next_fetch(), start + 663 * SECOND);
    }

    #[test]
    fn remembered_kids_are_bounded_however_many_fetches_fail() {
        let start = Instant::now();
        let (mut schedule, settings) = fetched(start);
        for fetch in 1..=3 {
            let now = start + 60 * fetch * SECOND;
            for number in 0..MAX_UNKNOWN_KIDS {
                schedule.note_unknown(Some(&format!("{fetch} {number}")), now, &settings);
            }
            schedule.begin(now);
            for number in 0..MAX_UNKNOWN_KIDS {
                schedule.note_unknown(Some(&format!("{fetch} {number} during it")), now, &settings);
            }
            schedule.fail(now, &settings);
            assert!(schedule.asked.len() <= MAX_UNKNOWN_KIDS, "{}", schedule.asked.len());
        }
    }

    #[test]
    fn failed_fetches_without_keys_are_repeated_ever_more_slowly_up_to_the_interval() {
        let mut now = Instant::now();
        let settings = Config::default().auth.key_sets;
        let mut schedule = Schedule::new(now);
        let mut delays = Vec::new();
        for _ in 0..6 {
            schedule.begin(now);
            schedule.fail(now, &settings);
            delays.push(schedule.next_fetch().duration_since(now).as_secs());
            now = schedule.next_fetch();
        }
        assert_eq!(delays, [5, 10, 20, 40, 60, 60]);
        schedule.begin(now);
        schedule.succeed(now, false, &settings);
        let day = now + settings.stale;
        schedule.fail(day, &settings);
        assert_eq!(schedule.next_fetch(), day + 5 * SECOND, "stale keys: soon at first");
    }

    #[test]
    fn absence_of_keys_is_confirmed_by_a_fetch_one_interval_later() {
        let start = Instant::now();
        let (mut schedule, settings) = fetched(start);
        schedule.begin(start + 300 * SECOND);
        schedule.succeed(start + 301 * SECOND, true, &settings);
        assert_eq!(schedule.next_fetch(), start + 360 * SECOND);
        schedule.begin(start + 360 * SECOND);
        schedule.succeed(start + 361 * SECOND, false, &settings);
        assert_eq!(schedule.next_fetch(), start + 661 * SECOND);
    }
}

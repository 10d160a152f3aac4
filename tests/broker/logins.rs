//! Logins: of every broker, and of several instances on one Redis.

use std::time::Duration;

use futures_util::future::join_all;
use wardcast::{
    broker::{Login, LoginLimits, LoginRecord, LoginRefresh, LoginSelection},
    clock::WallTime,
    revocation::{LoginId, user_tag},
};

use super::fixture::{Instance, start_pair};

const LIMITS: LoginLimits = LoginLimits { idle: Duration::from_secs(100), grace: Duration::from_secs(10), per_user: 3 };
/// A name with what separates the fields of a record.
const USER: &str = "ann b  5 é";
const UNKNOWN: LoginRefresh = LoginRefresh::Unknown;

fn at(seconds: i64) -> WallTime {
    WallTime::from_unix_seconds(2_000_000_000 + seconds)
}

fn refreshed(generation: u32) -> LoginRefresh {
    let (user, password) = (USER.to_owned(), "p".to_owned());
    LoginRefresh::Refreshed { user, password, started_at: at(0), ends_at: at(1000), generation }
}

impl Instance {
    /// Starts a login that ends after 1,000 s.
    async fn log_in(&self, second: i64, password: &str) -> LoginId {
        self.log_in_and_replace(second, password).await.0
    }

    /// Returns also the logins that it has ended.
    async fn log_in_and_replace(&self, second: i64, password: &str) -> (LoginId, Vec<LoginRecord>) {
        let id = LoginId::random(USER).unwrap();
        let (user, password) = (USER.to_owned(), password.to_owned());
        let login = Login { user, password, started_at: at(second), ends_at: at(second + 1000) };
        let replaced = self.broker.start_login(id.clone(), login, LIMITS).await.unwrap();
        (id, replaced)
    }

    async fn refresh(&self, id: &LoginId, generation: u32, second: i64) -> LoginRefresh {
        self.refresh_within(id, generation, second, LIMITS).await
    }

    async fn refresh_within(&self, id: &LoginId, generation: u32, second: i64, limits: LoginLimits) -> LoginRefresh {
        match self.refresh_unchanged(id, generation, second, limits).await {
            LoginRefresh::Refreshed { user, password, generation, .. } => {
                LoginRefresh::Refreshed { user, password, started_at: at(0), ends_at: at(1000), generation }
            }
            other => other,
        }
    }

    /// Returns also when the login was started, and when it ends.
    async fn refresh_unchanged(&self, id: &LoginId, generation: u32, second: i64, limits: LoginLimits) -> LoginRefresh {
        self.broker.refresh_login(id.clone(), generation, at(second), limits).await.unwrap()
    }

    async fn end(&self, selection: LoginSelection) -> Vec<LoginId> {
        let ended = self.broker.end_logins(user_tag(USER), selection).await.unwrap();
        let of_user = |LoginRecord { id, user, .. }| {
            assert_eq!(user, USER);
            id
        };
        ended.into_iter().map(of_user).collect()
    }
}

pub async fn refresh_names_the_next_generation_and_the_latest_may_be_repeated(instance: Instance) {
    let (id, other) = (instance.log_in(0, "p").await, instance.log_in(0, "p").await);
    assert_eq!(instance.refresh(&LoginId::random(USER).unwrap(), 0, 1).await, UNKNOWN);
    for (generation, second, next) in [(0, 1, 1), (0, 10, 1), (1, 20, 2), (1, 29, 2), (2, 30, 3)] {
        assert_eq!(instance.refresh(&id, generation, second).await, refreshed(next), "{generation} at {second}");
    }
    // A repetition does not extend the time in which it is possible.
    assert_eq!(instance.refresh(&id, 2, 39).await, refreshed(3));
    assert_eq!(instance.refresh(&id, 2, 40).await, LoginRefresh::Spent);
    assert_eq!(instance.refresh(&id, 3, 41).await, LoginRefresh::Spent);
    assert_eq!(instance.refresh(&other, 0, 41).await, refreshed(1));
    // As after a failover that has lost the latest writes.
    assert_eq!(instance.refresh(&other, 7, 42).await, refreshed(8));
}

pub async fn refresh_before_the_latest_ends_the_login(instance: Instance) {
    let id = instance.log_in(0, "p").await;
    assert_eq!(instance.refresh(&id, 0, 1).await, refreshed(1));
    assert_eq!(instance.refresh(&id, 1, 1).await, refreshed(2));
    // Also the latest: the first reply may have been lost.
    for generation in [0, 2, 1, u32::MAX, 0] {
        assert_eq!(instance.refresh(&id, generation, 1).await, LoginRefresh::Spent, "{generation}");
    }
    assert_eq!(instance.end(LoginSelection::Ended).await, std::slice::from_ref(&id));
    assert_eq!(instance.refresh(&id, 0, 1).await, UNKNOWN);
}

pub async fn ended_logins_are_found_until_they_are_removed_or_were_idle_for_too_long(instance: Instance) {
    let mut ids = Vec::new();
    for second in 0..3 {
        ids.push(instance.log_in(second, "p").await);
    }
    assert_eq!(instance.refresh(&ids[1], 0, 4).await, refreshed(1));
    assert_eq!(instance.refresh(&ids[1], 0, 14).await, LoginRefresh::Spent);
    let record = |id: &LoginId, second| LoginRecord { id: id.clone(), user: USER.to_owned(), refreshed_at: at(second) };
    // It does not count any more.
    let (fourth, replaced) = instance.log_in_and_replace(15, "p").await;
    assert_eq!(replaced, [record(&ids[1], 4)]);
    let (fifth, mut replaced) = instance.log_in_and_replace(16, "p").await;
    replaced.sort_by_key(|login| login.refreshed_at);
    assert_eq!(replaced, [record(&ids[0], 0), record(&ids[1], 4)]);
    assert_eq!(instance.refresh(&ids[0], 0, 17).await, UNKNOWN, "replaced");
    assert_eq!(instance.end(LoginSelection::One(ids[1].clone())).await.len(), 1);
    let found = instance.broker.find_logins(user_tag(USER), LoginSelection::Ended).await.unwrap();
    assert_eq!(found, [record(&ids[0], 0)]);
    for id in [&ids[2], &fourth, &fifth] {
        assert_eq!(instance.refresh(id, 0, 18).await, refreshed(1));
    }
    let (_, replaced) = instance.log_in_and_replace(110, "p").await;
    assert_eq!(replaced.len(), 1, "the oldest one was idle for too long: {replaced:?}");
}

pub async fn repeated_refresh_after_the_grace_ends_the_login(instance: Instance) {
    let strict = LoginLimits { grace: Duration::ZERO, ..LIMITS };
    let id = instance.log_in(0, "p").await;
    let answers = join_all((0..20).map(|_| instance.refresh_within(&id, 0, 1, strict))).await;
    assert_eq!(answers.iter().filter(|answer| **answer == refreshed(1)).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| **answer == LoginRefresh::Spent).count(), 19, "{answers:?}");
    assert_eq!(instance.refresh(&id, 1, 1).await, LoginRefresh::Spent);
}

pub async fn login_ends_when_it_is_idle_and_at_its_end(instance: Instance) {
    let (idle, busy) = (instance.log_in(0, "p").await, instance.log_in(0, "p").await);
    for round in 0..10_u32 {
        let second = i64::from(round) * 99;
        assert_eq!(instance.refresh(&busy, round, second).await, refreshed(round + 1));
    }
    assert_eq!(instance.refresh(&idle, 0, 100).await, UNKNOWN, "idle");
    assert_eq!(instance.refresh(&busy, 10, 990).await, refreshed(11));
    assert_eq!(instance.refresh(&busy, 11, 1000).await, UNKNOWN, "its end");
}

pub async fn logins_above_the_limit_end_the_ones_refreshed_longest_ago(instance: Instance) {
    let first = instance.log_in(0, "p").await;
    let second = instance.log_in(1, "p").await;
    let third = instance.log_in(2, "p").await;
    assert_eq!(instance.refresh(&first, 0, 3).await, refreshed(1));
    let (fourth, replaced) = instance.log_in_and_replace(4, "p").await;
    assert_eq!(replaced, [LoginRecord { id: second.clone(), user: USER.to_owned(), refreshed_at: at(1) }]);
    assert_eq!(instance.refresh(&second, 0, 5).await, UNKNOWN);
    for (id, generation) in [(&first, 1), (&third, 0), (&fourth, 0)] {
        assert_eq!(instance.refresh(id, generation, 6).await, refreshed(generation + 1));
    }
    // Those that have ended make room.
    let (late, replaced) = instance.log_in_and_replace(200, "p").await;
    assert_eq!(replaced, [], "they have ended by themselves");
    assert_eq!(instance.end(LoginSelection::OtherPassword(String::new())).await, [late]);
}

pub async fn selected_logins_end_and_are_returned(instance: Instance) {
    let (one, two, three) =
        (instance.log_in(0, "old").await, instance.log_in(5, "p").await, instance.log_in(9, "p").await);
    let stranger = LoginId::random("bob").unwrap();
    assert!(instance.end(LoginSelection::One(stranger)).await.is_empty());
    assert_eq!(instance.end(LoginSelection::OtherPassword("p".to_owned())).await, [one]);
    assert_eq!(instance.end(LoginSelection::StartedBefore(at(9))).await, [two]);
    assert_eq!(instance.end(LoginSelection::One(three.clone())).await, std::slice::from_ref(&three));
    assert!(instance.end(LoginSelection::One(three)).await.is_empty());
    assert!(
        instance.broker.end_logins(user_tag("bob"), LoginSelection::StartedBefore(at(9))).await.unwrap().is_empty()
    );
    let refreshed_login = instance.log_in(3, "refreshed").await;
    assert_eq!(
        instance.refresh_unchanged(&refreshed_login, 0, 7, LIMITS).await,
        LoginRefresh::Refreshed {
            user: USER.to_owned(),
            password: "refreshed".to_owned(),
            started_at: at(3),
            ends_at: at(1003),
            generation: 1
        }
    );
    let one_login = LoginSelection::One(refreshed_login.clone());
    let found = instance.broker.find_logins(user_tag(USER), one_login.clone()).await.unwrap();
    let record = LoginRecord { id: refreshed_login, user: USER.to_owned(), refreshed_at: at(7) };
    assert_eq!(found, std::slice::from_ref(&record));
    let before = LoginSelection::StartedBefore(at(3));
    assert!(instance.broker.find_logins(user_tag(USER), before).await.unwrap().is_empty());
    let ended = instance.broker.end_logins(user_tag(USER), one_login).await.unwrap();
    assert_eq!(ended, [record], "finding it has not ended it");
}

#[tokio::test]
async fn two_instances_refresh_a_login_once_and_redis_forgets_it_when_it_is_idle() {
    let (server, first, second) = start_pair().await;
    let strict = LoginLimits { grace: Duration::ZERO, ..LIMITS };
    for _ in 0..20 {
        let id = first.log_in(0, "p").await;
        let (one, other) =
            tokio::join!(first.refresh_within(&id, 0, 1, strict), second.refresh_within(&id, 0, 1, strict));
        let mut answers = [one, other].map(|answer| answer == refreshed(1));
        answers.sort_unstable();
        assert_eq!(answers, [false, true]);
    }
    let id = first.log_in(0, "p").await;
    let keys: Vec<String> = server.run(&["KEYS", "*logins*"]).await;
    assert_eq!(keys, [format!("wardcast:logins:{}", user_tag(USER))]);
    let left: i64 = server.run(&["PTTL", &keys[0]]).await;
    assert!((1..=100_000).contains(&left), "{left}");
    let longer = LoginLimits { idle: Duration::from_secs(500), ..LIMITS };
    assert_eq!(first.refresh_within(&id, 0, 1, longer).await, refreshed(1));
    let left: i64 = server.run(&["PTTL", &keys[0]]).await;
    assert!((100_001..=500_000).contains(&left), "a refresh lets it live longer: {left}");
    first.log_in(0, "p").await;
    let left: i64 = server.run(&["PTTL", &keys[0]]).await;
    assert!((100_001..=500_000).contains(&left), "no login shortens the life of another: {left}");
}

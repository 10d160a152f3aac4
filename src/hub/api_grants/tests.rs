//! Tests of the grants: how long each is kept, and what bounds them.

use super::*;
use crate::config::OptionOverrides;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn channel(name: &str) -> Channel {
    Channel::new(name).expect("a channel name")
}

fn grants_with(change: impl FnOnce(&mut Config)) -> (Arc<ApiGrants>, Clock) {
    let (mut config, clock) = (Config::default(), Clock::default());
    change(&mut config);
    (ApiGrants::new(&config, clock.clone()), clock)
}

impl ApiGrants {
    fn apply_action(&self, user: &str, client: Option<&str>, action: ControlAction) {
        let (user, client) = (user.to_owned(), client.map(str::to_owned));
        self.apply(&Control { user, client, whitelist: Vec::new(), action }, || ());
    }

    fn subscribe(&self, user: &str, name: &str, expires_at: Option<WallTime>) {
        let channel = name.to_owned();
        let (data, overrides) = (Some("1".to_owned()), OptionOverrides::default());
        let action = ControlAction::Subscribe { channel, info: None, data, recover_since: None, expires_at, overrides };
        self.apply_action(user, None, action);
    }

    fn unsubscribe(&self, user: &str, client: Option<&str>, name: &str) {
        self.apply_action(user, client, ControlAction::Unsubscribe { channel: name.to_owned() });
    }

    fn has(&self, user: &str, name: &str) -> bool {
        self.find(user, &channel(name)).is_some()
    }

    fn bytes(&self) -> usize {
        let table = self.table.lock();
        let grants = || table.by_user.iter().flat_map(|(user, grants)| grants.iter().map(move |grant| (user, grant)));
        assert_eq!(table.users.len(), grants().count());
        assert_eq!(table.bytes, grants().map(|(user, grant)| grant.cost_bytes(user)).sum::<usize>());
        table.bytes
    }
}

#[test]
fn grant_belongs_to_its_user_and_channel_until_an_unsubscribe() {
    let (grants, _) = grants_with(|_| ());
    grants.subscribe("ann", "news", None);
    let kept = grants.find("ann", &channel("news")).expect("a grant");
    assert_eq!(kept.data.as_deref(), Some(&b"1"[..]));
    assert!(!grants.has("bob", "news") && !grants.has("ann", "other"));
    grants.unsubscribe("bob", None, "news");
    grants.unsubscribe("ann", None, "other");
    assert!(grants.has("ann", "news"));
    grants.unsubscribe("ann", None, "news");
    assert!(!grants.has("ann", "news") && grants.bytes() == 0);
}

#[test]
fn what_one_connection_got_is_not_kept_and_what_one_connection_lost_is_forgotten() {
    let (grants, _) = grants_with(|_| ());
    let action = ControlAction::Subscribe {
        channel: "news".to_owned(),
        info: None,
        data: None,
        recover_since: None,
        expires_at: None,
        overrides: OptionOverrides::default(),
    };
    grants.apply_action("ann", Some("c1"), action);
    assert!(!grants.has("ann", "news"));
    grants.subscribe("ann", "news", None);
    grants.unsubscribe("ann", Some("c1"), "news");
    assert!(!grants.has("ann", "news"));
}

#[test]
fn disconnect_of_a_whole_user_that_keeps_its_clients_away_forgets_its_grants() {
    let (grants, _) = grants_with(|_| ());
    let disconnect = |code, client: Option<&str>, whitelist: &[&str]| {
        let action = ControlAction::Disconnect { code, reason: String::new() };
        let whitelist = whitelist.iter().map(|id| (*id).to_owned()).collect();
        let control = Control { user: "ann".to_owned(), client: client.map(str::to_owned), whitelist, action };
        grants.apply(&control, || ());
        grants.has("ann", "news")
    };
    for user in ["ann", "bob"] {
        grants.subscribe(user, "news", None);
    }
    for code in [3000, 3005, 4000, 4499] {
        assert!(disconnect(code, None, &[]), "its clients reconnect after {code}");
    }
    assert!(disconnect(3503, Some("c1"), &[]) && disconnect(3503, None, &["c1"]), "other connections stay");
    for code in [3500, 3503, 4500, 4999] {
        grants.subscribe("ann", "news", None);
        assert!(!disconnect(code, None, &[]), "{code}");
    }
    assert!(grants.has("bob", "news"));
}

#[test]
fn grant_lasts_as_long_as_the_last_token_with_which_a_session_had_it() {
    let (grants, clock) = grants_with(|_| ());
    let after = |seconds: u64| clock.now().saturating_add(Duration::from_secs(seconds));
    grants.subscribe("ann", "news", None);
    grants.subscribe("ann", "other", None);
    grants.note_session("ann", &channel("news"), after(60));
    clock.advance(Duration::from_secs(59));
    assert!(grants.has("ann", "news"));
    // A refresh of a session counts for what sessions here have, and an older token does not shorten it.
    grants.note_refresh("ann", after(60));
    grants.note_session("ann", &channel("news"), after(1));
    clock.advance(Duration::from_secs(59));
    assert!(grants.has("ann", "news"));
    clock.advance(Duration::from_secs(1));
    assert!(!grants.has("ann", "news") && grants.has("ann", "other"), "no session here has had the other one");
    clock.advance(DAY - Duration::from_secs(120));
    assert!(grants.has("ann", "other"));
    clock.advance(Duration::from_secs(1));
    assert!(!grants.has("ann", "other"), "no token of then lives any longer (auth.max_ttl)");
}

#[test]
fn age_of_a_grant_without_a_known_token_is_not_measured_by_the_wall_clock() {
    let (grants, clock) = grants_with(|_| ());
    grants.subscribe("ann", "news", None);
    clock.step_forward(2 * DAY);
    assert!(grants.has("ann", "news"));
}

#[test]
fn expired_grant_is_not_found_and_a_newer_one_replaces_the_older() {
    let (grants, clock) = grants_with(|_| ());
    let end = clock.now().saturating_add(Duration::from_secs(60));
    grants.subscribe("ann", "news", Some(end));
    assert!(grants.has("ann", "news"));
    clock.advance(Duration::from_secs(60));
    assert!(!grants.has("ann", "news"));
    grants.subscribe("ann", "news", None);
    assert!(grants.has("ann", "news"));
    assert_eq!(grants.table.lock().users.len(), 1);
}

#[test]
fn oldest_grants_leave_above_the_limits() {
    let (grants, _) = grants_with(|config| config.limits.channels_per_session = 2);
    for name in ["a", "b", "c"] {
        grants.subscribe("ann", name, None);
    }
    grants.subscribe("bob", "a", None);
    assert_eq!(["a", "b", "c"].map(|name| grants.has("ann", name)), [false, true, true]);
    assert!(grants.has("bob", "a") && grants.bytes() > 0);

    let (grants, _) = grants_with(|config| config.limits.api_grant_bytes = 10_000);
    for number in 0..1_000 {
        grants.subscribe(&format!("user {number}"), "news", None);
        assert!(grants.bytes() <= 10_000);
    }
    assert!(!grants.has("user 0", "news") && grants.has("user 999", "news") && grants.has("user 990", "news"));

    let (grants, _) = grants_with(|config| config.limits.api_grant_bytes = 0);
    grants.subscribe("ann", "news", None);
    assert!(!grants.has("ann", "news") && grants.bytes() == 0);
}

#[test]
fn lost_controls_forget_all_grants_and_a_refused_one_those_of_its_user() {
    let (grants, _) = grants_with(|_| ());
    for user in ["ann", "bob"] {
        grants.subscribe(user, "news", None);
    }
    grants.forget_user("ann");
    assert!(!grants.has("ann", "news") && grants.has("bob", "news") && grants.bytes() > 0);
    grants.forget_all();
    assert!(!grants.has("bob", "news") && grants.bytes() == 0);
}

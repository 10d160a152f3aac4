//! The logins of this instance. There is no timer: those of a user that have ended are dropped when the user logs in.

use std::collections::HashMap;

use crate::{
    broker::{Login, LoginLimits, LoginRecord, LoginRefresh, LoginSelection},
    clock::WallTime,
    revocation::LoginId,
};

/// Logins by the tag of their user, and by the rest of their name.
#[derive(Default)]
pub(super) struct LoginStore(HashMap<String, HashMap<String, StoredLogin>>);

struct StoredLogin {
    login: Login,
    generation: u32,
    refreshed_at: WallTime,
    /// Set: the login has ended, but its tokens may not be revoked yet.
    end: Option<LoginEnd>,
}

/// What has ended a login.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LoginEnd {
    /// A refresh token that was used twice.
    Spent,
    /// A newer login of the user.
    Replaced,
}

impl StoredLogin {
    fn record(&self, tag: &str, own_part: &str) -> Option<LoginRecord> {
        let id = LoginId::join(tag, own_part)?;
        Some(LoginRecord { id, user: self.login.user.clone(), refreshed_at: self.refreshed_at })
    }

    /// Returns whether a refresh token of the login could still be used, if nothing else had ended it.
    fn is_kept(&self, now: WallTime, limits: &LoginLimits) -> bool {
        now < self.login.ends_at && now < self.refreshed_at.saturating_add(limits.idle)
    }

    fn is_selected(&self, tag: &str, own_part: &str, selection: &LoginSelection) -> bool {
        match selection {
            LoginSelection::One(id) => id.split() == (tag, own_part),
            LoginSelection::StartedBefore(time) => self.login.started_at < *time,
            LoginSelection::OtherPassword(password) => self.login.password != *password,
            LoginSelection::Ended => self.end.is_some(),
        }
    }
}

impl LoginStore {
    /// Returns the logins that have ended because there were too many, and those that had ended before and still are stored.
    pub(super) fn start(&mut self, id: &LoginId, login: Login, limits: &LoginLimits) -> Vec<LoginRecord> {
        let (tag, own_part) = id.split();
        let (logins, now) = (self.0.entry(tag.to_owned()).or_default(), login.started_at);
        logins.retain(|_, login| login.is_kept(now, limits));
        let mut alive: Vec<&mut StoredLogin> = logins.values_mut().filter(|login| login.end.is_none()).collect();
        alive.sort_by_key(|login| login.refreshed_at);
        let surplus = (alive.len() + 1).saturating_sub(limits.per_user.max(1));
        alive.into_iter().take(surplus).for_each(|login| login.end = Some(LoginEnd::Replaced));
        logins.insert(own_part.to_owned(), StoredLogin { login, generation: 0, refreshed_at: now, end: None });
        self.find(tag, &LoginSelection::Ended)
    }

    pub(super) fn refresh(
        &mut self,
        id: &LoginId,
        generation: u32,
        now: WallTime,
        limits: &LoginLimits,
    ) -> LoginRefresh {
        let (tag, own_part) = id.split();
        let Some(logins) = self.0.get_mut(tag) else { return LoginRefresh::Unknown };
        let Some(stored) = logins.get_mut(own_part).filter(|stored| stored.is_kept(now, limits)) else {
            return LoginRefresh::Unknown;
        };
        match stored.end {
            Some(LoginEnd::Replaced) => return LoginRefresh::Unknown,
            Some(LoginEnd::Spent) => return LoginRefresh::Spent,
            None => {}
        }
        if generation >= stored.generation {
            stored.generation = generation.saturating_add(1);
            stored.refreshed_at = now;
        } else if generation + 1 < stored.generation || now >= stored.refreshed_at.saturating_add(limits.grace) {
            stored.end = Some(LoginEnd::Spent);
            return LoginRefresh::Spent;
        }
        let Login { user, password, started_at, ends_at } = stored.login.clone();
        LoginRefresh::Refreshed { user, password, started_at, ends_at, generation: stored.generation }
    }

    pub(super) fn find(&self, tag: &str, selection: &LoginSelection) -> Vec<LoginRecord> {
        let logins = self.0.get(tag).into_iter().flatten();
        let selected = logins.filter(|(own_part, stored)| stored.is_selected(tag, own_part, selection));
        selected.filter_map(|(own_part, stored)| stored.record(tag, own_part)).collect()
    }

    pub(super) fn end(&mut self, tag: &str, selection: &LoginSelection) -> Vec<LoginRecord> {
        let Some(logins) = self.0.get_mut(tag) else { return Vec::new() };
        let ended = logins.extract_if(|own_part, stored| stored.is_selected(tag, own_part, selection));
        let ended = ended.filter_map(|(own_part, stored)| stored.record(tag, &own_part)).collect();
        if logins.is_empty() {
            self.0.remove(tag);
        }
        ended
    }
}

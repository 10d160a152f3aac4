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
}

impl StoredLogin {
    fn record(&self, tag: &str, own_part: &str) -> Option<LoginRecord> {
        let id = LoginId::join(tag, own_part)?;
        Some(LoginRecord { id, user: self.login.user.clone(), refreshed_at: self.refreshed_at })
    }

    fn is_alive(&self, now: WallTime, limits: &LoginLimits) -> bool {
        now < self.login.ends_at && now < self.refreshed_at.saturating_add(limits.idle)
    }

    fn is_selected(&self, tag: &str, own_part: &str, selection: &LoginSelection) -> bool {
        match selection {
            LoginSelection::One(id) => id.split() == (tag, own_part),
            LoginSelection::StartedBefore(time) => self.login.started_at < *time,
            LoginSelection::OtherPassword(password) => self.login.password != *password,
        }
    }
}

impl LoginStore {
    /// Returns the logins that have ended because there were too many.
    pub(super) fn start(&mut self, id: &LoginId, login: Login, limits: &LoginLimits) -> Vec<LoginRecord> {
        let (tag, own_part) = id.split();
        let (logins, now) = (self.0.entry(tag.to_owned()).or_default(), login.started_at);
        logins.retain(|_, login| login.is_alive(now, limits));
        let mut ended = Vec::new();
        while logins.len() >= limits.per_user.max(1) {
            let oldest = logins.iter().min_by_key(|(_, login)| login.refreshed_at).map(|(id, _)| id.clone());
            let removed = oldest.and_then(|oldest| logins.remove_entry(&oldest));
            ended.extend(removed.and_then(|(own_part, stored)| stored.record(tag, &own_part)));
        }
        logins.insert(own_part.to_owned(), StoredLogin { login, generation: 0, refreshed_at: now });
        ended
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
        let Some(stored) = logins.get_mut(own_part).filter(|stored| stored.is_alive(now, limits)) else {
            return LoginRefresh::Unknown;
        };
        if generation >= stored.generation {
            stored.generation = generation.saturating_add(1);
            stored.refreshed_at = now;
        } else if generation + 1 < stored.generation || now >= stored.refreshed_at.saturating_add(limits.grace) {
            logins.remove(own_part);
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

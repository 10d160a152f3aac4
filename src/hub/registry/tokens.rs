//! The sessions of each `jti` and `sid`, of their own token or of a subscription token. The index orders slots by a part of
//! the fingerprint: eight bytes for each id.

use std::sync::Arc;

use super::{Registry, Slot, SubscriptionSource};
use crate::{
    channel::Channel,
    hub::SessionKey,
    revocation::{Fingerprint, TokenIdentity},
};

/// Half of a fingerprint is enough: a lookup compares the whole.
fn index_key(id: Fingerprint) -> u32 {
    id.get() as u32
}

impl<M, S> Registry<M, S> {
    /// Sets what names the token of a session.
    pub(in crate::hub) fn set_token(&mut self, key: SessionKey, token: TokenIdentity) {
        if let Some(slot) = self.slot(key) {
            self.set_token_at(slot, token);
        }
    }

    pub(super) fn set_token_at(&mut self, slot: Slot, token: TokenIdentity) {
        self.index_token(slot, &token);
        let Some(entry) = self.at_mut(slot) else { return };
        let before = std::mem::replace(&mut entry.token, token);
        self.forget_token(slot, &before);
    }

    /// Adds the ids of a token of a session to the index.
    pub(super) fn index_token(&mut self, slot: Slot, token: &TokenIdentity) {
        token.ids().for_each(|id| _ = self.by_token.insert((index_key(id), slot)));
    }

    /// Takes the ids of a token that a session had out of the index, but for those that another of its tokens has.
    pub(super) fn forget_token(&mut self, slot: Slot, token: &TokenIdentity) {
        for id in token.ids().map(index_key) {
            if !self.tokens_at(slot).flat_map(TokenIdentity::ids).any(|held| index_key(held) == id) {
                self.by_token.remove(&(id, slot));
            }
        }
    }

    /// Returns the tokens of a session: its own, and those of its subscriptions.
    fn tokens_at(&self, slot: Slot) -> impl Iterator<Item = &TokenIdentity> {
        self.at(slot).into_iter().flat_map(|entry| {
            let of_subscriptions = entry.subscriptions.iter().filter_map(|held| held.source.token());
            [&entry.token].into_iter().chain(of_subscriptions)
        })
    }

    /// Returns the sessions that have a token with this `jti` or `sid`.
    pub(in crate::hub) fn sessions_with_token(&self, id: Fingerprint) -> impl Iterator<Item = SessionKey> {
        let key = index_key(id);
        let slots = self.by_token.range((key, Slot::MIN)..=(key, Slot::MAX)).map(|(_, slot)| *slot);
        let having =
            slots.filter(move |slot| self.tokens_at(*slot).flat_map(TokenIdentity::ids).any(|held| held == id));
        having.filter_map(|slot| self.at(slot).map(|entry| entry.key))
    }

    /// Returns the user of a session and what names its token; `None` if it is not authenticated.
    pub(in crate::hub) fn owner(&self, key: SessionKey) -> Option<(&Arc<str>, &TokenIdentity)> {
        let entry = self.entry(key)?;
        Some((entry.user.as_ref()?, &entry.token))
    }

    /// Returns the subscriptions of a session that depend on a token, each with the token.
    pub(in crate::hub) fn subscriptions_by_token(
        &self,
        key: SessionKey,
    ) -> impl Iterator<Item = (&Channel, &TokenIdentity)> {
        self.entry(key).into_iter().flat_map(|entry| {
            let by_token =
                entry.subscriptions.iter().filter(|held| !matches!(held.source, SubscriptionSource::ServerApi(_)));
            by_token.map(|held| (&held.channel, held.source.token().unwrap_or(&entry.token)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::NEVER,
        hub::{SubscriptionTerms, subscription::DeliveryOptions},
        revocation::{IssuerScope, RevocationTarget, TokenIds},
    };

    fn token(jti: &str, sid: &str) -> TokenIdentity {
        let ids = TokenIds { issuer: None, jti: Some(jti.to_owned()), sid: Some(sid.to_owned()) };
        TokenIdentity::new(&ids, None)
    }

    fn source(token: TokenIdentity) -> SubscriptionSource {
        SubscriptionSource::SubscriptionToken(Box::new(SubscriptionTerms {
            expires_at: NEVER,
            warn_at: NEVER,
            info: None,
            token,
        }))
    }

    #[test]
    fn session_is_found_by_the_ids_of_the_tokens_that_it_has_and_by_no_others() {
        let mut registry = Registry::<(), u8>::default();
        let key = SessionKey::unique();
        registry.insert(key, ());
        let found = |registry: &Registry<(), u8>, ids: &[&str]| {
            let target = |id: &&str| match id.strip_prefix("s") {
                Some(_) => RevocationTarget::Session((*id).to_owned(), IssuerScope::Any),
                None => RevocationTarget::Token((*id).to_owned(), IssuerScope::Any),
            };
            let ids = ids.iter().map(|id| registry.sessions_with_token(target(id).token_id().unwrap()).count());
            ids.collect::<Vec<_>>()
        };
        registry.set_token(key, token("1", "s1"));
        registry.set_token(key, token("2", "s1"));
        assert_eq!(found(&registry, &["1", "2", "s1"]), [0, 1, 1]);
        let (news, other) = (Channel::new("news").unwrap(), Channel::new("other").unwrap());
        registry.subscribe(key, news.clone(), source(token("3", "s1")), &DeliveryOptions::default(), None);
        registry.subscribe(key, other.clone(), source(token("3", "s3")), &DeliveryOptions::default(), None);
        assert_eq!(found(&registry, &["3", "s3"]), [1, 1]);
        registry.unsubscribe(key, &news);
        assert_eq!(found(&registry, &["2", "3", "s1", "s3"]), [1, 1, 1, 1], "others have these ids");
        registry.replace_source(key, &other, source(token("4", "s4")));
        assert_eq!(found(&registry, &["3", "s3", "4", "s4"]), [0, 0, 1, 1]);
        registry.unsubscribe_all(key);
        assert_eq!(found(&registry, &["2", "s1", "4", "s4"]), [1, 1, 0, 0]);
        registry.remove(key);
        assert!(registry.by_token.is_empty());
    }
}

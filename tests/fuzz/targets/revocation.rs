//! Revocations as Redis and other instances send them: what is read names tokens that there may be, and is written as it was read.

use wardcast::{
    channel::Channel,
    revocation::{IssuerScope, Revocation, RevocationTarget},
};

/// The text of a target, or a revocation as JSON. Besides, the parts of the input are the names of a target of each kind.
pub fn revocation(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(target) = RevocationTarget::parse(text) {
        assert!(target.is_valid(), "{target:?}");
        assert_eq!(target.to_text(), text);
        assert!(!text.contains('\n'), "its signature covers lines");
        assert_eq!(RevocationTarget::parse(&target.to_text()), Some(target));
    }
    if let Ok(revocation) = serde_json::from_str::<Revocation>(text) {
        let written = serde_json::to_string(&revocation).expect("JSON");
        assert_eq!(serde_json::from_str::<Revocation>(&written).expect("a revocation"), revocation, "{written}");
    }
    let (name, scope) = text.split_once('\n').unwrap_or((text, ""));
    let (name, only) = (|| name.to_owned(), || IssuerScope::Only(scope.to_owned()));
    let kinds: [fn(String, IssuerScope) -> RevocationTarget; 4] = [
        RevocationTarget::Token,
        RevocationTarget::Session,
        RevocationTarget::User,
        RevocationTarget::UserWithoutSession,
    ];
    let scopes = [IssuerScope::Any, only()];
    let targets = kinds.iter().flat_map(|kind| scopes.iter().map(|scope| kind(name(), scope.clone())));
    let in_channel = Channel::new(scope).map(|channel| RevocationTarget::Channel(name(), channel));
    let all: Vec<RevocationTarget> = targets.chain(in_channel).collect();
    for (index, target) in all.iter().enumerate() {
        // The text of one that is not valid may be that of another: a name may contain what separates it from the scope.
        let is_read = RevocationTarget::parse(&target.to_text()).as_ref() == Some(target);
        assert_eq!(is_read, target.is_valid(), "{target:?}");
        assert!(all[..index].iter().all(|other| other.to_text() != target.to_text()), "{target:?}");
    }
}

//! Revoked tokens, on every path on which a token is verified.

use super::*;
use crate::{
    channel::Channel,
    clock::NEVER,
    revocation::{IssuerScope, Revocation, RevocationTarget, Revocations},
};

/// A thief of a key can sign a token for any user, so a token whose key is revoked logs no user out.
#[test]
fn a_revoked_token_still_logs_its_user_out_unless_its_key_is_revoked() {
    let config = config();
    let revocations = Revocations::new(&config, Clock::default(), Arc::default());
    let permissions = Permissions::new(&config.channels, &config.namespaces).without_revoked(revocations.clone());
    let verifier = Verifier::new(&config, Arc::new(permissions), Clock::default()).expect("good keys");
    let mut claims = payload();
    claims["jti"] = json!("1");
    let token = signed(GOOD, claims.to_string(), &secret(SECRET), Algorithm::HS256);
    let is_revoked = |verifier: &Verifier| verifier.verify_for_logout(&token).map(|token| token.is_revoked);
    assert_eq!(is_revoked(&verifier), Ok(false));
    let target = RevocationTarget::Token("1".to_owned(), IssuerScope::Any);
    let key = verifier.verify(&token).unwrap().token.key.unwrap();
    revocations.add([Revocation::of_all(target, NEVER)]).expect("room");
    assert_eq!(verifier.verify(&token), Err(TokenError::Revoked));
    assert_eq!(is_revoked(&verifier), Ok(true));
    let of_token = verifier.verify_for_logout(&token).unwrap();
    assert_eq!((&*of_token.claims.user, of_token.ids.jti.as_deref()), ("ann", Some("1")));
    let expired = json!({"sub": "ann", "exp": 1, "jti": "1"}).to_string();
    let expired = signed(GOOD, expired, &secret(SECRET), Algorithm::HS256);
    let of_expired = verifier.verify_for_logout(&expired).unwrap();
    assert_eq!((of_token.is_expired, of_expired.is_expired, of_expired.is_revoked), (false, true, true));
    assert_eq!(verifier.verify(&expired), Err(TokenError::Expired));
    revocations.remove_keys(&[key]);
    assert_eq!(is_revoked(&verifier), Err(TokenError::Revoked));
    assert_eq!(verifier.verify_for_logout(&expired).map(drop), Err(TokenError::Revoked));
}

/// Returns what the verifier says of a connection token and of a subscription token for `news` when this is revoked.
fn errors_after(target: RevocationTarget) -> [Option<TokenError>; 2] {
    let config = config();
    let revocations = Revocations::new(&config, Clock::default(), Arc::default());
    let permissions = Permissions::new(&config.channels, &config.namespaces).without_revoked(revocations.clone());
    let verifier = Verifier::new(&config, Arc::new(permissions), Clock::default()).expect("good keys");
    revocations.add([Revocation::of_all(target, NEVER)]).expect("room");
    let (mut claims, mut of_channel) = (payload(), payload());
    claims["jti"] = json!("1");
    of_channel["jti"] = json!("2");
    of_channel["channel"] = json!("news");
    let token = |claims: &Value| signed(GOOD, claims.to_string(), &secret(SECRET), Algorithm::HS256);
    [verifier.verify(&token(&claims)).err(), verifier.verify_subscription(&token(&of_channel)).err()]
}

#[test]
fn a_revoked_token_is_refused_whichever_of_its_names_is_revoked() {
    let jti = |jti: &str| RevocationTarget::Token(jti.to_owned(), IssuerScope::Any);
    let user = |user: &str| RevocationTarget::User(user.to_owned(), IssuerScope::Any);
    let channel = |user: &str, name: &str| RevocationTarget::Channel(user.to_owned(), Channel::new(name).unwrap());
    let revoked = Some(TokenError::Revoked);
    assert_eq!(errors_after(jti("1")), [revoked, None]);
    assert_eq!(errors_after(jti("2")), [None, revoked]);
    assert_eq!(errors_after(user("ann")), [revoked; 2]);
    assert_eq!(errors_after(user("bob")), [None; 2]);
    assert_eq!(errors_after(channel("ann", "news")), [None, revoked]);
    assert_eq!(errors_after(channel("ann", "other")), [None; 2]);
    assert_eq!(errors_after(channel("bob", "news")), [None; 2]);
}

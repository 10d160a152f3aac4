//! Tokens in and out: signature and header by RFC 7515 and RFC 8725, then the claims. The key decides the algorithm, never
//! the token's header.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::Serialize;
use serde_json::value::RawValue;

use super::claims::{Claims, Expectations, Payload, SubscriptionClaims};
use crate::{
    clock::{Clock, millis},
    config,
};

/// The longest token that is looked at. It bounds what a stranger can make us decode.
const TOKEN_BYTES: usize = 8 * 1024;

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was good once.
    #[error("expired")]
    Expired,
    /// It never was. The reason is for our own debug log: outward it is not told (RFC 8725 §3).
    #[error("invalid: {0}")]
    Invalid(&'static str),
}

/// Checks tokens against the configured secret, issuer, audience and clock.
pub struct Verifier {
    keys: Vec<DecodingKey>,
    validation: Validation,
    auth: config::Auth,
    clock: Clock,
}

impl Verifier {
    /// A verifier for the tokens that `auth` describes, and for those that the login signs with a key of its own.
    pub fn new(auth: &config::Auth, login_key: &config::Secret, clock: Clock) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // The library checks the signature; what it would let pass among the claims is checked by us, by our clock.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let secrets = [&auth.hmac_secret, login_key].into_iter().filter(|secret| !secret.is_empty());
        let keys = secrets.map(|secret| DecodingKey::from_secret(secret.expose().as_bytes())).collect();
        Self { keys, validation, auth: auth.clone(), clock }
    }

    /// The claims of a good subscription token.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify_subscription(&self, _token: &str) -> Result<SubscriptionClaims, Refusal> {
        Err(Refusal::Invalid("subscription tokens"))
    }

    /// The claims of a good token that opens connections.
    ///
    /// # Errors
    /// [`Refusal`]. Nothing is told of a token whose signature is wrong.
    pub fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        if token.len() > TOKEN_BYTES {
            return Err(Refusal::Invalid("too long"));
        }
        let decode = |key| jsonwebtoken::decode::<Payload>(token, key, &self.validation).ok();
        let decoded = self.keys.iter().find_map(decode);
        let decoded = decoded.ok_or(Refusal::Invalid("form, algorithm, signature or type of a claim"))?;
        judge_header(&decoded.header)?;
        decoded.claims.judge(&Expectations {
            now: self.clock.now(),
            skew: millis(self.auth.clock_skew),
            max_ttl: millis(self.auth.max_ttl),
            issuer: self.auth.issuer.as_deref(),
            audience: self.auth.audience.as_deref(),
        })
    }
}

/// A header that asks for more than a signature by a key that we chose asks too much: extensions that must be understood,
/// keys of its own, encryption, compression (RFC 7515 §4.1, RFC 7797, RFC 8725 §3.5 and §3.10).
fn judge_header(header: &Header) -> Result<(), Refusal> {
    let asks = [
        header.crit.is_some(),
        header.jku.is_some(),
        header.jwk.is_some(),
        header.x5u.is_some(),
        header.x5c.is_some(),
        header.enc.is_some(),
        header.zip.is_some(),
        header.cty.is_some(),
        header.extras.inner().contains_key("b64"),
    ];
    if asks.contains(&true) { Err(Refusal::Invalid("header")) } else { Ok(()) }
}

/// Makes tokens: for login, the command line and the banner of a development run.
pub struct Signer {
    key: EncodingKey,
    issuer: Option<String>,
    audience: Option<String>,
    clock: Clock,
}

#[derive(Serialize)]
struct Issued<'a> {
    sub: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
}

impl Signer {
    /// Signs what `auth`'s verifier accepts.
    pub fn new(auth: &config::Auth, clock: Clock) -> Self {
        Self {
            key: EncodingKey::from_secret(auth.hmac_secret.expose().as_bytes()),
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            clock,
        }
    }

    /// A token for `user`, good for `ttl`.
    ///
    /// # Errors
    /// When the crypto library refuses, which for HS256 it does not.
    pub fn sign(
        &self,
        user: &str,
        ttl: Duration,
        info: Option<&RawValue>,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let now = self.clock.now().div_euclid(1000);
        let issued = Issued {
            sub: user,
            iat: now,
            exp: now.saturating_add(millis(ttl).div_euclid(1000)),
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
            info,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &issued, &self.key)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Config, Secret};

    const SECRET: &str = "a secret of the tests, 32 bytes at least";

    fn auth() -> config::Auth {
        config::Auth { hmac_secret: Secret::new(SECRET), ..Config::default().auth }
    }

    fn token(header: &Value, payload: &Value, secret: &str) -> String {
        let part = |value: &Value| base64_url(value.to_string().as_bytes());
        let message = format!("{}.{}", part(header), part(payload));
        let key = EncodingKey::from_secret(secret.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("HS256");
        format!("{message}.{signature}")
    }

    fn base64_url(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let word = (0..3).fold(0_u32, |word, index| word << 8 | u32::from(*chunk.get(index).unwrap_or(&0)));
            for index in 0..=chunk.len() {
                text.push(ALPHABET[(word >> (18 - 6 * index) & 63) as usize] as char);
            }
        }
        text
    }

    fn judge(header: Value, payload: Value) -> Result<Claims, Refusal> {
        Verifier::new(&auth(), &Secret::default(), Clock::default()).verify(&token(&header, &payload, SECRET))
    }

    fn in_seconds(seconds: i64) -> i64 {
        Clock::default().now() / 1000 + seconds
    }

    fn hs256() -> Value {
        json!({"alg": "HS256", "typ": "JWT"})
    }

    #[test]
    fn a_good_token_gives_its_claims() {
        let exp = in_seconds(60);
        let claims = judge(hs256(), json!({"sub": "ann", "exp": exp, "info": {"name": "Ann"}, "other": 1})).unwrap();
        assert_eq!((&*claims.user, claims.expires_at), ("ann", exp * 1000));
        assert_eq!(claims.info.as_deref(), Some(&br#"{"name":"Ann"}"#[..]));
    }

    #[test]
    fn what_we_sign_we_accept_and_another_secret_we_do_not() {
        let signed = Signer::new(&auth(), Clock::default()).sign("ann", Duration::from_secs(60), None).unwrap();
        assert!(Verifier::new(&auth(), &Secret::default(), Clock::default()).verify(&signed).is_ok());
        let other = config::Auth { hmac_secret: Secret::new("another secret of at least 32 bytes"), ..auth() };
        assert!(matches!(
            Verifier::new(&other, &Secret::default(), Clock::default()).verify(&signed),
            Err(Refusal::Invalid(_))
        ));
    }

    #[test]
    fn alg_none_in_every_spelling_and_other_algorithms_are_refused() {
        let payload = json!({"sub": "ann", "exp": in_seconds(60)});
        for alg in [
            json!("none"),
            json!("None"),
            json!("NONE"),
            json!("nOnE"),
            json!(""),
            json!(["HS256"]),
            json!(1),
            json!("HS512"),
            json!("RS256"),
            json!("ES256"),
        ] {
            let refused = judge(json!({"alg": alg}), payload.clone());
            assert!(matches!(refused, Err(Refusal::Invalid(_))), "{alg}: {refused:?}");
        }
        assert!(judge(json!({"typ": "JWT"}), payload.clone()).is_err(), "no alg");
        let stripped = format!("{}.{}.", base64_url(br#"{"alg":"none"}"#), base64_url(payload.to_string().as_bytes()));
        assert!(Verifier::new(&auth(), &Secret::default(), Clock::default()).verify(&stripped).is_err());
    }

    #[test]
    fn headers_that_ask_for_more_are_refused() {
        for (member, value) in [
            ("crit", json!(["exp"])),
            ("jku", json!("https://evil.example/keys")),
            ("x5u", json!("https://evil.example/cert")),
            ("x5c", json!(["AAAA"])),
            ("zip", json!("DEF")),
            ("cty", json!("JWT")),
            ("b64", json!(false)),
            ("jwk", json!({"kty": "oct", "k": "AAAA"})),
        ] {
            let mut header = hs256();
            header[member] = value;
            assert!(judge(header, json!({"sub": "ann", "exp": in_seconds(60)})).is_err(), "{member}");
        }
    }

    #[test]
    fn exp_is_required_and_exact() {
        for exp in
            [json!(null), json!("2099"), json!(true), json!(-1), json!(1e300), json!(18_446_744_073_709_551_615_u64)]
        {
            assert!(matches!(judge(hs256(), json!({"sub": "ann", "exp": exp})), Err(Refusal::Invalid(_))), "{exp}");
        }
        assert!(judge(hs256(), json!({"sub": "ann"})).is_err(), "missing");
        assert_eq!(judge(hs256(), json!({"sub": "ann", "exp": in_seconds(0)})), Err(Refusal::Expired));
        assert!(judge(hs256(), json!({"sub": "ann", "exp": in_seconds(2) as f64 + 0.7})).is_ok(), "floored");
        assert!(judge(hs256(), json!({"sub": "ann", "exp": in_seconds(2 * 86_400)})).is_err(), "over auth.max_ttl");
    }

    #[test]
    fn the_other_claims_are_held_to_their_types_and_times() {
        let exp = in_seconds(60);
        for payload in [
            json!({"exp": exp}),
            json!({"sub": "", "exp": exp}),
            json!({"sub": 7, "exp": exp}),
            json!({"sub": "a\u{7}", "exp": exp}),
            json!({"sub": "x".repeat(256), "exp": exp}),
            json!({"sub": "ann", "exp": exp, "nbf": in_seconds(30)}),
            json!({"sub": "ann", "exp": exp, "iat": in_seconds(30)}),
            json!({"sub": "ann", "exp": exp, "nbf": "tomorrow"}),
            json!({"sub": "ann", "exp": exp, "info": "x".repeat(5000)}),
        ] {
            assert!(matches!(judge(hs256(), payload.clone()), Err(Refusal::Invalid(_))), "{payload}");
        }
    }

    #[test]
    fn issuer_and_audience_are_checked_when_configured() {
        let auth = config::Auth { issuer: Some("me".into()), audience: Some("hub".into()), ..auth() };
        let verifier = Verifier::new(&auth, &Secret::default(), Clock::default());
        let judge = |iss: Value, aud: Value| {
            verifier.verify(&token(
                &hs256(),
                &json!({"sub": "a", "exp": in_seconds(60), "iss": iss, "aud": aud}),
                SECRET,
            ))
        };
        assert!(judge(json!("me"), json!(["x", "hub"])).is_ok());
        for (iss, aud) in [
            (json!(null), json!("hub")),
            (json!("you"), json!("hub")),
            (json!("me"), json!(null)),
            (json!("me"), json!("hu")),
            (json!(["me"]), json!("hub")),
        ] {
            assert!(judge(iss.clone(), aud.clone()).is_err(), "{iss} {aud}");
        }
    }
}

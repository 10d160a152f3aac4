//! Attacks on the claims, one per test. The signature is valid in all of them.

mod grants;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{auth::Grants, channel::ChannelNameError, config::Config, publication::MAX_INFO_BYTES};

const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);

fn in_seconds(seconds: i64) -> i64 {
    NOW.unix_seconds() + seconds
}

fn date_in(seconds: i64) -> WallTime {
    WallTime::from_unix_seconds(in_seconds(seconds))
}

/// Returns a payload with `sub` "ann", an `exp` in a minute, and these claims.
fn payload(more: Value) -> Value {
    let mut payload = json!({"sub": "ann", "exp": in_seconds(60)});
    payload.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    payload
}

fn with_expectations<T>(change: impl FnOnce(&mut Config), use_context: impl FnOnce(&Expectations<'_>) -> T) -> T {
    let chat = toml::from_str("name = \"chat\"\nchannel_regex = \"[a-z0-9]+\"").expect("a namespace");
    let mut config = Config { namespaces: vec![chat], ..Config::default() };
    change(&mut config);
    let permissions = Permissions::new(&config.channels, &config.namespaces);
    let max_subscriptions = config.limits.channels_per_session;
    use_context(&Expectations {
        now: NOW,
        auth: &config.auth,
        rules: &config.auth.rules(None),
        prefixes: &UserPrefixes::new(&config.auth),
        permissions: &permissions,
        max_subscriptions,
    })
}

fn claims_of_text(text: &str, change: impl FnOnce(&mut Config)) -> Result<Claims, TokenError> {
    with_expectations(change, |expected| Payload::parse(text.as_bytes())?.into_claims(expected))
}

fn claims_with(payload: Value, change: impl FnOnce(&mut Config)) -> Result<Claims, TokenError> {
    claims_of_text(&payload.to_string(), change)
}

fn claims_of(payload: Value) -> Result<Claims, TokenError> {
    claims_with(payload, |_| ())
}

fn subscription_claims(payload: &Value) -> Result<SubscriptionClaims, TokenError> {
    let text = payload.to_string();
    with_expectations(|_| (), |expected| Payload::parse(text.as_bytes())?.into_subscription_claims(expected))
}

fn grants_of(more: Value) -> Option<Grants> {
    claims_of(payload(more)).expect("a valid payload").grants.map(|grants| *grants)
}

/// Returns why a payload with these claims is refused.
#[track_caller]
fn error_of(more: Value) -> TokenError {
    claims_of(payload(more.clone())).expect_err(&more.to_string())
}

/// Returns why this payload is refused.
#[track_caller]
fn error_of_text(text: &str) -> TokenError {
    claims_of_text(text, |_| ()).expect_err(text)
}

#[test]
fn a_valid_payload_yields_its_claims() {
    let claims =
        claims_of(payload(json!({"info": {"name": "Ann"}, "meta": {"x": [1]}, "other": 1}))).expect("a valid payload");
    assert_eq!((&*claims.user, claims.expires_at), ("ann", date_in(60)));
    assert_eq!(claims.info.as_deref(), Some(&br#"{"name":"Ann"}"#[..]));
    assert_eq!(claims.grants, None);
}

#[test]
fn an_invalid_exp_is_refused() {
    for exp in ["null", "\"2099\"", "true", "-1", "-0.5", "1e300", "1e400", "18446744073709551616", "[1]", "{}", "\"\""]
    {
        let text = format!(r#"{{"sub":"ann","exp":{exp}}}"#);
        assert_eq!(error_of_text(&text), TokenError::MalformedPayload, "{exp}");
        let not_required = claims_of_text(&text, |config| config.auth.required_claims.clear());
        assert!(not_required.is_err(), "{exp}, although it is not required");
    }
    assert_eq!(claims_of(json!({"sub": "ann"})), Err(TokenError::MissingClaim(RequiredClaim::Exp)));
}

#[test]
fn exp_has_no_leeway_and_fractions_are_floored() {
    for (exp, expected) in [(json!(0), false), (json!(in_seconds(-3600)), false), (json!(in_seconds(0)), false)] {
        assert_eq!(claims_of(payload(json!({"exp": exp}))).is_ok(), expected);
        assert_eq!(claims_of(payload(json!({"exp": exp}))), Err(TokenError::Expired));
    }
    let exp = in_seconds(2) as f64 + 0.9;
    assert_eq!(claims_of(payload(json!({"exp": exp}))).expect("a valid payload").expires_at, date_in(2));
    assert_eq!(claims_of(payload(json!({"exp": in_seconds(0) as f64 + 0.9}))), Err(TokenError::Expired));
}

#[test]
fn an_exp_beyond_max_ttl_is_refused_and_large_dates_do_not_overflow() {
    assert!(claims_of(payload(json!({"exp": in_seconds(86_400)}))).is_ok());
    assert_eq!(error_of(json!({"exp": in_seconds(86_401)})), TokenError::TtlTooLong);
    assert_eq!(error_of(json!({"exp": 1_000_000_000_000_i64})), TokenError::TtlTooLong);
    let ever = |config: &mut Config| config.auth.max_ttl = std::time::Duration::MAX;
    assert!(claims_with(payload(json!({"exp": 1_000_000_000_000_i64})), ever).is_ok());
}

#[test]
fn lifetime_beyond_max_ttl_is_refused_also_near_its_end() {
    let skew = 30;
    let lifetime = |seconds: i64| payload(json!({"iat": in_seconds(60 - seconds), "exp": in_seconds(60)}));
    let with_skew = |config: &mut Config| config.auth.clock_skew = std::time::Duration::from_secs(skew);
    let skew = i64::try_from(skew).unwrap();
    assert!(claims_with(lifetime(86_400 + skew), with_skew).is_ok());
    assert_eq!(claims_with(lifetime(86_401 + skew), with_skew).unwrap_err(), TokenError::TtlTooLong);
    assert_eq!(claims_with(lifetime(30 * 86_400), with_skew).unwrap_err(), TokenError::TtlTooLong);
    let ever = |config: &mut Config| config.auth.max_ttl = std::time::Duration::MAX;
    assert!(claims_with(lifetime(30 * 86_400), ever).is_ok());
}

#[test]
fn without_required_exp_a_token_may_never_expire() {
    let lasting = |config: &mut Config| config.auth.required_claims.clear();
    assert_eq!(claims_with(json!({"sub": "ann"}), lasting).expect("a valid payload").expires_at, NEVER);
    let short = json!({"sub": "ann", "expire_at": in_seconds(30)});
    assert_eq!(claims_with(short, lasting).expect("a valid payload").expires_at, date_in(30));
}

#[test]
fn expire_at_only_shortens() {
    let expires_at =
        |expire_at: Value| claims_of(payload(json!({"expire_at": expire_at}))).map(|claims| claims.expires_at);
    assert_eq!(expires_at(json!(in_seconds(30))), Ok(date_in(30)));
    assert_eq!(expires_at(json!(in_seconds(90_000))), Ok(date_in(60)));
    assert_eq!(expires_at(json!(in_seconds(0))), Err(TokenError::Expired));
    assert_eq!(expires_at(json!(0)), Err(TokenError::Expired));
    for bad in [json!(null), json!("soon"), json!(-1), json!(1e300)] {
        assert_eq!(error_of(json!({"expire_at": bad})), TokenError::MalformedPayload, "{bad}");
    }
}

#[test]
fn nbf_and_iat_beyond_the_clock_skew_are_refused() {
    for (claim, error) in [("nbf", TokenError::NotYetValid), ("iat", TokenError::IssuedInFuture)] {
        assert!(claims_of(payload(json!({claim: in_seconds(5)}))).is_ok(), "{claim}");
        assert_eq!(error_of(json!({claim: in_seconds(6)})), error, "{claim}");
        for bad in [json!("tomorrow"), json!(null), json!(-1), json!(1e300), json!([0])] {
            assert_eq!(error_of(json!({claim: bad})), TokenError::MalformedPayload, "{claim}: {bad}");
        }
    }
}

#[test]
fn a_clock_jump_of_an_hour_makes_no_token_valid() {
    let claims_at = |now: WallTime| {
        with_expectations(
            |_| (),
            |expected| {
                let text = payload(json!({"iat": in_seconds(0), "exp": in_seconds(1800)})).to_string();
                Payload::parse(text.as_bytes())?.into_claims(&Expectations { now, ..*expected })
            },
        )
    };
    assert!(claims_at(NOW).is_ok());
    assert_eq!(claims_at(date_in(3600)), Err(TokenError::Expired));
    assert_eq!(claims_at(date_in(-3600)), Err(TokenError::IssuedInFuture));
    for now in [WallTime::from_unix_millis(i64::MIN), WallTime::default(), NEVER] {
        assert!(claims_at(now).is_err(), "{now}");
    }
}

#[test]
fn sub_must_be_a_short_string_without_control_characters() {
    for sub in [json!(7), json!(null), json!(["ann"])] {
        assert_eq!(error_of(json!({"sub": sub})), TokenError::MalformedPayload, "{sub}");
    }
    for sub in ["a\u{7}", "a\u{0}", "a\nb", &"x".repeat(256)] {
        assert_eq!(error_of(json!({"sub": sub})), TokenError::InvalidUser, "{sub}");
    }
    assert!(claims_of(payload(json!({"sub": "x".repeat(255)}))).is_ok());
    for anonymous in [AnonymousAccess::Never, AnonymousAccess::Token, AnonymousAccess::Always] {
        let open = |config: &mut Config| config.auth.anonymous = anonymous;
        for claims in [json!({"exp": in_seconds(60)}), payload(json!({"sub": ""}))] {
            let is_anonymous = claims_with(claims, open).map(|claims| claims.is_anonymous());
            let is_allowed = anonymous != AnonymousAccess::Never;
            assert_eq!(is_anonymous, if is_allowed { Ok(true) } else { Err(TokenError::MissingUser) }, "{anonymous:?}");
        }
    }
}

#[test]
fn an_id_of_a_wrong_type_refuses_the_token() {
    for id in [json!(7), json!(["1"]), json!({"id": "1"}), json!(true)] {
        for claim in ["jti", "sid", "iss"] {
            assert_eq!(error_of(json!({claim: id})), TokenError::MalformedPayload, "{claim}: {id}");
        }
    }
}

#[test]
fn configured_issuer_and_audience_must_match_exactly() {
    let claims_of = |iss: Value, aud: Value| {
        claims_with(payload(json!({"iss": iss, "aud": aud})), |config| {
            config.auth.issuer = Some("me".to_owned());
            config.auth.audience = Some("hub".to_owned());
        })
    };
    for aud in [json!("hub"), json!(["x", "hub"])] {
        assert!(claims_of(json!("me"), aud).is_ok());
    }
    for iss in [json!(null), json!("you"), json!("Me"), json!("me/"), json!(["me"]), json!(1), json!("")] {
        assert!(claims_of(iss.clone(), json!("hub")).is_err(), "{iss}");
    }
    for aud in [
        json!(null),
        json!("hu"),
        json!("hubs"),
        json!([]),
        json!([["hub"]]),
        json!(["x"]),
        json!({"hub": 1}),
        json!(1),
    ] {
        assert!(claims_of(json!("me"), aud.clone()).is_err(), "{aud}");
    }
    assert_eq!(claims_of(json!("you"), json!("hub")), Err(TokenError::WrongIssuer));
    assert_eq!(claims_of(json!("me/"), json!("hub")), Err(TokenError::IssuerSlash));
    assert_eq!(claims_of(json!("me//"), json!("hub")), Err(TokenError::WrongIssuer));
    assert_eq!(claims_of(json!("me"), json!("hu")), Err(TokenError::WrongAudience));
    let error = error_of(json!({"aud": ["hub", 1]}));
    assert_eq!(error, TokenError::MalformedPayload, "a wrong type, although no audience is configured");
}

#[test]
fn every_required_claim_is_required() {
    let full = json!({"nbf": in_seconds(0), "iat": in_seconds(0), "jti": "1", "iss": "me", "aud": "hub"});
    let all = |config: &mut Config| {
        use RequiredClaim::{Aud, Exp, Iat, Iss, Jti, Nbf};
        config.auth.required_claims = vec![Exp, Nbf, Iat, Jti, Iss, Aud];
    };
    assert!(claims_with(payload(full.clone()), all).is_ok());
    for claim in ["nbf", "iat", "jti", "iss", "aud", "exp"] {
        let mut without = payload(full.clone());
        without.as_object_mut().expect("an object").remove(claim);
        assert!(claims_with(without, all).is_err(), "{claim}");
    }
    for (claim, empty) in [("jti", json!("")), ("iss", json!("")), ("aud", json!([])), ("jti", json!(null))] {
        let mut full = payload(full.clone());
        full[claim] = empty;
        assert!(claims_with(full, all).is_err(), "{claim}");
    }
}

#[test]
fn a_duplicate_claim_is_refused() {
    let good = r#""sub":"ann","exp":1800000060"#;
    for twice in [
        r#""sub":"eve""#,
        r#""exp":1800000030"#,
        r#""ex\u0070":1800000030"#,
        r#""iss":"a","iss":"b""#,
        r#""caps":[],"caps":[]"#,
    ] {
        assert_eq!(error_of_text(&format!("{{{good},{twice}}}")), TokenError::MalformedPayload, "{twice}");
    }
    assert!(claims_of_text(&format!("{{{good},\"x\":1,\"x\":2}}"), |_| ()).is_ok(), "unknown claims are ignored");
}

#[test]
fn a_json_array_is_not_accepted_as_a_payload() {
    assert!(claims_of_text(r#"{"sub":"ann","exp":1800000060}"#, |_| ()).is_ok());
    for list in [r#"["ann",1800000060]"#, r#" ["ann",1800000060,1800000060]"#, r#"[{"sub":"ann","exp":1800000060}]"#] {
        assert_eq!(error_of_text(list), TokenError::MalformedPayload, "{list}");
    }
    assert_eq!(error_of(json!({"caps": [[["news"], "exact", ["sub"]]]})), TokenError::MalformedCaps, "nor as a rule");
    assert_eq!(error_of(json!({"subs": {"news": [{"x": 1}]}})), TokenError::MalformedSubs, "nor as options");
}

#[test]
fn a_payload_nested_200_deep_is_refused() {
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for member in ["info", "meta", "channels", "caps", "x"] {
        let text = format!(r#"{{"sub":"ann","exp":1800000060,"{member}":{nested}}}"#);
        assert_eq!(error_of_text(&text), TokenError::PayloadTooDeep, "{member}");
    }
    assert_eq!(error_of_text(&"[".repeat(1_000_000)), TokenError::PayloadTooDeep);
}

#[test]
fn info_is_limited_in_size_and_becomes_one_line() {
    let info = |text: &str| claims_of_text(&format!("{{\"sub\":\"ann\",\"exp\":1800000060,\"info\":{text}}}"), |_| ());
    let claims = info("{\n\"a\":\r\n1}").expect("a valid payload");
    assert_eq!(claims.info.as_deref(), Some(&b"{ \"a\":  1}"[..]));
    assert!(info(&format!("\"{}\"", "x".repeat(MAX_INFO_BYTES - 2))).is_ok());
    assert_eq!(info(&format!("\"{}\"", "x".repeat(MAX_INFO_BYTES - 1))), Err(TokenError::InfoTooLong));
    assert_eq!(info("null").expect("a valid payload").info, None);
    assert!(info("{\"a\":}").is_err());
}

#[test]
fn a_subscription_token_yields_its_channel_and_opens_no_connection() {
    let token = payload(json!({"channel": "chat:1", "info": {"x": 1}}));
    assert_eq!(claims_of(token.clone()), Err(TokenError::IsSubscriptionToken));
    assert_eq!(error_of(json!({"channel": null})), TokenError::MalformedPayload);
    assert_eq!(error_of(json!({"channel": ""})), TokenError::IsSubscriptionToken);
    let claims = subscription_claims(&token).expect("a valid payload");
    assert_eq!((&*claims.user, claims.channel.as_str(), claims.expires_at), ("ann", "chat:1", date_in(60)));
    assert_eq!(claims.info.as_deref(), Some(&br#"{"x":1}"#[..]));
}

#[test]
fn a_subscription_token_passes_the_same_checks_and_names_one_channel() {
    use TokenError::{
        ForbiddenChannel, InvalidChannelName, IsConnectionToken, MalformedPayload, MissingChannel, NotYetValid,
        SubscriptionInfoTooLong, TtlTooLong,
    };
    for (more, error) in [
        (json!({}), MissingChannel),
        (json!({"channel": ["news"]}), MalformedPayload),
        (json!({"channel": "room:1"}), ForbiddenChannel),
        (json!({"channel": "a*"}), InvalidChannelName(ChannelNameError::ForbiddenCharacter)),
        (json!({"channel": "chat:UP"}), ForbiddenChannel),
        (json!({"channel": "dialog#bob"}), ForbiddenChannel),
        (json!({"channel": "news", "channels": ["news"]}), IsConnectionToken),
        (json!({"channel": "news", "subs": {"news": {}}}), IsConnectionToken),
        (json!({"channel": "news", "caps": []}), IsConnectionToken),
        (json!({"channel": "news", "sub": 1}), MalformedPayload),
        (json!({"channel": "news", "nbf": in_seconds(60)}), NotYetValid),
        (json!({"channel": "news", "exp": in_seconds(90_000)}), TtlTooLong),
        (json!({"channel": "news", "info": "x".repeat(5000)}), SubscriptionInfoTooLong),
    ] {
        assert_eq!(subscription_claims(&payload(more.clone())), Err(error), "{more}");
    }
    let over = payload(json!({"channel": "news", "expire_at": in_seconds(0)}));
    assert_eq!(subscription_claims(&over), Err(TokenError::Expired));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in r#"[{}\[\]":,a-z\\0-9. ]{0,120}"#) {
        for bytes in [&bytes[..], text.as_bytes()] {
            let _ = with_expectations(|_| (), |expected| Payload::parse(bytes)?.into_claims(expected));
            let _ = with_expectations(|_| (), |expected| Payload::parse(bytes)?.into_subscription_claims(expected));
        }
    }

    #[test]
    fn no_member_of_any_type_panics(
        member in prop::sample::select(vec!["sub", "exp", "nbf", "aud", "info", "channels", "subs", "caps", "channel", "expire_at"]),
        value in r#"(-?[0-9]{1,25}(\.[0-9]{1,3})?(e[0-9]{1,3})?|"\PC{0,8}"|null|true|\[("a"|1|null|\{\})?\]|\{("a":(\{\}|1|"x"))?\})"#,
    ) {
        let text = format!(r#"{{"sub":"ann","exp":1800000060,"{member}":{value}}}"#);
        let _ = claims_of_text(&text, |_| ());
        let _ = claims_of_text(&text.replacen(r#""sub":"ann","#, "", 1), |config| config.auth.required_claims.clear());
    }

    #[test]
    fn unknown_members_do_not_change_the_claims(
        user in "[^\\p{Cc}]{1,60}",
        ttl in 1_i64..86_400,
        others in proptest::collection::btree_map("[A-Z]{1,8}", any::<(i32, String)>(), 0..8),
        channels in proptest::collection::btree_set("[a-z]{1,8}", 0..5),
    ) {
        let mut json = payload(json!({"sub": user, "exp": in_seconds(ttl), "channels": channels}));
        let map = json.as_object_mut().expect("an object");
        map.extend(others.into_iter().map(|(name, value)| (name, json!({"v": value}))));
        let claims = claims_of(json).expect("a valid payload");
        prop_assert_eq!((&*claims.user, claims.expires_at), (&*user, date_in(ttl)));
        let granted = claims.grants.map_or(0, |grants| grants.subscriptions.len());
        prop_assert_eq!(granted, channels.len());
    }
}

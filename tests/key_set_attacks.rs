//! Attacks on the fetching of keys, over real https: by documents, and by the addresses that they lead to.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use wardcast::{
    auth::{Permissions, Verifier},
    clock::Clock,
    config::{Config, KeyConfig, Secret},
};

use crate::{
    key_sets::{claims, start_hub_of},
    support::{
        config,
        identity_provider::{Answer, DISCOVERY, IdentityProvider, KEYS, ProviderKey, base64url},
    },
};

/// Fetches the keys of a provider once, with these settings of its entry.
async fn fetch_with(
    provider: &IdentityProvider,
    settings: &str,
    change: impl FnOnce(&mut Config),
) -> Result<(), String> {
    let mut config = config();
    provider.configure(&mut config, settings);
    config.auth.key_sets.timeout = Duration::from_millis(300);
    change(&mut config);
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let verifier = Verifier::new(&config, permissions, Clock::default()).unwrap();
    verifier.key_sets().fetch_all().await
}

async fn fetch(provider: &IdentityProvider) -> Result<(), String> {
    fetch_with(provider, &format!("issuer_url = {:?}", provider.issuer()), |_| ()).await
}

/// Asserts that the keys are not taken, and that the error says why.
#[track_caller]
fn assert_refused(fetched: &Result<(), String>, why: &str) {
    let error = fetched.as_ref().expect_err(why);
    assert!(error.contains(why), "{error}");
}

/// Asserts that a document with these keys is refused.
async fn assert_set_is_refused(keys: &[Value], why: &str) {
    let provider = IdentityProvider::start(&[]).await;
    provider.publish_set(keys);
    assert_refused(&fetch(&provider).await, why);
}

#[actix_rt::test]
async fn name_that_resolves_to_a_private_address_is_not_connected_to() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    let settings = format!("issuer_url = {:?}", provider.issuer());
    let forbid = |config: &mut Config| config.auth.key_sets.private_networks = vec!["10.0.0.0/8".parse().unwrap()];
    assert_refused(&fetch_with(&provider, &settings, forbid).await, "auth.key_sets.private_networks");
    let literal = format!("issuer = \"one\"\njwks_url = \"https://127.0.0.1:{}/keys\"", provider.address.port());
    assert_refused(&fetch_with(&provider, &literal, forbid).await, "a private address");
    let mapped =
        format!("issuer = \"one\"\njwks_url = \"https://[::ffff:127.0.0.1]:{}/keys\"", provider.address.port());
    assert_refused(&fetch_with(&provider, &mapped, forbid).await, "a private address");
    assert_eq!(provider.requests(DISCOVERY) + provider.requests(KEYS), 0);
    assert_eq!(fetch(&provider).await, Ok(()), "allowed by the configuration");
}

#[actix_rt::test]
async fn jwks_uri_at_a_private_address_is_not_connected_to() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    let metadata = json!({"issuer": provider.issuer(), "jwks_uri": "https://169.254.169.254/latest/meta-data"});
    provider.answer(DISCOVERY, Answer::Document(metadata.to_string()));
    assert_refused(&fetch(&provider).await, "169.254.169.254, a private address");
}

#[actix_rt::test]
async fn server_with_an_untrusted_certificate_is_refused() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    let other = IdentityProvider::start(&[]).await;
    let settings = format!("issuer_url = {:?}", provider.issuer());
    let fetched = fetch_with(&provider, &settings, |config| {
        let networks = config.auth.key_sets.private_networks.clone();
        other.trust(config);
        config.auth.key_sets.private_networks = networks;
    });
    assert_refused(&fetched.await, "TLS handshake failed");
    assert_eq!(provider.requests(DISCOVERY), 0);
}

#[actix_rt::test]
async fn redirect_is_not_followed() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    let redirect =
        format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", provider.url("/elsewhere"));
    provider.answer(KEYS, Answer::Raw(redirect.into_bytes()));
    assert_refused(&fetch(&provider).await, "302");
    assert_eq!(provider.requests("/elsewhere"), 0);
}

#[actix_rt::test]
async fn huge_document_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    let spaces = " ".repeat(1 << 20);
    provider.answer(KEYS, Answer::Document(format!("{{\"keys\":[]{spaces}}}")));
    assert_refused(&fetch(&provider).await, "longer than 262144 bytes");
    // Without a length.
    let chunk = format!("{:x}\r\n{spaces}\r\n", spaces.len());
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    provider.answer(KEYS, Answer::Raw(format!("{head}{chunk}{chunk}").into_bytes()));
    assert_refused(&fetch(&provider).await, "longer than 262144 bytes");
}

#[actix_rt::test]
async fn endless_head_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    provider.answer(KEYS, Answer::Raw(head.into_bytes()));
    assert_refused(&fetch(&provider).await, "HTTP error");
}

#[actix_rt::test]
async fn slow_document_is_given_up() {
    let provider = IdentityProvider::start(&[]).await;
    for slow in [Answer::Silence, Answer::Trickle] {
        provider.answer(KEYS, slow);
        assert_refused(&fetch(&provider).await, "auth.key_sets.timeout");
    }
}

#[actix_rt::test]
async fn document_that_is_no_jwk_set_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    for document in
        ["", "null", "[]", "{}", "{\"keys\":{}}", "<html></html>", "{\"keys\":[1", "{\"keys\":[],\"keys\":[]}"]
    {
        provider.answer(KEYS, Answer::Document(document.to_owned()));
        assert_refused(&fetch(&provider).await, "is not a JWK set");
    }
    provider.answer(KEYS, Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe".to_vec()));
    assert_refused(&fetch(&provider).await, "is not UTF-8");
}

#[actix_rt::test]
async fn deeply_nested_document_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = format!("{{\"keys\":[{}1{}]}}", open.repeat(20_000), close.repeat(20_000));
        provider.answer(KEYS, Answer::Document(nested.clone()));
        let fetched = fetch(&provider).await;
        assert!(fetched.is_err_and(|error| error.len() < 500));
        provider.answer(DISCOVERY, Answer::Document(nested));
        assert_refused(&fetch(&provider).await, "nested too deeply");
        provider.answer(
            DISCOVERY,
            Answer::Document(json!({"issuer": provider.issuer(), "jwks_uri": provider.url(KEYS)}).to_string()),
        );
    }
}

#[actix_rt::test]
async fn discovery_that_leads_to_itself_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    let cyclic = json!({"issuer": provider.issuer(), "jwks_uri": provider.url(DISCOVERY)});
    provider.answer(DISCOVERY, Answer::Document(cyclic.to_string()));
    assert_refused(&fetch(&provider).await, "is not a JWK set");
    assert_eq!(provider.requests(DISCOVERY), 2);
}

#[actix_rt::test]
async fn discovery_of_another_issuer_is_refused() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    for issuer in [format!("{}/", provider.issuer()), "https://accounts.example.com".to_owned()] {
        let foreign = json!({"issuer": issuer, "jwks_uri": provider.url(KEYS)});
        provider.answer(DISCOVERY, Answer::Document(foreign.to_string()));
        assert_refused(&fetch(&provider).await, "names the issuer");
    }
    assert_eq!(provider.requests(KEYS), 0);
}

#[actix_rt::test]
async fn set_with_too_many_keys_is_refused() {
    let key = ProviderKey::ec("e").jwk;
    let keys: Vec<Value> = (0..101)
        .map(|number: u32| {
            let mut key = key.clone();
            key["kid"] = json!(number.to_string());
            key
        })
        .collect();
    assert_set_is_refused(&keys, "auth.key_sets.keys").await;
}

#[actix_rt::test]
async fn two_different_keys_with_one_kid_are_both_refused() {
    let (one, two, other) = (ProviderKey::ec("same"), ProviderKey::ec("same"), ProviderKey::ec("other"));
    assert_set_is_refused(&[one.jwk.clone(), two.jwk.clone()], "ambiguous").await;
    let provider = IdentityProvider::start(&[&one, &two, &other, &other, &one]).await;
    let hub = start_hub_of(&provider, |_| ()).await;
    let now = hub.clock.now();
    for (key, status) in [(&one, 503), (&two, 503), (&other, 101)] {
        assert_eq!(hub.status_of_token(&key.sign(now, claims(&provider, "ann"))).await, status);
    }
}

#[actix_rt::test]
async fn key_for_encryption_verifies_nothing() {
    for (member, value) in [("use", json!("enc")), ("key_ops", json!(["encrypt"]))] {
        let mut key = ProviderKey::ec("e").jwk;
        key[member] = value;
        assert_set_is_refused(&[key], "not for verifying").await;
    }
}

#[actix_rt::test]
async fn secret_in_a_public_set_verifies_nothing() {
    let secret = base64url(b"a secret that everyone can fetch, 32 bytes");
    assert_set_is_refused(&[json!({"kid": "s", "kty": "oct", "alg": "HS256", "k": secret})], "everyone can fetch")
        .await;
}

#[actix_rt::test]
async fn private_key_in_a_public_set_verifies_nothing() {
    let mut key = ProviderKey::ec("e").jwk;
    key["d"] = json!(base64url(&[7; 32]));
    assert_set_is_refused(&[key], "private key").await;
}

#[actix_rt::test]
async fn point_of_small_order_in_a_set_verifies_nothing() {
    let x = base64url(&[&[1_u8][..], &[0; 31]].concat());
    assert_set_is_refused(
        &[json!({"kid": "s", "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x})],
        "small order",
    )
    .await;
}

#[actix_rt::test]
async fn point_off_its_curve_in_a_set_verifies_nothing() {
    let mut key = ProviderKey::ec("e").jwk;
    key["y"] = json!(base64url(&[1; 32]));
    assert_set_is_refused(&[key], "not a point on its curve").await;
}

#[actix_rt::test]
async fn weak_rsa_key_in_a_set_verifies_nothing() {
    let weak = |n: &[u8], e: &str| json!({"kid": "r", "kty": "RSA", "alg": "RS256", "n": base64url(n), "e": e});
    assert_set_is_refused(&[weak(&[0xff; 128], "AQAB")], "1024 bits").await;
    assert_set_is_refused(&[weak(&[0xff; 256], "AQ")], "not a valid RSA key").await;
    assert_set_is_refused(&[weak(&[0xff; 4096], "AQAB")], "32768 bits").await;
}

#[actix_rt::test]
async fn none_and_foreign_algorithms_in_a_set_verify_nothing() {
    for alg in ["none", "HS256", "RS256", "ES384", "RSA-OAEP", ""] {
        let mut key = ProviderKey::ec("e").jwk;
        key["alg"] = json!(alg);
        assert_set_is_refused(&[key], "contains no usable key").await;
    }
}

#[actix_rt::test]
async fn url_in_the_configuration_must_be_https_without_credentials() {
    for (settings, why) in [
        ("jwks_url = \"http://id.example.com/keys\"", "is not https"),
        ("jwks_url = \"https://user:pass@id.example.com/keys\"", "user name or password"),
        ("issuer_url = \"http://id.example.com\"", "is not https"),
        ("issuer_url = \"https://id.example.com/.well-known/openid-configuration\"", "leave out /.well-known"),
    ] {
        let mut config = config();
        config.auth.hmac_secret = Secret::default();
        config.auth.keys.push(toml::from_str::<KeyConfig>(settings).unwrap());
        let errors = Verifier::key_errors(&config);
        assert!(errors.iter().any(|error| error.to_string().contains(why)), "{settings}: {errors:?}");
        assert!(!format!("{errors:?}").contains("user:pass"), "{errors:?}");
    }
}

#[actix_rt::test]
async fn private_networks_of_one_provider_are_closed_to_the_documents_of_another() {
    let inner = IdentityProvider::start(&[&ProviderKey::ec("i")]).await;
    let outer = IdentityProvider::start(&[&ProviderKey::ec("o")]).await;
    let settings = format!("issuer_url = {:?}", inner.issuer());
    let fetched = fetch_with(&inner, &settings, |config| {
        let networks = config.auth.key_sets.private_networks.split_off(0);
        config.auth.keys[0].private_networks = Some(networks);
        let mut of_outer = config.clone();
        outer.configure(&mut of_outer, &format!("issuer_url = {:?}\nuser_prefix = \"o:\"", outer.issuer()));
        config.auth.keys[0].ca.clone_from(&config.auth.key_sets.ca);
        config.auth.key_sets.ca = of_outer.auth.key_sets.ca;
        config.auth.keys.extend(of_outer.auth.keys.pop());
    });
    let error = fetched.await.unwrap_err();
    assert!(error.contains(&outer.issuer()) && error.contains("a private address"), "{error}");
    assert!(
        !error.contains(&inner.issuer()),
        "the other one was fetched with its own networks and authorities: {error}"
    );
    assert_eq!((outer.requests(DISCOVERY), inner.requests(KEYS)), (0, 1));
}

#[actix_rt::test]
async fn authority_of_one_provider_does_not_vouch_for_the_server_of_another() {
    let (one, two) = (IdentityProvider::start(&[]).await, IdentityProvider::start(&[&ProviderKey::ec("t")]).await);
    let settings = format!("issuer_url = {:?}", two.issuer());
    let fetched = fetch_with(&two, &settings, |config| {
        let mut of_one = config.clone();
        one.trust(&mut of_one);
        config.auth.keys[0].ca = of_one.auth.key_sets.ca;
    });
    assert_refused(&fetched.await, "TLS handshake failed");
    assert_eq!(two.requests(DISCOVERY), 0);
}

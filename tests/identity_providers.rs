//! The configuration blocks of docs/identity-providers.md, with key documents and tokens of each provider's shape.

use std::sync::LazyLock;

use serde_json::{Value, json};
use wardcast::config::{KeyConfig, KeyPurpose};

use crate::support::{
    Client, TestHub, http,
    identity_provider::{Answer, IdentityProvider, ProviderKey},
    poll_until, start_hub_with,
};
use crate::{
    backchannel_logout::{self, EVENT},
    revocation::assert_closed_as_revoked,
};

const RECIPES: &str = include_str!("../docs/identity-providers.md");

/// One key for all providers that sign with RSA: generating one takes long.
static RSA: LazyLock<ProviderKey> = LazyLock::new(|| ProviderKey::rsa("rsa-1"));

/// A hub with the block of a provider, whose host is replaced by that of a local server.
struct Recipe {
    hub: TestHub,
    /// The issuer in tokens.
    issuer: String,
    _provider: IdentityProvider,
}

/// The block under the heading of a provider.
fn block(provider: &str) -> KeyConfig {
    let section = RECIPES.split(&format!("\n## {provider}\n")).nth(1).unwrap();
    let block = section.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let mut table: toml::Table = block.parse().unwrap();
    let keys = table["auth"].as_table_mut().unwrap().remove("keys").unwrap();
    keys.as_array().unwrap()[0].clone().try_into().unwrap()
}

impl Recipe {
    /// Starts a hub with the block of a provider that publishes these keys.
    async fn start(name: &str, keys: &[Value]) -> Self {
        let provider = IdentityProvider::start(&[]).await;
        let mut entry = block(name);
        let url = entry.issuer_url.as_ref().or(entry.jwks_url.as_ref()).unwrap().clone();
        let host = url.strip_prefix("https://").unwrap().split('/').next().unwrap().to_owned();
        let local = provider.issuer().strip_prefix("https://").unwrap().to_owned();
        for text in [&mut entry.issuer_url, &mut entry.jwks_url, &mut entry.issuer].into_iter().flatten() {
            *text = text.replace(&host, &local);
        }
        let path = |url: &str| url.strip_prefix(&provider.issuer()).unwrap().to_owned();
        let set = json!({"keys": keys}).to_string();
        let issuer = entry.issuer_url.clone().or(entry.issuer.clone()).unwrap();
        if let Some(jwks_url) = &entry.jwks_url {
            provider.answer(&path(jwks_url), Answer::Document(set));
        } else {
            let discovery = format!("{}/.well-known/openid-configuration", path(&issuer).trim_end_matches('/'));
            let document = json!({
                "issuer": issuer, "jwks_uri": provider.url("/discovered/keys"),
                "authorization_endpoint": provider.url("/authorize"), "response_types_supported": ["code", "id_token"],
                "id_token_signing_alg_values_supported": ["RS256"], "subject_types_supported": ["public"],
            });
            provider.answer(&discovery, Answer::Document(document.to_string()));
            provider.answer("/discovered/keys", Answer::Document(set));
        }
        let hub = start_hub_with(|config| {
            provider.trust(config);
            config.auth.keys.push(entry);
        })
        .await;
        poll_until("keys", async || http::get(hub.address, "/health/ready").send().await.status == 200).await;
        Self { hub, issuer, _provider: provider }
    }

    /// Returns the status of a handshake with a token with these header members and claims. `exp`, `iat` and the like are added.
    async fn status_with(&self, key: &ProviderKey, header: Value, claims: Value) -> u16 {
        let now = self.hub.clock.now();
        let mut all = json!({"iss": self.issuer, "iat": now.unix_seconds() - 1, "exp": now.unix_seconds() + 300});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let token = key.sign_with(header, now, all);
        self.hub.try_handshake(&format!("/socket?token={token}"), &[]).await.status
    }

    /// Opens a connection with an access token with these claims.
    async fn connect(&self, key: &ProviderKey, claims: Value) -> Client {
        let now = self.hub.clock.now();
        let claims = but(&json!({"iss": self.issuer, "iat": now.unix_seconds() - 1}), claims);
        self.hub.connect_to(&format!("/socket?token={}", key.sign(now, claims)), &[]).await
    }

    /// Has the provider report a logout; returns the status. `iss`, `iat`, `jti` and `events` are added.
    async fn log_out(&self, key: &ProviderKey, header: Value, claims: Value) -> u16 {
        let now = self.hub.clock.now();
        let all = json!({"iss": self.issuer, "iat": now.unix_seconds(), "jti": "logout-1", "events": {EVENT: {}}});
        let token = key.sign_with(header, now, but(&all, claims));
        backchannel_logout::send(self.hub.address, &token).await.status
    }

    async fn status(&self, key: &ProviderKey, claims: Value) -> u16 {
        self.status_with(key, json!({}), claims).await
    }
}

/// Returns a JWK with more members, or with others.
fn with(jwk: &Value, more: Value) -> Value {
    let mut jwk = jwk.clone();
    jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    jwk
}

/// Returns claims with others.
fn but(claims: &Value, more: Value) -> Value {
    with(claims, more)
}

const UUID: &str = "f1b52d7e-3c5b-4f0c-9a9e-0d8b8f6b3c11";

#[test]
fn every_recipe_is_for_connection_tokens_only() {
    let recipes = RECIPES.split("\n## ").filter(|section| section.contains("[[auth.keys]]"));
    let names: Vec<&str> = recipes.filter_map(|section| section.lines().next()).collect();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        assert_eq!(block(name).purpose, KeyPurpose::Connection, "{name}");
    }
}

#[actix_rt::test]
async fn claim_channel_of_a_provider_opens_no_channel() {
    let recipe = Recipe::start("Auth0", std::slice::from_ref(&RSA.jwk)).await;
    let now = recipe.hub.clock.now();
    let claims = json!({"iss": recipe.issuer, "sub": "ann", "aud": "https://hub.example.com", "azp": "kU2pQ4vC1"});
    let path = format!("/socket?token={}", RSA.sign(now, claims.clone()));
    let mut client = recipe.hub.connect_to(&path, &[]).await;
    let token = RSA.sign(now, but(&claims, json!({"channel": "$payroll"})));
    let reply = client.subscribe_with("$payroll", json!({"token": token})).await;
    assert_eq!(reply["error"]["code"], 103, "{reply}");
}

#[actix_rt::test]
async fn keycloak_access_tokens_are_accepted_and_its_other_tokens_refused() {
    let keys = [
        with(&RSA.jwk, json!({"x5c": ["MIICmz…"], "x5t": "ZJ", "x5t#S256": "a1"})),
        with(&RSA.jwk, json!({"kid": "enc-1", "alg": "RSA-OAEP", "use": "enc"})),
    ];
    let recipe = Recipe::start("Keycloak", &keys).await;
    let access = json!({
        "auth_time": 1_700_000_000, "jti": format!("onrtac:{UUID}"), "aud": ["hub", "account"], "sub": UUID, "typ": "Bearer",
        "azp": "web-app", "sid": UUID, "acr": "1", "allowed-origins": ["https://app.example.com"],
        "realm_access": {"roles": ["offline_access"]}, "resource_access": {"account": {"roles": ["view-profile"]}},
        "scope": "openid profile email", "email_verified": true, "name": "Ann", "preferred_username": "ann",
    });
    assert_eq!(recipe.status(&RSA, access.clone()).await, 101);
    assert_eq!(recipe.status(&RSA, but(&access, json!({"aud": "hub"}))).await, 101, "a single audience is a string");
    assert_eq!(recipe.status(&RSA, but(&access, json!({"aud": "account"}))).await, 401, "without the mapper");
    assert_eq!(recipe.status(&RSA, but(&access, json!({"azp": "other-app"}))).await, 401, "of another client");
    assert_eq!(recipe.status(&RSA, but(&access, json!({"aud": "web-app", "typ": "ID"}))).await, 401, "ID token");
    assert_eq!(recipe.status_with(&RSA, json!({"typ": "logout+jwt"}), access.clone()).await, 401, "logout token");
    assert_eq!(
        recipe.status_with(&RSA, json!({"kid": "enc-1"}), access).await,
        503,
        "a key for encryption verifies no token"
    );
}

#[actix_rt::test]
async fn auth0_access_tokens_are_accepted_and_its_other_tokens_refused() {
    let keys = [with(&RSA.jwk, json!({"x5c": ["MIIDDTCCAfWg…"], "x5t": "NzUw"}))];
    let recipe = Recipe::start("Auth0", &keys).await;
    assert!(recipe.issuer.ends_with('/'));
    let access = json!({
        "sub": "auth0|65f0c7a1b2c3d4e5f6a7b8c9", "aud": ["https://hub.example.com", "https://shop.eu.auth0.com/userinfo"],
        "scope": "openid profile", "azp": "kU2pQ4vC1", "permissions": ["read:chat"], "https://shop.example.com/roles": ["a"],
    });
    assert_eq!(recipe.status(&RSA, access.clone()).await, 101);
    assert_eq!(
        recipe.status_with(&RSA, json!({"typ": "at+jwt"}), access.clone()).await,
        101,
        "the profile of RFC 9068"
    );
    assert_eq!(
        recipe.status(&RSA, but(&access, json!({"aud": "kU2pQ4vC1", "nonce": "n", "sid": "s"}))).await,
        401,
        "ID token"
    );
    let without_slash = recipe.issuer.trim_end_matches('/');
    assert_eq!(recipe.status(&RSA, but(&access, json!({"iss": without_slash}))).await, 401);
}

#[actix_rt::test]
async fn entra_access_tokens_are_accepted_and_its_other_tokens_refused() {
    // Microsoft's keys have no alg.
    let mut key =
        with(&RSA.jwk, json!({"x5t": "rsa-1", "x5c": ["MIIC/TCC…"], "cloud_instance_name": "microsoftonline.com"}));
    key.as_object_mut().unwrap().remove("alg");
    let recipe = Recipe::start("Microsoft Entra ID", &[key]).await;
    let audience = block("Microsoft Entra ID").audience.unwrap();
    let access = json!({
        "aud": audience, "nbf": 1_700_000_000, "aio": "AUQAu/8", "azp": UUID, "azpacr": "0", "name": "Ann", "oid": UUID,
        "preferred_username": "ann@example.com", "rh": "0.AXoA", "scp": "access", "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
        "tid": "11111111-2222-3333-4444-555555555555", "uti": "fqiBqXLPj0", "ver": "2.0",
    });
    assert_eq!(recipe.status_with(&RSA, json!({"x5t": "rsa-1"}), access.clone()).await, 101);
    let graph = but(&access, json!({"aud": "00000003-0000-0000-c000-000000000000"}));
    assert_eq!(recipe.status(&RSA, graph).await, 401, "for Microsoft Graph");
    let other_tenant = recipe.issuer.replace("11111111", "99999999");
    assert_eq!(recipe.status(&RSA, but(&access, json!({"iss": other_tenant}))).await, 401, "another tenant");
}

#[actix_rt::test]
async fn cognito_access_tokens_without_audience_are_accepted_and_id_tokens_refused() {
    let recipe = Recipe::start("Amazon Cognito", std::slice::from_ref(&RSA.jwk)).await;
    let client = block("Amazon Cognito").clients.unwrap()[0].clone();
    let access = json!({
        "sub": UUID, "cognito:groups": ["admins"], "version": 2, "client_id": client, "origin_jti": UUID, "event_id": UUID,
        "token_use": "access", "scope": "openid profile", "auth_time": 1_700_000_000, "jti": UUID, "username": "ann",
    });
    assert_eq!(recipe.status(&RSA, access.clone()).await, 101);
    assert_eq!(recipe.status(&RSA, but(&access, json!({"client_id": "another"}))).await, 401, "of another app client");
    let mut id = but(&access, json!({"aud": client, "token_use": "id", "cognito:username": "ann"}));
    id.as_object_mut().unwrap().remove("client_id");
    assert_eq!(recipe.status(&RSA, id).await, 401, "ID token");
    let mut none = access.clone();
    none.as_object_mut().unwrap().remove("client_id");
    assert_eq!(recipe.status(&RSA, none).await, 401, "of no client");
}

#[actix_rt::test]
async fn firebase_id_tokens_of_the_project_are_accepted_and_those_of_others_refused() {
    let recipe = Recipe::start("Firebase", &[RSA.jwk.clone(), with(&RSA.jwk, json!({"kid": "next"}))]).await;
    let id = json!({
        "name": "Ann", "picture": "https://example.com/a.png", "aud": "shop-12345", "auth_time": 1_700_000_000,
        "user_id": "Xu4kH2", "sub": "Xu4kH2", "email": "ann@example.com", "email_verified": true,
        "firebase": {"identities": {"email": ["ann@example.com"]}, "sign_in_provider": "password"},
    });
    assert_eq!(recipe.status(&RSA, id.clone()).await, 101);
    assert_eq!(recipe.status_with(&RSA, json!({"kid": "next"}), id.clone()).await, 101);
    assert_eq!(
        recipe.status(&RSA, but(&id, json!({"aud": "other-project"}))).await,
        401,
        "all projects share the keys"
    );
    let other = recipe.issuer.replace("shop-12345", "other-project");
    assert_eq!(recipe.status(&RSA, but(&id, json!({"iss": other}))).await, 401);
}

#[actix_rt::test]
async fn clerk_session_tokens_of_the_origin_are_accepted_and_those_of_others_refused() {
    let recipe = Recipe::start("Clerk", std::slice::from_ref(&RSA.jwk)).await;
    let now = recipe.hub.clock.now().unix_seconds();
    let session = json!({
        "azp": "https://app.example.com", "exp": now + 60, "nbf": now - 10, "fva": [9, -1], "sid": "sess_2abc", "sts": "active",
        "sub": "user_2def", "v": 2, "pla": "u:free", "o": {"id": "org_1", "rol": "admin"},
    });
    let header = json!({"cat": "cl_B7d4PD111AAA"});
    assert_eq!(recipe.status_with(&RSA, header, session.clone()).await, 101);
    assert_eq!(
        recipe.status(&RSA, but(&session, json!({"azp": "https://evil.example.com"}))).await,
        401,
        "another origin"
    );
    assert_eq!(recipe.status(&RSA, but(&session, json!({"azp": null}))).await, 401);
    let mut template = session.clone();
    template.as_object_mut().unwrap().remove("azp");
    assert_eq!(
        recipe.status(&RSA, but(&template, json!({"aud": "convex"}))).await,
        401,
        "a template for another service"
    );
}

#[actix_rt::test]
async fn supabase_tokens_of_users_are_accepted_and_keys_of_the_project_refused() {
    let key = ProviderKey::ec("b81269f1-21d8-4f2e-b719-c2240a840d90");
    let recipe = Recipe::start("Supabase", &[with(&key.jwk, json!({"key_ops": ["verify"], "ext": true}))]).await;
    let user = json!({
        "aal": "aal1", "amr": [{"method": "password", "timestamp": 1_700_000_000}], "app_metadata": {"provider": "email"},
        "aud": "authenticated", "email": "ann@example.com", "phone": "", "is_anonymous": false, "role": "authenticated",
        "session_id": UUID, "sub": UUID, "user_metadata": {"name": "Ann"},
    });
    assert_eq!(recipe.status(&key, user.clone()).await, 101);
    let anon = json!({"iss": "supabase", "ref": "abcdefghijklmnopqrst", "role": "anon"});
    assert_eq!(recipe.status(&key, anon).await, 401, "the key anon has no sub");
    assert_eq!(recipe.status(&key, but(&user, json!({"aud": "other"}))).await, 401);
}

#[actix_rt::test]
async fn keycloak_logout_ends_the_sockets_of_the_session_and_no_others() {
    let recipe = Recipe::start("Keycloak", std::slice::from_ref(&RSA.jwk)).await;
    let access = |sid: &str| json!({"aud": ["hub", "account"], "azp": "web-app", "typ": "Bearer", "sub": UUID, "sid": sid, "jti": format!("onrtac:{sid}")});
    let (mut mine, mut other) = (recipe.connect(&RSA, access("1")).await, recipe.connect(&RSA, access("2")).await);
    let logout = json!({"aud": "web-app", "typ": "Logout", "sub": UUID, "sid": "1"});
    assert_eq!(recipe.log_out(&RSA, json!({"typ": "logout+jwt"}), logout.clone()).await, 200);
    assert_closed_as_revoked(&mut mine).await;
    other.subscribe("news").await;
    // Older releases have the type JWT, and another event beside that of the logout.
    let events = json!({EVENT: {}, "revoke_offline_access": true});
    let older = but(&logout, json!({"sid": "2", "jti": "2", "events": events}));
    assert_eq!(recipe.log_out(&RSA, json!({"typ": "JWT"}), older).await, 200);
    assert_closed_as_revoked(&mut other).await;
}

#[actix_rt::test]
async fn auth0_logout_ends_all_sockets_of_the_user_since_its_access_tokens_name_no_session() {
    let recipe = Recipe::start("Auth0", std::slice::from_ref(&RSA.jwk)).await;
    let access =
        |sub: &str| json!({"sub": sub, "aud": ["https://hub.example.com"], "azp": "kU2pQ4vC1", "scope": "openid"});
    let (mut ann, mut again) =
        (recipe.connect(&RSA, access("auth0|1")).await, recipe.connect(&RSA, access("auth0|1")).await);
    let mut bob = recipe.connect(&RSA, access("auth0|2")).await;
    let logout = json!({"aud": "kU2pQ4vC1", "sub": "auth0|1", "sid": "J3b0"});
    assert_eq!(recipe.log_out(&RSA, json!({"typ": "logout+jwt"}), but(&logout, json!({"aud": "other"}))).await, 400);
    assert_eq!(recipe.log_out(&RSA, json!({"typ": "logout+jwt"}), logout).await, 200);
    for ended in [&mut ann, &mut again] {
        assert_closed_as_revoked(ended).await;
    }
    bob.subscribe("news").await;
}

#[actix_rt::test]
async fn authentik_access_tokens_are_accepted_and_a_logout_ends_the_sockets_of_its_session() {
    let recipe = Recipe::start("authentik", std::slice::from_ref(&RSA.jwk)).await;
    assert!(recipe.issuer.ends_with("/application/o/shop/"));
    let client = block("authentik").clients.unwrap()[0].clone();
    let sid = |text: &str| text.repeat(64);
    let access = |session: &str| {
        json!({
            "sub": "9a1c", "aud": client, "azp": client, "uid": "u1", "sid": sid(session), "acr": "goauthentik.io/providers/oauth2/default",
            "amr": ["pwd"], "auth_time": 1_700_000_000, "preferred_username": "ann", "groups": ["users"], "nickname": "ann",
        })
    };
    let (mut mine, mut other) = (recipe.connect(&RSA, access("a")).await, recipe.connect(&RSA, access("b")).await);
    let mut id = access("a");
    id.as_object_mut().unwrap().remove("azp");
    assert_eq!(recipe.status(&RSA, id).await, 401, "ID token");
    let logout = json!({"aud": client, "sub": "9a1c", "sid": sid("a")});
    assert_eq!(recipe.status(&RSA, but(&logout, json!({"events": {EVENT: {}}}))).await, 401, "logout token");
    assert_eq!(recipe.log_out(&RSA, json!({"typ": "JWT"}), logout).await, 200);
    assert_closed_as_revoked(&mut mine).await;
    other.subscribe("news").await;
}

#[actix_rt::test]
async fn wso2_access_tokens_are_accepted_and_a_logout_ends_all_sockets_of_the_user() {
    let recipe = Recipe::start("WSO2 Identity Server", std::slice::from_ref(&RSA.jwk)).await;
    let client = block("WSO2 Identity Server").clients.unwrap()[0].clone();
    let access = |sub: &str| {
        json!({
            "sub": sub, "aut": "APPLICATION_USER", "aud": client, "azp": client, "client_id": client, "scope": "openid",
            "nbf": 1_700_000_000, "org_id": "10084a8d", "jti": UUID,
        })
    };
    let (mut ann, mut bob) = (recipe.connect(&RSA, access("ann")).await, recipe.connect(&RSA, access("bob")).await);
    assert_eq!(recipe.status_with(&RSA, json!({"typ": "at+jwt"}), access("ann")).await, 101);
    let mut id = access("ann");
    for name in ["azp", "client_id"] {
        id.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(recipe.status(&RSA, but(&id, json!({"isk": "1", "sid": "s", "nonce": "n"}))).await, 401, "ID token");
    let logout = json!({"aud": [client], "sub": "ann", "sid": "s"});
    assert_eq!(recipe.log_out(&RSA, json!({"typ": null}), logout.clone()).await, 400, "a type that is no text");
    assert_eq!(recipe.log_out(&RSA, json!({"typ": "JWT"}), logout).await, 200);
    assert_closed_as_revoked(&mut ann).await;
    bob.subscribe("news").await;
}

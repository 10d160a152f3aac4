//! `forged`: handshakes with tokens that another key has signed, as fast as the hub refuses them, beside sessions that stay.

use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::{
    ForgedArgs, SECOND, open_hubs,
    options::ForgedAlgorithm,
    publisher::Publisher,
    sessions::{SessionPlan, Sessions},
    staying::StayingSessions,
};
use crate::clients::{ClientBehavior, ClientOptions, Clients};
use crate::error::{Context, Result};
use crate::hub_under_test::random_secret;
use crate::run::{Run, SETTLE_TIME};
use crate::{clock, measurement::ResourceMeter, process::resident_bytes};

/// How many forged tokens there are, which the handshakes use in turns.
const TOKENS: usize = 1000;

/// Runs `forged`.
pub(crate) fn run(args: &ForgedArgs, run: &mut Run) -> Result<()> {
    let keys = match args.algorithm {
        ForgedAlgorithm::Hs256 => None,
        ForgedAlgorithm::Es256 => Some(format!("auth.keys={}", json!([es256_key()?.1]))),
    };
    let settings: Vec<&str> = keys.iter().map(String::as_str).collect();
    let publications = (args.size, args.rate);
    let hub = open_hubs((&args.hub, &args.api), run, &settings, 1, (args.others, publications))?;
    let expires_at = clock::unix_nanos() / SECOND + 3600;
    let plan = |number| SessionPlan { user: format!("bench-{number}"), expires_at, end: None };
    let staying = StayingSessions::start(Sessions::open(&hub, run, 0..args.others as usize, 0, plan)?)?;
    let publisher = Publisher::start(&hub, args.rate, args.size)?;
    let options = hub.client_options(ClientBehavior::ConnectAndClose, args.handshakes as usize, &args.clients)?;
    // Those who forge tokens have machines of their own, and take no processor time from the hub.
    let options = ClientOptions { tokens: forged_tokens(args.algorithm)?, has_lower_priority: true, ..options };
    staying.wait_for_publications(run);
    run.terminal.wait(args.margin());

    let resident_before = resident_bytes(&run.pids)?;
    let (meter, began_at, start) = (ResourceMeter::start(run)?, clock::now(), Instant::now());
    let clients = Clients::open(options, run)?;
    let (seconds, ended_at) = (start.elapsed().as_secs_f64(), clock::now());
    let (server, _) = meter.finish(run)?;
    let shared = clients.close()?;
    run.terminal.wait(SETTLE_TIME);
    let memory = |bytes: u64| bytes as f64 / 1024.0;
    run.report.set_number("server_rss_before_kib", memory(resident_before));
    run.report.set_number("server_rss_after_kib", memory(resident_bytes(&run.pids)?));
    let (refused, connected) = (shared.failed.get(), shared.opened.get());
    run.report.set("connected", connected);
    run.report.set_number("opening_seconds", seconds);
    run.report.set_number("refused_per_second", refused as f64 / seconds);
    if let Some(server) = server {
        let each = server.total as f64 / 1000.0 / (refused + connected).max(1) as f64;
        run.report.set_number("server_cpu_us_per_connect", each);
    }
    run.report.set_counts("failures", &shared.results.lock().failed);
    run.report.set("publications", publisher.stop()?);
    staying.finish((began_at, ended_at), run)
}

/// A new ES256 key: for signing, and as an entry of `auth.keys`.
fn es256_key() -> Result<(EncodingKey, serde_json::Value)> {
    const WHAT: &str = "making a key";
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).context(WHAT)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).context(WHAT)?;
    // An uncompressed point: a byte that says so, x and y.
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
    let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y}).to_string();
    // Without an audience the hub would warn.
    let entry = json!({"id": "bench", "algorithm": "ES256", "jwk": jwk, "audience": "bench"});
    Ok((EncodingKey::from_ec_der(pkcs8.as_ref()), entry))
}

/// Tokens that are right but for their key.
fn forged_tokens(algorithm: ForgedAlgorithm) -> Result<Vec<String>> {
    let (header, key) = match algorithm {
        ForgedAlgorithm::Hs256 => (Header::new(Algorithm::HS256), EncodingKey::from_secret(random_secret().as_bytes())),
        ForgedAlgorithm::Es256 => {
            (Header { kid: Some("bench".to_owned()), ..Header::new(Algorithm::ES256) }, es256_key()?.0)
        }
    };
    let now = clock::unix_seconds();
    let sign = |number| {
        let claims = json!({"sub": format!("bench-{number}"), "iat": now, "exp": now + 3600});
        encode(&header, &claims, &key).context("signing a token")
    };
    (0..TOKENS).map(sign).collect()
}

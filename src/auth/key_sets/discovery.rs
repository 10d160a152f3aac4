//! The configuration document of an OpenID provider (OpenID Connect Discovery 1.0 §4): its URL, and the URL of the keys in it.
//! Pure.

use serde::Deserialize;

use super::client::HttpsUrl;
use crate::json::{JsonObject, is_too_deep};

/// Returns the URL of the configuration of this issuer.
///
/// # Errors
/// What is wrong with the issuer.
pub(super) fn url_of(issuer: &str) -> Result<HttpsUrl, String> {
    if issuer.contains("/.well-known/") {
        return Err("is the URL of the provider's configuration; leave out /.well-known and what follows it".to_owned());
    }
    if issuer.contains('?') {
        return Err("has a query, which an issuer cannot have; write the iss of the provider's tokens".to_owned());
    }
    HttpsUrl::parse(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))
}

/// Returns the URL of the keys in the configuration of an issuer.
///
/// # Errors
/// What is wrong with the document. Its issuer has to be exactly the configured one (§4.3): otherwise the keys of one issuer would
/// verify the tokens of another.
pub(super) fn jwks_url(document: &str, issuer: &str) -> Result<HttpsUrl, String> {
    #[derive(Deserialize)]
    struct ProviderConfiguration {
        issuer: String,
        jwks_uri: String,
    }
    if is_too_deep(document.as_bytes()) {
        return Err("is nested too deeply".to_owned());
    }
    let parsed = serde_json::from_str::<JsonObject<ProviderConfiguration>>(document);
    let JsonObject(configuration) = parsed.map_err(|_| {
        "is not the configuration of an OpenID provider: a JSON object with issuer and jwks_uri, each once".to_owned()
    })?;
    if configuration.issuer != issuer {
        let named = configuration.issuer.chars().take(MAX_QUOTED).collect::<String>();
        return Err(format!(
            "names the issuer {named:?}, which must be issuer_url, character by character, a slash at the end included"
        ));
    }
    HttpsUrl::parse(&configuration.jwks_uri).map_err(|problem| format!("has a jwks_uri that {problem}"))
}

/// Maximum number of characters of a document that an error quotes.
const MAX_QUOTED: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://id.example.com/";

    #[test]
    fn configuration_is_below_the_issuer_with_or_without_a_slash() {
        for (issuer, url) in [
            ("https://id.example.com", "https://id.example.com/.well-known/openid-configuration"),
            ("https://id.example.com/", "https://id.example.com/.well-known/openid-configuration"),
            (
                "https://id.example.com:8443/realms/a",
                "https://id.example.com:8443/realms/a/.well-known/openid-configuration",
            ),
        ] {
            assert_eq!(url_of(issuer).unwrap().to_string(), url);
        }
        for wrong in
            ["http://id.example.com", "id.example.com", "https://a/?x", "https://a/.well-known/openid-configuration"]
        {
            assert!(url_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn configuration_of_another_issuer_is_refused() {
        let document = |issuer: &str| format!(r#"{{"issuer":"{issuer}","jwks_uri":"https://keys.example.com/k?a=b"}}"#);
        assert_eq!(jwks_url(&document(ISSUER), ISSUER).unwrap().to_string(), "https://keys.example.com/k");
        for other in ["https://id.example.com", "https://ID.example.com/", "https://evil.example.com/", ""] {
            assert!(jwks_url(&document(other), ISSUER).unwrap_err().contains("names the issuer"), "{other}");
        }
    }

    #[test]
    fn configuration_with_duplicate_or_plain_http_members_is_refused() {
        for wrong in [
            r#"{"issuer":"https://id.example.com/"}"#,
            r#"{"issuer":"https://evil/","issuer":"https://id.example.com/","jwks_uri":"https://a/"}"#,
            r#"{"issuer":"https://id.example.com/","jwks_uri":"http://a/"}"#,
            r#"{"issuer":"https://id.example.com/","jwks_uri":"https://u:p@a/"}"#,
            r#"{"issuer":"https://id.example.com/","jwks_uri":["https://a/"]}"#,
            r#"["https://id.example.com/","https://a/"]"#,
            r#"{"keys":[]}"#,
            "",
        ] {
            assert!(jwks_url(wrong, ISSUER).is_err(), "{wrong}");
        }
        let deep =
            format!(r#"{{"issuer":"https://id.example.com/","jwks_uri":"https://a/","x":{}}}"#, "[".repeat(10_000));
        assert!(jwks_url(&deep, ISSUER).is_err());
    }
}

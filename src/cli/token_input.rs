//! Finds the token in what is pasted into `check-token`: the token itself, a header or a cookie as a browser or curl prints it, a
//! URL, or JSON. The token is not changed, so that the verifier judges it as a hub would.

use crate::auth::credentials::{FirstMessage, parse_first_message, strip_bearer};

/// What a token ends and begins at. A part of a JWT has none of these.
const SEPARATORS: [char; 13] = ['"', '\'', '`', ',', ';', '&', '?', '{', '}', '<', '>', '(', ')'];

/// Returns the only token in the text, or the whole text without a header name, scheme and quotes if nothing in it looks like
/// a token.
///
/// # Errors
/// If there are several tokens, or none.
pub(super) fn find_token(text: &str) -> Result<&str, String> {
    let words = text.split(|c: char| c.is_whitespace() || SEPARATORS.contains(&c));
    let mut tokens: Vec<&str> = words.map(without_name).filter(|word| looks_like_token(word)).collect();
    tokens.dedup();
    match tokens.as_slice() {
        [token] => Ok(token),
        [] => whole_text(text.trim()),
        _ => Err("standard input contains several tokens; send one".to_owned()),
    }
}

/// Returns the value of `name=value`, `name:value` and `bearer.value`.
fn without_name(word: &str) -> &str {
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let value = word.split_once(['=', ':']).filter(|(name, _)| is_name(name)).map_or(word, |(_, value)| value);
    value.strip_prefix("bearer.").unwrap_or(value)
}

/// Returns whether a word is three parts of which the first can be a JSON object in base64. The others may be damaged.
fn looks_like_token(word: &str) -> bool {
    word.starts_with("ey") && word.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn whole_text(text: &str) -> Result<&str, String> {
    let token = match parse_first_message(text) {
        FirstMessage::Token(token) => token,
        _ => strip_bearer(text).unwrap_or(text),
    };
    let token = token.trim_matches(['"', '\'', ' ']);
    if token.is_empty() {
        return Err("standard input contains no token; usage: wardcast check-token < token.txt".to_owned());
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl_-4";

    #[test]
    fn a_token_is_found_in_headers_of_any_case_urls_cookies_and_json() {
        for text in [
            "TOKEN\n",
            "\"TOKEN\"",
            "authorization: Bearer TOKEN",
            "AUTHORIZATION:bearer TOKEN",
            "> authorization: Bearer TOKEN\r\n> accept: */*",
            "curl -H 'Authorization: Bearer TOKEN' http://localhost:8000/",
            "Cookie: a=b.c.d; wardcast_token=TOKEN; theme=dark",
            "set-cookie: wardcast_token=TOKEN; HttpOnly; Secure",
            "sec-websocket-protocol: wardcast.v1, TOKEN",
            "Sec-WebSocket-Protocol: centrifuge-json, bearer.TOKEN",
            "GET /connection/websocket?a=1&token=TOKEN&b=2 HTTP/1.1",
            "wss://hub.example.com/socket?access_token=TOKEN",
            "{\"access_token\":\"TOKEN\",\"token_type\":\"Bearer\"}",
            "{\"id\":1,\"connect\":{\"token\":\"TOKEN\"}}",
            "token=TOKEN",
            "TOKEN\nTOKEN\n",
        ] {
            let text = text.replace("TOKEN", TOKEN);
            assert_eq!(find_token(&text).as_deref(), Ok(TOKEN), "{text}");
        }
    }

    #[test]
    fn a_damaged_token_is_not_repaired() {
        let padded = format!("{TOKEN}=");
        for text in [padded.clone(), format!("token={padded}"), format!("Authorization: Bearer {padded}")] {
            assert_eq!(find_token(&text).as_deref(), Ok(padded.as_str()), "{text}");
        }
        let (one, other) = TOKEN.split_at(40);
        let broken = format!("{one}\n{other}");
        assert_ne!(find_token(&broken).as_deref(), Ok(TOKEN));
        assert_eq!(find_token("hello").as_deref(), Ok("hello"));
    }

    #[test]
    fn several_tokens_and_none_are_errors() {
        assert!(find_token(&format!("{TOKEN} {TOKEN}x")).is_err_and(|error| error.contains("several tokens")));
        for nothing in ["", " \n", "\"\"", "''"] {
            assert!(find_token(nothing).is_err_and(|error| error.contains("no token")), "{nothing:?}");
        }
    }
}

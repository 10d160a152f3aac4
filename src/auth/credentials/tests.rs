//! Attacks on credentials: tokens in unexpected places, and values that only look like tokens.

use proptest::prelude::*;

use super::*;

const ALL: [Door; 7] =
    [Door::Query, Door::Ticket, Door::Subprotocol, Door::Message, Door::Connect, Door::Cookie, Door::Header];
const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
const COOKIE: &str = "wardcast_token";

fn find<'a>(sources: CredentialSources<'_, 'a>) -> Result<HandshakeCredentials<'a>, CredentialError> {
    find_credentials(sources, &ALL, COOKIE)
}

fn token<'a>(query: &'a str, protocols: &'a [&'a str]) -> Result<Option<Credential<'a>>, CredentialError> {
    find(CredentialSources { query, protocols, ..Default::default() }).map(|found| found.credential)
}

fn header<'a>(values: &[&'a str]) -> Result<Option<Credential<'a>>, CredentialError> {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    find(CredentialSources { authorization: &values, ..Default::default() }).map(|found| found.credential)
}

fn cookies<'a>(values: &[&'a [u8]]) -> Result<Option<Credential<'a>>, CredentialError> {
    find(CredentialSources { cookies: values, ..Default::default() }).map(|found| found.credential)
}

fn is_token(token: &str) -> Result<Option<Credential<'_>>, CredentialError> {
    Ok(Some(Credential::Token(token.into())))
}

#[test]
fn three_query_parameters_carry_a_token() {
    for query in [
        format!("token={JWT}"),
        format!("a=b&access_token={JWT}"),
        format!("authorization=Bearer%20{JWT}"),
        format!("token=Bearer+{JWT}"),
        format!("access_token=bearer++{JWT}+"),
    ] {
        assert_eq!(token(&query, &[]), is_token(JWT), "{query}");
    }
    assert_eq!(token("token=", &[]), is_token(""), "an empty token is a token");
    assert_eq!(token("token=a%2Bb+c", &[]), is_token("a+b c"));
    assert_eq!(token("", &[]), Ok(None));
}

#[test]
fn ambiguous_or_badly_encoded_queries_are_refused() {
    assert_eq!(token("token=a&token=b", &[]), Err(CredentialError::MultipleTokens));
    assert_eq!(token("token=a&access_token=a", &[]), Err(CredentialError::MultipleTokens));
    assert_eq!(token("token=a", &[JWT]), Err(CredentialError::MultipleTokens));
    assert_eq!(token("token=a&tok%65n=b", &[]), Err(CredentialError::MultipleTokens), "the same name, encoded");
    assert_eq!(token("%74icket=a&token=b", &[]), Err(CredentialError::MultipleTokens));
    for query in ["token=%", "token=%zz", "token=a%2", "token=%ff"] {
        assert_eq!(token(query, &[]), Err(CredentialError::QueryEncoding), "{query}");
    }
}

#[test]
fn a_known_subprotocol_is_answered_and_a_token_only_when_offered_alone() {
    let answer = |protocols: &[&'static str]| {
        find(CredentialSources { protocols, ..Default::default() }).unwrap().subprotocol.unwrap_or("none").to_owned()
    };
    assert_eq!(answer(&["wardcast.v1", JWT]), "wardcast.v1");
    assert_eq!(answer(&[JWT, "centrifuge-json"]), "centrifuge-json");
    assert_eq!(answer(&[JWT]), JWT);
    assert_eq!(answer(&["bearer.opaque"]), "bearer.opaque");
    assert_eq!(answer(&["chat"]), "none");
    assert_eq!(token("", &["wardcast.v1", "bearer.opaque"]), is_token("opaque"));
    assert_eq!(token("", &["v1.proto.example"]), Ok(None), "a name with dots is no token");
    assert_eq!(answer(&[PROTOBUF_SUBPROTOCOL, JWT]), PROTOBUF_SUBPROTOCOL);
    assert_eq!(
        answer(&[JSON_SUBPROTOCOL, PROTOBUF_SUBPROTOCOL]),
        JSON_SUBPROTOCOL,
        "the first one that the client offers"
    );
}

#[test]
fn a_token_without_a_subprotocol_that_can_be_answered_is_refused() {
    for offer in [&["bearer", JWT][..], &[JWT, "chat"], &["chat", "bearer.opaque"], &["Wardcast.v1", JWT]] {
        assert_eq!(token("", offer), Err(CredentialError::MissingMarker), "{offer:?}");
    }
    assert_eq!(token("", &["bearer", "wardcast.v1", JWT]), is_token(JWT));
    assert!(CredentialError::MissingMarker.to_string().contains("wardcast.v1"));
    let disabled = CredentialSources { protocols: &["bearer", JWT], ..Default::default() };
    assert_eq!(find_credentials(disabled, &[Door::Message], COOKIE), Ok(HandshakeCredentials::default()));
}

#[test]
fn a_lone_unknown_entry_beside_a_marker_is_a_token() {
    for marker in SUBPROTOCOLS {
        for entry in ["undefined", "null", "NaN", "a.b", "a.b.c.d.e"] {
            assert_eq!(token("", &[marker, entry]), is_token(entry), "{marker} {entry}");
            assert_eq!(token("", &[entry, marker]), is_token(entry), "{marker} {entry}");
        }
        assert_eq!(token("", &[marker, "undefined", "null"]), Ok(None), "two protocols of others");
        assert_eq!(token("token=a", &[marker, "chat"]), is_token("a"), "the token is elsewhere");
        assert_eq!(token("", &[marker, "chat", JWT]), is_token(JWT));
    }
    assert_eq!(token("", &["undefined"]), Ok(None));
    let disabled = CredentialSources { protocols: &["wardcast.v1", "undefined"], ..Default::default() };
    assert_eq!(find_credentials(disabled, &[Door::Message], COOKIE).unwrap().credential, None);
    let cookie = CredentialSources { cookies: &[b"wardcast_token=T"], ..disabled };
    assert_eq!(find(cookie).unwrap().credential, Some(Credential::Token("undefined".into())));
}

#[test]
fn a_ticket_counts_as_an_explicit_credential() {
    let found = |query| find(CredentialSources { query, ..Default::default() });
    assert_eq!(found("a=b&ticket=x%2Dy").unwrap().credential, Some(Credential::Ticket("x-y".into())));
    for query in ["ticket=a&ticket=a", "ticket=a&token=b", "ticket=a&access_token="] {
        assert_eq!(found(query), Err(CredentialError::MultipleTokens), "{query}");
    }
    assert_eq!(found("ticket=%zz"), Err(CredentialError::QueryEncoding));
}

#[test]
fn exactly_one_bearer_authorization_header_is_accepted_in_any_letter_case() {
    for value in ["Bearer T", "bearer T", "BEARER    T  ", "  Bearer T"] {
        assert_eq!(header(&[value]), is_token("T"), "{value}");
    }
    for values in [&["Basic T"][..], &["Bearer"], &[""], &["T"], &["Bearer T", "Bearer T"], &["Basic T", "Bearer T"]] {
        assert_eq!(header(values), Err(CredentialError::AuthorizationHeader), "{values:?}");
    }
    let twice = CredentialSources { query: "token=a", authorization: &[b"Bearer T"], ..Default::default() };
    assert_eq!(find(twice), Err(CredentialError::MultipleTokens));
}

#[test]
fn the_cookie_is_found_by_its_exact_name_and_a_duplicate_is_refused() {
    for (value, found) in [
        (&b"a=b; wardcast_token=T; c=d"[..], Some("T")),
        (b"wardcast_token=\"T\"", Some("T")),
        (b"wardcast_token = T", Some("T")),
        (b"wardcast_token=a=b", Some("a=b")),
        (b"wardcast_token=", Some("")),
        (b"wardcast_token=\xff", Some("")),
        (b"xwardcast_token=T; wardcast_tokens=T; Wardcast_Token=T; wardcast_token", None),
        (b"", None),
        (b";;=;", None),
    ] {
        assert_eq!(cookies(&[value]), Ok(found.map(Credential::Cookie)), "{value:?}");
    }
    assert_eq!(cookies(&[b"wardcast_token=a; wardcast_token=a"]), Err(CredentialError::MultipleCookies));
    assert_eq!(cookies(&[b"wardcast_token=a", b"wardcast_token=b"]), Err(CredentialError::MultipleCookies));
}

#[test]
fn an_explicit_token_takes_precedence_over_the_cookie() {
    let both =
        CredentialSources { query: "token=a", cookies: &[b"wardcast_token=b; wardcast_token=c"], ..Default::default() };
    assert_eq!(find(both).unwrap().credential, Some(Credential::Token("a".into())));
}

#[test]
fn a_disabled_way_to_send_a_token_is_ignored() {
    let everything = CredentialSources {
        query: "token=a&ticket=b&token=%zz",
        protocols: &[JWT],
        authorization: &[b"Basic x", b"Bearer y"],
        cookies: &[b"wardcast_token=c; wardcast_token=d"],
    };
    assert_eq!(find_credentials(everything, &[Door::Message], COOKIE), Ok(HandshakeCredentials::default()));
    let only = |door| {
        find_credentials(CredentialSources { query: "token=a&ticket=b", ..everything }, &[door], COOKIE)
            .unwrap()
            .credential
    };
    assert_eq!(only(Door::Query), Some(Credential::Token("a".into())));
    assert_eq!(only(Door::Ticket), Some(Credential::Ticket("b".into())));
    assert_eq!(only(Door::Subprotocol), Some(Credential::Token(JWT.into())));
}

#[test]
fn a_token_sent_in_a_disabled_way_is_noticed() {
    let disabled = |sources| disabled_door(sources, &[Door::Message, Door::Connect], COOKIE);
    let sources = CredentialSources::default();
    assert_eq!(disabled(sources), None);
    assert_eq!(disabled(CredentialSources { protocols: &[JSON_SUBPROTOCOL, PROTOBUF_SUBPROTOCOL], ..sources }), None);
    for (sources, door) in [
        (CredentialSources { query: "token=a", ..sources }, Door::Query),
        (CredentialSources { query: "a=b&ticket=b", ..sources }, Door::Ticket),
        (CredentialSources { protocols: &["wardcast.v1", JWT], ..sources }, Door::Subprotocol),
        (CredentialSources { protocols: &["chat", JWT], ..sources }, Door::Subprotocol),
        (CredentialSources { authorization: &[b"Basic x"], ..sources }, Door::Header),
        (CredentialSources { cookies: &[b"wardcast_token=T"], ..sources }, Door::Cookie),
    ] {
        assert_eq!(disabled(sources), Some(door));
        assert_eq!(disabled_door(sources, &ALL, COOKIE), None);
    }
}

#[test]
fn debug_output_never_contains_a_credential() {
    let (query, protocols) = (format!("token={JWT}"), [JWT]);
    let ticket = format!("ticket={JWT}");
    let cookie = format!("{COOKIE}={JWT}");
    let text = format!("Authorization: Bearer {JWT}");
    let mut printed = format!("{:?}", parse_first_message(&text));
    for sources in [
        CredentialSources { query: &query, ..Default::default() },
        CredentialSources { query: &ticket, ..Default::default() },
        CredentialSources { protocols: &protocols, ..Default::default() },
        CredentialSources { cookies: &[cookie.as_bytes()], ..Default::default() },
    ] {
        printed += &format!("{:?}", find(sources).unwrap());
    }
    assert!(printed.contains("Token") && printed.contains("Ticket") && !printed.contains(JWT), "{printed}");
}

#[test]
fn the_first_message_is_parsed_like_an_http_header() {
    for text in ["Authorization: Bearer T", "authorization:bearer T", "AUTHORIZATION:   BEARER   T  "] {
        assert_eq!(parse_first_message(text), FirstMessage::Token("T"), "{text}");
    }
    assert_eq!(parse_first_message("Authorization: Basic T"), FirstMessage::OtherScheme);
    assert_eq!(parse_first_message("Authorization: T"), FirstMessage::OtherScheme);
    assert_eq!(parse_first_message(r#"{"id":1,"connect":{}}"#), FirstMessage::Other);
    assert_eq!(parse_first_message("hello"), FirstMessage::Other);
}

proptest! {
    /// A token is answered only if the client offered nothing else.
    #[test]
    fn the_answered_subprotocol_is_known_or_the_only_one_offered(
        query in "(token|ticket|authorization|x|&|=|%|%2|%41|%00|Bearer| |é){0,12}",
        protocols in proptest::collection::vec(
            prop_oneof![
                Just(JWT.to_owned()), Just("wardcast.v1".to_owned()), Just("centrifuge-json".to_owned()),
                "(bearer\\.|ey|\\.|[a-z]){0,6}",
            ],
            0..4,
        ),
        authorization in proptest::collection::vec("(Bearer|basic| |\\t|T|é){0,5}", 0..3),
        cookies in proptest::collection::vec("(wardcast_token|=|;| |\"|T|é){0,8}", 0..3),
    ) {
        let protocols: Vec<&str> = protocols.iter().map(String::as_str).collect();
        let authorization: Vec<&[u8]> = authorization.iter().map(|value| value.as_bytes()).collect();
        let cookies: Vec<&[u8]> = cookies.iter().map(|value| value.as_bytes()).collect();
        let sources =
            CredentialSources { query: &query, protocols: &protocols, authorization: &authorization, cookies: &cookies };
        let answer = find(sources).ok().and_then(|credentials| credentials.subprotocol);
        prop_assert!(answer.is_none_or(|answer| SUBPROTOCOLS.contains(&answer) || protocols == [answer]));
    }
}

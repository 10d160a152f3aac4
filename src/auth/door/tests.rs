//! Attacks on the doors: where a token stands, and what only looks like one.

use proptest::prelude::*;

use super::*;

const ALL: [Door; 7] =
    [Door::Query, Door::Ticket, Door::Subprotocol, Door::Message, Door::Connect, Door::Cookie, Door::Header];
const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
const COOKIE: &str = "wardcast_token";

fn token<'a>(query: &'a str, protocols: &'a [&'a str]) -> Result<Option<String>, Misuse> {
    let found = find(Request { query, protocols, ..Request::default() }, &ALL, COOKIE)?.credential;
    Ok(found.map(|credential| match credential {
        Credential::Token(token) => token.into_owned(),
        other => panic!("{other:?}"),
    }))
}

fn header(values: &[&str]) -> Result<Option<Credential<'static>>, Misuse> {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    let found = find(Request { authorization: &values, ..Request::default() }, &ALL, COOKIE)?;
    Ok(found.credential.map(|credential| match credential {
        Credential::Token(token) => Credential::Token(Cow::Owned(token.into_owned())),
        other => panic!("{other:?}"),
    }))
}

fn cookies(values: &[&[u8]]) -> Result<Option<String>, Misuse> {
    let found = find(Request { cookies: values, ..Request::default() }, &ALL, COOKIE)?.credential;
    Ok(found.map(|credential| match credential {
        Credential::Cookie(token) => token.to_owned(),
        other => panic!("{other:?}"),
    }))
}

#[test]
fn the_query_door_knows_three_names() {
    for query in [format!("token={JWT}"), format!("a=b&access_token={JWT}"), format!("authorization=Bearer%20{JWT}")] {
        assert_eq!(token(&query, &[]).unwrap().as_deref(), Some(JWT), "{query}");
    }
    assert_eq!(token("token=", &[]).unwrap().as_deref(), Some(""), "empty is a bad token, not none");
    assert_eq!(token("", &[]).unwrap(), None);
}

#[test]
fn queries_that_cannot_be_meant_are_refused() {
    assert_eq!(token("token=a&token=b", &[]), Err(Misuse::TwoTokens));
    assert_eq!(token("token=a&access_token=a", &[]), Err(Misuse::TwoTokens));
    assert_eq!(token("token=a", &[JWT]), Err(Misuse::TwoTokens));
    for query in ["token=%", "token=%zz", "token=a%2", "token=%ff"] {
        assert_eq!(token(query, &[]), Err(Misuse::Encoding), "{query}");
    }
}

#[test]
fn a_marker_is_answered_and_a_token_only_when_it_stands_alone() {
    let answer = |protocols: &[&'static str]| {
        find(Request { protocols, ..Request::default() }, &ALL, COOKIE).unwrap().answer.unwrap_or("none").to_owned()
    };
    assert_eq!(answer(&["wardcast.v1", JWT]), "wardcast.v1");
    assert_eq!(answer(&[JWT, "centrifuge-json"]), "centrifuge-json");
    assert_eq!(answer(&[JWT]), JWT);
    assert_eq!(answer(&["bearer.opaque"]), "bearer.opaque");
    assert_eq!(answer(&["chat", JWT]), "none");
    assert_eq!(answer(&["chat"]), "none");
    assert_eq!(token("", &["wardcast.v1", "bearer.opaque"]).unwrap().as_deref(), Some("opaque"));
    assert_eq!(token("", &["v1.proto.example"]).unwrap(), None, "a dotted name is no token");
    assert_eq!(answer(&[PROTOBUF, JWT]), PROTOBUF);
    assert_eq!(answer(&[JSON, PROTOBUF]), JSON, "what the client would like best");
}

#[test]
fn a_ticket_is_one_of_the_explicit_doors() {
    let found = |query| find(Request { query, ..Request::default() }, &ALL, COOKIE);
    assert_eq!(found("a=b&ticket=x%2Dy").unwrap().credential, Some(Credential::Ticket("x-y".into())));
    for query in ["ticket=a&ticket=a", "ticket=a&token=b", "ticket=a&access_token="] {
        assert_eq!(found(query), Err(Misuse::TwoTokens), "{query}");
    }
    assert_eq!(found("ticket=%zz"), Err(Misuse::Encoding));
}

#[test]
fn one_header_of_the_scheme_bearer_is_understood_however_it_is_spelled() {
    for value in ["Bearer T", "bearer T", "BEARER    T  ", "  Bearer T"] {
        assert_eq!(header(&[value]), Ok(Some(Credential::Token("T".into()))), "{value}");
    }
    for values in [&["Basic T"][..], &["Bearer"], &[""], &["T"], &["Bearer T", "Bearer T"], &["Basic T", "Bearer T"]] {
        assert_eq!(header(values), Err(Misuse::Authorization), "{values:?}");
    }
    let twice = Request { query: "token=a", authorization: &[b"Bearer T"], ..Request::default() };
    assert_eq!(find(twice, &ALL, COOKIE), Err(Misuse::TwoTokens));
}

#[test]
fn the_cookie_is_found_among_others_by_its_whole_name_and_must_be_one() {
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
        assert_eq!(cookies(&[value]), Ok(found.map(str::to_owned)), "{value:?}");
    }
    assert_eq!(cookies(&[b"wardcast_token=a; wardcast_token=a"]), Err(Misuse::TwoCookies));
    assert_eq!(cookies(&[b"wardcast_token=a", b"wardcast_token=b"]), Err(Misuse::TwoCookies));
}

#[test]
fn what_the_client_says_wins_over_what_the_browser_adds() {
    let both = Request { query: "token=a", cookies: &[b"wardcast_token=b; wardcast_token=c"], ..Request::default() };
    assert_eq!(find(both, &ALL, COOKIE).unwrap().credential, Some(Credential::Token("a".into())));
}

#[test]
fn a_closed_door_lets_nothing_in() {
    let everything = Request {
        query: "token=a&ticket=b&token=%zz",
        protocols: &[JWT],
        authorization: &[b"Basic x", b"Bearer y"],
        cookies: &[b"wardcast_token=c; wardcast_token=d"],
    };
    assert_eq!(find(everything, &[Door::Message], COOKIE), Ok(Offer::default()));
    let only = |door| find(Request { query: "token=a&ticket=b", ..everything }, &[door], COOKIE).unwrap().credential;
    assert_eq!(only(Door::Query), Some(Credential::Token("a".into())));
    assert_eq!(only(Door::Ticket), Some(Credential::Ticket("b".into())));
    assert_eq!(only(Door::Subprotocol), Some(Credential::Token(JWT.into())));
}

#[test]
fn nothing_that_is_offered_is_ever_printed() {
    let (query, protocols) = (format!("token={JWT}"), [JWT]);
    let ticket = format!("ticket={JWT}");
    let cookie = format!("{COOKIE}={JWT}");
    let text = format!("Authorization: Bearer {JWT}");
    let mut printed = format!("{:?}", first_text(&text));
    for request in [
        Request { query: &query, ..Request::default() },
        Request { query: &ticket, ..Request::default() },
        Request { protocols: &protocols, ..Request::default() },
        Request { cookies: &[cookie.as_bytes()], ..Request::default() },
    ] {
        printed += &format!("{:?}", find(request, &ALL, COOKIE).unwrap());
    }
    assert!(printed.contains("Token") && printed.contains("Ticket") && !printed.contains(JWT), "{printed}");
}

#[test]
fn the_first_message_is_read_as_http_reads_it() {
    for text in ["Authorization: Bearer T", "authorization:bearer T", "AUTHORIZATION:   BEARER   T  "] {
        assert_eq!(first_text(text), FirstText::Token("T"), "{text}");
    }
    assert_eq!(first_text("Authorization: Basic T"), FirstText::OtherScheme);
    assert_eq!(first_text("Authorization: T"), FirstText::OtherScheme);
    assert_eq!(first_text(r#"{"id":1,"connect":{}}"#), FirstText::Else);
    assert_eq!(first_text("hello"), FirstText::Else);
}

proptest! {
    /// Whatever is offered, nothing panics, and a token is answered only when a client offered nothing else.
    #[test]
    fn an_answer_is_a_marker_or_the_only_offer(
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
        let request =
            Request { query: &query, protocols: &protocols, authorization: &authorization, cookies: &cookies };
        let answer = find(request, &ALL, COOKIE).ok().and_then(|offer| offer.answer);
        prop_assert!(answer.is_none_or(|answer| MARKERS.contains(&answer) || protocols == [answer]));
    }
}

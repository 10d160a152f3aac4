//! Commands of clients: one or more in a text frame, joined by newlines. Data stays raw and is borrowed from the frame.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// One command. It has no `Debug`: nothing may print a token.
pub struct Command<'a> {
    /// Echoed in the reply; 0 where none is expected.
    pub id: u32,
    /// A token that any command may carry: it replaces the session's claims.
    pub token: Option<Cow<'a, str>>,
    /// What is asked.
    pub method: Method<'a>,
}

/// What a client may ask.
pub enum Method<'a> {
    /// `{}`: the answer to our ping.
    Pong,
    /// Say who it is, or begin to speak as an SDK does.
    Connect {
        /// The token, unless a door let the client in already.
        token: Option<Cow<'a, str>>,
    },
    /// Begin to receive a channel.
    Subscribe {
        /// Its name, unchecked.
        channel: Cow<'a, str>,
        /// A subscription token.
        token: Option<Cow<'a, str>>,
    },
    /// Stop receiving a channel.
    Unsubscribe {
        /// Its name, unchecked.
        channel: Cow<'a, str>,
    },
    /// Send to everybody who is subscribed.
    Publish {
        /// Its name, unchecked.
        channel: Cow<'a, str>,
        /// Raw JSON.
        data: &'a RawValue,
    },
    /// Go on with a newer token.
    Refresh {
        /// The token.
        token: Option<Cow<'a, str>>,
    },
    /// Go on receiving a channel with a newer subscription token.
    SubRefresh {
        /// Its name, unchecked.
        channel: Cow<'a, str>,
        /// The token.
        token: Option<Cow<'a, str>>,
    },
    /// Answer at once.
    Ping,
    /// A method of the protocol that is not switched on here: error 108.
    Unavailable,
    /// `send` without a backend: there is no reply to put an error into, so the connection is closed 3508.
    Send,
}

/// A frame that holds no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a command")]
pub struct Malformed;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
    #[serde(borrow)]
    connect: Option<TokenRequest<'a>>,
    #[serde(borrow)]
    subscribe: Option<ChannelTokenRequest<'a>>,
    #[serde(borrow)]
    unsubscribe: Option<ChannelRequest<'a>>,
    #[serde(borrow)]
    publish: Option<PublishRequest<'a>>,
    #[serde(borrow)]
    send: Option<&'a RawValue>,
    #[serde(borrow)]
    ping: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    presence_stats: Option<&'a RawValue>,
    #[serde(borrow)]
    history: Option<&'a RawValue>,
    #[serde(borrow)]
    rpc: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh: Option<TokenRequest<'a>>,
    #[serde(borrow)]
    sub_refresh: Option<ChannelTokenRequest<'a>>,
}

#[derive(Deserialize)]
struct TokenRequest<'a> {
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ChannelTokenRequest<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ChannelRequest<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
}

#[derive(Deserialize)]
struct PublishRequest<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Reads one line of a frame.
///
/// # Errors
/// [`Malformed`]: no object, no method or several, an id where none may be or none where one must.
pub fn command(line: &str) -> Result<Command<'_>, Malformed> {
    // serde would also take an array for an object, member by member.
    if !line.trim_start().starts_with('{') {
        return Err(Malformed);
    }
    let Envelope {
        id,
        token,
        connect,
        subscribe,
        unsubscribe,
        publish,
        send,
        ping,
        presence,
        presence_stats,
        history,
        rpc,
        refresh,
        sub_refresh,
    } = serde_json::from_str(line).map_err(|_| Malformed)?;
    let unavailable = [presence, presence_stats, history, rpc];
    let mut methods = [
        connect.map(|request| Method::Connect { token: given(request.token) }),
        subscribe.map(|request| Method::Subscribe { channel: request.channel, token: given(request.token) }),
        unsubscribe.map(|request| Method::Unsubscribe { channel: request.channel }),
        publish.map(|request| Method::Publish { channel: request.channel, data: request.data }),
        refresh.map(|request| Method::Refresh { token: given(request.token) }),
        sub_refresh.map(|request| Method::SubRefresh { channel: request.channel, token: given(request.token) }),
        send.map(|_| Method::Send),
        ping.map(|_| Method::Ping),
    ]
    .into_iter()
    .flatten()
    .chain(unavailable.into_iter().flatten().map(|_| Method::Unavailable));
    match (methods.next(), methods.next(), id) {
        (None, None, 0) if line.trim() == "{}" => Ok(Command { id, token: None, method: Method::Pong }),
        (Some(method @ Method::Send), None, _) => Ok(Command { id, token: given(token), method }),
        (Some(method), None, 1..) => Ok(Command { id, token: given(token), method }),
        _ => Err(Malformed),
    }
}

/// SDKs write "" for what they do not have.
fn given(token: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    token.filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Command<'_>, Malformed> {
        command(line)
    }

    #[test]
    fn a_command_is_its_id_and_one_method() {
        let subscribe = one(r#"{"id":1,"subscribe":{"channel":"a"}}"#).unwrap();
        assert!(
            matches!(&subscribe, Command { id: 1, method: Method::Subscribe { channel, token: None }, .. } if channel == "a")
        );
        assert!(matches!(one("{}").unwrap().method, Method::Pong));
        assert!(matches!(one(r#"{"id":2,"ping":{}}"#).unwrap(), Command { id: 2, method: Method::Ping, .. }));
    }

    #[test]
    fn data_is_borrowed_as_it_stands() {
        let command = one(r#"{"id":3,"publish":{"channel":"a","data": {"x" : 1e400}}}"#).unwrap();
        let Method::Publish { data, .. } = command.method else { panic!("a publish") };
        assert_eq!(data.get(), r#"{"x" : 1e400}"#);
    }

    #[test]
    fn what_is_no_command_is_malformed() {
        let nested = format!(r#"{{"id":1,"subscribe":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        for line in [
            "",
            "hello",
            "null",
            "[]",
            r#"[1,null,{"channel":"a"}]"#,
            r#"{"id":1}"#,
            r#"{"id":0,"ping":{}}"#,
            r#"{"id":-1,"ping":{}}"#,
            r#"{"id":4294967296,"ping":{}}"#,
            r#"{"id":"1","ping":{}}"#,
            r#"{"id":1,"ping":{},"subscribe":{"channel":"a"}}"#,
            r#"{"id":1,"dance":{}}"#,
            r#"{"id":1,"publish":{"channel":"a"}}"#,
            r#"{"id":1,"id":2,"ping":{}}"#,
            nested.as_str(),
        ] {
            assert_eq!(one(line).map(|_| ()).unwrap_err(), Malformed, "{line:.60}");
        }
    }

    #[test]
    fn deep_data_costs_no_stack() {
        let deep =
            format!(r#"{{"id":1,"publish":{{"channel":"a","data":{}{}}}}}"#, "[".repeat(9_000), "]".repeat(9_000));
        assert!(one(&deep).is_ok());
    }
}

//! The answers of the hooks that decide about sessions, in the JSON of Centrifugo's proxies: who the user is, and for how long. Pure.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::reply::{HookResult, check_size, expiry, null_as_default, single_line};
use crate::clock::WallTime;

/// The answer of the connect hook: the client may connect. What it grants is not checked yet.
#[derive(Debug)]
pub struct ConnectApproval {
    /// The user. `None`: the backend has named none, not even the empty one of an anonymous session.
    pub user: Option<String>,
    /// When the session ends.
    pub expires_at: WallTime,
    /// Raw JSON that other clients see of the user.
    pub info: Option<Bytes>,
    /// Raw JSON for the client.
    pub data: Option<Bytes>,
    /// Raw JSON for later calls of hooks about the session.
    pub meta: Option<Bytes>,
    /// As in a token: channels to which the session is subscribed.
    pub channels: Option<Box<RawValue>>,
    /// As in a token: the same, with options.
    pub subs: Option<Box<RawValue>>,
    /// As in a token: rights in channels.
    pub caps: Option<Box<RawValue>>,
}

/// The answer of the hooks `refresh` and `sub_refresh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The session or the subscription ends now.
    Expired,
    /// It goes on.
    Until {
        /// When it ends.
        expires_at: WallTime,
        /// Raw JSON that other clients see from now on.
        info: Option<Bytes>,
    },
}

#[derive(Deserialize)]
pub struct ConnectJson {
    user: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    expire_at: i64,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    meta: Option<Box<RawValue>>,
    channels: Option<Box<RawValue>>,
    subs: Option<Box<RawValue>>,
    caps: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
pub struct RenewalJson {
    #[serde(default, deserialize_with = "null_as_default")]
    expired: bool,
    #[serde(default, deserialize_with = "null_as_default")]
    expire_at: i64,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
}

impl HookResult for ConnectApproval {
    type Json = ConnectJson;

    fn from_json(json: ConnectJson) -> Result<Self, String> {
        Ok(Self {
            user: json.user,
            expires_at: expiry(json.expire_at)?,
            info: check_size("info", single_line(json.info, json.b64info)?)?,
            data: check_size("data", single_line(json.data, json.b64data)?)?,
            meta: check_size("meta", single_line(json.meta, None)?)?,
            channels: json.channels,
            subs: json.subs,
            caps: json.caps,
        })
    }
}

impl HookResult for Renewal {
    type Json = RenewalJson;

    fn from_json(json: RenewalJson) -> Result<Self, String> {
        if json.expired {
            return Ok(Self::Expired);
        }
        let info = check_size("info", single_line(json.info, json.b64info)?)?;
        Ok(Self::Until { expires_at: expiry(json.expire_at)?, info })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::NEVER, hooks::reply::parse_reply, publication::MAX_INFO_BYTES};

    #[test]
    fn approval_of_a_connection_keeps_what_the_backend_has_named() {
        let body = br#"{"result":{"user":"ann","expire_at":7,"info":{"n":1},"b64data":"WzJd","meta":{
            "m":1},"channels":["a"],"caps":[],"unknown":1}}"#;
        let approval = parse_reply::<ConnectApproval>(body).unwrap().unwrap();
        assert_eq!(approval.user.as_deref(), Some("ann"));
        assert_eq!(approval.expires_at, WallTime::from_unix_seconds(7));
        assert_eq!(approval.info.as_deref(), Some(&br#"{"n":1}"#[..]));
        assert_eq!(approval.data.as_deref(), Some(&b"[2]"[..]));
        assert_eq!(approval.meta.as_deref(), Some(&br#"{             "m":1}"#[..]));
        assert_eq!(approval.channels.map(|raw| raw.get().to_owned()), Some(r#"["a"]"#.to_owned()));
        assert!(approval.subs.is_none() && approval.caps.is_some());
        let empty = parse_reply::<ConnectApproval>(br#"{"result":{}}"#).unwrap().unwrap();
        assert!(empty.user.is_none() && empty.expires_at == NEVER);
        let nulls = br#"{"result":{"user":"ann","expire_at":null,"info":null,"meta":null,"channels":null,"subs":null,"caps":null}}"#;
        let approval = parse_reply::<ConnectApproval>(nulls).unwrap().unwrap();
        assert!(approval.meta.is_none() && approval.channels.is_none() && approval.subs.is_none());
        for body in [
            r#"{"result":{"user":7}}"#.to_owned(),
            r#"{"result":{"user":"ann","expire_at":"soon"}}"#.to_owned(),
            format!(r#"{{"result":{{"user":"ann","meta":"{}"}}}}"#, "x".repeat(MAX_INFO_BYTES)),
        ] {
            assert!(parse_reply::<ConnectApproval>(body.as_bytes()).is_err(), "{body:.60}");
        }
    }

    #[test]
    fn renewal_is_expired_or_has_an_end() {
        let parse = |body: &str| parse_reply::<Renewal>(body.as_bytes()).map(Result::unwrap);
        assert_eq!(parse(r#"{"result":{"expired":true,"expire_at":9}}"#), Ok(Renewal::Expired));
        assert_eq!(parse(r#"{"result":{}}"#), Ok(Renewal::Until { expires_at: NEVER, info: None }));
        let info = Some(Bytes::from_static(b"1"));
        let until = Renewal::Until { expires_at: WallTime::from_unix_seconds(9), info };
        assert_eq!(parse(r#"{"result":{"expire_at":9,"info":1}}"#), Ok(until));
        let nulls = r#"{"result":{"expired":null,"expire_at":null,"info":null}}"#;
        assert_eq!(parse(nulls), Ok(Renewal::Until { expires_at: NEVER, info: None }));
        assert!(parse(r#"{"result":{"expired":"no"}}"#).is_err());
    }
}

//! The requests to hooks, in the JSON of Centrifugo's proxies.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

/// The body of a call.
#[derive(Serialize)]
pub struct HookRequest<'a> {
    /// The id of the connection; nil, and left out, for a publication over REST.
    #[serde(skip_serializing_if = "Uuid::is_nil", serialize_with = "as_text")]
    pub client: Uuid,
    /// `websocket`, `sse` or `http_stream`, or `http` for a publication over REST.
    pub transport: &'static str,
    /// `json` or `protobuf`.
    pub protocol: &'static str,
    /// `json`, also for data of Protobuf clients; `binary` if there is `b64data` instead of `data`.
    pub encoding: &'static str,
    /// The user; empty for anonymous sessions. Left out for `connect`, which is to name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// Name of the SDK, as the client says, for `connect`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: &'a str,
    /// Version of the SDK, as the client says, for `connect`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub version: &'a str,
    /// The channels that the client wants to be subscribed to again, for `connect`: the client may name any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<&'a str>,
    /// The channel, for `subscribe` and `publish`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    /// The method, for `rpc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// The data of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
    /// The data of the client in Base64, in a channel with binary data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64data: Option<String>,
    /// What the connect hook has answered as `meta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<&'a RawValue>,
}

impl<'a> HookRequest<'a> {
    /// Creates the request of a connection, of which nothing else is known.
    pub fn of_connection(client: Uuid, transport: &'static str, protocol: &'static str) -> Self {
        Self {
            client,
            transport,
            protocol,
            encoding: "json",
            user: None,
            name: "",
            version: "",
            channels: Vec::new(),
            channel: None,
            method: None,
            data: None,
            b64data: None,
            meta: None,
        }
    }

    /// Adds data of a channel, which is JSON or any bytes.
    pub fn with_data(self, data: &'a [u8], is_binary: bool) -> Self {
        if is_binary {
            Self { encoding: "binary", b64data: Some(BASE64_STANDARD.encode(data)), ..self }
        } else {
            Self { data: serde_json::from_slice(data).ok(), ..self }
        }
    }

    /// Encodes the request.
    pub fn encode(&self) -> Bytes {
        // Texts and raw JSON can always be written.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// Writes an id as clients know it.
fn as_text<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

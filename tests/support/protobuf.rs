//! A client that speaks Protobuf, with the code that is generated from the schema.

use std::{collections::VecDeque, net::SocketAddr};

use prost::Message as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use wardcast::protocol::schema::{Command, PublishRequest, Reply, SubscribeRequest};

use super::{Client, client::Closed};

pub struct ProtobufClient {
    pub client: Client,
    /// Replies and pushes that arrived in one frame with the last one returned.
    received: VecDeque<Reply>,
}

impl ProtobufClient {
    pub async fn connect(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        Ok(Self::new(Client::connect_with(address, path, headers).await?))
    }

    pub fn new(client: Client) -> Self {
        Self { client, received: VecDeque::new() }
    }

    pub async fn send(&mut self, command: Command) {
        self.send_bytes(command.encode_length_delimited_to_vec()).await;
    }

    pub async fn send_bytes(&mut self, bytes: Vec<u8>) {
        self.client.send_message(Message::binary(bytes)).await;
    }

    /// Sends a command and returns the next reply or push.
    pub async fn request(&mut self, command: Command) -> Reply {
        self.send(command).await;
        self.receive().await
    }

    /// Returns the next reply or push.
    pub async fn receive(&mut self) -> Reply {
        self.next().await.unwrap_or_else(|code| panic!("the connection was closed: {code:?}"))
    }

    /// Returns the next reply or push, or how the connection ended. Answers WebSocket pings on the way.
    pub async fn next(&mut self) -> Result<Reply, Closed> {
        loop {
            if let Some(reply) = self.received.pop_front() {
                return Ok(reply);
            }
            match self.client.next_message().await {
                Some(Message::Binary(mut bytes)) => {
                    while !bytes.is_empty() {
                        self.received.push_back(Reply::decode_length_delimited(&mut bytes).expect("a reply"));
                    }
                }
                Some(Message::Text(text)) => panic!("text on a connection that speaks Protobuf: {text}"),
                Some(Message::Close(frame)) => {
                    let (code, reason) = frame.map(|frame| (frame.code.into(), frame.reason.to_string())).unzip();
                    return Err(Closed { code, reason: reason.unwrap_or_default() });
                }
                Some(_) => {}
                None => return Err(Closed { code: None, reason: "aborted".to_owned() }),
            }
        }
    }

    /// Reads until the connection ends; returns code and reason of the close frame. No push may announce them.
    pub async fn wait_for_close(&mut self) -> (Option<u16>, String) {
        loop {
            match self.next().await {
                Ok(reply) => {
                    let disconnect = reply.push.and_then(|push| push.disconnect);
                    assert!(disconnect.is_none(), "a push before the close frame: {disconnect:?}");
                }
                Err(closed) => return (closed.code, closed.reason),
            }
        }
    }

    pub async fn subscribe(&mut self, channel: &str) {
        let request = SubscribeRequest { channel: channel.to_owned(), ..Default::default() };
        let reply = self.request(Command { id: 1, subscribe: Some(request), ..Default::default() }).await;
        assert!(reply.id == 1 && reply.subscribe.is_some(), "{reply:?}");
    }

    /// Sends a `publish` command and returns the reply.
    pub async fn publish(&mut self, channel: &str, data: &str) -> Reply {
        let data = data.to_owned().into();
        let publish = Some(PublishRequest { channel: channel.to_owned(), data, r#type: 0 });
        self.request(Command { id: 2, publish, ..Default::default() }).await
    }

    /// Returns the data of the next publication.
    pub async fn receive_publication(&mut self) -> String {
        let push = self.receive().await.push.expect("a push");
        String::from_utf8(push.r#pub.expect("a publication").data.to_vec()).unwrap()
    }
}

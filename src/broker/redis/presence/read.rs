//! Reads the presence of a channel in pages, so that a channel with many clients does not hold up others. The first page takes the
//! way of the changes, behind those that the instance has made before.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::{
    super::{
        RedisContext,
        envelope::{self, StoredClient},
        scripts,
        server::RedisServer,
    },
    keys,
};
use crate::{
    broker::{BrokerError, PresenceCount, presence::PresencePage},
    channel::Channel,
    publication::ClientInfo,
};

/// Clients of the first page of a read, which shares its connection with publishing, ...
const FIRST_PAGE_CLIENTS: usize = 100;
/// ... and of the others: about a millisecond of Redis.
const PAGE_CLIENTS: usize = 500;
/// How often a read begins again because the channel has moved to another server of a Cluster.
const MAX_RESTARTS: u32 = 5;

/// A read of a channel's presence that has begun.
pub(in crate::broker::redis) struct PresenceRead {
    channel: Channel,
    server: Arc<RedisServer>,
    first_page: BoxFuture<'static, Result<Value, BrokerError>>,
    deadline: Instant,
}

/// A part of the clients.
struct Page {
    records: Vec<Bytes>,
    /// The cursor of the next part; `None`: this was the last part.
    next: Option<Vec<u8>>,
}

impl PresenceRead {
    /// Queues the read of the first page behind the changes that were queued before.
    pub(in crate::broker::redis) fn begin(context: &RedisContext, channel: Channel) -> Result<Self, BrokerError> {
        let server = context.server_of(&channel)?;
        let first_page = server.run_script(page_call(context, &channel, b"0", FIRST_PAGE_CLIENTS), 0).boxed();
        Ok(Self { channel, server, first_page, deadline: Instant::now() + context.timeout })
    }

    /// Returns the clients, as [`Broker::presence`](crate::broker::Broker::presence) says.
    pub(in crate::broker::redis) async fn clients(
        self,
        context: &RedisContext,
        max_bytes: usize,
    ) -> Result<Vec<Arc<ClientInfo>>, BrokerError> {
        let mut clients = PresencePage::new(max_bytes);
        self.visit(context, |client| clients.add(client)).await?;
        Ok(clients.into_clients())
    }

    /// Counts the clients.
    pub(in crate::broker::redis) async fn count(self, context: &RedisContext) -> Result<PresenceCount, BrokerError> {
        let (mut clients, mut users) = (0, HashSet::new());
        let count = |client: Arc<ClientInfo>| {
            clients += 1;
            if !users.contains(client.user.as_str()) {
                users.insert(client.user.clone());
            }
            true
        };
        self.visit(context, count).await?;
        Ok(PresenceCount { clients, users: users.len() })
    }

    /// Visits every client of a live instance once, until `visit` returns `false`.
    async fn visit(
        self,
        context: &RedisContext,
        mut visit: impl FnMut(Arc<ClientInfo>) -> bool,
    ) -> Result<(), BrokerError> {
        let live = context.nodes.live_instances();
        let is_live =
            |instance: &str| instance == context.instance || live.as_ref().is_none_or(|live| live.contains(instance));
        let mut seen = HashSet::new();
        let mut page = self.first_page.await.and_then(Page::parse)?;
        let (mut origin, mut restarts) = (PageSource { server: self.server, is_redirected: false }, 0);
        loop {
            for record in page.records {
                match envelope::decode_stored_client(&self.channel, record, &context.signer) {
                    Ok(StoredClient { instance, client }) => {
                        if is_live(&instance) && seen.insert(client.client.clone()) && !visit(client) {
                            return Ok(());
                        }
                    }
                    Err(reason) => context.refused.count(reason),
                }
            }
            let Some(cursor) = page.next else { return Ok(()) };
            let call = page_call(context, &self.channel, &cursor, PAGE_CLIENTS);
            let limit = self.deadline.saturating_duration_since(Instant::now());
            let server = context.server_of(&self.channel)?;
            let (reply, is_redirected) = server.query_with_origin(&call, limit).await.map_err(presence_error)?;
            let replied = PageSource { server, is_redirected };
            if replied == origin {
                page = Page::parse(reply)?;
                continue;
            }
            // A cursor means nothing to another server: the slot of the channel moves.
            restarts += 1;
            if restarts > MAX_RESTARTS {
                return Err(presence_error("the channel has moved to another server during each attempt".to_owned()));
            }
            (origin, page) = (replied, Page { records: Vec::new(), next: Some(b"0".to_vec()) });
        }
    }
}

/// Where a page comes from: the server that was asked, or the one to which it has referred.
struct PageSource {
    server: Arc<RedisServer>,
    is_redirected: bool,
}

impl PartialEq for PageSource {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.server, &other.server) && self.is_redirected == other.is_redirected
    }
}

fn presence_error(error: String) -> BrokerError {
    BrokerError::Unavailable(format!("presence: {error}"))
}

fn page_call(context: &RedisContext, channel: &Channel, cursor: &[u8], clients: usize) -> Cmd {
    let mut call = scripts::PRESENCE_PAGE.call(&keys(context, channel));
    call.arg(cursor).arg(clients);
    call
}

impl Page {
    fn parse(reply: Value) -> Result<Self, BrokerError> {
        let reply = redis::from_redis_value::<Vec<Vec<u8>>>(reply);
        let mut values = reply.map_err(|error| presence_error(error.to_string()))?.into_iter();
        let next = values.next().filter(|cursor| cursor != b"0");
        Ok(Self { records: values.map(Bytes::from).collect(), next })
    }
}

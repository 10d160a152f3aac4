//! Commands of clients for sessions of other nodes. Each goes to the PUB/SUB channel of its node alone.

use bytes::Bytes;
use futures_util::future::FutureExt;
use uuid::Uuid;

use super::{RedisContext, envelope};
use crate::broker::{BrokerFuture, completed};

/// Sends commands to the node with this id. Completes with whether there is such a node.
pub(super) fn send_commands(context: &RedisContext, node: &str, session: &Uuid, message: &Bytes) -> BrokerFuture<bool> {
    let Some(instance) = context.nodes.instance_of(node) else { return completed(Ok(false)) };
    let name = context.names.replies_channel_of(&instance);
    // The same server for all messages of a session, so that they arrive in their order.
    let server = match context.router.server_for_message(&name, &instance) {
        Ok(server) => server,
        Err(error) => return completed(Err(error)),
    };
    let message = context.signer.sign(envelope::encode_commands(session, message));
    let published = server.publish(&name, &message);
    async move { Ok(published.await? > 0) }.boxed()
}

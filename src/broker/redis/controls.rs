//! Controls of the server API: each reaches all live nodes, or its caller learns that it may not have.

use std::sync::Arc;

use futures_util::future::{FutureExt, join_all};

use super::{RedisContext, envelope, error::no_receiver_error};
use crate::broker::{BrokerError, BrokerFuture, Control, completed};

/// Sends a control to all nodes. It is queued during the call.
///
/// # Errors
/// Fewer instances than are alive have received it.
pub(super) fn send(context: Arc<RedisContext>, control: &Control) -> BrokerFuture<()> {
    let name = context.names.control_channel().to_owned();
    let server = match context.router.server_for_message(&name, &control.user) {
        Ok(server) => server,
        Err(error) => return completed(Err(error)),
    };
    let message = context.signer.sign(envelope::encode_control(control));
    // A node that begins to listen later need not have it.
    let before = context.nodes.expected_receivers();
    let published = server.publish(&name, &message);
    async move {
        let mut received = published.await?;
        // Every node listens on all servers. One that reconnects its subscriptions to the first has those to another.
        for other in context.router.servers_with(&name) {
            if has_reached_all(&context, before, received) {
                break;
            }
            if !Arc::ptr_eq(&other, &server) && other.fault().is_none() {
                received = received.max(other.publish(&name, &message).await.unwrap_or(0));
            }
        }
        if received == 0 {
            return Err(no_receiver_error());
        }
        if has_reached_all(&context, before, received) {
            context.nodes.forget_unreached();
            return Ok(());
        }
        note_unreached(&context).await;
        Err(BrokerError::Unavailable("not every live node has received the control".to_owned()))
    }
    .boxed()
}

/// Returns whether so many instances are all that were alive `before` and are now, as far as this node knows.
fn has_reached_all(context: &RedisContext, before: Option<i64>, received: i64) -> bool {
    let now = context.nodes.expected_receivers();
    before.zip(now).is_none_or(|(before, now)| received >= before.min(now))
}

/// Notes the nodes that receive nothing: each of them may have been killed.
async fn note_unreached(context: &RedisContext) {
    let live = context.nodes.live_nodes();
    let checked = live.into_iter().map(async |node| {
        let is_reached = has_receiver(context, &node.instance).await;
        (!is_reached).then_some(node.instance)
    });
    for instance in join_all(checked).await.into_iter().flatten() {
        context.nodes.record_unreached(&instance);
    }
}

/// Returns whether an instance receives what is sent to it. Its probe has no other effect there.
pub(super) async fn has_receiver(context: &RedisContext, instance: &str) -> bool {
    let name = context.names.replies_channel_of(instance);
    let Ok(server) = context.router.server_for_message(&name, instance) else { return true };
    let probe = context.signer.sign(envelope::encode_probe(0));
    server.publish(&name, &probe).await.map_or(true, |receivers| receivers > 0)
}

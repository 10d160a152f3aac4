//! The tasks on the broker's thread: the connections of each server, and everything that is done at intervals or on demand.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::{
    RedisContext, claims,
    cluster::ClusterFollower,
    heartbeat,
    inbox::BusInbox,
    limits, presence,
    revocation_rounds::{self, RevocationRequest},
    revocations,
    server::{Redirects, ServerQueue, resend},
    survey,
};
use crate::config;

/// Runs all tasks of a broker, forever: those of its servers, and those that need none.
pub(super) async fn run(
    context: Arc<RedisContext>,
    config: config::RedisConfig,
    queue_bytes: usize,
    queues: Vec<ServerQueue>,
    requests: mpsc::Receiver<RevocationRequest>,
) {
    let (question_sender, questions) = mpsc::channel(survey::MAX_ANSWERING);
    let inbox = BusInbox::new(context.clone(), question_sender);
    let routes = context.router.routes();
    let servers = routes.servers().iter().zip(queues);
    let servers = servers.map(|(server, queue)| server.clone().run(context.clone(), queue, inbox.clone()));
    let cluster = async {
        if context.names.is_sharded() {
            let (redirects, unordered) = Redirects::new();
            let redirects = Arc::new(redirects);
            let follower = ClusterFollower::new(context.clone(), config, queue_bytes, inbox.clone(), redirects.clone());
            tokio::join!(follower.run(), resend(&context, &redirects, unordered));
        }
    };
    tokio::join!(
        join_all(servers),
        cluster,
        heartbeat::send_heartbeats(context.clone()),
        claims::keep_claimed(context.clone()),
        presence::send_waiting_removals(context.clone()),
        limits::keep_counted(context.clone()),
        survey::answer_questions(context.clone(), questions),
        revocations::keep_loaded(context.clone()),
        revocation_rounds::carry_out(context.clone(), requests),
        context.refused.log_forever()
    );
}

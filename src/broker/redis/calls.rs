//! Begins calls of the broker: at once, or when the Cluster has been asked for its masters; on the thread of their caller, or
//! on that of the broker.

use std::sync::Arc;

use futures_util::future::FutureExt;
use tokio::{
    runtime::{Handle, Runtime},
    sync::oneshot,
    time::timeout,
};

use super::{RedisBroker, RedisContext, history, stopped_error};
use crate::{
    broker::{BrokerError, BrokerFuture, ChannelTop, HistoryPage, Retention},
    channel::Channel,
};

/// Runs the tasks of a broker on its thread, until it is dropped.
pub(super) fn run_thread(runtime: Runtime, tasks: impl Future<Output = ()>, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async {
        tokio::select! {
            // Nothing is ever sent: this completes when the broker is dropped.
            _ = stopped => (),
            () = tasks => (),
        }
    });
    // Does not wait for a host name that is still being resolved.
    runtime.shutdown_background();
}

/// Runs a call on the broker's thread, also if its caller does not wait for it.
pub(super) fn spawn_on<T: Send + 'static>(
    runtime: &Handle,
    call: impl Future<Output = Result<T, BrokerError>> + Send + 'static,
) -> BrokerFuture<T> {
    let done = runtime.spawn(call);
    async move { done.await.unwrap_or_else(|_| Err(stopped_error())) }.boxed()
}

impl RedisBroker {
    /// Runs `call` on the broker's runtime, where the connections of the pool belong.
    pub(super) fn spawn<T: Send + 'static, F>(
        &self,
        call: impl FnOnce(Arc<RedisContext>) -> F + Send + 'static,
    ) -> BrokerFuture<T>
    where
        F: Future<Output = Result<T, BrokerError>> + Send + 'static,
    {
        self.spawn_after(|_| (), |context, ()| call(context))
    }

    /// Like [`Self::spawn`], but `begin` is called at once.
    pub(super) fn spawn_after<B, T: Send + 'static, F>(
        &self,
        begin: impl FnOnce(&RedisContext) -> B + Send + 'static,
        call: impl FnOnce(Arc<RedisContext>, B) -> F + Send + 'static,
    ) -> BrokerFuture<T>
    where
        F: Future<Output = Result<T, BrokerError>> + Send + 'static,
    {
        let runtime = self.runtime.clone();
        self.when_started(move |context| {
            let done = runtime.spawn(call(context.clone(), begin(context)));
            async move { done.await.unwrap_or_else(|_| Err(stopped_error())) }.boxed()
        })
    }

    /// Makes a call: at once, unless the Cluster has not been asked for its masters yet. So calls to an instance that has just
    /// been started wait for the Cluster, as they wait for a connection to a single server.
    pub(super) fn when_started<T: 'static>(
        &self,
        call: impl FnOnce(&Arc<RedisContext>) -> BrokerFuture<T> + Send + 'static,
    ) -> BrokerFuture<T> {
        if !self.context.router.is_starting() {
            return call(&self.context);
        }
        let context = self.context.clone();
        async move {
            // After that, the call fails with the reason.
            _ = timeout(context.timeout, context.router.started()).await;
            call(&context).await
        }
        .boxed()
    }

    /// Reads the position of a channel, in one round trip with those of others.
    pub(super) fn read_position(&self, channel: Channel, retention: Retention) -> BrokerFuture<HistoryPage> {
        let runtime = self.runtime.clone();
        self.when_started(move |context| {
            let (context, before) = (context.clone(), context.shared_reads.top(&channel));
            let added = context.server_of(&channel).and_then(|server| {
                let (position, runs) = server.position_reads().add(channel.clone(), retention)?;
                if runs {
                    runtime.spawn(history::run_position_reads(context.clone(), server));
                }
                Ok(position)
            });
            async move {
                let found = added?.await.unwrap_or_else(|_| Err(stopped_error()))?;
                let ChannelTop { position: top, time: top_time } = found;
                context.shared_reads.compare(&channel, before, Some(top));
                Ok(HistoryPage { publications: Vec::new(), top, top_time })
            }
            .boxed()
        })
    }
}

//! Reads the positions at which subscriptions start, and creates those of channels that have none. While a round trip is on
//! its way, further calls wait, and share the next one: when many channels are subscribed at once, hundreds of them cost one
//! round trip.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::oneshot;

use super::{
    super::{
        RedisContext, scripts,
        server::{RedisServer, Reply, accepted},
        store::expiry_millis,
    },
    history_error, invalid_reply, new_epoch,
    positions::parse_top,
};
use crate::{
    broker::{BrokerError, ChannelTop, Retention},
    channel::Channel,
    position::Epoch,
};

/// Maximum number of channels of one round trip.
const BATCH_CHANNELS: usize = 512;
/// Maximum number of channels of one call of the script: Redis is busy with it for a fraction of a millisecond.
const CALL_CHANNELS: usize = 64;
/// Maximum number of round trips at the same time: Redis works on one while the replies to another are handled.
const MAX_ROUND_TRIPS: usize = 2;
/// Maximum number of calls that wait. Above it: [`BrokerError::Busy`].
const MAX_WAITING: usize = 1 << 17;

/// The calls for the positions of one server.
#[derive(Default)]
pub(in crate::broker::redis) struct PositionReads(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<PositionRead>,
    round_trips: usize,
}

struct PositionRead {
    channel: Channel,
    retention: Retention,
    result: oneshot::Sender<Result<ChannelTop, BrokerError>>,
}

impl PositionReads {
    /// Adds a call. Returns its result, and whether the caller has to [`run`] the calls.
    ///
    /// # Errors
    /// Too many calls wait.
    pub(in crate::broker::redis) fn add(
        &self,
        channel: Channel,
        retention: Retention,
    ) -> Result<(oneshot::Receiver<Result<ChannelTop, BrokerError>>, bool), BrokerError> {
        let mut state = self.0.lock();
        if state.waiting.len() >= MAX_WAITING {
            return Err(BrokerError::Busy);
        }
        let (result, receiver) = oneshot::channel();
        state.waiting.push_back(PositionRead { channel, retention, result });
        let runs = state.round_trips < MAX_ROUND_TRIPS;
        state.round_trips += usize::from(runs);
        Ok((receiver, runs))
    }

    /// Takes the calls of the next round trip; `None`: none waits, and the caller does not run them any more.
    fn take(&self) -> Option<Vec<PositionRead>> {
        let mut state = self.0.lock();
        let count = state.waiting.len().min(BATCH_CHANNELS);
        if count == 0 {
            state.round_trips -= 1;
            return None;
        }
        Some(state.waiting.drain(..count).collect())
    }

    fn take_all(&self) -> VecDeque<PositionRead> {
        std::mem::take(&mut self.0.lock().waiting)
    }
}

/// Sends the waiting reads of positions to a server, until no read waits.
pub(in crate::broker::redis) async fn run(context: Arc<RedisContext>, server: Arc<RedisServer>) {
    while let Some(mut reads) = server.position_reads().take() {
        // The callers of these have stopped waiting.
        reads.retain(|read| !read.result.is_closed());
        if let Err((error, reads)) = read_batch(&context, &server, reads).await {
            // The calls that wait fail, too: another round trip would keep them for as long again.
            fail(reads.into_iter().chain(server.position_reads().take_all()), &error);
        }
    }
}

/// Reads the positions in one round trip.
///
/// # Errors
/// There was no answer, and the reads have none.
async fn read_batch(
    context: &RedisContext,
    server: &RedisServer,
    reads: Vec<PositionRead>,
) -> Result<(), (BrokerError, Vec<PositionRead>)> {
    if reads.is_empty() {
        return Ok(());
    }
    let epoch = match new_epoch() {
        Ok(epoch) => epoch,
        Err(error) => return Err((error, reads)),
    };
    // Keys of one call have to be in one slot.
    let calls = group(reads, if context.names.is_sharded() { 1 } else { CALL_CHANNELS });
    let commands = calls.iter().map(|reads| command(context, reads, epoch)).collect();
    match server.query_many(commands, context.timeout).await {
        Ok(replies) => {
            for (reads, reply) in calls.into_iter().zip(replies) {
                match reply {
                    Reply::Received(reply) => complete(reads, reply),
                    // Only the channels of a slot that is moving wait for it.
                    Reply::Redirected(_) => drop(tokio::spawn(async move {
                        match reply.wait().await {
                            Ok(reply) => complete(reads, reply),
                            Err(error) => fail(reads, &history_error(error)),
                        }
                    })),
                }
            }
            Ok(())
        }
        Err(error) => Err((history_error(error), calls.into_iter().flatten().collect())),
    }
}

/// Groups reads for calls, each of one retention and of at most `limit` channels.
fn group(reads: Vec<PositionRead>, limit: usize) -> Vec<Vec<PositionRead>> {
    let mut calls: Vec<Vec<PositionRead>> = Vec::new();
    for read in reads {
        // The last call of its retention: a configuration has few of them.
        let call = calls.iter_mut().rev().find(|call| call[0].retention == read.retention);
        match call.filter(|call| call.len() < limit) {
            Some(call) => call.push(read),
            None => calls.push(vec![read]),
        }
    }
    calls
}

fn command(context: &RedisContext, reads: &[PositionRead], epoch: Epoch) -> Cmd {
    let names = &context.names;
    let keys = reads.iter().flat_map(|read| [names.history_key(&read.channel), names.history_meta_key(&read.channel)]);
    let mut call = scripts::OPEN_HISTORIES.call(&keys.collect::<Vec<_>>());
    let Retention { size, ttl, meta_ttl } = reads[0].retention;
    call.arg(size).arg(expiry_millis(ttl)).arg(expiry_millis(meta_ttl)).arg(epoch.as_str());
    call
}

fn complete(reads: Vec<PositionRead>, reply: Value) {
    let positions = match reply {
        // An error in it is that of one channel.
        Value::Array(positions) if positions.len() == reads.len() => Ok(positions),
        reply => Err(accepted(reply).map_or_else(history_error, |_| invalid_reply())),
    };
    match positions {
        Ok(positions) => reads.into_iter().zip(positions).for_each(|(read, position)| {
            let top = accepted(position).map_err(history_error).and_then(parse_top);
            _ = read.result.send(top.and_then(|top| top.ok_or_else(invalid_reply)));
        }),
        Err(error) => fail(reads, &error),
    }
}

fn fail(reads: impl IntoIterator<Item = PositionRead>, error: &BrokerError) {
    reads.into_iter().for_each(|read| _ = read.result.send(Err(error.clone())));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(channel: &str, size: usize) -> PositionRead {
        let (ttl, meta_ttl) = (Duration::from_secs(60), Duration::from_secs(600));
        let (channel, retention) = (Channel::new(channel).unwrap(), Retention { size, ttl, meta_ttl });
        PositionRead { channel, retention, result: oneshot::channel().0 }
    }

    fn groups(reads: &[(&str, usize)], limit: usize) -> Vec<Vec<String>> {
        let calls = group(reads.iter().map(|(channel, size)| read(channel, *size)).collect(), limit);
        calls.iter().map(|reads| reads.iter().map(|read| read.channel.to_string()).collect()).collect()
    }

    #[test]
    fn one_call_has_channels_of_one_retention_and_no_more_than_its_limit() {
        let reads = [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 2), ("f", 1)];
        assert_eq!(groups(&reads, 3), [vec!["a", "c", "d"], vec!["b", "e"], vec!["f"]]);
        assert_eq!(groups(&reads, 1).len(), 6);
        assert!(groups(&[], 3).is_empty());
    }

    #[test]
    fn calls_wait_for_the_round_trips_that_are_on_their_way() {
        let (reads, PositionRead { channel, retention, .. }) = (PositionReads::default(), read("a", 1));
        let add = || reads.add(channel.clone(), retention).map(|(_, runs)| runs);
        assert_eq!([add(), add(), add()], [Ok(true), Ok(true), Ok(false)]);
        assert_eq!(reads.take().map(|taken| taken.len()), Some(3));
        assert!(reads.take().is_none());
        assert_eq!([add(), add()], [Ok(true), Ok(false)]);
    }
}

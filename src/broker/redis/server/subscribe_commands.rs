//! Sends the commands that make one subscription connection agree with the desired subscriptions: the channels, and this
//! instance's own names. A Cluster has shard channels: a command may name those of one slot only, and a master refuses a slot
//! that it does not have, or ends its subscriptions when the slot moves to another master.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use tokio::{sync::Notify, time::timeout};

use super::{
    super::{RedisContext, names::MessageSource},
    RedisServer,
    fault::describe,
    redirect::Redirect,
};
use crate::channel::Channel;

/// Maximum number of channels of one command, which Redis handles in a millisecond or two.
const COMMAND_CHANNELS: usize = 500;
/// Maximum number of SUBSCRIBE commands whose confirmations have not arrived: a distant Redis must not cost a round trip for each.
const SUBSCRIBES_IN_FLIGHT: usize = 8;
/// Maximum number of commands for shard channels that are sent in one round trip, and of their channels, to which one command may add
/// [`COMMAND_CHANNELS`]. With 1,024 partitions most commands name fewer than a hundred channels.
const ROUND_COMMANDS: usize = 64;
const ROUND_CHANNELS: usize = 4000;
/// Maximum number of changes that are sorted by slot together: the more, the fewer commands.
const SHARDED_BATCH: usize = 1 << 16;

/// What is subscribed over one connection.
#[derive(Default)]
pub(super) struct ConnectionSubscriptions {
    /// This instance's own names, as far as they are subscribed.
    own: Mutex<Vec<String>>,
    /// Shard channels whose confirmations have not arrived, and the name that marks the end of a round. redis-rs takes the first
    /// confirmation for the reply to the command, and does not wait for the others.
    unconfirmed: Mutex<HashSet<Vec<u8>>>,
    /// Wakes the subscriber: everything is confirmed, or the round has ended.
    confirmed: Notify,
}

/// Whether Redis agrees with everything that is desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// It does.
    Complete,
    /// It has refused channels, for this reason. They have to be requested again.
    Refused(String),
}

impl ConnectionSubscriptions {
    /// Handles a push that is no message: the confirmation of a shard channel, the end of its subscription, or that of a round.
    pub(super) fn receive(&self, context: &RedisContext, server: &RedisServer, push: &PushInfo) {
        let Some(Value::BulkString(name)) = push.data.first() else { return };
        if self.confirm(name) || push.kind != PushKind::SUnsubscribe {
            return;
        }
        // Not requested: the slot has moved to another master.
        match context.names.parse(name) {
            Some(MessageSource::Channel(channel)) => server.subscriptions.refuse(&[channel], "the slot has moved"),
            Some(_) => {
                self.own.lock().retain(|own| own.as_bytes() != name);
                server.own_names_changed.notify_one();
            }
            None => {}
        }
    }

    fn confirm(&self, name: &[u8]) -> bool {
        let mut unconfirmed = self.unconfirmed.lock();
        let is_confirmed = unconfirmed.remove(name);
        if is_confirmed && (unconfirmed.is_empty() || name == END_OF_ROUND.as_bytes()) {
            self.confirmed.notify_one();
        }
        is_confirmed
    }

    /// Waits until a condition on the unconfirmed channels holds.
    async fn wait_until(&self, is_met: impl Fn(&HashSet<Vec<u8>>) -> bool) {
        while !is_met(&self.unconfirmed.lock()) {
            self.confirmed.notified().await;
        }
    }
}

/// A PUB/SUB channel to which no connection is subscribed. Redis confirms its UNSUBSCRIBE all the same, after its replies to all
/// commands before it.
const END_OF_ROUND: &str = "end-of-round";

/// A subscription connection with what is subscribed over it.
pub(super) struct Subscriber<'a> {
    pub(super) context: &'a RedisContext,
    pub(super) server: &'a RedisServer,
    pub(super) subscriptions: &'a ConnectionSubscriptions,
}

impl Subscriber<'_> {
    /// Makes Redis agree with everything that is desired.
    ///
    /// # Errors
    /// The connection cannot be used any more.
    pub(super) async fn synchronize(&self, redis: &mut MultiplexedConnection) -> Result<Agreement, String> {
        let own = self.synchronize_own_names(redis).await?;
        if self.context.names.is_sharded() {
            self.apply_sharded_changes(redis).await?;
        } else {
            self.apply_changes(redis).await?;
        }
        let refusal = self.server.subscriptions.refusal();
        Ok(refusal.map_or(own, Agreement::Refused))
    }

    async fn synchronize_own_names(&self, redis: &mut MultiplexedConnection) -> Result<Agreement, String> {
        let desired = self.server.own_names.load_full();
        let before = self.subscriptions.own.lock().clone();
        let missing: Vec<&String> = desired.subscribed.iter().filter(|name| !before.contains(name)).collect();
        let mut agreement = Agreement::Complete;
        if self.context.names.is_sharded() {
            for name in missing {
                match self.send_sharded(redis, "SSUBSCRIBE", std::slice::from_ref(name)).await? {
                    None => {
                        self.subscriptions.own.lock().push(name.clone());
                        if name == self.context.names.control_channel() {
                            // While its slot moved, controls and revocations may have been lost. And its old master may have held the
                            // deliveries, and have left before it could request the list.
                            self.context.deliver.note_lost_controls();
                            self.context.hold_deliveries();
                            self.context.revocations.request();
                        }
                    }
                    Some(refusal) => agreement = Agreement::Refused(refusal),
                }
            }
            for name in before.iter().filter(|name| !desired.subscribed.contains(name)) {
                self.subscriptions.own.lock().retain(|own| own != name);
                self.send_sharded(redis, "SUNSUBSCRIBE", std::slice::from_ref(name)).await?;
            }
        } else if !missing.is_empty() {
            redis.subscribe(&missing).await.map_err(|error| self.error_text("subscribing", &error))?;
            self.subscriptions.own.lock().extend(missing.into_iter().cloned());
        }
        Ok(agreement)
    }

    /// Sends SUBSCRIBE commands without waiting for the confirmations of those before. A channel that is unsubscribed and desired
    /// again is requested again only when everything before has been confirmed.
    async fn apply_changes(&self, redis: &mut MultiplexedConnection) -> Result<(), String> {
        let subscriptions = &self.server.subscriptions;
        let mut in_flight = FuturesUnordered::new();
        loop {
            let has_room = in_flight.len() < SUBSCRIBES_IN_FLIGHT;
            let Some(changes) = has_room.then(|| subscriptions.take_changes(COMMAND_CHANNELS)).flatten() else {
                tokio::select! {
                    subscribed = in_flight.next() => match subscribed {
                        Some(subscribed) => subscribed?,
                        None => return Ok(()),
                    },
                    () = subscriptions.wait_for_change(), if has_room && !in_flight.is_empty() => {}
                }
                continue;
            };
            let (subscribed, unsubscribed) = (changes.subscribe.len(), changes.unsubscribe.len());
            if subscribed > 0 {
                in_flight.push(self.subscribe(redis.clone(), changes.subscribe));
            }
            if unsubscribed > 0 {
                while let Some(subscribed) = in_flight.next().await {
                    subscribed?;
                }
                let done = redis.unsubscribe(&self.names(&changes.unsubscribe)).await;
                done.map_err(|error| self.error_text("unsubscribing", &error))?;
            }
            log::debug!("changing redis subscriptions subscribed={subscribed} unsubscribed={unsubscribed}");
        }
    }

    async fn subscribe(&self, mut redis: MultiplexedConnection, channels: Vec<Channel>) -> Result<(), String> {
        let subscriptions = &self.server.subscriptions;
        let interrupted = subscriptions.acknowledged(&channels);
        self.context.note_interrupted(&interrupted);
        let subscribed = redis.subscribe(&self.names(&channels)).await;
        subscribed.map_err(|error| self.error_text("subscribing", &error))?;
        subscriptions.confirm(&channels);
        self.context.note_resubscribed(&interrupted);
        Ok(())
    }

    async fn apply_sharded_changes(&self, redis: &mut MultiplexedConnection) -> Result<(), String> {
        let subscriptions = &self.server.subscriptions;
        while let Some(changes) = subscriptions.take_changes(SHARDED_BATCH) {
            let mut interrupted = subscriptions.acknowledged(&changes.subscribe);
            self.context.note_interrupted(&interrupted);
            let mut refused = HashSet::new();
            for channels in self.send_rounds(redis, "SSUBSCRIBE", &changes.subscribe).await? {
                // By itself it gets the reply of Redis, which is probably a refusal.
                match self.send_sharded(redis, "SSUBSCRIBE", &self.names(&channels)).await? {
                    None => subscriptions.confirm(&channels),
                    Some(refusal) => {
                        subscriptions.refuse(&channels, &refusal);
                        refused.extend(channels);
                    }
                }
            }
            interrupted.retain(|channel| !refused.contains(channel));
            self.context.note_resubscribed(&interrupted);
            // If the slot has moved, its subscriptions have ended anyway.
            self.send_rounds(redis, "SUNSUBSCRIBE", &changes.unsubscribe).await?;
            let (subscribed, unsubscribed) = (changes.subscribe.len(), changes.unsubscribe.len());
            let refused = refused.len();
            log::debug!(
                "changed shard subscriptions subscribed={subscribed} unsubscribed={unsubscribed} refused={refused}"
            );
        }
        Ok(())
    }

    /// Sends commands for shard channels, many in one round trip, and notes the confirmed subscriptions. Returns the channels that
    /// Redis has not confirmed, grouped for [`Self::send_sharded`].
    async fn send_rounds(
        &self,
        redis: &mut MultiplexedConnection,
        command: &'static str,
        channels: &[Channel],
    ) -> Result<Vec<Vec<Channel>>, String> {
        let mut groups = self.by_slot(channels);
        let mut missing = Vec::new();
        while !groups.is_empty() {
            let mut in_round = 0;
            let is_full = |group: &Vec<Channel>| {
                let was_full = in_round >= ROUND_CHANNELS;
                in_round += group.len();
                was_full
            };
            let count =
                groups.iter().take(ROUND_COMMANDS).position(is_full).unwrap_or(ROUND_COMMANDS.min(groups.len()));
            let rest = groups.split_off(count);
            missing.extend(self.send_round(redis, command, groups).await?);
            groups = rest;
        }
        Ok(missing)
    }

    /// Sends one command for each group, all in one round trip, and returns the groups that Redis has not confirmed.
    ///
    /// The number of replies is unknown: a command has one confirmation for each channel, or one error, and subscriptions may end
    /// meanwhile. So the confirmations are taken from the pushes, and the one of [`END_OF_ROUND`] comes after all of them. redis-rs
    /// gets a reply for each command, which there is in any case, and ignores those that are left, because nothing else is sent before
    /// the end of the round.
    async fn send_round(
        &self,
        redis: &mut MultiplexedConnection,
        command: &'static str,
        groups: Vec<Vec<Channel>>,
    ) -> Result<Vec<Vec<Channel>>, String> {
        let names: Vec<Vec<String>> = groups.iter().map(|channels| self.names(channels)).collect();
        let requested = names.iter().flatten().map(String::as_str).chain([END_OF_ROUND]);
        *self.subscriptions.unconfirmed.lock() = requested.map(|name| name.as_bytes().to_vec()).collect();
        let mut round = redis::pipe();
        names.iter().for_each(|names| _ = round.cmd(command).arg(names));
        round.cmd("UNSUBSCRIBE").arg(END_OF_ROUND);
        let replies = redis.send_packed_commands(&round, 0, names.len() + 1).await;
        replies.map_err(|error| self.error_text("subscribing", &error))?;
        let limit = self.context.timeout;
        let has_ended = self.subscriptions.wait_until(|unconfirmed| !unconfirmed.contains(END_OF_ROUND.as_bytes()));
        timeout(limit, has_ended).await.map_err(|_| format!("{command}: not answered within {limit:?}"))?;
        let unconfirmed = std::mem::take(&mut *self.subscriptions.unconfirmed.lock());
        let is_confirmed = |names: &Vec<String>| names.iter().all(|name| !unconfirmed.contains(name.as_bytes()));
        let mut missing = Vec::new();
        for (channels, names) in groups.into_iter().zip(&names) {
            if !is_confirmed(names) {
                missing.push(channels);
            } else if command == "SSUBSCRIBE" {
                self.server.subscriptions.confirm(&channels);
            }
        }
        Ok(missing)
    }

    /// Sends a command for shard channels of one slot, and waits for all confirmations. Returns why the server refuses it: it
    /// does not have the slot.
    async fn send_sharded(
        &self,
        redis: &mut MultiplexedConnection,
        command: &'static str,
        names: &[String],
    ) -> Result<Option<String>, String> {
        *self.subscriptions.unconfirmed.lock() = names.iter().map(|name| name.clone().into_bytes()).collect();
        let is_subscribe = command == "SSUBSCRIBE";
        let is_confirmation = |kind: &PushKind| match kind {
            PushKind::SSubscribe => is_subscribe,
            PushKind::SUnsubscribe => !is_subscribe,
            _ => false,
        };
        let mut request = redis::cmd(command);
        request.arg(names);
        let limit: Duration = self.context.timeout;
        let is_own_confirmation = |reply: &Value| match reply {
            Value::Push { kind, data } => {
                let is_own = |name: &Vec<u8>| names.iter().any(|own| own.as_bytes() == name);
                is_confirmation(kind) && matches!(data.first(), Some(Value::BulkString(name)) if is_own(name))
            }
            _ => false,
        };
        match redis.send_packed_command(&request).await.and_then(Value::extract_error) {
            Ok(reply) if is_own_confirmation(&reply) => {}
            // redis-rs takes the unsolicited end of a subscription, or what follows it, for the reply. What Redis has answered is
            // unknown, and a refusal would never come.
            Ok(_) => {
                self.subscriptions.unconfirmed.lock().clear();
                return Ok(Some("a subscription has ended meanwhile".to_owned()));
            }
            Err(error) => {
                self.subscriptions.unconfirmed.lock().clear();
                let is_refused = Redirect::of(&error).is_some();
                return if is_refused {
                    Ok(Some(error.to_string()))
                } else {
                    Err(self.error_text("subscribing", &error))
                };
            }
        }
        let all_confirmed = self.subscriptions.wait_until(HashSet::is_empty);
        timeout(limit, all_confirmed).await.map_err(|_| format!("{command}: not confirmed within {limit:?}"))?;
        Ok(None)
    }

    fn error_text(&self, action: &str, error: &RedisError) -> String {
        format!("{action}: {}", describe(error, self.server.timeout))
    }

    fn names(&self, channels: &[Channel]) -> Vec<String> {
        channels.iter().map(|channel| self.context.names.publication_channel(channel)).collect()
    }

    /// Groups channels for commands: of one slot, and not too many.
    fn by_slot(&self, channels: &[Channel]) -> Vec<Vec<Channel>> {
        let mut groups = BTreeMap::<u16, Vec<Channel>>::new();
        for channel in channels {
            groups.entry(self.context.names.slot_of(channel)).or_default().push(channel.clone());
        }
        groups
            .into_values()
            .flat_map(|group| group.chunks(COMMAND_CHANNELS).map(<[_]>::to_vec).collect::<Vec<_>>())
            .collect()
    }
}

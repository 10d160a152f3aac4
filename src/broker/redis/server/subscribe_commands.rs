//! Sends the commands that make one subscription connection agree with the desired subscriptions: the channels, and this
//! instance's own names. A Cluster has shard channels: a command may name those of one slot only, and a master refuses a slot
//! that it does not have, or ends its subscriptions when the slot moves to another master.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use tokio::{sync::Notify, time::timeout};

use super::{
    super::{
        RedisContext,
        names::{MessageSource, RedisNames},
    },
    RedisServer,
    fault::describe,
    redirect::Redirect,
};
use crate::channel::Channel;

/// Maximum number of channels of one command, which Redis handles in a millisecond or two.
const COMMAND_CHANNELS: usize = 512;
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
    /// What has not been confirmed. redis-rs takes the first confirmation for the reply to the command, and does not wait for the
    /// others.
    unconfirmed: Mutex<Unconfirmed>,
    /// Wakes the subscriber: everything is confirmed, or the round has ended.
    confirmed: Notify,
}

/// The names whose confirmations have not arrived: shard channels, and the one that marks the end of a round; each with the kind of its
/// confirmation. A subscription may end while it is requested: that push has the same name, but confirms nothing.
type Unconfirmed = HashMap<Vec<u8>, PushKind>;

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
    pub(super) fn receive(&self, names: &RedisNames, server: &RedisServer, push: &PushInfo) {
        let Some(Value::BulkString(name)) = push.data.first() else { return };
        if self.confirm(name, &push.kind) || push.kind != PushKind::SUnsubscribe {
            return;
        }
        // Not requested: the slot has moved to another master.
        match names.parse(name) {
            Some(MessageSource::Channel(channel)) => server.subscriptions.refuse(&[channel], "the slot has moved"),
            Some(_) => {
                self.own.lock().retain(|own| own.as_bytes() != name);
                server.own_names_changed.notify_one();
            }
            None => {}
        }
    }

    /// Notes that the confirmations of a command for shard channels are awaited.
    fn expect<'a>(&self, command: ShardCommand, names: impl Iterator<Item = &'a String>) {
        let confirmations = names.map(|name| (name.as_bytes().to_vec(), command.confirmation()));
        *self.unconfirmed.lock() = confirmations.collect();
    }

    /// Notes that the end of the round is awaited, too.
    fn expect_end_of_round(&self) {
        self.unconfirmed.lock().insert(END_OF_ROUND.as_bytes().to_vec(), PushKind::Unsubscribe);
    }

    /// Ends a round. Returns those of its groups of names that Redis has not confirmed, by their numbers.
    fn finish_round(&self, groups: &[Vec<String>]) -> HashSet<usize> {
        let unconfirmed = std::mem::take(&mut *self.unconfirmed.lock());
        let is_missing = |name: &String| unconfirmed.contains_key(name.as_bytes());
        let missing = groups.iter().enumerate().filter(|(_, names)| names.iter().any(is_missing));
        missing.map(|(number, _)| number).collect()
    }

    fn confirm(&self, name: &[u8], kind: &PushKind) -> bool {
        let mut unconfirmed = self.unconfirmed.lock();
        let is_confirmed = unconfirmed.get(name) == Some(kind);
        if is_confirmed {
            unconfirmed.remove(name);
        }
        if is_confirmed && (unconfirmed.is_empty() || name == END_OF_ROUND.as_bytes()) {
            self.confirmed.notify_one();
        }
        is_confirmed
    }

    /// Waits until a condition on the unconfirmed channels holds.
    async fn wait_until(&self, is_met: impl Fn(&Unconfirmed) -> bool) {
        while !is_met(&self.unconfirmed.lock()) {
            self.confirmed.notified().await;
        }
    }
}

/// A PUB/SUB channel to which no connection is subscribed. Redis confirms its UNSUBSCRIBE all the same, after its replies to all
/// commands before it.
const END_OF_ROUND: &str = "end-of-round";

/// A command for shard channels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ShardCommand {
    Subscribe,
    Unsubscribe,
}

impl ShardCommand {
    fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "SSUBSCRIBE",
            Self::Unsubscribe => "SUNSUBSCRIBE",
        }
    }

    /// Returns the kind of push that confirms it.
    fn confirmation(self) -> PushKind {
        match self {
            Self::Subscribe => PushKind::SSubscribe,
            Self::Unsubscribe => PushKind::SUnsubscribe,
        }
    }
}

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
                match self.send_sharded(redis, ShardCommand::Subscribe, std::slice::from_ref(name)).await? {
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
                self.send_sharded(redis, ShardCommand::Unsubscribe, std::slice::from_ref(name)).await?;
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
            for channels in self.send_rounds(redis, ShardCommand::Subscribe, &changes.subscribe).await? {
                // By itself it gets the reply of Redis, which is probably a refusal.
                match self.send_sharded(redis, ShardCommand::Subscribe, &self.names(&channels)).await? {
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
            self.send_rounds(redis, ShardCommand::Unsubscribe, &changes.unsubscribe).await?;
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
        command: ShardCommand,
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
        command: ShardCommand,
        groups: Vec<Vec<Channel>>,
    ) -> Result<Vec<Vec<Channel>>, String> {
        let names: Vec<Vec<String>> = groups.iter().map(|channels| self.names(channels)).collect();
        self.subscriptions.expect(command, names.iter().flatten());
        self.subscriptions.expect_end_of_round();
        let mut round = redis::pipe();
        names.iter().for_each(|names| _ = round.cmd(command.name()).arg(names));
        round.cmd("UNSUBSCRIBE").arg(END_OF_ROUND);
        let replies = redis.send_packed_commands(&round, 0, names.len() + 1).await;
        replies.map_err(|error| self.error_text("subscribing", &error))?;
        let limit = self.context.timeout;
        let has_ended = self.subscriptions.wait_until(|unconfirmed| !unconfirmed.contains_key(END_OF_ROUND.as_bytes()));
        let text = command.name();
        timeout(limit, has_ended).await.map_err(|_| format!("{text}: not answered within {limit:?}"))?;
        let unconfirmed = self.subscriptions.finish_round(&names);
        let mut missing = Vec::new();
        for (number, channels) in groups.into_iter().enumerate() {
            if unconfirmed.contains(&number) {
                missing.push(channels);
            } else if command == ShardCommand::Subscribe {
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
        command: ShardCommand,
        names: &[String],
    ) -> Result<Option<String>, String> {
        self.subscriptions.expect(command, names.iter());
        let mut request = redis::cmd(command.name());
        request.arg(names);
        let limit: Duration = self.context.timeout;
        let is_own_confirmation = |reply: &Value| match reply {
            Value::Push { kind, data } => {
                let is_own = |name: &Vec<u8>| names.iter().any(|own| own.as_bytes() == name);
                *kind == command.confirmation() && matches!(data.first(), Some(Value::BulkString(name)) if is_own(name))
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
        let all_confirmed = self.subscriptions.wait_until(Unconfirmed::is_empty);
        let command = command.name();
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{super::partition::PartitionTable, ServerAvailability},
        *,
    };
    use crate::config::Config;

    /// If it counted as the confirmation, a channel whose request is refused afterwards would be deaf.
    #[test]
    fn end_of_a_subscription_is_not_the_confirmation_of_its_request() {
        let names = RedisNames::partitioned("wardcast", "a", PartitionTable::new(1024));
        let availability = Arc::new(ServerAvailability::new(Arc::default()));
        let (server, _queue) =
            RedisServer::new(&Config::default().broker.redis, &names, 1 << 20, &availability, None).unwrap();
        let channels = ["moved", "confirmed"].map(|name| Channel::new(name).unwrap());
        let _answers = channels.clone().map(|channel| server.subscriptions.subscribe(channel).unwrap());
        server.subscriptions.take_changes(SHARDED_BATCH).unwrap();
        let groups = channels.map(|channel| vec![names.publication_channel(&channel)]);
        let subscriptions = ConnectionSubscriptions::default();
        let receive = |kind, name: &str| {
            let push = PushInfo { kind, data: vec![Value::BulkString(name.as_bytes().to_vec()), Value::Int(0)] };
            subscriptions.receive(&names, &server, &push);
        };
        subscriptions.expect(ShardCommand::Subscribe, groups.iter().flatten());
        subscriptions.expect_end_of_round();
        receive(PushKind::SSubscribe, &groups[1][0]);
        assert_eq!(server.subscriptions.refusal(), None);
        receive(PushKind::SUnsubscribe, &groups[0][0]);
        receive(PushKind::Unsubscribe, END_OF_ROUND);
        assert_eq!(subscriptions.finish_round(&groups), [0].into());
        assert!(server.subscriptions.refusal().is_some_and(|refusal| refusal.contains("moved")));
        subscriptions.expect(ShardCommand::Unsubscribe, groups[1].iter());
        receive(PushKind::SUnsubscribe, &groups[1][0]);
        assert_eq!(subscriptions.finish_round(&groups[1..]), HashSet::new());
    }
}

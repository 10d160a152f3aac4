//! Makes one subscription connection agree with what is desired: the channels, and this instance's own names. A Cluster has
//! shard channels: a command may name those of one slot only, and a master refuses a slot that it does not have, or ends its
//! subscriptions when the slot moves to another master.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

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
/// Maximum number of changes that are sorted by slot together: the more, the fewer commands.
const SHARDED_BATCH: usize = 1 << 16;

/// What is subscribed over one connection.
#[derive(Default)]
pub(super) struct ConnectionSubscriptions {
    /// This instance's own names, as far as they are subscribed.
    own: Mutex<Vec<String>>,
    /// Shard channels whose confirmations have not arrived. redis-rs takes the first one for the reply to the command, and
    /// does not wait for the others.
    unconfirmed: Mutex<HashSet<Vec<u8>>>,
    all_confirmed: Notify,
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
    /// Handles a push that is no message: the confirmation of a shard channel, or the end of its subscription.
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
        if is_confirmed && unconfirmed.is_empty() {
            self.all_confirmed.notify_one();
        }
        is_confirmed
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

    async fn apply_changes(&self, redis: &mut MultiplexedConnection) -> Result<(), String> {
        let subscriptions = &self.server.subscriptions;
        while let Some(changes) = subscriptions.take_changes(COMMAND_CHANNELS) {
            if !changes.subscribe.is_empty() {
                let interrupted = subscriptions.acknowledged(&changes.subscribe);
                self.context.note_interrupted(&interrupted);
                let subscribed = redis.subscribe(&self.names(&changes.subscribe)).await;
                subscribed.map_err(|error| self.error_text("subscribing", &error))?;
                subscriptions.confirm(&changes.subscribe);
                self.context.note_resubscribed(&interrupted);
            }
            if !changes.unsubscribe.is_empty() {
                let unsubscribed = redis.unsubscribe(&self.names(&changes.unsubscribe)).await;
                unsubscribed.map_err(|error| self.error_text("unsubscribing", &error))?;
            }
            let (subscribed, unsubscribed) = (changes.subscribe.len(), changes.unsubscribe.len());
            log::debug!("changed redis subscriptions subscribed={subscribed} unsubscribed={unsubscribed}");
        }
        Ok(())
    }

    async fn apply_sharded_changes(&self, redis: &mut MultiplexedConnection) -> Result<(), String> {
        let subscriptions = &self.server.subscriptions;
        while let Some(changes) = subscriptions.take_changes(SHARDED_BATCH) {
            let mut interrupted = subscriptions.acknowledged(&changes.subscribe);
            self.context.note_interrupted(&interrupted);
            let mut refused = HashSet::new();
            for channels in self.by_slot(&changes.subscribe) {
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
            for channels in self.by_slot(&changes.unsubscribe) {
                // If the slot has moved, its subscriptions have ended anyway.
                self.send_sharded(redis, "SUNSUBSCRIBE", &self.names(&channels)).await?;
            }
            let (subscribed, unsubscribed) = (changes.subscribe.len(), changes.unsubscribe.len());
            let refused = refused.len();
            log::debug!(
                "changed shard subscriptions subscribed={subscribed} unsubscribed={unsubscribed} refused={refused}"
            );
        }
        Ok(())
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
        let all_confirmed = async {
            while !self.subscriptions.unconfirmed.lock().is_empty() {
                self.subscriptions.all_confirmed.notified().await;
            }
        };
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

//! Orders of the server API, as one hub carries them out on its own sessions.

use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{Given, Hub, Instruct, SessionKey, tending::Member};
use crate::{
    broker::{Control, Order},
    channel::Channel,
    clock::NEVER,
    protocol::{Disconnect, Unsubscribed},
};

/// An order that came through the broker, for all hubs of this instance.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub(super) struct Carry(pub(super) Arc<Carried>);

/// The order, and its place among those that wait.
pub(super) struct Carried {
    pub(super) control: Control,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Hub {
    /// The sessions that an order means.
    fn meant_by(&self, control: &Control) -> Vec<SessionKey> {
        let is_meant = |(_, member): &(SessionKey, &Member)| {
            let mut text = uuid::Uuid::encode_buffer();
            let client: &str = member.client.hyphenated().encode_lower(&mut text);
            !member.is_leaving()
                && control.client.as_deref().is_none_or(|only| only == client)
                && !control.whitelist.iter().any(|spared| spared == client)
        };
        self.registry.sessions_of(&control.user).filter(is_meant).map(|(key, _)| key).collect()
    }

    fn carry_out(&mut self, key: SessionKey, order: &Order) {
        match order {
            Order::Subscribe { channel, info, data, since, expires_at } => {
                let Ok(channel) = Channel::new(channel) else { return };
                let raw = |text: &Option<String>| text.as_ref().map(|text| Bytes::copy_from_slice(text.as_bytes()));
                let since = since.as_ref().map(|since| (since.offset, since.epoch.clone()));
                let given = Given { channel, info: raw(info), data: raw(data), since, expires_at: *expires_at };
                self.instruct(key, Instruct::Receive(Box::new(given)));
            }
            Order::Unsubscribe { channel } => {
                let Ok(channel) = Channel::new(channel) else { return };
                if !self.end_subscription(key, &channel, Unsubscribed::ByServer) {
                    // Its session may be about to receive it, by an order that came before this one: this one comes behind.
                    self.instruct(key, Instruct::Cease(channel));
                }
            }
            Order::Disconnect { code, reason } => {
                if let Some(disconnect) = Disconnect::custom(*code, reason) {
                    self.close(key, &disconnect);
                }
            }
            Order::Refresh { expires_at, info } => {
                let info = info.as_ref().map(|info| Bytes::copy_from_slice(info.as_bytes()));
                self.instruct(key, Instruct::Renew { expires_at: expires_at.unwrap_or(NEVER), info });
            }
        }
    }

    fn instruct(&self, key: SessionKey, instruct: Instruct) {
        let Some(member) = self.registry.member(key) else { return };
        // A session that waits for a slow broker keeps only as many as its mailbox holds.
        if let Err(error) = member.session.try_send(instruct) {
            log::warn!("client {}: an order is lost: {error}", member.client);
        }
    }
}

/// What was ordered of a session's channel, when all is done that came to the session before.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Cease {
    /// Who.
    pub key: SessionKey,
    /// What it receives no more.
    pub channel: Channel,
}

impl Handler<Cease> for Hub {
    type Result = ();

    fn handle(&mut self, Cease { key, channel }: Cease, _: &mut Self::Context) {
        self.end_subscription(key, &channel, Unsubscribed::ByServer);
        self.note_expiry(key);
    }
}

impl Handler<Carry> for Hub {
    type Result = ();

    fn handle(&mut self, Carry(carried): Carry, _: &mut Self::Context) {
        for key in self.meant_by(&carried.control) {
            self.carry_out(key, &carried.control.order);
        }
    }
}

//! An interruption of the broker's subscriptions: publications may be lost before the broker is subscribed again, and another
//! server may answer then, which has other publications. So nothing of these channels is delivered until they are compared.
//! Where no subscriber relies on the position, deliveries go on, and the newest publication from before the interruption is
//! compared.

use std::sync::Arc;

use actix::prelude::*;

use crate::{channel::Channel, hub::Hub};

/// How far an interruption is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) enum Interruption {
    /// The broker subscribes again.
    Interrupted,
    /// The broker is subscribed again.
    Resubscribed,
}

/// The broker subscribes to these channels again.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::hub) struct NoteInterrupted(pub(in crate::hub) Arc<[Channel]>);

/// The broker is subscribed again to these channels.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::hub) struct NoteResubscribed(pub(in crate::hub) Arc<[Channel]>);

impl Hub {
    fn interrupt(&mut self, channel: &Channel) {
        let Some(state) = self.registry.channel_state_mut(channel) else { return };
        state.may_go_back = true;
        if state.is_relied_on && state.position.is_some() {
            self.begin_gap(channel);
        } else {
            state.suspect_newest();
        }
    }

    fn resume(&mut self, channel: &Channel) {
        if let Some(state) = self.registry.channel_state_mut(channel) {
            // Once more: deliveries from before the interruption may have come since.
            state.may_go_back = true;
        }
        self.queue_check(channel);
    }

    /// Does for a channel that has just got its first subscriber what an interruption has done for the others: the position
    /// may have been read before it.
    pub(in crate::hub) fn catch_up_with_interruption(&mut self, channel: &Channel, interruption: Interruption) {
        self.interrupt(channel);
        if interruption == Interruption::Resubscribed {
            self.resume(channel);
        }
    }
}

impl Handler<NoteInterrupted> for Hub {
    type Result = ();

    fn handle(&mut self, NoteInterrupted(channels): NoteInterrupted, _: &mut Self::Context) {
        for channel in &*channels {
            self.catch_up_buffer.note_interruption(channel, Interruption::Interrupted);
            self.interrupt(channel);
        }
    }
}

impl Handler<NoteResubscribed> for Hub {
    type Result = ();

    fn handle(&mut self, NoteResubscribed(channels): NoteResubscribed, ctx: &mut Self::Context) {
        for channel in &*channels {
            self.catch_up_buffer.note_interruption(channel, Interruption::Resubscribed);
            self.resume(channel);
        }
        self.check_urgent(ctx);
    }
}

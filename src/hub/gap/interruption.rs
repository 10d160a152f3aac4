//! An interruption of the broker's subscriptions: publications may be lost before the broker is subscribed again, and another
//! server may answer then, which has other publications. So nothing of these channels is delivered until they are compared.

use std::sync::Arc;

use actix::prelude::*;

use crate::{channel::Channel, hub::Hub};

/// The broker subscribes to these channels again.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::hub) struct NoteInterrupted(pub(in crate::hub) Arc<[Channel]>);

/// The broker is subscribed again to these channels.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::hub) struct NoteResubscribed(pub(in crate::hub) Arc<[Channel]>);

impl Handler<NoteInterrupted> for Hub {
    type Result = ();

    fn handle(&mut self, NoteInterrupted(channels): NoteInterrupted, _: &mut Self::Context) {
        for channel in &*channels {
            let Some(state) = self.registry.channel_state_mut(channel) else { continue };
            state.may_go_back = true;
            if state.polled_retention.is_some() && state.position.is_some() {
                self.begin_gap(channel);
            }
        }
    }
}

impl Handler<NoteResubscribed> for Hub {
    type Result = ();

    fn handle(&mut self, NoteResubscribed(channels): NoteResubscribed, ctx: &mut Self::Context) {
        for channel in &*channels {
            if let Some(state) = self.registry.channel_state_mut(channel) {
                // Once more: deliveries from before the interruption may have come since.
                state.may_go_back = true;
            }
            self.queue_check(channel);
        }
        self.check_urgent(ctx);
    }
}

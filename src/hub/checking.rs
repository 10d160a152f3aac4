//! Silent channels: where nothing has come for a while the broker is asked where the channel stands, since a publication
//! that is lost on the way leaves no gap behind it until the next one comes.

use std::time::{Duration, Instant};

use actix::prelude::*;

use super::{Hub, wheel::TICK};
use crate::{
    broker::{BrokerError, History, HistoryRequest, Retention},
    channel::Channel,
    position::Position,
};

/// Questions under way at a time.
const AT_ONCE: usize = 16;
/// What was published just now may still be on its way: a difference has to last.
const AGAIN: Duration = Duration::from_secs(2);

/// One round through the channels of a hub after the other.
pub(super) struct Checking {
    interval: Duration,
    next: Instant,
    /// The rest of this round.
    silent: Vec<(Channel, Retention)>,
    per_turn: usize,
    under_way: usize,
    suspects: Vec<Suspect>,
}

/// A channel that stood elsewhere at the broker.
struct Suspect {
    channel: Channel,
    retention: Retention,
    here: Position,
    again: Instant,
}

impl Checking {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: Instant::now() + interval,
            silent: Vec::new(),
            per_turn: 1,
            under_way: 0,
            suspects: Vec::new(),
        }
    }
}

impl Hub {
    /// Asks for some of the silent channels at each turn of the wheel.
    pub(super) fn check_positions(&mut self, ctx: &mut <Self as Actor>::Context) {
        let now = Instant::now();
        if now >= self.checking.next && self.checking.silent.is_empty() {
            self.begin_round(now);
        }
        let due = self.checking.suspects.extract_if(.., |suspect| now >= suspect.again).collect::<Vec<_>>();
        for suspect in due {
            self.ask_for_top(suspect.channel, suspect.retention, Some(suspect.here), ctx);
        }
        let free = AT_ONCE.saturating_sub(self.checking.under_way).min(self.checking.per_turn);
        let rest = self.checking.silent.len().saturating_sub(free);
        for (channel, retention) in self.checking.silent.split_off(rest) {
            self.ask_for_top(channel, retention, None, ctx);
        }
    }

    fn begin_round(&mut self, now: Instant) {
        self.checking.next = now + self.checking.interval;
        let silent = self.registry.states_mut().filter_map(|(channel, track)| {
            let was_heard = std::mem::take(&mut track.is_heard);
            let retention = track.checked.filter(|_| !was_heard)?;
            Some((channel.clone(), retention))
        });
        self.checking.silent = silent.collect();
        let turns = (self.checking.interval.as_millis() / TICK.as_millis() / 2).max(1) as usize;
        self.checking.per_turn = self.checking.silent.len().div_ceil(turns);
    }

    fn ask_for_top(
        &mut self,
        channel: Channel,
        retention: Retention,
        suspected: Option<Position>,
        ctx: &mut <Self as Actor>::Context,
    ) {
        self.checking.under_way += 1;
        let asked = self.interest.broker().history(channel.clone(), HistoryRequest::default(), retention);
        ctx.spawn(asked.into_actor(self).map(move |answer, hub, _| {
            hub.checking.under_way -= 1;
            hub.compare(channel, retention, suspected, answer);
        }));
    }

    fn compare(
        &mut self,
        channel: Channel,
        retention: Retention,
        suspected: Option<Position>,
        answer: Result<History, BrokerError>,
    ) {
        let Some(here) = self.registry.state(&channel).and_then(|track| track.position) else { return };
        let Ok(History { top, .. }) = answer else { return };
        let is_behind = top.epoch != here.epoch || top.offset > here.offset;
        match suspected {
            _ if !is_behind => {}
            // It has not moved since, and the broker is elsewhere still.
            Some(before) if before == here => {
                log::debug!("a gap in {channel:?}, found by its position");
                self.end_positioned(&channel);
                if let Some(track) = self.registry.state_mut(&channel) {
                    // For those who do not rely on it.
                    track.position = Some(top);
                }
            }
            _ => {
                let again = Instant::now() + AGAIN;
                self.checking.suspects.push(Suspect { channel, retention, here, again });
            }
        }
    }
}

//! Finding out where a subscription begins: the channel is asked for at the broker, its history is read where the client may
//! have missed something or nobody here knows where the channel stands, and put together with what was delivered meanwhile.

use std::{collections::HashSet, sync::Arc};

use actix::prelude::*;
use futures_util::future::join_all;

use super::{
    Hub,
    interest::Interest,
    reception::{Claimed, Recover},
    recovery::{self, Beginning, Merged, Read, Seen},
    subscribing::{NotSubscribed, Subscribe, Wanted},
};
use crate::{
    broker::{BrokerError, History, HistoryRequest, Retention, Since},
    channel::Channel,
    config::RecoveryMode,
    position::Position,
    publication::Publication,
};

/// How often a history is read for one subscription: again only when what was kept does not reach to it, or it has become
/// another history meanwhile.
const READS: u8 = 3;

/// Where a subscription begins; a channel without a history has no such place.
pub(super) struct Start {
    pub(super) beginning: Option<Beginning>,
    pub(super) missed: Vec<Publication>,
}

type Answer = Result<Option<History>, BrokerError>;

impl Hub {
    /// Begins when the broker has answered, which may be at once.
    pub(super) fn start(
        &mut self,
        subscribe: Subscribe,
        reads: u8,
    ) -> ResponseActFuture<Self, Result<(), NotSubscribed>> {
        let questions: Vec<_> =
            subscribe.wanted.iter().map(|wanted| self.question(&subscribe, wanted, reads)).collect();
        let is_heard = |wanted: &Wanted| self.registry.has_subscribers(&wanted.channel);
        if reads == 0 && questions.iter().all(Option::is_none) && subscribe.wanted.iter().all(is_heard) {
            let starts = subscribe.wanted.iter().map(|wanted| self.start_known(wanted)).collect();
            return Box::pin(actix::fut::ready(self.begin(subscribe, starts)));
        }
        // All of them: one that somebody receives now may be given back while the broker is asked for another.
        let asked = subscribe.wanted.iter().zip(questions).map(|(wanted, question)| {
            self.joinings.begin(&wanted.channel);
            ask(self.interest.clone(), wanted.channel.clone(), question)
        });
        let answers = join_all(asked.collect::<Vec<_>>());
        Box::pin(answers.into_actor(self).then(move |answers, hub, _| hub.answered(subscribe, answers, reads)))
    }

    /// What has to be read before a subscription begins.
    fn question(
        &self,
        Subscribe { key, .. }: &Subscribe,
        wanted: &Wanted,
        reads: u8,
    ) -> Option<(HistoryRequest, Retention)> {
        let Wanted { channel, options, .. } = wanted;
        let retention = options.retention?;
        let is_known = self.registry.channels_of(*key).is_some_and(|channels| channels.contains(channel));
        let recover = options.recover.as_ref().filter(|recover| recover.epoch != Claimed::Unknown);
        // Whoever reads again reads all: what is known now may not be when the others have answered.
        if is_known || (reads == 0 && !recovery::wants_history(self.position(channel), recover)) {
            return None;
        }
        let limit = self.bounds.recovered_publications;
        let request = match recover {
            Some(Recover { mode: RecoveryMode::Stream, offset, .. }) => {
                HistoryRequest { since: Some(Since { offset: *offset, epoch: None }), limit, is_reverse: false }
            }
            Some(Recover { mode: RecoveryMode::Cache, .. }) => {
                HistoryRequest { since: None, limit: 1, is_reverse: true }
            }
            None => HistoryRequest::default(),
        };
        Some((request, retention))
    }

    fn position(&self, channel: &Channel) -> Option<Position> {
        self.registry.state(channel).and_then(|track| track.position)
    }

    /// Where a subscription begins of which nothing has to be read.
    fn start_known(&self, Wanted { channel, options, .. }: &Wanted) -> Start {
        let at = self.position(channel).filter(|_| options.retention.is_some());
        let is_recovered = options.recover.is_some_and(|recover| recover.epoch != Claimed::Unknown);
        let beginning = at.map(|at| if is_recovered { Beginning::recovered(at) } else { Beginning::at(at) });
        Start { beginning, missed: Vec::new() }
    }

    /// Whether what was allowed when it was asked for still is: the broker may have been slow, and others quick.
    pub(super) fn may_begin(&self, wanted: &[Wanted], known: &[bool]) -> Result<(), NotSubscribed> {
        let now = self.clock.now();
        for (Wanted { channel, grant, options, .. }, _) in wanted.iter().zip(known).filter(|(_, known)| !**known) {
            // What was missed is not for whoever may not receive what is live.
            if grant.expires_at() <= now {
                let is_server_side = grant.is_server_side();
                return Err(if is_server_side { NotSubscribed::Closing } else { NotSubscribed::Expired });
            }
            let Some(filter) = &options.filter else { continue };
            let filters = || self.registry.classes(channel).filter_map(|(_, reception, _)| reception.filter.as_ref());
            let nodes: usize = filters().map(|filter| filter.nodes()).sum();
            if nodes + filter.nodes() > self.bounds.filter_nodes_per_channel && !filters().any(|held| held == filter) {
                return Err(NotSubscribed::TooMany);
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        subscribe: Subscribe,
        answers: Vec<Answer>,
        reads: u8,
    ) -> ResponseActFuture<Self, Result<(), NotSubscribed>> {
        let channels: Vec<Channel> = subscribe.wanted.iter().map(|wanted| wanted.channel.clone()).collect();
        let acquired: Vec<Channel> = channels
            .iter()
            .zip(&answers)
            .filter(|(_, answer)| answer.is_ok())
            .map(|(channel, _)| channel.clone())
            .collect();
        let heard: HashSet<&Channel> =
            acquired.iter().filter(|channel| self.registry.has_subscribers(channel)).collect();
        let histories: Result<Vec<Option<History>>, BrokerError> = answers.into_iter().collect();
        let begun = match histories {
            Err(error) => Err(error.into()),
            Ok(histories) => {
                let starts = subscribe.wanted.iter().zip(histories);
                let starts = starts.map(|(wanted, history)| self.meet(wanted, history, reads + 1 >= READS));
                match starts.collect::<Option<Vec<Start>>>() {
                    Some(starts) => self.begin(subscribe, starts),
                    None => {
                        let again = self.start(subscribe, reads + 1);
                        acquired.iter().for_each(|channel| self.interest.release(channel));
                        channels.iter().for_each(|channel| self.joinings.end(channel));
                        return again;
                    }
                }
            }
        };
        // Other sessions hold the channel for all already, or there is nobody to hold it for.
        let spare = acquired.iter().filter(|channel| begun.is_err() || heard.contains(channel));
        spare.for_each(|channel| self.interest.release(channel));
        channels.iter().for_each(|channel| self.joinings.end(channel));
        Box::pin(actix::fut::ready(begun))
    }

    /// Puts together what was read and what was delivered here; `None`: reading again helps.
    fn meet(&self, wanted: &Wanted, history: Option<History>, is_last_try: bool) -> Option<Start> {
        let recover = wanted.options.recover.as_ref().filter(|recover| recover.epoch != Claimed::Unknown);
        let here = self.position(&wanted.channel);
        let Some(History { mut publications, top }) = history else {
            let has_moved = wanted.options.retention.is_some() && recovery::wants_history(here, recover);
            return (!has_moved).then(|| self.start_known(wanted));
        };
        let (kept, places) = self.joinings.kept(&wanted.channel);
        let offset = |publication: &Publication| publication.position.map_or(0, |position| position.offset);
        let offsets: Vec<u64> = publications.iter().map(offset).collect();
        let (seen, read) = (Seen { here, kept: places }, Read { offsets: &offsets, top });
        let beginning = match recovery::merge(recover, seen, read, self.bounds.recovered_publications) {
            Merged::Begins(beginning) => beginning,
            Merged::Again if is_last_try => Beginning::at(here.unwrap_or(top)),
            Merged::Again => return None,
        };
        publications.truncate(beginning.read.end);
        let mut missed = publications.split_off(beginning.read.start);
        missed.extend(kept[beginning.kept.clone()].iter().filter_map(|delivery| delivery.publication().cloned()));
        Some(Start { beginning: Some(beginning), missed })
    }
}

/// Holds a channel, then reads what there is to read of its history: what is published later than that is delivered.
async fn ask(interest: Arc<Interest>, channel: Channel, question: Option<(HistoryRequest, Retention)>) -> Answer {
    interest.clone().acquire(channel.clone()).await?;
    let Some((request, retention)) = question else { return Ok(None) };
    let history = interest.broker().history(channel.clone(), request, retention).await;
    if history.is_err() {
        interest.release(&channel);
    }
    history.map(Some)
}

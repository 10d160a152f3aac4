//! Chooses the commands that the publishing connection sends in one pipeline, and the publications that share a call of a
//! script there.

use std::{collections::HashMap, mem};

use redis::{Cmd, Value};

use super::{
    super::history::{StoredPublication, split_reply, store_call},
    job::PublishJob,
};

/// A batch ends with the command that exceeds one of these limits: over a slow link, a longer batch would not be answered in
/// time.
pub(super) const BATCH_COMMANDS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Maximum publications that one call stores. So many keep Redis from everything else for a third of a millisecond, and more would
/// cost it hardly less each.
const PUBLICATIONS_PER_CALL: usize = 64;

/// Takes the jobs of the next batch.
pub(super) fn take_batch(unsent: &mut Vec<PublishJob>) -> Vec<PublishJob> {
    let mut bytes = 0;
    let fits = |job: &&PublishJob| {
        let is_begun = bytes < BATCH_BYTES;
        bytes += job.queued_bytes();
        is_begun
    };
    let length = unsent.iter().take_while(fits).count();
    let later = unsent.split_off(length);
    mem::replace(unsent, later)
}

/// One command of a pipeline, and the jobs that it does.
pub(super) enum BatchCall {
    /// The command of a job.
    Command(PublishJob),
    /// Stores the publications of jobs.
    Store(Vec<PublishJob>),
}

impl BatchCall {
    /// Distributes jobs to calls. A publication joins the open call of its slot if nothing but publications came since, so those
    /// of a channel keep their order, and so do they and all other commands.
    pub(super) fn group(jobs: impl IntoIterator<Item = PublishJob>) -> Vec<Self> {
        let mut calls: Vec<Self> = Vec::new();
        let mut open_calls: HashMap<u16, usize> = HashMap::new();
        for job in jobs {
            let Some(publication) = job.publication() else {
                open_calls.clear();
                calls.push(Self::Command(job));
                continue;
            };
            let slot = publication.slot();
            if let Some(Self::Store(others)) = open_calls.get(&slot).and_then(|call| calls.get_mut(*call))
                && others.len() < PUBLICATIONS_PER_CALL
                && !job.is_alone()
                && others
                    .first()
                    .and_then(PublishJob::publication)
                    .is_some_and(|first| first.fits_into_call_with(publication))
            {
                others.push(job);
                continue;
            }
            if job.is_alone() {
                open_calls.remove(&slot);
            } else {
                open_calls.insert(slot, calls.len());
            }
            calls.push(Self::Store(vec![job]));
        }
        calls
    }

    /// Takes the command to send.
    pub(super) fn take_command(&mut self) -> Cmd {
        match self {
            Self::Command(job) => job.take_command(),
            Self::Store(jobs) => {
                store_call(&jobs.iter().filter_map(PublishJob::publication).collect::<Vec<&StoredPublication>>())
            }
        }
    }

    /// Calls `complete` with each job and its part of the reply.
    pub(super) fn distribute(self, reply: Value, mut complete: impl FnMut(PublishJob, Value)) {
        match self {
            Self::Command(job) => complete(job, reply),
            Self::Store(jobs) => {
                let replies = split_reply(reply, jobs.len());
                jobs.into_iter().zip(replies).for_each(|(job, reply)| complete(job, reply));
            }
        }
    }

    /// Tells all callers that the call has failed.
    pub(super) fn fail(self, error: &str) {
        match self {
            Self::Command(job) => job.fail(error),
            Self::Store(jobs) => jobs.into_iter().for_each(|job| job.fail(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{
        super::super::{names::RedisNames, partition::PartitionTable},
        super::job::{JobCommand, QueuedBytes},
        *,
    };
    use crate::{broker::Retention, channel::Channel, position::Epoch, publication::Publication};

    fn job(command: JobCommand, bytes: usize) -> PublishJob {
        PublishJob::new(command, QueuedBytes::reserve(bytes, &Arc::default(), bytes).unwrap()).0
    }

    /// A job that stores a publication whose record is its number.
    fn store(names: &RedisNames, channel: &str, number: usize, size: usize) -> PublishJob {
        let publication = Publication::new(Channel::new(channel).unwrap(), Bytes::new());
        let retention = Retention { size, ttl: Duration::from_secs(1), meta_ttl: Duration::from_secs(1) };
        let (record, epoch) = (number.to_string().into_bytes(), Epoch::parse("abcdefgh").unwrap());
        let stored = StoredPublication::new(names, &publication, record, retention, None, None, epoch);
        job(JobCommand::Store(Box::new(stored)), 1)
    }

    fn command(number: usize) -> PublishJob {
        job(JobCommand::Script(redis::cmd(&number.to_string())), 1)
    }

    fn of_a_cluster() -> RedisNames {
        RedisNames::partitioned("wardcast", "node", PartitionTable::new(4))
    }

    /// The numbers of the jobs of each call.
    fn numbers(calls: Vec<BatchCall>) -> Vec<Vec<usize>> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse::<usize>().unwrap();
        let number = |job: &PublishJob| match job.publication() {
            Some(publication) => text(publication.record()),
            None => text(&job.command().args_iter().next().map_or_else(Vec::new, |arg| match arg {
                redis::Arg::Simple(bytes) => bytes.to_vec(),
                _ => Vec::new(),
            })),
        };
        let of_call = |call: BatchCall| match call {
            BatchCall::Command(job) => vec![number(&job)],
            BatchCall::Store(jobs) => jobs.iter().map(number).collect(),
        };
        calls.into_iter().map(of_call).collect()
    }

    #[test]
    fn publications_that_follow_each_other_share_a_call() {
        let names = RedisNames::new("wardcast", "node");
        let store = |number, size| store(&names, &format!("c{number}"), number, size);
        let jobs = vec![store(0, 5), store(1, 5), command(2), store(3, 5), store(4, 6), store(5, 6), store(6, 5)];
        assert_eq!(numbers(BatchCall::group(jobs)), [vec![0, 1], vec![2], vec![3], vec![4, 5], vec![6]]);
        let calls = numbers(BatchCall::group((0..130).map(|number| store(number, 5))));
        assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 2]);
    }

    #[test]
    fn refused_publication_has_a_call_for_itself() {
        let names = of_a_cluster();
        let mut jobs: Vec<_> = (0..5).map(|number| store(&names, "news", number, 5)).collect();
        jobs[2].restore(&Cmd::new());
        assert_eq!(numbers(BatchCall::group(jobs)), [vec![0, 1], vec![2], vec![3, 4]]);
    }

    proptest! {
        #[test]
        fn publications_of_a_slot_and_all_other_commands_keep_their_order(
            kinds in prop::collection::vec((0..12_usize, 5..7_usize, any::<bool>()), 1..300),
        ) {
            let names = of_a_cluster();
            let channel = |kind: usize| format!("c{kind}");
            let jobs = kinds.iter().enumerate().map(|(number, (kind, size, is_alone))| match kind {
                0..10 => {
                    let mut job = store(&names, &channel(*kind), number, *size);
                    if *is_alone && *kind == 1 {
                        job.restore(&Cmd::new());
                    }
                    job
                }
                _ => command(number),
            });
            let sent: Vec<usize> = numbers(BatchCall::group(jobs)).concat();
            let place = |number: usize| sent.iter().position(|sent| *sent == number).unwrap();
            let slot = |kind: usize| (kind < 10).then(|| names.slot_of(&Channel::new(&channel(kind)).unwrap()));
            prop_assert_eq!(sent.len(), kinds.len());
            for (later, (kind, ..)) in kinds.iter().enumerate() {
                for (earlier, (other, ..)) in kinds[..later].iter().enumerate() {
                    let has_order = slot(*kind).zip(slot(*other)).is_none_or(|(one, other)| one == other);
                    prop_assert!(!has_order || place(earlier) < place(later), "{} before {}", earlier, later);
                }
            }
        }
    }
}

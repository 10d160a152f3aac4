//! A batch: the deliveries of a paced channel that are sent together, and which of them each subscriber receives. Pure.

use std::{collections::HashSet, sync::Arc};

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::hub::{
    delivery::Delivery,
    pacing::Conflation,
    subscription::{DeliveryOptions, DeltaState},
};

/// Deliveries of one channel that follow each other.
pub(super) struct Batch<'a> {
    deliveries: &'a [Arc<Delivery>],
    /// The publication before them.
    base: Option<&'a Arc<Delivery>>,
    conflation: Option<&'a Conflation>,
    /// The clients that one of the publications excludes.
    excluded: Vec<Uuid>,
}

/// The part of a batch that a subscriber receives.
pub(super) struct Selection {
    /// The frames of what it receives, one after the other; `None`: nothing.
    pub(super) frame: Option<Bytes>,
    /// The deliveries that it receives, by their place in the batch.
    pub(super) deliveries: Vec<usize>,
    /// The delivery options that it has after the batch.
    pub(super) options: DeliveryOptions,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        deliveries: &'a [Arc<Delivery>],
        base: Option<&'a Arc<Delivery>>,
        conflation: Option<&'a Conflation>,
    ) -> Self {
        let publications = deliveries.iter().filter_map(|delivery| delivery.publication());
        let mut excluded: Vec<Uuid> = publications.filter_map(|publication| publication.exclude).collect();
        excluded.sort_unstable();
        Self { deliveries, base, conflation, excluded }
    }

    /// Returns whether one of the publications excludes a client.
    pub(super) fn excludes(&self, client: Uuid) -> bool {
        self.excluded.binary_search(&client).is_ok()
    }

    /// Returns the last publication, if there is one.
    pub(super) fn last_publication(&self) -> Option<&'a Arc<Delivery>> {
        self.deliveries.iter().rfind(|delivery| delivery.publication().is_some())
    }

    /// Returns for each delivery whether subscribers with these options receive it, apart from conflation and from excluded clients. The
    /// filter notes all its comparisons.
    pub(super) fn received_with(&self, options: &DeliveryOptions) -> Vec<bool> {
        self.deliveries.iter().map(|delivery| delivery.is_received_with(options)).collect()
    }

    /// Selects what a subscriber with these options receives of the deliveries that it is meant to receive: `client`, or `None`
    /// for one that no publication excludes.
    pub(super) fn select(&self, options: &DeliveryOptions, received: &[bool], client: Option<Uuid>) -> Selection {
        let is_for_client = |delivery: &Delivery| {
            let excluded = delivery.publication().and_then(|publication| publication.exclude);
            client.is_none() || excluded != client
        };
        let all = self.deliveries.iter().enumerate();
        let meant = all.filter(|(index, delivery)| received[*index] && is_for_client(delivery));
        let selected = self.conflate(meant.map(|(index, _)| index).collect());
        let (mut after, mut frames) = (options.clone(), Vec::with_capacity(selected.len()));
        let mut base = self.base;
        for index in &selected {
            let delivery = &self.deliveries[*index];
            frames.push(delivery.encoded(after.format, after.delta, base.map(|base| &**base)));
            if delivery.publication().is_some() && after.delta != DeltaState::None {
                (after.delta, base) = (DeltaState::HasBase, Some(delivery));
            }
        }
        if let Some(last) = self.last_publication() {
            let has_last = selected.iter().any(|index| Arc::ptr_eq(&self.deliveries[*index], last));
            if !has_last {
                after.forget_base();
            }
        }
        let mut positions = self.deliveries.iter().filter_map(|delivery| delivery.position());
        if positions.any(|position| position.offset >= after.skip_up_to) {
            after.skip_up_to = 0;
        }
        Selection { frame: join(&frames), deliveries: selected, options: after }
    }

    /// Drops the publications that newer ones replace.
    fn conflate(&self, mut meant: Vec<usize>) -> Vec<usize> {
        let Some(conflation) = self.conflation else { return meant };
        let (mut values, mut has_newest) = (HashSet::new(), false);
        meant.reverse();
        meant.retain(|index| {
            let Some(publication) = self.deliveries[*index].publication() else { return true };
            match conflation {
                Conflation::Newest => !std::mem::replace(&mut has_newest, true),
                Conflation::NewestByTag(tag) => publication.tags.get(tag).is_none_or(|value| values.insert(value)),
            }
        });
        meant.reverse();
        meant
    }
}

/// Puts frames behind each other: a subscriber gets them in one piece.
fn join(frames: &[&Bytes]) -> Option<Bytes> {
    match frames {
        [] => None,
        [frame] => Some(Bytes::clone(frame)),
        _ => {
            let mut joined = BytesMut::with_capacity(frames.iter().map(|frame| frame.len()).sum());
            frames.iter().for_each(|frame| joined.extend_from_slice(frame));
            Some(joined.freeze())
        }
    }
}

//! Tests of the order of the fan-out, without a clock: what is queued and flushed before what.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Name of a flow.
type Name = u16;

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Queued(Name, u32),
    /// A flush of a session in the turn of a flow, and what it wrote.
    Flushed(Name, Slot, Vec<(Name, u32)>),
}

/// A schedule with subscribers and their outboxes, that does the work as a hub does.
#[derive(Default)]
struct Simulation {
    schedule: Schedule<Name, u32>,
    subscribers: BTreeMap<Name, Vec<Slot>>,
    outboxes: BTreeMap<Slot, Vec<(Name, u32)>>,
    /// Published so far, by flow: deliveries are numbered from 0.
    published: BTreeMap<Name, u32>,
}

impl Simulation {
    fn new(subscribers: impl IntoIterator<Item = (Name, Vec<Slot>)>) -> Self {
        Self { subscribers: subscribers.into_iter().collect(), ..Self::default() }
    }

    fn publish(&mut self, flow: Name) {
        self.publish_bytes(flow, 100);
    }

    fn publish_bytes(&mut self, flow: Name, bytes: usize) {
        let number = self.published.entry(flow).or_default();
        self.schedule.add(&flow, *number, bytes);
        *number += 1;
    }

    /// Does the next piece of work. Returns no events if no delivery and no session waits.
    fn step(&mut self) -> Vec<Event> {
        match self.schedule.next_step() {
            None => Vec::new(),
            Some(Step::Queue(id, delivery)) => {
                let flow = self.schedule.flows[id as usize].key;
                for session in self.subscribers.get(&flow).into_iter().flatten() {
                    self.outboxes.entry(*session).or_default().push((flow, delivery));
                    self.schedule.await_flush(id, *session);
                }
                vec![Event::Queued(flow, delivery)]
            }
            Some(Step::Flush(id, count)) => {
                let flow = self.schedule.flows[id as usize].key;
                assert!(count > 0);
                let sessions: Vec<Slot> = (0..count).map(|_| self.schedule.take_waiting(id).unwrap()).collect();
                let mut write = |session: &Slot| self.outboxes.remove(session).unwrap_or_default();
                sessions.iter().map(|session| Event::Flushed(flow, *session, write(session))).collect()
            }
        }
    }

    /// Does all the work that is left.
    fn run(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let done = self.step();
            if done.is_empty() {
                return events;
            }
            events.extend(done);
        }
    }

    /// Does work until an event of a kind, and returns what was done before it.
    fn run_until(&mut self, is_it: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let done = self.step();
            assert!(!done.is_empty(), "no such event: {events:?}");
            let at = done.iter().position(&is_it);
            events.extend(done.iter().take(at.unwrap_or(done.len())).cloned());
            if at.is_some() {
                return events;
            }
        }
    }

    fn assert_nothing_left(&self) {
        let Schedule { flows, by_key, lists, waiting } = &self.schedule;
        assert!(flows.is_empty() && by_key.is_empty(), "flows are removed");
        assert!(lists.new.is_empty() && lists.queued.is_empty() && lists.old.is_empty());
        assert!(waiting.first.iter().all(|flow| *flow == NO_FLOW) && waiting.further.is_empty());
        assert!(self.outboxes.is_empty(), "everything is flushed");
    }
}

fn flushed(events: &[Event]) -> Vec<Slot> {
    let sessions = events.iter().filter_map(|event| match event {
        Event::Flushed(_, session, _) => Some(*session),
        Event::Queued(..) => None,
    });
    sessions.collect()
}

fn flushes_of(events: &[Event], name: Name) -> usize {
    events.iter().filter(|event| matches!(event, Event::Flushed(flow, ..) if *flow == name)).count()
}

const HOT: Name = 0;
const QUIET: Name = 1000;
const QUANTUM_FLUSHES: usize = (QUANTUM / FLUSH_COST) as usize;

#[test]
fn each_waiting_session_is_flushed_once_before_any_is_flushed_twice() {
    let mut hub = Simulation::new([(HOT, (0..1000).collect())]);
    let mut order = Vec::new();
    for _ in 0..400 {
        hub.publish(HOT);
        order.extend(flushed(&hub.step()));
    }
    order.extend(flushed(&hub.run()));
    assert!(order.len() > 2000, "more than two rounds: {}", order.len());
    for (at, session) in order.iter().enumerate() {
        assert_eq!(*session as usize, at % 1000);
    }
    hub.assert_nothing_left();
}

#[test]
fn publication_joins_the_flush_of_sessions_that_wait_and_follows_for_the_others() {
    let mut hub = Simulation::new([(HOT, (0..100).collect())]);
    hub.publish(HOT);
    hub.step();
    let first_ones = hub.step().len() as Slot;
    hub.publish(HOT);
    let flushes: Vec<Event> = hub.run().into_iter().filter(|event| matches!(event, Event::Flushed(..))).collect();
    let joined = (first_ones..100).map(|session| Event::Flushed(HOT, session, vec![(HOT, 0), (HOT, 1)]));
    let followed = (0..first_ones).map(|session| Event::Flushed(HOT, session, vec![(HOT, 1)]));
    assert_eq!(flushes, joined.chain(followed).collect::<Vec<_>>());
    hub.assert_nothing_left();
}

#[test]
fn channel_that_becomes_active_is_served_before_all_others() {
    for busy in [1, 10] {
        let busy_ones = (0..busy).map(|flow| (flow, (0..1000).collect()));
        let mut hub = Simulation::new(busy_ones.chain([(QUIET, vec![2000])]));
        (0..busy).for_each(|flow| hub.publish(flow));
        (0..busy).for_each(|_| drop(hub.step()));
        for number in 0..100 {
            // Until it has become inactive.
            while hub.schedule.by_key.contains_key(&QUIET) {
                hub.step();
                (0..busy).for_each(|flow| hub.publish(flow));
            }
            hub.publish(QUIET);
            let flush = Event::Flushed(QUIET, 2000, vec![(QUIET, number)]);
            assert_eq!([hub.step(), hub.step()].concat(), [Event::Queued(QUIET, number), flush]);
        }
    }
}

/// Publications of different channels have no order: the join of a client makes its new channel active.
#[test]
fn later_publication_of_an_active_channel_is_queued_before_an_earlier_one_of_another_channel() {
    const JOINED: Name = 1;
    let mut hub = Simulation::new([(JOINED, vec![1]), (QUIET, vec![1])]);
    [JOINED, QUIET, JOINED].into_iter().for_each(|flow| hub.publish(flow));
    let flush = Event::Flushed(JOINED, 1, vec![(JOINED, 0), (JOINED, 1), (QUIET, 0)]);
    assert!(hub.run().contains(&flush), "all with one flush");
}

#[test]
fn busy_channel_goes_before_one_that_becomes_active_only_after_it_has_waited_for_many() {
    const BUSY: Name = 10;
    let mut hub = Simulation::new([(BUSY, (0..100).collect()), (QUIET, vec![2000])]);
    // Nothing waits for these.
    for _ in 0..2 * NEW_TURNS {
        hub.publish(QUIET);
        hub.run();
    }
    hub.publish(BUSY);
    // Its first turn.
    let events = [hub.step(), hub.step()].concat();
    assert!((1..100).contains(&flushes_of(&events, BUSY)), "{events:?}");
    hub.publish(QUIET);
    let number = 2 * NEW_TURNS as u32;
    let flush = Event::Flushed(QUIET, 2000, vec![(QUIET, number)]);
    assert_eq!([hub.step(), hub.step()].concat(), [Event::Queued(QUIET, number), flush]);
}

#[test]
fn channel_that_is_always_active_waits_for_at_most_one_quantum_of_each_other() {
    const BUSY: Name = 10;
    // Each has more work than fits into its turn, all the time.
    let mut hub =
        Simulation::new((0..BUSY).map(|flow| (flow, (0..300).map(|n| Slot::from(flow) * 1000 + n).collect())));
    let mut since_turn = BTreeMap::new();
    for _ in 0..3000 {
        (0..BUSY).for_each(|flow| hub.publish(flow));
        for event in hub.step() {
            let Event::Flushed(flow, ..) = event else { continue };
            since_turn.insert(flow, 0);
            for (other, flushes) in since_turn.iter_mut().filter(|(other, _)| **other != flow) {
                *flushes += 1;
                // A delivery that was queued to 300 sessions may have put it up to 300 / 512 of a turn into debt.
                assert!(*flushes <= 2 * usize::from(BUSY) * QUANTUM_FLUSHES, "{other} waits for {flushes} flushes");
            }
        }
    }
    assert_eq!(since_turn.len(), usize::from(BUSY));
}

#[test]
fn channels_share_the_flushes_equally_whatever_their_subscribers() {
    let mut hub = Simulation::new([(0, (0..5000).collect()), (1, (5000..5100).collect()), (2, (5100..5150).collect())]);
    let mut flushes = BTreeMap::<Name, usize>::new();
    for _ in 0..10_000 {
        (0..3).for_each(|flow| hub.publish(flow));
        for event in hub.step() {
            if let Event::Flushed(flow, ..) = event {
                *flushes.entry(flow).or_default() += 1;
            }
        }
    }
    let (least, most) = (flushes.values().min().unwrap(), flushes.values().max().unwrap());
    assert!(flushes.len() == 3 && most < &(least * 2), "{flushes:?}");
}

#[test]
fn channels_that_empty_and_return_do_not_starve_one_that_stays() {
    const RETURNING: Name = 20;
    // They return when they have nothing to do, or when they have become inactive.
    for returns_when_inactive in [false, true] {
        let returning = (1..=RETURNING).map(|flow| (flow, vec![Slot::from(flow)]));
        let mut hub = Simulation::new(returning.chain([(HOT, (100..600).collect())]));
        hub.publish(HOT);
        let (mut hot_flushes, mut other_flushes) = (0, 0);
        while hot_flushes < 500 {
            for flow in 1..=RETURNING {
                let active = hub.schedule.by_key.get(&flow).map(|id| &hub.schedule.flows[*id as usize]);
                let is_empty = |flow: &Flow<_, _>| flow.deliveries.is_empty() && flow.waiting.is_empty();
                if active.is_none_or(|flow| !returns_when_inactive && is_empty(flow)) {
                    hub.publish(flow);
                }
            }
            let done = hub.step();
            hot_flushes += flushes_of(&done, HOT);
            other_flushes += flushed(&done).len() - flushes_of(&done, HOT);
            let hot_cost = DELIVERY_COST + 500 * (1 + FLUSH_COST);
            let other_cost = other_flushes as i64 * (DELIVERY_COST + 1 + FLUSH_COST);
            assert!(other_cost <= i64::from(RETURNING) * (hot_cost + 2 * QUANTUM), "{other_cost} beside {hot_cost}");
        }
        hub.run();
        hub.assert_nothing_left();
    }
}

#[test]
fn deliveries_do_not_starve_flushes() {
    let mut hub = Simulation::new([(HOT, vec![1, 2])]);
    (0..3 * ROUND_DELIVERIES).for_each(|_| hub.publish(HOT));
    hub.publish_bytes(HOT, ROUND_BYTES);
    hub.publish_bytes(HOT, ROUND_BYTES);
    let written = hub.run().into_iter().filter_map(|event| match event {
        Event::Flushed(_, 1, written) => Some(written.len()),
        _ => None,
    });
    assert_eq!(written.collect::<Vec<_>>(), [ROUND_DELIVERIES, ROUND_DELIVERIES, ROUND_DELIVERIES, 1, 1]);
    hub.assert_nothing_left();
}

#[test]
fn session_of_two_channels_waits_in_both_and_is_flushed_by_the_first_turn() {
    let mut hub = Simulation::new([(HOT, (0..1000).collect()), (QUIET, vec![900])]);
    hub.publish(HOT);
    hub.step();
    hub.publish(QUIET);
    let before = hub.run_until(|event| *event == Event::Flushed(QUIET, 900, vec![(HOT, 0), (QUIET, 0)]));
    assert!(flushed(&before).len() <= QUANTUM_FLUSHES);
    let after = hub.run();
    assert!(after.contains(&Event::Flushed(HOT, 900, Vec::new())), "its turn comes, with nothing to write");
    hub.assert_nothing_left();
}

#[test]
fn session_waits_once_in_each_channel_however_much_is_published() {
    let mut hub = Simulation::new([(HOT, (0..1000).collect()), (QUIET, vec![999]), (QUIET + 1, vec![999])]);
    hub.publish(HOT);
    for _ in 0..100 {
        [HOT, QUIET, QUIET + 1].into_iter().for_each(|flow| hub.publish(flow));
        hub.step();
        for flow in hub.schedule.flows.iter().map(|(_, flow)| flow) {
            assert!(flow.waiting.len() <= hub.subscribers[&flow.key].len());
        }
    }
    hub.run();
    hub.assert_nothing_left();
}

#[test]
fn session_of_many_channels_gets_their_publications_with_one_flush() {
    let channels = QUEUED_AHEAD as Name;
    let mut hub = Simulation::new((0..channels).map(|flow| (flow, vec![7])));
    (0..channels).for_each(|flow| hub.publish(flow));
    let written = hub.run().into_iter().filter_map(|event| match event {
        Event::Flushed(.., written) if !written.is_empty() => Some(written.len()),
        _ => None,
    });
    assert_eq!(written.collect::<Vec<_>>(), [usize::from(channels)]);
    hub.assert_nothing_left();
}

#[test]
fn first_of_many_new_channels_is_flushed_before_the_last_is_queued() {
    let mut hub = Simulation::new((0..10_000).map(|flow| (flow, vec![Slot::from(flow)])));
    (0..10_000).for_each(|flow| hub.publish(flow));
    let before = hub.run_until(|event| matches!(event, Event::Flushed(..)));
    assert_eq!(before.len(), QUEUED_AHEAD);
    assert_eq!(flushed(&hub.run()).len(), 10_000 - 1);
    hub.assert_nothing_left();
    assert_eq!(hub.schedule.flows.capacity(), 0, "the memory of many flows is freed");
}

#[test]
fn large_publications_make_a_turn_shorter() {
    let mut hub = Simulation::new([(HOT, (0..1000).collect()), (QUIET, (1000..2000).collect())]);
    hub.publish_bytes(HOT, FLUSH_COST as usize * BYTES_PER_COST);
    hub.publish(QUIET);
    let events = hub.run_until(|event| matches!(event, Event::Flushed(_, 1999, _)));
    assert!((400..=600).contains(&flushes_of(&events, HOT)), "{}", flushes_of(&events, HOT));
}

#[test]
fn channel_without_subscribers_is_removed() {
    let mut hub = Simulation::default();
    (0..1000).for_each(|_| hub.publish(HOT));
    assert_eq!(hub.run().len(), 1000);
    hub.assert_nothing_left();
}

#[derive(Clone, Debug)]
enum Action {
    Publish(Name, usize),
    /// Subscribes a session, or ends its subscription.
    Toggle(Name, Slot),
    Work(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..6_u16, prop_oneof![Just(100), Just(100_000)]).prop_map(|(flow, bytes)| Action::Publish(flow, bytes)),
        2 => (0..6_u16, 0..40_u32).prop_map(|(flow, session)| Action::Toggle(flow, session)),
        4 => (1..6_usize).prop_map(Action::Work),
    ]
}

proptest! {
    /// In any order of publications, subscribes and unsubscribes, every session receives what was queued to it while it was subscribed:
    /// everything, once, and each channel in order. Nothing is left in the end.
    #[test]
    fn every_session_receives_everything_once_and_each_channel_in_order(actions in proptest::collection::vec(action(), 0..300)) {
        let mut hub = Simulation::new([(0, (0..200).collect())]);
        let (mut events, mut expected) = (Vec::new(), BTreeMap::<Slot, Vec<(Name, u32)>>::new());
        for action in actions.into_iter().map(Some).chain([None]) {
            let steps = match action {
                Some(Action::Publish(flow, bytes)) => {
                    hub.publish_bytes(flow, bytes);
                    0
                }
                Some(Action::Toggle(flow, session)) => {
                    let subscribers = hub.subscribers.entry(flow).or_default();
                    match subscribers.iter().position(|subscriber| *subscriber == session) {
                        Some(at) => drop(subscribers.swap_remove(at)),
                        None => subscribers.push(session),
                    }
                    0
                }
                Some(Action::Work(steps)) => steps,
                None => usize::MAX,
            };
            for _ in 0..steps {
                let done = hub.step();
                if done.is_empty() {
                    break;
                }
                if let [Event::Queued(flow, delivery)] = done.as_slice() {
                    for session in hub.subscribers.get(flow).into_iter().flatten() {
                        expected.entry(*session).or_default().push((*flow, *delivery));
                    }
                }
                events.extend(done);
            }
        }
        hub.assert_nothing_left();
        let mut queued = BTreeMap::<Name, u32>::new();
        let mut received = BTreeMap::<Slot, Vec<(Name, u32)>>::new();
        for event in events {
            match event {
                Event::Queued(flow, delivery) => {
                    let next = queued.entry(flow).or_default();
                    prop_assert_eq!(*next, delivery);
                    *next += 1;
                }
                Event::Flushed(_, session, written) => received.entry(session).or_default().extend(written),
            }
        }
        received.retain(|_, written| !written.is_empty());
        prop_assert_eq!(queued, hub.published);
        prop_assert_eq!(received, expected);
    }
}

/// A broadcast to personal channels that never ends: there are two new channels for each piece of work that is done.
#[test]
fn endless_new_channels_neither_starve_busy_one_nor_fill_memory() {
    let mut hub = Simulation::new([(HOT, (0..1000).collect())]);
    for _ in 0..3 {
        hub.publish(HOT);
    }
    hub.run_until(|event| matches!(event, Event::Flushed(..)));
    let (mut events, mut most_flows) = (Vec::new(), 0);
    for name in 1..=20_000 {
        hub.publish(name);
        if name % 2 == 0 {
            events.extend(hub.step());
        }
        most_flows = most_flows.max(hub.schedule.flows.len() - hub.schedule.lists.new.len());
    }
    assert!(flushes_of(&events, HOT) > 900, "{} of 1000 sessions", flushes_of(&events, HOT));
    assert!(most_flows <= 4 * NEW_TURNS, "{most_flows} flows without work are kept");
    hub.run();
    hub.assert_nothing_left();
}

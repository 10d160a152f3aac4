//! Tests of the verification queue, on one worker: the thread of the test.

use std::{cell::Cell, rc::Rc};

use futures_util::future::join_all;

use super::*;
use crate::config::Config;

fn address(number: u8) -> ClientAddress {
    std::net::IpAddr::from([192, 0, 2, number]).into()
}

fn queue_with(change: impl FnOnce(&mut Limits)) -> (Arc<VerificationQueue>, Arc<Metrics>) {
    let (mut limits, metrics) = (Config::default().limits, Arc::new(Metrics::default()));
    change(&mut limits);
    (VerificationQueue::new(&limits, metrics.clone()), metrics)
}

/// Keeps the thread busy as a verification does.
fn verify(turn: VerificationTurn, duration: Duration, is_refused: bool) {
    let started = Instant::now();
    while started.elapsed() < duration {
        std::hint::spin_loop();
    }
    turn.finish(is_refused);
}

const VERIFICATION: Duration = Duration::from_micros(200);

#[actix_rt::test]
async fn other_work_has_its_turn_between_verifications() {
    let (queue, metrics) = queue_with(|limits| limits.verification_turn = Duration::from_micros(500));
    let other_turns = Rc::new(Cell::new(0));
    let counter = other_turns.clone();
    let others = actix_rt::spawn(async move {
        loop {
            counter.set(counter.get() + 1);
            yield_now().await;
        }
    });
    let clients = (0..100).map(|_| async {
        let turn = queue.wait_for_turn(address(1)).await.unwrap();
        let before = other_turns.get();
        verify(turn, VERIFICATION, false);
        before
    });
    let turns = join_all(clients).await;
    others.abort();
    let most = turns.iter().map(|turn| turns.iter().filter(|other| *other == turn).count()).max();
    assert!(most <= Some(12), "{most:?} verifications in one turn of the other work");
    assert!(metrics.encode().unwrap().contains("wardcast_verifications_total{outcome=\"waited\"}"));
}

#[actix_rt::test]
async fn clients_above_the_limit_are_refused_at_once_and_those_that_wait_too_long_in_time() {
    let (queue, metrics) = queue_with(|limits| {
        (limits.verification_queue, limits.verification_wait) = (4, Duration::from_millis(50));
    });
    // Nothing ends meanwhile.
    let held = queue.try_turn(address(9)).unwrap();
    WORKER.with_borrow_mut(|worker| worker.granted += 1000);
    let started = Instant::now();
    let of_one = (0..3).map(|_| queue.wait_for_turn(address(1)));
    let of_others = (2..6).map(|number| queue.wait_for_turn(address(number)));
    let results = join_all(of_one.chain(of_others)).await;
    assert!(results.iter().all(Result::is_err));
    assert!((50..2000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert!(metrics.encode().unwrap().contains("wardcast_verifications_total{outcome=\"refused\"} 7"));
    assert!(WORKER.with_borrow(|worker| worker.granted == 1001), "no client that has left has a turn");
    WORKER.with_borrow_mut(|worker| worker.granted -= 1000);
    held.finish(false);
    queue.wait_for_turn(address(1)).await.unwrap().finish(false);
}

#[actix_rt::test]
async fn clients_that_wait_are_in_the_depth_of_the_queue_until_they_have_their_turn_or_leave() {
    let (queue, _) = queue_with(|limits| {
        (limits.verification_queue, limits.verification_wait) = (4, Duration::from_secs(20));
    });
    let depth = |entries| QueueDepth::of_entries(Queue::Verifications, entries, 8);
    WORKER.with_borrow_mut(|worker| worker.granted += 1000);
    let wait = |number| {
        let queue = queue.clone();
        actix_rt::spawn(async move { queue.wait_for_turn(address(number)).await.map(|turn| turn.finish(false)) })
    };
    let (leaves, stays) = (wait(1), wait(2));
    yield_now().await;
    assert_eq!(queue.depth(2), depth(2));
    leaves.abort();
    assert!(leaves.await.is_err());
    assert_eq!(queue.depth(2), depth(1));
    WORKER.with_borrow_mut(|worker| worker.granted -= 1000);
    assert_eq!(stays.await.unwrap(), Ok(()));
    assert_eq!(queue.depth(2), depth(0));
}

#[actix_rt::test]
async fn address_that_sends_refused_tokens_all_the_time_has_a_small_share_and_others_do_not_wait_for_it() {
    let (queue, _) = queue_with(|limits| limits.refused_token_share = 10);
    let attack = actix_rt::spawn({
        let queue = queue.clone();
        async move {
            let mut verified = 0;
            let end = Instant::now() + Duration::from_millis(600);
            let attackers = (0..50).map(|_| async {
                let mut verified = 0;
                while Instant::now() < end {
                    if let Ok(turn) = queue.wait_for_turn(address(1)).await {
                        verify(turn, VERIFICATION, true);
                        verified += 1;
                    }
                }
                verified
            });
            for count in join_all(attackers).await {
                verified += count;
            }
            verified
        }
    });
    sleep(Duration::from_millis(100)).await;
    for _ in 0..20 {
        let asked = Instant::now();
        queue.wait_for_turn(address(2)).await.unwrap().finish(false);
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
        sleep(Duration::from_millis(2)).await;
    }
    let verified = attack.await.unwrap();
    // 10 % of 600 ms are 300 of them, and 20 and one in 100 ms are not counted.
    assert!((20..=400).contains(&verified), "{verified}");
}

#[actix_rt::test]
async fn honest_client_behind_an_address_that_was_suspected_is_verified_in_its_time() {
    let (queue, _) = queue_with(|_| ());
    for _ in 0..=REFUSED_AT_ONCE {
        queue.wait_for_turn(address(1)).await.unwrap().finish(true);
    }
    assert!(queue.is_suspected(&address(1)) && !queue.is_suspected(&address(2)));
    queue.wait_for_turn(address(1)).await.unwrap().finish(false);
}

#[actix_rt::test]
async fn turn_of_a_client_that_has_left_is_given_to_the_next() {
    let (queue, _) = queue_with(|_| ());
    let held = queue.try_turn(address(9)).unwrap();
    WORKER.with_borrow_mut(|worker| worker.spent = Duration::from_secs(1));
    let left = actix_rt::spawn({
        let queue = queue.clone();
        async move { queue.wait_for_turn(address(1)).await.is_ok() }
    });
    yield_now().await;
    left.abort();
    held.finish(false);
    queue.wait_for_turn(address(1)).await.unwrap().finish(false);
    while WORKER.with_borrow(|worker| worker.is_running) {
        yield_now().await;
    }
    assert_eq!(WORKER.with_borrow(|worker| worker.granted), 0);
}

#[actix_rt::test]
async fn without_a_limit_nobody_waits() {
    let (queue, _) = queue_with(|limits| limits.verification_turn = Duration::ZERO);
    let turns: Vec<_> = (0..10_000).map(|_| queue.try_turn(address(1)).unwrap()).collect();
    assert!(WORKER.with_borrow(|worker| worker.granted == 0 && !worker.is_running));
    turns.into_iter().for_each(|turn| turn.finish(true));
}

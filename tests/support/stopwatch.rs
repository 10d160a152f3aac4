//! Measures how long the hub takes on a machine that does other work too. What such a machine makes everything wait for does not
//! count: one thread sleeps and wakes another over and over, and what that takes longer than on an idle machine is lost to
//! everything that sleeps and wakes.

use std::{
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long a turn of the two threads takes: a sleep, and the time to wake both on an idle machine.
const SLEEP: Duration = Duration::from_millis(5);
const WAKE_UP: Duration = Duration::from_micros(500);

/// Measures the time since its start, without what the machine was late meanwhile.
pub struct Stopwatch {
    begun: Instant,
    late_before: Duration,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { late_before: LATENESS.lock().total(), begun: Instant::now() }
    }

    /// At most the time that has passed.
    pub fn elapsed(&self) -> Duration {
        let late = LATENESS.lock().total().saturating_sub(self.late_before);
        self.begun.elapsed().saturating_sub(late)
    }
}

/// How late the machine was since the first stopwatch.
struct Lateness {
    of_past_turns: Duration,
    turn_begun: Instant,
}

static LATENESS: LazyLock<Mutex<Lateness>> = LazyLock::new(|| {
    thread::spawn(watch);
    Mutex::new(Lateness { of_past_turns: Duration::ZERO, turn_begun: Instant::now() })
});

impl Lateness {
    fn of_turn(&self) -> Duration {
        self.turn_begun.elapsed().saturating_sub(SLEEP + WAKE_UP)
    }

    fn total(&self) -> Duration {
        self.of_past_turns + self.of_turn()
    }
}

/// Takes turns with another thread, for as long as the process lives.
fn watch() {
    let ((wake, woken), (answer, answered)) = (mpsc::channel(), mpsc::channel());
    thread::spawn(move || while woken.recv().is_ok_and(|()| answer.send(()).is_ok()) {});
    loop {
        LATENESS.lock().turn_begun = Instant::now();
        _ = answered.recv_timeout(SLEEP);
        if wake.send(()).is_err() || answered.recv().is_err() {
            return;
        }
        let mut lateness = LATENESS.lock();
        let of_turn = lateness.of_turn();
        lateness.of_past_turns += of_turn;
        lateness.turn_begun = Instant::now();
    }
}

#[test]
fn time_that_the_machine_takes_away_does_not_count() {
    let (stopwatch, begun) = (Stopwatch::start(), Instant::now());
    // No turn can end while this thread holds the lock.
    let (_sender, never) = mpsc::channel::<()>();
    let held = LATENESS.lock();
    _ = never.recv_timeout(SLEEP * 20);
    drop(held);
    assert!(begun.elapsed() >= SLEEP * 20);
    assert!(stopwatch.elapsed() < SLEEP * 10, "{:?} of {:?}", stopwatch.elapsed(), begun.elapsed());
}

#[test]
fn time_that_passes_on_a_machine_that_keeps_up_counts() {
    // On a busy machine some rounds do not: what counts is that it is never nothing for long.
    let (stopwatch, begun) = (Stopwatch::start(), Instant::now());
    let (_sender, never) = mpsc::channel::<()>();
    while stopwatch.elapsed() < SLEEP * 4 {
        _ = never.recv_timeout(SLEEP);
        assert!(begun.elapsed() < super::PATIENCE, "nothing counts");
    }
}

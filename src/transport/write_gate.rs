//! Decides whether outboxes of this thread may write what was queued before. After a freeze of the process the kernel wakes all
//! tasks at once, and one that waits for a full socket must not write its backlog before the hub of its thread knows which
//! tokens have been revoked meanwhile. One gate per thread: nothing is stored per connection.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    clock::{Clock, WallTime},
    revocation::{RevocationState, Revocations},
};

/// A thread whose hub has not run for so long was frozen, or had no CPU.
pub const FROZEN_AFTER: Duration = Duration::from_secs(1);

thread_local! {
    static GATE: RefCell<Option<Rc<WriteGate>>> = const { RefCell::new(None) };
}

/// The gate of a thread, which its hub opens.
pub struct WriteGate {
    revocations: Arc<Revocations>,
    /// The revocations up to this state are applied.
    obeyed: Cell<RevocationState>,
    /// When the hub has last run. By the wall clock, which writers read anyway: a step of it closes the gate until the next
    /// tick.
    last_run: Cell<WallTime>,
    opened: Notify,
}

impl WriteGate {
    /// Installs the gate of this thread.
    pub fn install(revocations: Arc<Revocations>, now: WallTime) -> Rc<Self> {
        let (obeyed, last_run) = (Cell::new(RevocationState::INITIAL), Cell::new(now));
        let gate = Rc::new(Self { revocations, obeyed, last_run, opened: Notify::new() });
        GATE.with(|installed| *installed.borrow_mut() = Some(gate.clone()));
        gate
    }

    /// Notes that the hub runs, and has had deliveries held if it was frozen.
    pub fn note_run(&self, now: WallTime) {
        self.last_run.set(now);
        self.opened.notify_waiters();
    }

    /// Notes up to which state the hub has applied the revocations.
    pub fn note_obeyed(&self, state: RevocationState) {
        self.obeyed.set(state);
    }

    fn is_open(&self, now: WallTime) -> bool {
        let last = self.last_run.get();
        let distance = now.max(last).saturating_duration_since(now.min(last));
        self.revocations.state() == self.obeyed.get()
            && !self.revocations.has_key_to_end(now)
            && distance <= FROZEN_AFTER
    }
}

/// Returns whether outboxes of this thread may write what was queued before. Without a hub they always may.
pub(super) fn is_open(now: WallTime) -> bool {
    GATE.with(|gate| gate.borrow().as_ref().is_none_or(|gate| gate.is_open(now)))
}

/// Waits until outboxes of this thread may write, or `is_over`. The hub wakes this at each of its ticks.
pub(super) async fn wait_until_open(clock: &Clock, is_over: impl Fn() -> bool) {
    let Some(gate) = GATE.with(|gate| gate.borrow().clone()) else { return };
    while !gate.is_open(clock.now()) && !is_over() {
        gate.opened.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::NEVER,
        config::KeyRules,
        revocation::{IssuerScope, KeyInUse, KeyNumber, Revocation, RevocationTarget},
    };

    /// In a thread of its own, which has no gate before and leaves none to other tests.
    #[test]
    fn outboxes_write_only_while_their_hub_runs_and_has_obeyed_every_revocation() {
        let seconds = WallTime::from_unix_seconds;
        let check = move || {
            assert!(is_open(seconds(0)), "without a hub");
            let revocations = Arc::new(Revocations::default());
            let gate = WriteGate::install(revocations.clone(), seconds(100));
            let open = |times: [i64; 4]| times.map(|time| is_open(seconds(time)));
            assert_eq!(open([100, 101, 102, 98]), [true, true, false, false], "frozen, or the clock has jumped");
            gate.note_run(seconds(200));
            assert_eq!(open([101, 199, 200, 201]), [false, true, true, true]);
            let target = RevocationTarget::User("ann".to_owned(), IssuerScope::Any);
            revocations.add([Revocation::of_all(target, NEVER)]).unwrap();
            assert!(!is_open(seconds(200)), "not obeyed yet");
            gate.note_obeyed(revocations.state());
            assert!(is_open(seconds(200)));
            revocations.hold();
            assert!(!is_open(seconds(200)), "the list may lack some");
            revocations.release();
            assert!(is_open(seconds(200)));
            let key = |ends| KeyInUse { number: KeyNumber::unique(), rules: KeyRules::default(), ends };
            revocations.add_keys([key(NEVER), key(revocations.now().saturating_add(Duration::from_secs(3600)))]);
            let end = revocations.now().saturating_add(Duration::from_secs(3600));
            gate.note_run(end);
            assert!(!is_open(end), "the hub has not ended the key yet");
        };
        std::thread::spawn(check).join().unwrap();
    }
}

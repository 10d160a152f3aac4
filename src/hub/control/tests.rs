//! Tests of controls of the server API for a user with many sessions on one hub.

use tokio::time::sleep;

use super::*;
use crate::{
    broker::{Deliver, memory::MemoryBroker},
    clock::Clock,
    config::Config,
    hub::{
        Hubs, inspection,
        paced_queue::PACE_INTERVAL,
        testing::{TestSession, start_hub, test_hubs},
    },
    publication::Publication,
};

/// Fewer than `MAX_PACED`.
const COUNT: usize = 500;

fn control(action: ControlAction) -> Control {
    Control { user: "ann".to_owned(), client: None, whitelist: Vec::new(), action }
}

fn disconnect() -> ControlAction {
    ControlAction::Disconnect { code: 3503, reason: "force disconnect".to_owned() }
}

/// A hub with many sessions of ann and one of bob, all of them subscribed to a channel.
struct Crowd {
    hubs: Arc<Hubs>,
    hub: Addr<Hub>,
    channel: Channel,
    sessions: Vec<TestSession>,
    bob: TestSession,
}

impl Crowd {
    async fn connect() -> Self {
        let (hubs, channel) = (test_hubs(), Channel::new("news").unwrap());
        let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
        let hub = start_hub(&hubs, Arc::new(broker));
        let bob = TestSession::connect_as("bob", &hub).await;
        bob.subscribe(&channel, &hub).await;
        let mut sessions = Vec::new();
        for _ in 0..COUNT {
            let session = TestSession::connect(&hub).await;
            session.subscribe(&channel, &hub).await;
            sessions.push(session);
        }
        Self { hubs, hub, channel, sessions, bob }
    }

    fn unsubscribe(&self) -> ControlAction {
        ControlAction::Unsubscribe { channel: self.channel.as_str().to_owned() }
    }

    fn apply(&self, control: Control) {
        self.hubs.deliver_control(control).unwrap();
    }

    async fn subscribers(&self) -> usize {
        let hubs = std::slice::from_ref(&self.hub);
        inspection::subscribers(hubs).await.remove(&self.channel).unwrap_or_default()
    }

    /// Waits until no session of ann has the subscription.
    async fn wait_until_applied(&self) {
        let end = Instant::now() + std::time::Duration::from_secs(10);
        while self.subscribers().await > 1 {
            assert!(Instant::now() < end, "the control is not applied");
            sleep(PACE_INTERVAL).await;
        }
    }

    /// Applies a control. When bob receives the next publication, it may be applied to no more sessions than the time allows.
    async fn assert_applied_in_turns(&mut self, action: ControlAction) {
        let started = Instant::now();
        self.apply(control(action));
        self.hubs.deliver_publication(Publication::new(self.channel.clone(), "1".into())).unwrap();
        self.bob.read_until("\"pub\"").await;
        let applied = COUNT + 1 - self.subscribers().await;
        let bound = AT_ONCE + COUNT * started.elapsed().as_millis() as usize / 500 + 1;
        assert!(applied <= bound, "{applied} of {bound}");
        self.wait_until_applied().await;
        assert!(!self.bob.outbox.is_closing());
    }
}

#[actix_rt::test]
async fn disconnect_of_many_sessions_does_not_hold_up_a_publication() {
    let mut crowd = Crowd::connect().await;
    crowd.assert_applied_in_turns(disconnect()).await;
    assert!(crowd.sessions.iter().all(|session| session.outbox.is_closing()));
}

#[actix_rt::test]
async fn unsubscribe_of_many_sessions_does_not_hold_up_a_publication() {
    let mut crowd = Crowd::connect().await;
    let action = crowd.unsubscribe();
    crowd.assert_applied_in_turns(action).await;
    crowd.sessions[COUNT - 1].read_until("2000").await;
}

#[actix_rt::test]
async fn controls_of_one_user_are_applied_in_order_and_those_of_others_do_not_wait() {
    let mut crowd = Crowd::connect().await;
    crowd.apply(control(crowd.unsubscribe()));
    let last = COUNT - 1;
    let id = crowd.sessions[last].id.to_string();
    crowd.apply(Control { client: Some(id), ..control(disconnect()) });
    crowd.apply(Control { user: "bob".to_owned(), ..control(disconnect()) });
    assert!(crowd.subscribers().await > 1, "ann's are not done yet");
    assert!(crowd.bob.outbox.is_closing() && !crowd.sessions[last].outbox.is_closing());
    crowd.wait_until_applied().await;
    let received = crowd.sessions[last].read_until_close().await;
    assert!(received.contains("2000") && received.ends_with("force disconnect"), "{received}");
}

#[actix_rt::test]
async fn controls_are_applied_at_once_when_too_many_sessions_wait() {
    let crowd = Crowd::connect().await;
    crowd.apply(control(crowd.unsubscribe()));
    crowd.apply(control(disconnect()));
    assert_eq!(crowd.subscribers().await, 1);
    assert!(crowd.sessions.iter().all(|session| session.outbox.is_closing()));
    // And the next one is paced again.
    let late = TestSession::connect(&crowd.hub).await;
    crowd.apply(control(disconnect()));
    crowd.subscribers().await;
    assert!(late.outbox.is_closing());
}

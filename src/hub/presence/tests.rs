//! Tests of the presence refresh.

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::{
    broker::{
        Broker, Control, EventOutbox, HistoryPage, HistoryRequest, Login, LoginLimits, LoginRecord, LoginRefresh,
        LoginSelection, NodeIdentity, PositionResult, PresenceCount, PublishOptions, PublishReceipt, Retention,
        SharedLimits, SincePosition, SurveyQuestion, SurveyResult,
    },
    clock::WallTime,
    hub::{
        Subscribe, Subscription, SubscriptionOptions, SubscriptionSource,
        testing::{RunTicks, TestSession, start_hub, test_hubs},
    },
    metrics::QueueDepth,
    position::{Epoch, Position},
    publication::{ClientInfo, Publication},
    revocation::{LoginId, Revocation},
};

type Answer<T> = BoxFuture<'static, Result<T, BrokerError>>;

/// A broker that records the clients whose presence is stored.
#[derive(Default)]
struct RecordingBroker(Mutex<Vec<String>>);

impl Broker for RecordingBroker {
    fn add_presence(&self, _: Channel, who: Arc<ClientInfo>, _: Duration) -> Answer<()> {
        self.0.lock().push(who.client.to_string());
        Box::pin(std::future::ready(Ok(())))
    }

    fn refresh_presence(&self, clients: Vec<PresentClient>, _: Duration) -> Answer<()> {
        self.0.lock().extend(clients.iter().map(|(_, client)| client.client.clone()));
        Box::pin(std::future::ready(Ok(())))
    }

    fn subscribe(&self, _: Channel) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unsubscribe(&self, _: Channel) {}

    fn publish(&self, _: Publication, _: PublishOptions) -> Answer<PublishReceipt> {
        unreachable!()
    }
    fn read_history(&self, _: Channel, _: HistoryRequest, _: Retention) -> Answer<HistoryPage> {
        unreachable!()
    }
    fn read_missed(
        &self,
        _: Channel,
        _: HistoryRequest,
        _: Retention,
        _: Option<SincePosition>,
    ) -> Answer<HistoryPage> {
        unreachable!()
    }
    fn read_positions(&self, _: Vec<(Channel, Retention)>) -> BoxFuture<'static, Vec<PositionResult>> {
        unreachable!()
    }
    fn renew_epoch(&self, _: Channel, _: Epoch) -> Answer<Option<Position>> {
        unreachable!()
    }
    fn remove_history(&self, _: Channel) -> Answer<()> {
        unreachable!()
    }
    fn publish_presence_event(&self, _: Channel, _: PresenceEvent, _: Arc<ClientInfo>) -> Answer<()> {
        unreachable!()
    }
    fn remove_presence(&self, _: Channel, _: Arc<str>) -> Answer<()> {
        unreachable!()
    }
    fn presence(&self, _: Channel, _: usize) -> Answer<Vec<Arc<ClientInfo>>> {
        unreachable!()
    }
    fn count_presence(&self, _: Channel) -> Answer<PresenceCount> {
        unreachable!()
    }
    fn survey(&self, _: SurveyQuestion, _: Duration) -> Answer<SurveyResult> {
        unreachable!()
    }
    fn revoke(&self, _: Vec<Revocation>, _: Duration) -> Answer<Vec<NodeIdentity>> {
        unreachable!()
    }
    fn confirm_revocations(&self, _: Duration) {}
    fn announce_stop(&self) -> Answer<()> {
        unreachable!()
    }
    fn send_control(&self, _: Control) -> Answer<()> {
        unreachable!()
    }
    fn send_commands(&self, _: &str, _: uuid::Uuid, _: Bytes) -> Answer<bool> {
        unreachable!()
    }
    fn put_ticket(&self, _: String, _: Bytes, _: Duration) -> Answer<()> {
        unreachable!()
    }
    fn read_ticket(&self, _: String) -> Answer<Option<Bytes>> {
        unreachable!()
    }
    fn take_ticket(&self, _: String) -> Answer<Option<Bytes>> {
        unreachable!()
    }
    fn start_login(&self, _: LoginId, _: Login, _: LoginLimits) -> Answer<Vec<LoginRecord>> {
        unreachable!()
    }
    fn refresh_login(&self, _: LoginId, _: u32, _: WallTime, _: LoginLimits) -> Answer<LoginRefresh> {
        unreachable!()
    }
    fn find_logins(&self, _: String, _: LoginSelection) -> Answer<Vec<LoginRecord>> {
        unreachable!()
    }
    fn end_logins(&self, _: String, _: LoginSelection) -> Answer<Vec<LoginRecord>> {
        unreachable!()
    }
    fn shared_limits(&self) -> Option<Arc<dyn SharedLimits>> {
        None
    }

    fn event_outbox(&self) -> Arc<dyn EventOutbox> {
        unreachable!("no test asks for it")
    }

    fn queue_depths(&self) -> Vec<QueueDepth> {
        Vec::new()
    }

    fn check_ready(&self) -> Answer<()> {
        unreachable!()
    }
}

#[actix_rt::test]
async fn presence_of_every_visible_subscription_is_stored_once_per_250_ticks() {
    const VISIBLE: usize = 5;
    const ROUNDS: usize = 200;
    let broker = Arc::new(RecordingBroker::default());
    let hub = start_hub(&test_hubs(), broker.clone());
    let mut sessions = Vec::new();
    for number in 0..VISIBLE {
        let session = TestSession::connect(&hub).await;
        let client = ClientInfo { user: "ann".into(), client: number.to_string(), conn_info: None, chan_info: None };
        let visibility = Visibility { info: Arc::new(client), in_presence: true, sends_join_leave: false };
        let options = SubscriptionOptions { visibility: Some(visibility), ..SubscriptionOptions::default() };
        let channel = Channel::new("news").unwrap();
        let subscription = Subscription::new(channel, SubscriptionSource::Client, options);
        let subscribe = Subscribe { key: session.key, subscriptions: vec![subscription], reply: None };
        hub.send(subscribe).await.unwrap().unwrap();
        sessions.push(session);
    }
    assert_eq!(broker.0.lock().len(), VISIBLE, "when they subscribe");
    // These sessions are refreshed in the first ticks of a round. In its middle the hub's own ticks refresh none of them.
    hub.send(RunTicks(125)).await.unwrap();
    broker.0.lock().clear();
    // So many rounds that a round of one tick more or less, which is 20 s in all, would add or lose a refresh.
    hub.send(RunTicks(250 * ROUNDS as u32)).await.unwrap();
    let stored = std::mem::take(&mut *broker.0.lock());
    let count = |number: usize| stored.iter().filter(|client| **client == number.to_string()).count();
    assert_eq!((0..VISIBLE).map(count).collect::<Vec<_>>(), [ROUNDS; VISIBLE]);
}

//! The presence of a channel, and the joins and leaves that subscribers receive.

use std::{sync::Arc, time::Duration};

use wardcast::{broker::PresenceEvent, publication::ClientInfo};

use super::fixture::{Instance, channel, client_info, wait_until};

const MINUTE: Duration = Duration::from_secs(60);

impl Instance {
    async fn add_presence(&self, name: &str, client: &str, ttl: Duration) {
        self.broker.add_presence(channel(name), client_info(client).into(), ttl).await.unwrap();
    }

    async fn remove_presence(&self, name: &str, client: &str) {
        self.broker.remove_presence(channel(name), client.into()).await.unwrap();
    }

    async fn present_clients(&self, name: &str) -> Vec<String> {
        let present = self.broker.presence(channel(name), usize::MAX).await.unwrap();
        let mut clients: Vec<String> = present.iter().map(|present| present.client.clone()).collect();
        clients.sort_unstable();
        clients
    }
}

pub async fn presence_ends_with_removal_or_expiry(instance: Instance) {
    assert!(instance.present_clients("room").await.is_empty());
    for client in ["a", "b", "c"] {
        instance.add_presence("room", client, MINUTE).await;
    }
    instance.add_presence("other", "d", MINUTE).await;
    instance.remove_presence("room", "b").await;
    instance.remove_presence("room", "never").await;
    instance.remove_presence("nowhere", "a").await;
    assert_eq!(instance.present_clients("room").await, ["a", "c"]);
    // A step of the wall clock neither ends nor extends presence.
    instance.clock.step_forward(61 * MINUTE);
    assert_eq!(instance.present_clients("room").await, ["a", "c"]);
    instance.clock.step_back(3600 * MINUTE);
    instance.advance_clock(Duration::from_secs(59));
    instance.add_presence("room", "c", MINUTE).await;
    instance.advance_clock(Duration::from_secs(1));
    assert_eq!(instance.present_clients("room").await, ["c"]);
    instance.remove_presence("room", "c").await;
    assert!(instance.present_clients("room").await.is_empty() && instance.present_clients("other").await.is_empty());
}

pub async fn reconnecting_client_leaves_no_stale_presence(instance: Instance) {
    for round in 0..100 {
        instance.add_presence("room", &format!("c{round}"), MINUTE).await;
        if round > 0 {
            // The hub detects the end of the old connection after the new one has been added.
            instance.remove_presence("room", &format!("c{}", round - 1)).await;
        }
    }
    assert_eq!(instance.present_clients("room").await, ["c99"]);
    // The latest information about a client replaces the earlier one.
    let renamed = Arc::new(ClientInfo { user: "bob".to_owned(), ..client_info("c99") });
    instance.broker.add_presence(channel("room"), renamed.clone(), MINUTE).await.unwrap();
    assert_eq!(instance.broker.presence(channel("room"), usize::MAX).await.unwrap(), [renamed]);
}

pub async fn joins_and_leaves_reach_subscribers(instance: Instance) {
    instance.subscribe("room").await;
    for (name, event, client) in
        [("room", PresenceEvent::Join, "a"), ("other", PresenceEvent::Join, "b"), ("room", PresenceEvent::Leave, "a")]
    {
        let client = Arc::new(client_info(client));
        instance.broker.publish_presence_event(channel(name), event, client).await.unwrap();
    }
    let received = &instance.hubs.presence_events;
    wait_until("both events", async || received.lock().len() >= 2).await;
    let client = Arc::new(client_info("a"));
    assert_eq!(*received.lock(), [(PresenceEvent::Join, client.clone()), (PresenceEvent::Leave, client)]);
}

//! Who is in a channel, and who hears of it.

use std::{sync::Arc, time::Duration};

use wardcast::{broker::PresenceEvent, publication::ClientInfo};

use super::fixture::{Instance, channel, wait_until};

const MINUTE: Duration = Duration::from_secs(60);

fn who(client: &str) -> Arc<ClientInfo> {
    Arc::new(ClientInfo { user: "ann".to_owned(), client: client.to_owned(), conn_info: None, chan_info: None })
}

impl Instance {
    async fn add_presence(&self, name: &str, client: &str, ttl: Duration) {
        self.broker.add_presence(channel(name), who(client), ttl).await.unwrap();
    }

    async fn remove_presence(&self, name: &str, client: &str) {
        self.broker.remove_presence(channel(name), client.into()).await.unwrap();
    }

    async fn present_clients(&self, name: &str) -> Vec<String> {
        let members = self.broker.presence(channel(name)).await.unwrap();
        let mut clients: Vec<String> = members.iter().map(|member| member.client.clone()).collect();
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
            // The end of the old connection is noticed after the new one has come.
            instance.remove_presence("room", &format!("c{}", round - 1)).await;
        }
    }
    assert_eq!(instance.present_clients("room").await, ["c99"]);
    // What a client is said to be last is what it is.
    let renamed = Arc::new(ClientInfo { user: "bob".to_owned(), ..ClientInfo::clone(&who("c99")) });
    instance.broker.add_presence(channel("room"), renamed.clone(), MINUTE).await.unwrap();
    assert_eq!(instance.broker.presence(channel("room")).await.unwrap(), [renamed]);
}

pub async fn joins_and_leaves_reach_subscribers(instance: Instance) {
    instance.subscribe("room").await;
    let presence_events = async |name, movement, client| {
        instance.broker.publish_presence_event(channel(name), movement, who(client)).await.unwrap();
    };
    presence_events("room", PresenceEvent::Join, "a").await;
    presence_events("other", PresenceEvent::Join, "b").await;
    presence_events("room", PresenceEvent::Leave, "a").await;
    let expected = [(PresenceEvent::Join, who("a")), (PresenceEvent::Leave, who("a"))];
    wait_until("both arrive", async || instance.hubs.presence_events.lock().len() >= 2).await;
    assert_eq!(*instance.hubs.presence_events.lock(), expected);
}

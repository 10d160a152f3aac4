//! Who is in a channel, and who hears of it.

use std::{sync::Arc, time::Duration};

use wardcast::{broker::Movement, publication::ClientInfo};

use super::fixture::{Instance, channel, eventually};

const MINUTE: Duration = Duration::from_secs(60);

fn who(client: &str) -> Arc<ClientInfo> {
    Arc::new(ClientInfo { user: "ann".to_owned(), client: client.to_owned(), conn_info: None, chan_info: None })
}

impl Instance {
    async fn come(&self, name: &str, client: &str, ttl: Duration) {
        self.broker.add_member(channel(name), who(client), ttl).await.unwrap();
    }

    async fn leave(&self, name: &str, client: &str) {
        self.broker.remove_member(channel(name), client.into()).await.unwrap();
    }

    async fn present(&self, name: &str) -> Vec<String> {
        let members = self.broker.members(channel(name)).await.unwrap();
        let mut clients: Vec<String> = members.iter().map(|member| member.client.clone()).collect();
        clients.sort_unstable();
        clients
    }
}

pub async fn members_are_there_until_they_leave_or_their_time_is_over(instance: Instance) {
    assert!(instance.present("room").await.is_empty());
    for client in ["a", "b", "c"] {
        instance.come("room", client, MINUTE).await;
    }
    instance.come("other", "d", MINUTE).await;
    instance.leave("room", "b").await;
    instance.leave("room", "never").await;
    instance.leave("nowhere", "a").await;
    assert_eq!(instance.present("room").await, ["a", "c"]);
    instance.later(Duration::from_secs(59));
    instance.come("room", "c", MINUTE).await;
    instance.later(Duration::from_secs(1));
    assert_eq!(instance.present("room").await, ["c"]);
    instance.leave("room", "c").await;
    assert!(instance.present("room").await.is_empty() && instance.present("other").await.is_empty());
}

pub async fn who_reconnects_leaves_no_ghost(instance: Instance) {
    for round in 0..100 {
        instance.come("room", &format!("c{round}"), MINUTE).await;
        if round > 0 {
            // The end of the old connection is noticed after the new one has come.
            instance.leave("room", &format!("c{}", round - 1)).await;
        }
    }
    assert_eq!(instance.present("room").await, ["c99"]);
    // What a client is said to be last is what it is.
    let renamed = Arc::new(ClientInfo { user: "bob".to_owned(), ..ClientInfo::clone(&who("c99")) });
    instance.broker.add_member(channel("room"), renamed.clone(), MINUTE).await.unwrap();
    assert_eq!(instance.broker.members(channel("room")).await.unwrap(), [renamed]);
}

pub async fn joins_and_leaves_reach_who_is_subscribed(instance: Instance) {
    instance.subscribe("room").await;
    let moved = async |name, movement, client| {
        instance.broker.announce(channel(name), movement, who(client)).await.unwrap();
    };
    moved("room", Movement::Join, "a").await;
    moved("other", Movement::Join, "b").await;
    moved("room", Movement::Leave, "a").await;
    let expected = [(Movement::Join, who("a")), (Movement::Leave, who("a"))];
    eventually("both arrive", async || instance.hubs.moved.lock().len() >= 2).await;
    assert_eq!(*instance.hubs.moved.lock(), expected);
}

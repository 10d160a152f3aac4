//! A master with its replica, and three sentinels that watch them. They know each other from the start and agree on an outage
//! within about a second.

use std::{fmt::Write, fs};

use super::{Place, RedisServer, owned, path_text, retry, start_in_free_place, tls_arguments};
use crate::support::{poll_until, tls::Authority};

/// Shorter intervals than the default ones. After a failover the next one may begin after twice the timeout.
const TIMES: [&str; 14] = [
    "SENTINEL",
    "DEBUG",
    "ping-period",
    "100",
    "ask-period",
    "100",
    "info-period",
    "200",
    "publish-period",
    "200",
    "tilt-trigger",
    "20000",
    "tilt-period",
    "1000",
];

/// What the certificates are for: sentinels name a master by its address.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

pub struct SentinelTrio {
    /// The first one is the master at the start.
    pub servers: [RedisServer; 2],
    pub sentinels: [RedisServer; 3],
}

#[derive(Default)]
pub struct SentinelOptions<'a> {
    /// The password of the sentinels; they have none by default.
    pub password: Option<&'a str>,
    /// The password of the servers; they have none by default.
    pub server_password: Option<&'a str>,
    /// Makes servers and sentinels listen for TLS, too, and name the ports for it.
    pub tls: Option<&'a Authority>,
    /// Further arguments of the servers.
    pub arguments: &'a [&'a str],
}

impl SentinelTrio {
    /// The name of the master.
    pub const MASTER: &'static str = "main";

    pub async fn start() -> Self {
        Self::start_with(&SentinelOptions::default()).await
    }

    pub async fn start_with(options: &SentinelOptions<'_>) -> Self {
        let start_server = |replica_of: Option<u16>| {
            start_in_free_place(|place| {
                let mut arguments = owned(options.arguments);
                if let Some(password) = options.server_password {
                    arguments.extend(owned(&["--requirepass", password, "--masterauth", password]));
                }
                if let Some(authority) = options.tls {
                    arguments.extend(tls_arguments(place.second_port, authority, &NAMES, false));
                    arguments.extend(owned(&["--tls-replication", "yes"]));
                }
                if let Some(master) = replica_of {
                    arguments.extend(owned(&["--replicaof", "127.0.0.1", &master.to_string()]));
                }
                arguments
            })
        };
        let port = |server: &RedisServer| if options.tls.is_some() { server.tls_port } else { server.port };
        let master = start_server(None);
        let replica = start_server(Some(port(&master)));
        let monitored = [port(&master), port(&replica)];
        let sentinels = retry(|| {
            let places = [(); 3].map(|()| Place::free());
            let started = [0, 1, 2].map(|number| spawn_sentinel(number, &places, &monitored, options));
            let [Some(one), Some(two), Some(three)] = started else { return None };
            Some([one, two, three])
        });
        let trio = Self { servers: [master, replica], sentinels };
        for sentinel in &trio.sentinels {
            sentinel.run::<()>(&TIMES).await;
        }
        poll_until("the replica and all sentinels are connected", async || trio.is_complete().await).await;
        trio
    }

    /// Hosts and ports of the sentinels.
    pub fn addresses(&self) -> [String; 3] {
        [0, 1, 2].map(|number| self.sentinels[number].address())
    }

    /// The server that most sentinels name as the master.
    pub async fn master(&self) -> usize {
        let mut votes = [0; 2];
        for sentinel in &self.sentinels {
            votes
                .iter_mut()
                .zip(self.named_by(sentinel).await)
                .for_each(|(votes, is_named)| *votes += u8::from(is_named));
        }
        usize::from(votes[1] > votes[0])
    }

    /// Makes the other server the master, with both alive, and waits for it; returns which one it is.
    pub async fn fail_over(&self) -> usize {
        let old = self.master().await;
        let sentinel = &self.sentinels[0];
        // A sentinel gives up if it does not know the state of the replica for a moment, and has to be asked again then.
        poll_until("a new master", async || {
            if self.named_by(sentinel).await[old] {
                _ = sentinel.try_run::<()>(&["SENTINEL", "FAILOVER", Self::MASTER]).await;
            }
            self.has_replaced(old).await
        })
        .await;
        1 - old
    }

    /// Waits until all sentinels that are alive name another server than this one, and that server is a master.
    pub async fn wait_for_new_master(&self, old: usize) -> usize {
        poll_until("a new master", async || self.has_replaced(old).await).await;
        1 - old
    }

    /// Whether all sentinels that are alive name the other server, and that server is a master.
    async fn has_replaced(&self, old: usize) -> bool {
        let new = 1 - old;
        let mut named = Vec::new();
        for sentinel in &self.sentinels {
            named.push(self.named_by(sentinel).await);
        }
        let role = self.servers[new].info(&["INFO", "replication"], "role").await;
        let is_agreed = named.iter().any(|named| named[new]) && !named.iter().any(|named| named[old]);
        is_agreed && role.as_deref() == Some("master")
    }

    /// Which of the servers a sentinel names as the master; none, if the sentinel does not answer.
    async fn named_by(&self, sentinel: &RedisServer) -> [bool; 2] {
        let reply = sentinel.try_run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER]).await;
        let Ok((_, port)) = reply.map(|(host, port): (String, u16)| (host, port)) else { return [false; 2] };
        [0, 1].map(|number| [self.servers[number].port, self.servers[number].tls_port].contains(&port))
    }

    async fn is_complete(&self) -> bool {
        let mut is_complete = self.servers[1].is_replicating().await;
        for sentinel in &self.sentinels {
            // Fails unless so many sentinels are connected that they can agree.
            is_complete &= sentinel.try_run::<String>(&["SENTINEL", "CKQUORUM", Self::MASTER]).await.is_ok();
        }
        is_complete
    }
}

/// Starts a sentinel of its own that names this server as the master, as one that was cut off does.
pub async fn start_sentinel(master: &RedisServer) -> RedisServer {
    start_sentinel_of(master.port).await
}

/// Starts a sentinel of its own that knows the master by this port of loopback.
pub async fn start_sentinel_of(port: u16) -> RedisServer {
    retry(|| spawn_sentinel(0, &[Place::free()], &[port], &SentinelOptions::default()))
}

/// Starts one of the sentinels of these places. The first of the monitored ports is that of the master.
fn spawn_sentinel(
    number: usize,
    places: &[Place],
    monitored: &[u16],
    options: &SentinelOptions<'_>,
) -> Option<RedisServer> {
    let (place, name) = (&places[number], SentinelTrio::MASTER);
    let port = |place: &Place| if options.tls.is_some() { place.second_port } else { place.port };
    let mut file = String::new();
    let mut line = |text: String| writeln!(file, "{text}").unwrap();
    line(format!("port {}\nbind 127.0.0.1\ndir {}", place.port, path_text(place.directory.path())));
    line(format!("sentinel myid {}", id(number)));
    line(format!("sentinel monitor {name} 127.0.0.1 {} 2", monitored[0]));
    line(format!("sentinel down-after-milliseconds {name} 700\nsentinel failover-timeout {name} 1000"));
    for replica in &monitored[1..] {
        line(format!("sentinel known-replica {name} 127.0.0.1 {replica}"));
    }
    for (other, place) in places.iter().enumerate().filter(|(other, _)| *other != number) {
        line(format!("sentinel known-sentinel {name} 127.0.0.1 {} {}", port(place), id(other)));
    }
    if let Some(password) = options.server_password {
        line(format!("sentinel auth-pass {name} \"{password}\""));
    }
    let mut arguments = Vec::new();
    if let Some(password) = options.password {
        line(format!("sentinel sentinel-pass \"{password}\""));
        arguments.extend(owned(&["--requirepass", password]));
    }
    if let Some(authority) = options.tls {
        arguments.extend(tls_arguments(place.second_port, authority, &NAMES, false));
        arguments.extend(owned(&["--tls-replication", "yes"]));
    }
    let path = place.directory.path().join("sentinel.conf");
    fs::write(&path, file).unwrap();
    let arguments = [vec![path_text(&path)], arguments, owned(&["--sentinel"])].concat();
    RedisServer::start_process(place, arguments)
}

fn id(number: usize) -> String {
    format!("{:040x}", number + 1)
}

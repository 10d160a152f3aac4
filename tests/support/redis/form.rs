//! The forms of Redis that a hub can be configured for. A test of a behaviour that does not depend on the form takes any of
//! them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{
    future::LocalBoxFuture,
    stream::{self, StreamExt},
};
use wardcast::config::{Config, RedisConfig, Secret};

use super::{RedisCluster, RedisServer, SentinelTrio};

/// How many tests use a Redis at the same time.
const TESTS_AT_A_TIME: usize = 4;

pub enum RedisForm {
    OneServer(RedisServer),
    SeveralServers(Vec<RedisServer>),
    Sentinel(Box<SentinelTrio>),
    Cluster(RedisCluster),
}

impl RedisForm {
    pub async fn one_server() -> Self {
        Self::OneServer(RedisServer::start().await)
    }

    pub async fn several_servers() -> Self {
        Self::SeveralServers(vec![RedisServer::start().await, RedisServer::start().await, RedisServer::start().await])
    }

    /// Several servers that keep their data when they are killed and started again.
    pub async fn several_durable_servers() -> Self {
        Self::SeveralServers(vec![RedisServer::start_durable().await, RedisServer::start_durable().await])
    }

    pub async fn sentinel() -> Self {
        Self::Sentinel(Box::new(SentinelTrio::start().await))
    }

    pub async fn cluster() -> Self {
        Self::Cluster(RedisCluster::start().await)
    }

    /// Sets where the Redis is.
    pub fn configure(&self, config: &mut RedisConfig) {
        let secrets = |servers: &[RedisServer]| servers.iter().map(|server| Secret::new(server.url())).collect();
        match self {
            Self::OneServer(server) => config.url = Secret::new(server.url()),
            Self::SeveralServers(servers) => config.urls = secrets(servers),
            Self::Sentinel(trio) => {
                config.sentinel.urls = secrets(&trio.sentinels);
                config.sentinel.master_name = SentinelTrio::MASTER.to_owned();
            }
            // A replica names the others as well as a master does.
            Self::Cluster(cluster) => config.cluster.urls = secrets(&cluster.nodes[4..5]),
        }
    }

    /// The servers that have all data between them, until the first failover.
    pub fn masters(&self) -> &[RedisServer] {
        match self {
            Self::OneServer(server) => std::slice::from_ref(server),
            Self::SeveralServers(servers) => servers,
            Self::Sentinel(trio) => &trio.servers[..1],
            Self::Cluster(cluster) => &cluster.nodes[..3],
        }
    }
}

/// The part of a Redis whose names begin with one prefix, so that several tests share a Redis.
pub struct PrefixedRedis {
    pub form: Arc<RedisForm>,
    pub prefix: String,
}

impl PrefixedRedis {
    /// The whole of a Redis, which no other test uses.
    pub fn whole(form: RedisForm) -> Self {
        Self { form: Arc::new(form), prefix: "wardcast".to_owned() }
    }

    /// Sets where the Redis is, and the prefix.
    pub fn configure(&self, config: &mut RedisConfig) {
        self.form.configure(config);
        config.prefix.clone_from(&self.prefix);
    }

    /// The settings (`key=value`) of a process that uses the Redis.
    pub fn settings(&self) -> Vec<String> {
        let mut config = Config::default().broker.redis;
        self.configure(&mut config);
        let list = |urls: &[Secret]| format!("{:?}", urls.iter().map(Secret::expose).collect::<Vec<_>>());
        let settings = [
            ("url", config.url.expose().to_owned()),
            ("urls", list(&config.urls)),
            ("sentinel.urls", list(&config.sentinel.urls)),
            ("sentinel.master_name", config.sentinel.master_name),
            ("cluster.urls", list(&config.cluster.urls)),
            ("prefix", config.prefix),
        ];
        let settings = settings.into_iter().map(|(key, value)| format!("broker.redis.{key}={value}"));
        std::iter::once("broker.type=redis".to_owned()).chain(settings).collect()
    }

    /// Lets time pass for everything that is stored.
    pub fn advance_clock(&self, by: Duration) {
        self.form.masters().iter().for_each(|server| server.advance_clock(&self.prefix, by));
    }

    /// The keys whose names behind the prefix have this pattern.
    pub async fn keys(&self, pattern: &str) -> BTreeSet<String> {
        self.list(&["KEYS"], pattern).await
    }

    /// The PUB/SUB channels, of a Cluster the shard channels, that have subscribers, and whose names behind the prefix have this
    /// pattern.
    pub async fn subscribed_channels(&self, pattern: &str) -> BTreeSet<String> {
        let channels = if let RedisForm::Cluster(_) = *self.form { "SHARDCHANNELS" } else { "CHANNELS" };
        self.list(&["PUBSUB", channels], pattern).await
    }

    /// The master that has a key.
    pub async fn master_with(&self, key: &str) -> &RedisServer {
        for master in self.form.masters() {
            if master.run::<Vec<String>>(&["KEYS", key]).await.len() == 1 {
                return master;
            }
        }
        panic!("no master has {key}");
    }

    /// How often the masters have run a command.
    pub async fn calls(&self, command: &str) -> u64 {
        let mut sum = 0;
        for master in self.form.masters() {
            let stats: String = master.run(&["INFO", "commandstats"]).await;
            let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            sum += line.map_or(0, |line| line.split(',').next().unwrap().parse::<u64>().unwrap());
        }
        sum
    }

    /// Ends the connections over which instances receive messages.
    pub async fn cut_subscriptions(&self) {
        for master in self.form.masters() {
            master.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        }
    }

    /// The servers, if they can be killed and started again: in the other forms a replica may take the place of a killed master,
    /// with its data.
    pub fn servers_without_replicas(&mut self) -> Option<&mut [RedisServer]> {
        match Arc::get_mut(&mut self.form).expect("no other test uses it") {
            RedisForm::OneServer(server) => Some(std::slice::from_mut(server)),
            RedisForm::SeveralServers(servers) => Some(servers),
            RedisForm::Sentinel(_) | RedisForm::Cluster(_) => None,
        }
    }

    /// Empties the Redis, and interrupts the subscriptions: by a crash, if there is no replica.
    pub async fn lose_everything(&mut self) {
        if let Some(servers) = self.servers_without_replicas() {
            for server in servers {
                server.kill();
                server.restart().await;
            }
            return;
        }
        for master in self.form.masters() {
            master.run::<()>(&["FLUSHALL"]).await;
        }
        self.cut_subscriptions().await;
    }

    /// What a command that lists names returns on all masters.
    async fn list(&self, command: &[&str], pattern: &str) -> BTreeSet<String> {
        let pattern = format!("{}:{pattern}", self.prefix);
        let mut names = BTreeSet::new();
        for master in self.form.masters() {
            names.extend(master.run::<Vec<String>>(&[command, &[&pattern]].concat()).await);
        }
        names
    }
}

/// Runs tests on parts of one Redis, some at a time: each waits most of the time.
pub async fn run_on_parts<Test>(form: RedisForm, tests: Vec<(&str, Test)>)
where
    Test: AsyncFnOnce(PrefixedRedis),
{
    let form = Arc::new(form);
    let run = |(number, (name, test)): (usize, (&str, Test))| {
        let redis = PrefixedRedis { form: form.clone(), prefix: format!("wardcast-{number}") };
        let name = name.to_owned();
        async move {
            println!("{name} begins");
            test(redis).await;
            println!("{name} has passed");
        }
    };
    stream::iter(tests.into_iter().enumerate()).for_each_concurrent(TESTS_AT_A_TIME, run).await;
}

/// A test that may break the Redis for others while it runs. Afterwards it works.
pub type BreakingTest = for<'a> fn(&'a mut PrefixedRedis) -> LocalBoxFuture<'a, ()>;

/// Runs tests on parts of one Redis, one after another.
pub async fn run_in_turn(form: RedisForm, tests: &[(&str, BreakingTest)]) {
    let mut redis = PrefixedRedis::whole(form);
    for (number, (name, test)) in tests.iter().enumerate() {
        redis.prefix = format!("wardcast-{number}");
        println!("{name} begins");
        test(&mut redis).await;
    }
}

/// Makes each function a test over one server, and all of them one test over each other form, which takes seconds to start.
macro_rules! test_on_every_form {
    ($($test:ident)*) => {
        mod over_one_server {
            use crate::support::redis::{PrefixedRedis, RedisForm};

            $(#[actix_rt::test]
            async fn $test() {
                super::$test(&mut PrefixedRedis::whole(RedisForm::one_server().await)).await;
            })*
        }

        mod over_other_forms {
            use crate::support::redis::{BreakingTest, RedisForm, run_in_turn};

            const TESTS: &[(&str, BreakingTest)] =
                &[$((stringify!($test), |redis| Box::pin(super::$test(redis))),)*];

            #[actix_rt::test]
            async fn every_behaviour_holds_over_several_servers() {
                run_in_turn(RedisForm::several_servers().await, TESTS).await;
            }

            #[actix_rt::test]
            async fn every_behaviour_holds_with_sentinels() {
                run_in_turn(RedisForm::sentinel().await, TESTS).await;
            }

            #[actix_rt::test]
            async fn every_behaviour_holds_over_a_cluster() {
                run_in_turn(RedisForm::cluster().await, TESTS).await;
            }
        }
    };
}
pub(crate) use test_on_every_form;

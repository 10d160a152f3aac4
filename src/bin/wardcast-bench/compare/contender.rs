//! The servers that are compared, and their settings.
//!
//! The settings are as equal as the two servers allow, and otherwise the defaults of both: what one has switched off, the
//! other has, too, and nothing is set that makes one of them slower. Both use one thread per core by default.

use crate::error::Result;
use crate::{child_process::ChildProcess, child_process::ProgramOutput};

use super::workloads::Setup;
use crate::program::Program;

/// A server that takes part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    /// The server of `limit`, which only writes: what the operating system itself costs.
    BareLoop,
    Wardcast,
    Centrifugo,
}

/// What both servers are set to.
pub(super) struct Setting {
    /// `KEY=VALUE` of Wardcast's configuration; empty if the default or the lack of such a thing is what is wanted.
    pub(super) wardcast: &'static str,
    /// The environment variable of Centrifugo without its prefix, `=` and the value; empty likewise.
    pub(super) centrifugo: &'static str,
    /// Why.
    pub(super) reason: &'static str,
}

const fn setting(wardcast: &'static str, centrifugo: &'static str, reason: &'static str) -> Setting {
    Setting { wardcast, centrifugo, reason }
}

/// The prefix of Centrifugo's environment variables.
const CENTRIFUGO_PREFIX: &str = "CENTRIFUGO_";

/// Settings of every measurement.
pub(super) const SETTINGS: &[Setting] = &[
    setting("log.level=warn", "LOG_LEVEL=warn", "neither logs connections"),
    setting("server.ping_interval=25s", "CLIENT_PING_INTERVAL=25s", "the default of both"),
    setting("server.pong_timeout=8s", "CLIENT_PONG_TIMEOUT=8s", "the default of both"),
    setting(
        "limits.outbox_bytes=1048576",
        "CLIENT_QUEUE_MAX_SIZE=1048576",
        "the default of Centrifugo, for slow clients",
    ),
    setting("api.publication_bytes=524288", "", "at most half of an outbox; none is as large"),
    setting(
        "channels.allow_subscribe=user",
        "CHANNEL_WITHOUT_NAMESPACE_ALLOW_SUBSCRIBE_FOR_CLIENT=true",
        "the token's user may subscribe",
    ),
    setting("channels.presence=false", "CHANNEL_WITHOUT_NAMESPACE_PRESENCE=false", "the default of both"),
    setting(
        "limits.waiting=100000",
        "",
        "Centrifugo has no limit of connections that have not authenticated yet, and 10,000 reconnect at once",
    ),
    setting("limits.waiting_per_address=100000", "", "the same; all clients have one address"),
];

/// Settings of measurements without history.
pub(super) const WITHOUT_HISTORY: &[Setting] =
    &[setting("channels.history_size=0", "CHANNEL_WITHOUT_NAMESPACE_HISTORY_SIZE=0", "the default of both")];

/// Settings of measurements with history.
pub(super) const WITH_HISTORY: &[Setting] = &[
    setting("channels.history_size=1000", "CHANNEL_WITHOUT_NAMESPACE_HISTORY_SIZE=1000", "more than any client misses"),
    setting("channels.history_ttl=5m", "CHANNEL_WITHOUT_NAMESPACE_HISTORY_TTL=5m", "longer than the measurement"),
    setting(
        "limits.recovered_publications=300",
        "CLIENT_RECOVERY_MAX_PUBLICATION_LIMIT=300",
        "the default of both, and more than any client misses",
    ),
    setting("", "CHANNEL_WITHOUT_NAMESPACE_ALLOW_POSITIONING=true", "Wardcast allows it where there is a history"),
    setting("", "CHANNEL_WITHOUT_NAMESPACE_ALLOW_RECOVERY=true", "the same"),
];

/// Settings of measurements with two nodes, beside the URL of Redis.
pub(super) const TWO_NODES: &[Setting] =
    &[setting("broker.type=redis", "ENGINE_TYPE=redis", "one Redis for both nodes")];

/// What a node is started with, beside the settings above.
pub(super) struct NodeOptions<'a> {
    pub(super) setup: Setup,
    /// The loopback port to listen at.
    pub(super) port: u16,
    /// The HS256 secret of tokens.
    pub(super) secret: &'a str,
    pub(super) api_key: &'a str,
    /// The URL of Redis, if there is one.
    pub(super) redis_url: Option<&'a str>,
}

impl Contender {
    /// All contenders, in the order of the table.
    pub(super) const ALL: [Self; 3] = [Self::BareLoop, Self::Wardcast, Self::Centrifugo];

    /// The name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::BareLoop => "bare loop",
            Self::Wardcast => "Wardcast",
            Self::Centrifugo => "Centrifugo",
        }
    }

    /// The name in JSON.
    pub(super) fn json_name(self) -> &'static str {
        match self {
            Self::BareLoop => "bare_loop",
            Self::Wardcast => "wardcast",
            Self::Centrifugo => "centrifugo",
        }
    }

    /// Starts a node. Secrets are in variables, because every user of a machine can read command lines. The variables of
    /// this program's own environment do not reach it, because they could change what is measured.
    pub(super) fn start_node(
        self,
        program: &Program,
        options: &NodeOptions<'_>,
    ) -> Result<(ChildProcess, ProgramOutput)> {
        let NodeOptions { setup, port, secret, api_key, redis_url } = *options;
        let settings = settings_of(setup);
        ChildProcess::start_program(&program.path, |command| {
            // Centrifugo would read a configuration file of the working directory.
            command.env_clear().current_dir("/");
            if self == Self::Centrifugo {
                let settings = settings.filter_map(|setting| setting.centrifugo.split_once('='));
                settings.for_each(|(key, value)| {
                    command.env(format!("{CENTRIFUGO_PREFIX}{key}"), value);
                });
                command.env("CENTRIFUGO_HTTP_SERVER_ADDRESS", "127.0.0.1");
                command.env("CENTRIFUGO_HTTP_SERVER_PORT", port.to_string());
                command.env("CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY", secret);
                command.env("CENTRIFUGO_HTTP_API_KEY", api_key);
                redis_url.into_iter().for_each(|url| {
                    command.env("CENTRIFUGO_ENGINE_REDIS_ADDRESS", url);
                });
            } else {
                let settings = settings.map(|setting| setting.wardcast).filter(|setting| !setting.is_empty());
                command.args(settings.flat_map(|setting| ["--set", setting]));
                command.args(["--set", &format!("server.bind=127.0.0.1:{port}")]);
                command.env("WARDCAST_ENV", "development");
                command.env("WARDCAST_AUTH__HMAC_SECRET", secret).env("WARDCAST_API__KEY", api_key);
                redis_url.into_iter().for_each(|url| {
                    command.env("WARDCAST_BROKER__REDIS__URL", url);
                });
            }
        })
    }
}

/// The settings of a setup.
fn settings_of(setup: Setup) -> impl Iterator<Item = &'static Setting> {
    let history = if setup == Setup::History { WITH_HISTORY } else { WITHOUT_HISTORY };
    let nodes = if setup == Setup::TwoNodes { TWO_NODES } else { &[] };
    SETTINGS.iter().chain(history).chain(nodes)
}

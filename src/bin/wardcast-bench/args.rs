//! The command line: the commands, their options and their help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, builder::PossibleValuesParser};

use crate::{
    chaos, compare,
    error::Result,
    load_driver::Workload,
    publication_stamp::check_size,
    signing_key::TokenAlgorithm,
    tokens::{ExpiryArgs, ForgedArgs, RefreshArgs, RevokeArgs},
    websocket::Credentials,
};

/// The end of `--help`.
const EXAMPLES: &str = include_str!("examples.txt");

/// Load generator for a Wardcast hub: measures fan-out, publishing, connecting, recovery and idle memory, and a bare server for comparison.
#[derive(Parser)]
#[command(name = "wardcast-bench", version, after_help = EXAMPLES, after_long_help = long_help())]
pub(crate) struct Cli {
    /// Print the report as one JSON object (--help lists its fields)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show no progress on the terminal
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Subscribe many connections to one channel, publish over HTTP, and time every delivery
    Fanout(FanoutArgs),
    /// Publish as fast as the hub answers, or at a rate, through the server API or over sockets
    Publish(PublishArgs),
    /// Connect with distinct tokens as fast as the server accepts them
    Connect(ConnectArgs),
    /// Hold subscribed connections that do nothing, and measure the server's memory per connection
    Idle(IdleArgs),
    /// Disconnect all subscribers of a channel, publish, and time until all have reconnected and recovered what they missed
    Recover(RecoverArgs),
    /// Revoke all tokens of a user while publications arrive, and count what its sessions receive afterwards
    Revoke(RevokeArgs),
    /// Let tokens expire while publications arrive, and count what their sessions receive afterwards
    Expiry(ExpiryArgs),
    /// Refresh the tokens of many sessions while publications arrive, and count closes and missed publications
    Refresh(RefreshArgs),
    /// Connect with forged tokens as fast as the hub refuses them, and time the deliveries to others meanwhile
    Forged(ForgedArgs),
    /// Run the same fan-out from a bare epoll loop that only writes: the cost of the system itself, for comparison
    Limit(LimitArgs),
    /// Run these measurements in turn on the bare loop, on Wardcast and on a Centrifugo binary, and compare them
    Compare(CompareArgs),
    /// Break hubs and Redis that are started for it, one failure after the other, and report what clients see and lose
    #[command(after_long_help = chaos::help())]
    Chaos(ChaosArgs),
    /// Take the backend down and kill a hub, and count which events the backend receives, how often, and in which order
    #[command(after_long_help = chaos::events::HELP)]
    Events(EventsArgs),
    /// Run the bare server of `limit` (child process)
    #[command(hide = true)]
    LimitServer {
        /// TLS for subscribers.
        #[arg(long)]
        tls: bool,
    },
    /// Become the hub (child process)
    #[command(hide = true)]
    HubServer {
        /// The hub's binary.
        program: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

impl Command {
    /// Its name on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Fanout(_) => "fanout",
            Self::Publish(_) => "publish",
            Self::Connect(_) => "connect",
            Self::Idle(_) => "idle",
            Self::Recover(_) => "recover",
            Self::Revoke(_) => "revoke",
            Self::Expiry(_) => "expiry",
            Self::Refresh(_) => "refresh",
            Self::Forged(_) => "forged",
            Self::Limit(_) => "limit",
            Self::Compare(_) => "compare",
            Self::Chaos(_) => "chaos",
            Self::Events(_) => "events",
            Self::LimitServer { .. } => "limit-server",
            Self::HubServer { .. } => "hub-server",
        }
    }
}

/// Options of commands that connect to a hub.
#[derive(Args)]
pub(crate) struct HubArgs {
    /// WebSocket URL, ws:// or wss://; repeat it to spread the connections over several in turns [default: with a secret or
    /// token ws://127.0.0.1:8000/connection/websocket, otherwise a hub that is started for the run]
    #[arg(long)]
    pub(crate) url: Vec<String>,
    /// HS256 secret that signs the tokens of the users bench-0, bench-1, …; safer in WARDCAST_BENCH_SECRET
    #[arg(long)]
    pub(crate) secret: Option<String>,
    /// One token for all connections, instead of --secret
    #[arg(long, conflicts_with = "secret")]
    pub(crate) token: Option<String>,
    /// How clients send their tokens
    #[arg(long, value_enum, default_value_t = SendToken::Query)]
    pub(crate) send_token: SendToken,
    /// Accept any certificate (wss, https)
    #[arg(long)]
    pub(crate) insecure: bool,
    /// PEM file of the certificates to trust (wss, https)
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) ca: Option<PathBuf>,
    /// Process id of the server, to measure its CPU and memory; repeat it for several [default: the process that listens at
    /// --url's port, if that is local]
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// Setting of the hub that is started for the run; repeat it for several
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) hub_set: Vec<String>,
    /// TLS for the hub that is started for the run, with a certificate that is made for it. (For another certificate:
    /// --hub-set server.tls.cert=FILE --hub-set server.tls.key=FILE)
    #[arg(long)]
    pub(crate) tls: bool,
    /// Resume TLS sessions with the tickets of earlier connections, as clients do that reconnect (wss)
    #[arg(long)]
    pub(crate) resume: bool,
    /// Revoke this many other tokens before the run, to measure with a long list of revocations
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) revocations: u32,
}

/// How clients send their tokens.
#[derive(Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum SendToken {
    /// In the query of the handshake
    #[default]
    Query,
    /// With the connect command, as SDKs do, and as other servers of the same protocol need it
    Connect,
}

impl SendToken {
    /// Credentials that send `token` in this way.
    pub(crate) fn credentials(self, token: &str) -> Credentials<'_> {
        match self {
            Self::Query => Credentials::Query(token),
            Self::Connect => Credentials::ConnectCommand(token),
        }
    }
}

/// Options of publishing through the server API.
#[derive(Args)]
pub(crate) struct ApiArgs {
    /// Server to publish to, http:// or https://; without a path, that of the API method is used [default: the server of
    /// the first --url]
    #[arg(long)]
    pub(crate) publish_url: Option<String>,
    /// API key of the server; safer in WARDCAST_BENCH_API_KEY
    #[arg(long)]
    pub(crate) api_key: Option<String>,
}

/// Options of the simulated clients.
#[derive(Args)]
pub(crate) struct ConnectionArgs {
    /// Receiving threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
    /// Concurrent handshakes
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
    /// Receive over event streams (/connection/sse), not WebSockets. For fanout and idle
    #[arg(long)]
    pub(crate) sse: bool,
    /// Offer compression (permessage-deflate). The hub that is started for the run needs --hub-set server.compression.enabled=true
    #[arg(long, conflicts_with = "sse")]
    pub(crate) deflate: bool,
    /// How many addresses to connect from (127.0.0.1, 127.0.0.2, …) [default: one per 20,000 connections]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=250))]
    pub(crate) source_addresses: Option<u16>,
}

/// Options of publishing.
#[derive(Args)]
pub(crate) struct LoadArgs {
    /// Subscribers
    #[arg(long, short = 'n', default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Bytes of a publication's data (at least 41, for its stamp)
    #[arg(long, default_value_t = 128)]
    pub(crate) size: usize,
    /// Publications per second
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// Instead of a rate, keep K publications outstanding, each until all subscribers have received it
    #[arg(long, value_name = "K", conflicts_with = "rate", value_parser = clap::value_parser!(u16).range(1..=999))]
    pub(crate) closed_loop: Option<u16>,
    /// Measured time, in seconds
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Time before that which is not measured, in seconds
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) warmup: f64,
    /// Beside the load, do a few operations per second on connections of their own, and time them: publish to a channel with
    /// one subscriber, a command, a ping, a handshake, and an echo without the hub (`limit`: only the echo)
    #[arg(long)]
    pub(crate) probe: bool,
}

impl LoadArgs {
    /// Checks the size and returns the workload and how many publishers it needs, `at_rate` of them for a fixed rate.
    pub(crate) fn workload(&self, at_rate: u16) -> Result<(Workload, usize)> {
        check_size(self.size)?;
        Ok(match self.closed_loop {
            Some(outstanding) => (Workload::ClosedLoop(outstanding), outstanding.into()),
            None => (Workload::Rate(self.rate), at_rate.into()),
        })
    }
}

/// Options of `fanout`.
#[derive(Args)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Channel to subscribe and publish to
    #[arg(long, default_value = "bench")]
    pub(crate) channel: String,
    /// Publishing connections at a rate (with --closed-loop K there are K)
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=999))]
    pub(crate) publishers: u16,
    /// Turn everything on that should cost deliveries nothing: all hooks and all events, for a backend in this program, and a monitor that
    /// reads /metrics every second. Compare server_cpu_us_per_delivery with a run without it
    #[arg(long)]
    pub(crate) everything: bool,
    /// Add K subscribers that never read after their subscribe reply, and report when the server closes them
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) stalled: u16,
}

/// Options of `publish`.
#[derive(Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// How to publish: through the server API, or with the publish command of sessions
    #[arg(long, value_enum, default_value_t = PublishOver::Http)]
    pub(crate) over: PublishOver,
    /// Publishing connections, each with one call at a time
    #[arg(long, short = 'n', default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=999))]
    pub(crate) connections: u16,
    /// Calls per second, instead of as many as the hub answers
    #[arg(long, value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Bytes of a publication's data (at least 41, for its stamp)
    #[arg(long, default_value_t = 128)]
    pub(crate) size: usize,
    /// Channels to publish to, in turns (bench-0, bench-1, …)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) channels: u16,
    /// Publications per call, with the API method batch
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) batch: u16,
    /// Publish to all channels with each call, with the API method broadcast
    #[arg(long, conflicts_with = "batch")]
    pub(crate) broadcast: bool,
    /// Subscribers of each channel
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) subscribers: u16,
    /// Measured time, in seconds
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Time before that which is not measured, in seconds
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) warmup: f64,
}

/// How `publish` publishes.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PublishOver {
    /// Through the server API, with its key
    Http,
    /// With the publish command of sessions, each with its own token
    Socket,
}

/// Options of `connect`.
#[derive(Args)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    /// Connections to make
    #[arg(long, short = 'n', default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Close each connection as soon as it is connected (and subscribed), instead of keeping all open
    #[arg(long)]
    pub(crate) close: bool,
    /// Subscribe each connection to this channel, too
    #[arg(long)]
    pub(crate) channel: Option<String>,
}

/// Options of `idle`.
#[derive(Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    /// Connections to hold
    #[arg(long, short = 'n', default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// How many channels to spread the subscriptions over (bench-0, bench-1, …); with 1 it is the channel bench
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) channels: u32,
    /// Subscribe with a position
    #[arg(long)]
    pub(crate) positioned: bool,
    /// Seconds to wait before the server's memory is read
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub(crate) settle: f64,
}

/// Options of `recover`.
#[derive(Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Subscribers
    #[arg(long, short = 'n', default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Channel to subscribe and publish to, which must have a history
    #[arg(long, default_value = "bench")]
    pub(crate) channel: String,
    /// Publications while all clients are disconnected
    #[arg(long, value_name = "M", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) missed: u16,
    /// How many clients reconnect at a time [default: all]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) returning: Option<u32>,
    /// Publications per second before the clients are disconnected, while they reconnect, and after that
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// Bytes of a publication's data (at least 41, for its stamp)
    #[arg(long, default_value_t = 128)]
    pub(crate) size: usize,
    /// Publishing connections
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=999))]
    pub(crate) publishers: u16,
    /// Seconds before the clients are disconnected, and again after the last has reconnected
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// The algorithm of the signatures of their tokens; es256 only for a hub that is started for the run
    #[arg(long, value_enum, default_value_t = TokenAlgorithm::Hs256)]
    pub(crate) algorithm: TokenAlgorithm,
    /// Sessions that stay connected, in the channel CHANNEL-others. Their deliveries are timed before the clients are disconnected, and
    /// from then until all have reconnected. With them, the threads of the clients have a lower priority than the hub
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) others: u32,
    /// Publications per second for these sessions
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    pub(crate) others_rate: f64,
    /// Minimum time that the clients stay disconnected, in seconds
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) away: f64,
}

/// Options of `limit`.
#[derive(Args)]
pub(crate) struct LimitArgs {
    /// TLS for the connections of subscribers
    #[arg(long)]
    pub(crate) tls: bool,
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// Options of `compare`.
#[derive(Args)]
pub(crate) struct CompareArgs {
    /// Centrifugo binary (version 6) to compare with; without it, only the bare loop and Wardcast are measured
    #[arg(long, value_name = "PATH")]
    pub(crate) centrifugo: Option<PathBuf>,
    /// How many times everything is measured, with the order of the servers reversed each time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
    pub(crate) rounds: u16,
    /// Measure only these
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = PossibleValuesParser::new(compare::names()))]
    pub(crate) only: Vec<String>,
    /// Measure with few connections for a moment: to try the command out, not for figures
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print the result as Markdown
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
}

/// Options of `chaos`.
#[derive(Args)]
pub(crate) struct ChaosArgs {
    /// Break only deployments of these forms
    #[arg(long, value_enum, num_args = 1..)]
    pub(crate) form: Vec<chaos::Form>,
    /// Only these failures
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = PossibleValuesParser::new(chaos::names()))]
    pub(crate) only: Vec<String>,
    /// Publications per second
    #[arg(long, default_value_t = 200.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// Subscribers, spread over six channels and all hubs; half of them recover, the others are plain
    #[arg(long, short = 'n', default_value_t = 24, value_parser = clap::value_parser!(u16).range(12..=5000))]
    pub(crate) subscribers: u16,
    /// Print the result as Markdown
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
}

/// Options of `events`.
#[derive(Args)]
pub(crate) struct EventsArgs {
    /// The Redis of the hubs; not memory
    #[arg(long, value_enum, default_value_t = chaos::Form::Single)]
    pub(crate) form: chaos::Form,
    /// How long the backend is down, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = positive)]
    pub(crate) backend_down: f64,
    /// Hubs, of which one is killed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    pub(crate) hubs: u8,
    /// Users
    #[arg(long, short = 'n', default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub(crate) users: u16,
    /// How many events wait when their cost is measured
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(2..=80_000))]
    pub(crate) events: u64,
}

/// The value of an option or else of an environment variable. Secrets belong in variables: every user of a machine can read
/// its command lines.
#[expect(clippy::disallowed_methods, reason = "this program has no configuration to load, only its command line")]
pub(crate) fn or_variable(option: Option<&str>, variable: &str) -> Option<String> {
    option.map(str::to_owned).or_else(|| std::env::var(variable).ok())
}

/// The examples and the list of fields.
fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", crate::report_fields::help())
}

pub(crate) fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1e6 => Ok(number),
        _ => Err("the number must be above 0 and below 1,000,000".to_owned()),
    }
}

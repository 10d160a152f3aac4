//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{error::Result, load_driver::Workload, publication_stamp::check_size};

/// The end of `--help`.
const EXAMPLES: &str = include_str!("examples.txt");

/// Load generator for a Wardcast hub: measures fan-out, publishing, connecting and idle memory, and the bare system beside it.
#[derive(Parser)]
#[command(name = "wardcast-bench", version, after_help = EXAMPLES, after_long_help = long_help())]
pub(crate) struct Cli {
    /// Report as one JSON object (--help lists its fields)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress on the terminal
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
    /// Connect with distinct tokens as fast as the server lets in
    Connect(ConnectArgs),
    /// Hold subscribed connections that do nothing, and weigh them
    Idle(IdleArgs),
    /// Cut all subscribers of a channel, publish, and time until all are back with what they missed, each checked
    Recover(RecoverArgs),
    /// The same fan-out from a bare epoll loop that only writes: what the system itself costs, for comparison
    Limit(LimitArgs),
    /// The child process of `limit`
    #[command(hide = true)]
    LimitServer,
    /// The child process that becomes the hub
    #[command(hide = true)]
    HubServer {
        /// The hub's binary.
        program: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Options of commands that connect to a hub.
#[derive(Args)]
pub(crate) struct HubArgs {
    /// WebSocket URL, ws:// or wss://; give several to spread the connections over them in turns [default: with a secret
    /// ws://127.0.0.1:8000/connection/websocket, without one a hub that is started for the run]
    #[arg(long)]
    pub(crate) url: Vec<String>,
    /// Secret (HS256) to sign the tokens of users bench-0, bench-1, … with; better in WARDCAST_BENCH_SECRET
    #[arg(long)]
    pub(crate) secret: Option<String>,
    /// One token for all connections, instead of --secret
    #[arg(long, conflicts_with = "secret")]
    pub(crate) token: Option<String>,
    /// Believe any certificate (wss, https)
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Certificates to believe, PEM (wss, https)
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) ca: Option<PathBuf>,
    /// Process of the server, to measure its CPU and memory; repeat for several [default: who listens at --url's local port]
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// A setting of the hub that is started for the run
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) hub_set: Vec<String>,
}

/// Options of who publishes over HTTP.
#[derive(Args)]
pub(crate) struct ApiArgs {
    /// Server to publish to (http:// or https://, its path is chosen unless it has one); the first --url's if not given
    #[arg(long)]
    pub(crate) publish_url: Option<String>,
    /// API key of the server; better in WARDCAST_BENCH_API_KEY
    #[arg(long)]
    pub(crate) api_key: Option<String>,
}

/// Options of this side's connections.
#[derive(Args)]
pub(crate) struct ConnectionArgs {
    /// Receiving threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
    /// Handshakes in flight
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
    /// Connect from so many addresses (127.0.0.1, 127.0.0.2, …); one for every 20,000 connections if not given
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
    /// Publications a second
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// Instead of a rate: keep K publications outstanding, each until all subscribers have it
    #[arg(long, value_name = "K", conflicts_with = "rate", value_parser = clap::value_parser!(u16).range(1..=999))]
    pub(crate) closed_loop: Option<u16>,
    /// Measured time
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Time before that, not measured
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) warmup: f64,
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

/// `fanout`
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
    /// Publishing connections when there is a rate (with --closed-loop there are K)
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=999))]
    pub(crate) publishers: u16,
    /// More subscribers that never read after their subscribe reply; tells when the server lets them go
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) stalled: u16,
}

/// `publish`
#[derive(Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// How publications go in
    #[arg(long, value_enum, default_value_t = PublishOver::Http)]
    pub(crate) over: PublishOver,
    /// Publishing connections, each with one call under way
    #[arg(long, short = 'n', default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=999))]
    pub(crate) connections: u16,
    /// Calls a second, instead of as many as are answered
    #[arg(long, value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Bytes of a publication's data (at least 41, for its stamp)
    #[arg(long, default_value_t = 128)]
    pub(crate) size: usize,
    /// Channels to publish to, in turns (bench-0, bench-1, …)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) channels: u16,
    /// Publications in a call, through the API's batch
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) batch: u16,
    /// Publish to all channels with each call, through the API's broadcast
    #[arg(long, conflicts_with = "batch")]
    pub(crate) broadcast: bool,
    /// Subscribers of each channel
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) subscribers: u16,
    /// Measured time
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Time before that, not measured
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) warmup: f64,
}

/// How `publish` publishes.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PublishOver {
    /// Through the server API, with its key.
    Http,
    /// With the publish command of a session, each with a token of its own.
    Socket,
}

/// `connect`
#[derive(Args)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    /// Connections to make
    #[arg(long, short = 'n', default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Close each as soon as its first push is there, instead of keeping all open
    #[arg(long)]
    pub(crate) close: bool,
}

/// `idle`
#[derive(Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    /// Connections to hold
    #[arg(long, short = 'n', default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Spread the subscriptions over so many channels (bench-0, bench-1, …); 1 is the one channel bench
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) channels: u32,
    /// Subscribe with positions
    #[arg(long)]
    pub(crate) positioned: bool,
    /// Seconds to wait before weighing
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub(crate) settle: f64,
}

/// `recover`
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
    /// Channel to subscribe and publish to, one with a history
    #[arg(long, default_value = "bench")]
    pub(crate) channel: String,
    /// Publications while all are away
    #[arg(long, value_name = "M", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) missed: u16,
    /// How many come back at a time [default: all]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) returning: Option<u32>,
    /// Publications a second before they are cut, while they come back, and after
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// Bytes of a publication's data (at least 41, for its stamp)
    #[arg(long, default_value_t = 128)]
    pub(crate) size: usize,
    /// Publishing connections
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=999))]
    pub(crate) publishers: u16,
    /// Time before they are cut, and time after the last is back
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Time that they are away, at least
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) away: f64,
}

/// `limit`
#[derive(Args)]
pub(crate) struct LimitArgs {
    #[command(flatten)]
    pub(crate) clients: ConnectionArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// What an option says, or else a variable: secrets have no place on a command line, which everyone on a machine can read.
#[expect(clippy::disallowed_methods, reason = "this program has no configuration to load, only its command line")]
pub(crate) fn or_variable(option: Option<&str>, variable: &str) -> Option<String> {
    option.map(str::to_owned).or_else(|| std::env::var(variable).ok())
}

/// Examples, and the list of figures.
fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", crate::report_fields::help())
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1e6 => Ok(number),
        _ => Err("a number above 0 is needed".to_owned()),
    }
}

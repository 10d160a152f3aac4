//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Load generator for a Wardcast hub: measures fan-out, connecting and idle memory, and the bare system beside it.
#[derive(Debug, Parser)]
#[command(
    name = "wardcast-bench",
    version,
    after_help = "Give --pid PID of the server to learn its CPU and memory. \
    Open enough files on both sides first: `ulimit -n`."
)]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Subscribe many connections to one channel, publish over HTTP, and time every delivery
    Fanout(FanoutArgs),
    /// Connect with distinct tokens as fast as the server lets in
    Connect(ConnectArgs),
    /// Hold subscribed connections that do nothing, and weigh them
    Idle(IdleArgs),
    /// The same fan-out from a bare epoll loop that only writes: what the system itself costs, for comparison
    Limit(LimitArgs),
    /// The child process of `limit`
    #[command(hide = true)]
    LimitServer,
}

/// Options of commands that connect to a hub.
#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    /// WebSocket URL, ws:// or wss://; give several to spread the connections over them in turns
    #[arg(long, default_value = "ws://127.0.0.1:8000/connection/websocket")]
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
    /// Process of the server, to measure its CPU and memory; repeat for several
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
}

/// Options of this side's connections.
#[derive(Debug, Args)]
pub(crate) struct CrowdArgs {
    /// Receiving threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
    /// Handshakes in flight
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
    /// Connect from so many addresses (127.0.0.1, 127.0.0.2, …); one for every 20,000 connections if not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=250))]
    pub(crate) source_addresses: Option<u16>,
    /// Report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of publishing.
#[derive(Debug, Args)]
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

/// `fanout`
#[derive(Debug, Args)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) crowd: CrowdArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Server to publish to (http:// or https://, /api/publish unless it has a path); the first --url's if not given
    #[arg(long)]
    pub(crate) publish_url: Option<String>,
    /// API key of the server; better in WARDCAST_BENCH_API_KEY
    #[arg(long)]
    pub(crate) api_key: Option<String>,
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

/// `connect`
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) crowd: CrowdArgs,
    /// Connections to make
    #[arg(long, short = 'n', default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Close each as soon as its first push is there, instead of keeping all open
    #[arg(long)]
    pub(crate) close: bool,
}

/// `idle`
#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) crowd: CrowdArgs,
    /// Connections to hold
    #[arg(long, short = 'n', default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Spread the subscriptions over so many channels (bench-0, bench-1, …); 1 is the one channel bench
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) channels: u32,
    /// Seconds to wait before weighing
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub(crate) settle: f64,
}

/// `limit`
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    #[command(flatten)]
    pub(crate) crowd: CrowdArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// What an option says, or else a variable: secrets have no place on a command line, which everyone on a machine can read.
#[expect(clippy::disallowed_methods, reason = "this program has no configuration to load, only its command line")]
pub(crate) fn or_variable(option: Option<&str>, variable: &str) -> Option<String> {
    option.map(str::to_owned).or_else(|| std::env::var(variable).ok())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1e6 => Ok(number),
        _ => Err("a number above 0 is needed".to_owned()),
    }
}

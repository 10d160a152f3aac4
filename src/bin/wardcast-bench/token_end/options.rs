//! The options of `revoke` and `expiry`.

use clap::Args;

use crate::args::{ApiArgs, HubArgs, positive};

/// Options of `revoke` and `expiry`.
#[derive(Args)]
pub(crate) struct TokenEndArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Sessions whose tokens end
    #[arg(long, short = 'n', default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Of these, sessions that do not read
    #[arg(long, default_value_t = 20)]
    pub(crate) stalled: u16,
    /// Other sessions of the same channel
    #[arg(long, default_value_t = 20)]
    pub(crate) others: u32,
    /// Publications per second
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// Bytes of a publication's data (at least 41, for its stamp)
    #[arg(long, default_value_t = 128)]
    pub(crate) size: usize,
    /// Hubs to start for the run; several need redis-server in PATH
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(crate) nodes: u16,
}

/// Options of `revoke`.
#[derive(Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(crate) common: TokenEndArgs,
    /// Freeze the last hub before the call, and let it continue a second after the answer
    #[arg(long)]
    pub(crate) freeze: bool,
}

/// Options of `expiry`.
#[derive(Args)]
pub(crate) struct ExpiryArgs {
    #[command(flatten)]
    pub(crate) common: TokenEndArgs,
    /// Seconds over which the tokens expire
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) spread: u32,
}

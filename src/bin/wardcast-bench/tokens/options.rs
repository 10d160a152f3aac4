//! The options of `revoke`, `expiry`, `refresh` and `forged`.

use std::{ops::Range, time::Duration};

use clap::Args;

use crate::args::{ApiArgs, ConnectionArgs, HubArgs, positive};
use crate::signing_key::TokenAlgorithm;

/// How `revoke`, `expiry` and `refresh` publish, and to how many hubs.
#[derive(Args)]
pub(crate) struct PublishingArgs {
    /// Publications per second
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(super) rate: f64,
    /// Bytes of a publication's data (at least 41, for its stamp)
    #[arg(long, default_value_t = 128)]
    pub(super) size: usize,
    /// Hubs to start for the run; several need redis-server in PATH
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(super) nodes: u16,
    /// Seconds before something happens to the first token, and after the last one
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    margin: f64,
}

impl PublishingArgs {
    /// The time before and after.
    pub(super) fn margin(&self) -> Duration {
        Duration::from_secs_f64(self.margin)
    }
}

/// Options of `revoke` and `expiry`.
#[derive(Args)]
pub(crate) struct TokenEndArgs {
    #[command(flatten)]
    pub(super) hub: HubArgs,
    #[command(flatten)]
    pub(super) api: ApiArgs,
    /// Sessions whose tokens end
    #[arg(long, short = 'n', default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connections: u32,
    /// Of these, sessions that do not read
    #[arg(long, default_value_t = 20)]
    pub(super) stalled: u16,
    /// Other sessions of the same channel
    #[arg(long, default_value_t = 20)]
    pub(super) others: u32,
    #[command(flatten)]
    pub(super) publishing: PublishingArgs,
}

impl TokenEndArgs {
    /// The numbers of the sessions whose tokens end.
    pub(super) fn ending(&self) -> Range<usize> {
        0..self.connections as usize
    }

    /// The numbers of the others.
    pub(super) fn staying(&self) -> Range<usize> {
        let first = self.connections as usize;
        first..first + self.others as usize
    }
}

/// Options of `revoke`.
#[derive(Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(super) common: TokenEndArgs,
    /// Freeze the last hub before the call, and let it continue a second after the answer
    #[arg(long)]
    pub(super) freeze: bool,
}

/// Options of `expiry`.
#[derive(Args)]
pub(crate) struct ExpiryArgs {
    #[command(flatten)]
    pub(super) common: TokenEndArgs,
    /// Seconds over which the tokens expire
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) spread: u32,
}

/// Options of `refresh`.
#[derive(Args)]
pub(crate) struct RefreshArgs {
    #[command(flatten)]
    pub(super) hub: HubArgs,
    #[command(flatten)]
    pub(super) api: ApiArgs,
    /// Sessions
    #[arg(long, short = 'n', default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connections: u32,
    /// Seconds within which all refresh their tokens
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) spread: u32,
    #[command(flatten)]
    pub(super) publishing: PublishingArgs,
}

/// Options of `forged`.
#[derive(Args)]
pub(crate) struct ForgedArgs {
    #[command(flatten)]
    pub(super) hub: HubArgs,
    #[command(flatten)]
    pub(super) api: ApiArgs,
    #[command(flatten)]
    pub(super) clients: ConnectionArgs,
    /// Handshakes with forged tokens
    #[arg(long, short = 'n', default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) handshakes: u32,
    /// The algorithm of their signatures. A hub that is started for the run has a key for it
    #[arg(long, value_enum, default_value_t = TokenAlgorithm::Hs256)]
    pub(super) algorithm: TokenAlgorithm,
    /// Sessions that receive publications meanwhile
    #[arg(long, default_value_t = 500)]
    pub(super) others: u32,
    /// Publications per second
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    pub(super) rate: f64,
    /// Bytes of a publication's data (at least 41, for its stamp)
    #[arg(long, default_value_t = 128)]
    pub(super) size: usize,
    /// Seconds before something happens to the first token, and after the last one
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    margin: f64,
}

impl ForgedArgs {
    /// The time before and after.
    pub(super) fn margin(&self) -> Duration {
        Duration::from_secs_f64(self.margin)
    }
}

//! What can be asked on the command line; the comments here are the help that people read.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

const MAIN_HELP: &str = r#"Examples:
  wardcast                                       a hub for this machine; prints lines to try it
  wardcast --set server.bind=127.0.0.1:9000      the same on another port
  wardcast init --dir /etc/wardcast              secrets and a demo user for production
  WARDCAST_ENV=production wardcast --config /etc/wardcast/wardcast.toml
  wardcast token --user ann --ttl 12h            a token, signed with the hub's secret
  wardcast check-token < token.txt               what a token says, and what the hub says to it
  wardcast config check --config wardcast.toml   all that is wrong with a configuration
  eval "$(wardcast completions bash)"            completions for this shell

Environment:
  WARDCAST_ENV               development (the default) or production
  WARDCAST_CONFIG            the same as --config
  WARDCAST_SECTION__KEY      one key, as in WARDCAST_SERVER__BIND=127.0.0.1:9000
  RUST_LOG                   refines log.level
  NO_COLOR                   no bold text

`wardcast config print --defaults` lists every key with its meaning; README.md says the rest.
Exit codes: 0 done, 1 it did not work, 2 it was not asked well."#;

#[derive(Parser)]
#[command(
    name = "wardcast",
    version = super::VERSION,
    about = "A JWT-guarded realtime hub: publish over REST, deliver to WebSockets",
    after_help = MAIN_HELP
)]
pub(super) struct Arguments {
    /// Configuration file, TOML
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Set one key, stronger than file and environment: --set server.bind=127.0.0.1:9000. No secrets: everybody on the machine can read arguments
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(super) settings: Vec<(String, String)>,
    #[command(subcommand)]
    pub(super) command: Option<CliCommand>,
}

#[derive(Subcommand)]
pub(super) enum CliCommand {
    /// Run the hub (the default)
    Serve,
    /// Print a token for a user, if the hub would take it
    #[command(after_help = TOKEN_HELP)]
    Token(TokenArguments),
    /// Read a token from standard input; say what it holds and what the hub says to it
    #[command(
        after_help = "Exit code 0 if the hub would take it, 1 if not.\n\nExample: wardcast check-token < token.txt"
    )]
    CheckToken {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Read a password from standard input, print its argon2id hash for the login file
    HashPassword,
    /// Who may log in: edit the login file (login.users_file, or --file)
    User {
        #[command(subcommand)]
        command: UserAction,
    },
    /// Check the configuration, or print what is in force
    Config {
        #[command(subcommand)]
        command: ConfigAction,
    },
    /// Make a configuration with random secrets and a demo user, once
    Init {
        /// Where wardcast.toml and users.toml go
        #[arg(long)]
        dir: PathBuf,
        /// The demo user's name
        #[arg(long, default_value = "demo")]
        user: String,
        /// Where clients will reach the hub; only for what is printed
        #[arg(long, default_value = "http://localhost:8000")]
        base_url: String,
    },
    /// Ask a hub whether it is ready; exit code 0 if so
    Health {
        /// Address of a plain-HTTP health endpoint
        #[arg(long, default_value = "http://127.0.0.1:8000/health/ready")]
        url: String,
    },
    /// Print completions for a shell
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
}

const TOKEN_HELP: &str = r#"Signed with auth.hmac_secret, or with login.key where that alone is set. Anybody who holds a token can read it.

Examples:
  wardcast token --user ann --ttl 12h
  wardcast token --user ann --channel news --info '{"name":"Ann"}'
  wardcast token --user ann --caps '{"channels":["chat:*"],"match":"wildcard","allow":["sub","pub"]}'
  wardcast token --user ann --subscription '$payroll'"#;

#[derive(Args)]
pub(super) struct TokenArguments {
    /// Whose it is: `sub` of the token
    #[arg(long)]
    pub(super) user: String,
    /// How long it is good; at most auth.max_ttl
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    pub(super) ttl: Duration,
    #[command(flatten)]
    pub(super) grants: GrantArguments,
    /// Make a subscription token instead: with it the user may subscribe to this channel
    #[arg(long, value_name = "CHANNEL", conflicts_with_all = ["channels", "caps"])]
    pub(super) subscription: Option<String>,
}

/// What tokens say beside the name.
#[derive(Args)]
pub(super) struct GrantArguments {
    /// Subscribe the user to this channel without being asked; may be repeated
    #[arg(long = "channel", value_name = "CHANNEL")]
    pub(super) channels: Vec<String>,
    /// A rule of `caps` as JSON, or a list of them; may be repeated
    #[arg(long, value_name = "JSON")]
    pub(super) caps: Vec<String>,
    /// What others see of the user, as JSON
    #[arg(long, value_name = "JSON")]
    pub(super) info: Option<String>,
}

#[derive(Args)]
pub(super) struct LoginFileArguments {
    /// The login file; without it login.users_file
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(super) enum UserAction {
    /// Add a user; the password is read from standard input
    Add {
        /// `sub` of the user's tokens
        name: String,
        #[command(flatten)]
        grants: GrantArguments,
        #[command(flatten)]
        file: LoginFileArguments,
    },
    /// Remove a user
    Remove {
        /// Who
        name: String,
        #[command(flatten)]
        file: LoginFileArguments,
    },
    /// Change a password, which is read from standard input
    Passwd {
        /// Whose
        name: String,
        #[command(flatten)]
        file: LoginFileArguments,
    },
    /// Print who may log in
    List {
        #[command(flatten)]
        file: LoginFileArguments,
    },
}

#[derive(Subcommand)]
pub(super) enum ConfigAction {
    /// Say all that is wrong with the configuration and the files that it names
    Check,
    /// Print what is in force, without secrets, and where each value comes from
    Print {
        /// Every key with its default and its meaning
        #[arg(long)]
        defaults: bool,
    },
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as key=value, like server.bind=127.0.0.1:9000")?;
    Ok((key.to_owned(), value.to_owned()))
}

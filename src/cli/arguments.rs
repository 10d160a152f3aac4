//! The arguments of the command line. The doc comments here are the texts of `--help`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use super::client::HubArguments;

const MAIN_HELP: &str = r#"Examples:
  Run a development hub, and print lines to try it; the same on another port:
    wardcast
    wardcast --set server.bind=127.0.0.1:9000
  Print a token, signed with the hub's secret; say whether the hub accepts it:
    wardcast token --user ann --ttl 12h > token.txt
    wardcast check-token < token.txt
  Print what is published to a channel of the hub that runs; publish to it:
    wardcast sub news --count 1
    wardcast pub news '{"hello":"world"}'
  Generate secrets and a first user for production, check the configuration,
  and start a hub with it:
    wardcast init --dir hub
    wardcast config check --config hub/wardcast.toml
    wardcast --config hub/wardcast.toml
  Enable completions in this shell:
    eval "$(wardcast completions bash)"

Environment:
  WARDCAST_ENV               development or production; default: environment of
                             the file, or development
  WARDCAST_CONFIG            the same as --config
  WARDCAST_SECTION__KEY      sets one key, like WARDCAST_SERVER__BIND=127.0.0.1:9000
  RUST_LOG                   sets log levels per module, on top of log.level
  NO_COLOR                   disables bold text

`wardcast config print --defaults` prints every key with its meaning. README.md and docs/ describe the rest.
Exit codes: 0 success, 1 failure, 2 invalid arguments."#;

#[derive(Parser)]
#[command(
    name = "wardcast",
    version = super::VERSION,
    about = "A JWT-guarded realtime hub: publish over REST, deliver to WebSockets",
    after_help = MAIN_HELP
)]
pub(super) struct Arguments {
    /// Configuration file, in TOML
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Set one key, overriding file and environment: --set server.bind=127.0.0.1:9000. Not for secrets: all users of the machine can read arguments
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(super) settings: Vec<(String, String)>,
    #[command(flatten)]
    pub(super) serve: ServeArguments,
    #[command(subcommand)]
    pub(super) command: Option<CliCommand>,
}

#[derive(Args)]
pub(super) struct ServeArguments {
    /// Development: generate secrets that are not set for this run only, and do not keep them
    #[arg(long)]
    pub(super) ephemeral: bool,
}

#[derive(Subcommand)]
pub(super) enum CliCommand {
    /// Run the hub (the default)
    Serve(ServeArguments),
    /// Print a token for a user, if the hub would accept it
    #[command(after_help = TOKEN_HELP)]
    Token(TokenArguments),
    /// Read a token from standard input; print its contents, and whether the hub would accept it
    #[command(
        after_help = "Exit code 0 if the hub would accept the token, 1 if not.\n\nExample:\n    wardcast check-token < token.txt"
    )]
    CheckToken {
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Read a password from standard input; print its argon2id hash for the login file
    HashPassword,
    /// Edit or list the users of the login file (login.users_file, or --file)
    #[command(after_help = USER_HELP)]
    User {
        #[command(subcommand)]
        command: UserAction,
    },
    /// Check or print the configuration
    Config {
        #[command(subcommand)]
        command: ConfigAction,
    },
    /// Generate a configuration with random secrets and a first user, once
    #[command(after_help = INIT_HELP)]
    Init {
        /// Directory for wardcast.toml and users.toml
        #[arg(long)]
        dir: PathBuf,
        /// Name of the first user
        #[arg(long, default_value = "demo")]
        user: String,
        /// URL at which clients will reach the hub; only used in the printed commands
        #[arg(long, default_value = "http://localhost:8000")]
        base_url: String,
        /// URL at which backends will reach the server API (server.internal_bind); only used in the printed commands
        #[arg(long, default_value = "http://127.0.0.1:8001")]
        api_url: String,
    },
    /// Check whether the hub of this configuration is ready; exit code 0 if it is
    #[command(after_help = HEALTH_HELP)]
    Health {
        /// Ask this URL instead; http or https
        #[arg(long)]
        url: Option<String>,
    },
    /// Publish to a channel of a running hub
    #[command(name = "pub", after_help = PUB_HELP)]
    Publish {
        #[command(flatten)]
        hub: HubArguments,
        /// Publish the data as a JSON string, whatever it contains
        #[arg(long)]
        text: bool,
        /// The channel
        channel: String,
        /// JSON; `-`: each line of standard input is one publication
        #[arg(allow_negative_numbers = true)]
        data: String,
    },
    /// Print what is published to channels of a running hub, as JSON lines
    #[command(name = "sub", after_help = SUB_HELP)]
    Subscribe(SubArguments),
    /// Show the nodes of a running hub, their load, and the channels with most subscribers
    #[command(after_help = TOP_HELP)]
    Top(TopArguments),
    /// Call a method of the server API of a running hub; without a method list all
    #[command(after_help = API_HELP)]
    Api {
        #[command(flatten)]
        hub: HubArguments,
        /// The method
        method: Option<String>,
        /// FIELD=VALUE for each field, or one JSON object
        fields: Vec<String>,
    },
    /// Write the manual pages, one for each command, into a directory: man -l DIR/wardcast.1
    Man {
        /// The directory; it must exist
        dir: PathBuf,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

const TOKEN_HELP: &str = r#"The token is signed with auth.hmac_secret, or with login.key if only that is set; in development, if neither is set, with the secret that this user's development hubs have kept. Anyone who has a token can read its contents.

Examples:
    wardcast token --user ann --ttl 12h
    wardcast token --user ann --channel news --info '{"name":"Ann"}'
    wardcast token --user ann \
      --caps '{"channels":["chat:*"],"match":"wildcard","allow":["sub","pub"]}'
    wardcast token --user ann --subscription '$payroll'"#;

const HEALTH_HELP: &str = r#"The address, TLS and the PROXY header are those of the configuration: give the same --config, variables and --set as to the hub. The certificate is not checked.

Examples:
    wardcast health
    wardcast health --url http://127.0.0.1:8000/health/live"#;

const INIT_HELP: &str = r#"Existing files are never changed. Later runs print the start line again.

Example:
    wardcast init --dir hub --user ann"#;

const USER_HELP: &str = r#"Running hubs read the file when it changes (login.users_file_interval, 10 s by default) and at SIGHUP. They then end the logins of removed users and changed passwords.

Examples:
    wardcast user add ann --file users.toml
    wardcast user list --file users.toml"#;

const PUB_HELP: &str = r#"Prints the result of the method publish, with the position in channels with history.

Examples:
    wardcast pub news '{"hello":"world"}'
    wardcast pub --text news 'hello world'
    seq 3 | wardcast pub news -"#;

const SUB_HELP: &str = r#"Each line is a publication with its channel. After a lost connection the command reconnects and prints what it has missed, if the channel has a history. Its token is signed with auth.hmac_secret, allows these channels, and keeps it out of their presence.

Examples:
    wardcast sub news '#42' --history 10
    wardcast sub news --count 1 --data-only"#;

const TOP_HELP: &str = r#"On a terminal the figures are replaced until Ctrl-C; otherwise they are printed once.

Example:
    wardcast top --once"#;

const API_HELP: &str = r#"Values of text fields are taken as they are, all others are JSON. The result is printed as JSON.

Examples:
    wardcast api
    wardcast api info
    wardcast api publish channel=news data='{"hello":"world"}'
    wardcast api disconnect user=42
    wardcast api broadcast '{"channels":["a","b"],"data":1}'"#;

#[derive(Args)]
pub(super) struct SubArguments {
    #[command(flatten)]
    pub(super) hub: HubArguments,
    /// Print up to this many publications from the history of each channel first
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) history: u32,
    /// Exit after this many publications
    #[arg(long, value_name = "N")]
    pub(super) count: Option<u64>,
    /// Print only the data of each publication
    #[arg(long)]
    pub(super) data_only: bool,
    /// Connect with the token in this file instead of one signed by this command; the file is read again for each connection
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    pub(super) token_file: Option<PathBuf>,
    /// The user of the token; default: a user to which the channels are limited, or wardcast-sub
    #[arg(long)]
    pub(super) user: Option<String>,
    /// The channels
    #[arg(required = true, value_name = "CHANNEL")]
    pub(super) channels: Vec<String>,
}

#[derive(Args)]
pub(super) struct TopArguments {
    #[command(flatten)]
    pub(super) hub: HubArguments,
    /// Time over which rates are measured
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(super) interval: Duration,
    /// Print the figures of one interval, and exit
    #[arg(long)]
    pub(super) once: bool,
}

#[derive(Args)]
pub(super) struct TokenArguments {
    /// The user of the token (`sub`)
    #[arg(long)]
    pub(super) user: String,
    /// Lifetime of the token; at most auth.max_ttl
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    pub(super) ttl: Duration,
    #[command(flatten)]
    pub(super) grants: GrantArguments,
    /// Print a subscription token instead, with which the user may subscribe to this channel
    #[arg(long, value_name = "CHANNEL", conflicts_with_all = ["channels", "caps"])]
    pub(super) subscription: Option<String>,
}

/// The claims of a token besides its user.
#[derive(Args)]
pub(super) struct GrantArguments {
    /// Subscribe the user to this channel automatically; may be repeated
    #[arg(long = "channel", value_name = "CHANNEL")]
    pub(super) channels: Vec<String>,
    /// A capability (entry of `caps`) as JSON, or a list of them; may be repeated
    #[arg(long, value_name = "JSON")]
    pub(super) caps: Vec<String>,
    /// Information about the user that other clients see (`info`), as JSON
    #[arg(long, value_name = "JSON")]
    pub(super) info: Option<String>,
}

#[derive(Args)]
pub(super) struct LoginFileArguments {
    /// The login file; default: login.users_file
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(super) enum UserAction {
    /// Add a user; the password is read from standard input
    Add {
        /// The user's name (`sub` of the user's tokens)
        name: String,
        #[command(flatten)]
        grants: GrantArguments,
        #[command(flatten)]
        file: LoginFileArguments,
    },
    /// Remove a user
    Remove {
        /// The user's name
        name: String,
        #[command(flatten)]
        file: LoginFileArguments,
    },
    /// Change a user's password; the new one is read from standard input
    Passwd {
        /// The user's name
        name: String,
        #[command(flatten)]
        file: LoginFileArguments,
    },
    /// Print the users of the login file
    List {
        #[command(flatten)]
        file: LoginFileArguments,
    },
}

#[derive(Subcommand)]
pub(super) enum ConfigAction {
    /// Report all errors of the configuration and of the files that it names
    Check,
    /// Print the configuration in force, without secrets, with the source of each value
    Print {
        /// Print every key with its default and its meaning instead
        #[arg(long)]
        defaults: bool,
    },
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE, like server.bind=127.0.0.1:9000")?;
    Ok((key.to_owned(), value.to_owned()))
}

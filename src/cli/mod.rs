//! The command line: what an operator does in the first five minutes, and what a container does for ever. Results go to
//! stdout, everything else to stderr; the exit code is 0, 1 (it did not work) or 2 (it was not asked well).
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

mod banner;
mod health;
mod init;
mod secrets;
mod serve;

use std::{
    io::{BufRead, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};

use crate::{
    auth::{self, Permissions, Signer, Verifier},
    clock::Clock,
    config::{self, Config, Environment, Faults, Sources},
};

#[derive(Parser)]
#[command(name = "wardcast", version, about = "A JWT-guarded realtime hub: publish over REST, deliver to WebSockets")]
struct Arguments {
    /// Configuration file, TOML; config/default.toml in the repository lists every key
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, stronger than file and environment: --set server.bind=127.0.0.1:9000
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    settings: Vec<(String, String)>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the hub (the default)
    Serve,
    /// Print a token for a user, signed with auth.hmac_secret
    Token {
        /// `sub` of the token
        #[arg(long)]
        user: String,
        /// How long it is good
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Read a password from standard input, print its argon2id hash for the login file
    HashPassword,
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
    /// Check the configuration and say what is wrong with it
    ConfigCheck,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as key=value, like server.bind=127.0.0.1:9000")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command.as_ref().unwrap_or(&Command::Serve) {
        Command::Serve => load(&arguments).and_then(|(config, environment)| serve::serve(config, environment)),
        Command::Token { user, ttl } => load(&arguments).and_then(|(config, _)| token(&config, user, *ttl)),
        Command::HashPassword => hash_password(),
        Command::Init { dir, user, base_url } => init::init(dir, user, base_url),
        Command::Health { url } => health::ask(url),
        Command::ConfigCheck => load(&arguments).and_then(|(config, _)| check(&config)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("wardcast: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// The one place that reads the process's environment.
fn load(arguments: &Arguments) -> Result<(Config, Environment), String> {
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("WARDCAST_"))
        .collect();
    let variable = |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let environment: Environment =
        variable("WARDCAST_ENV").unwrap_or_default().parse().map_err(|fault| Faults(vec![fault]).to_string())?;
    let file = arguments.config.clone().or_else(|| variable("WARDCAST_CONFIG").map(PathBuf::from));
    let sources = Sources { environment, file: file.as_deref(), variables, flags: arguments.settings.clone() };
    config::load(sources).map(|config| (config, environment)).map_err(|faults| faults.to_string())
}

/// Also what the configuration names: the key files, whose faults would otherwise be told by the start.
fn check(config: &Config) -> Result<(), String> {
    let permissions = Permissions::new(&config.channels, &config.namespaces);
    Verifier::new(config, permissions.into(), Clock::default()).map_err(|bad| bad.to_string())?;
    println!("the configuration is fine");
    Ok(())
}

fn token(config: &Config, user: &str, ttl: Duration) -> Result<(), String> {
    if config.auth.hmac_secret.is_empty() {
        return Err(
            "auth.hmac_secret is not set, so no hub would accept the token; set WARDCAST_AUTH__HMAC_SECRET, or \
                    name the hub's file with --config"
                .to_owned(),
        );
    }
    let signer = Signer::new(&config.auth, Clock::default());
    let token = signer.sign(user, ttl, None).map_err(|error| error.to_string())?;
    println!("{token}");
    Ok(())
}

fn hash_password() -> Result<(), String> {
    eprintln!("password, ended by a newline:");
    let mut password = String::new();
    std::io::stdin().lock().read_line(&mut password).map_err(|error| error.to_string())?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.len() > auth::login::PASSWORD_BYTES {
        return Err(format!("a password has 1 to {} bytes", auth::login::PASSWORD_BYTES));
    }
    println!("{}", auth::login::hash(password).map_err(|error| error.to_string())?);
    std::io::stdout().flush().map_err(|error| error.to_string())
}

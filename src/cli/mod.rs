//! The command line, for operators and for containers. Results are printed to stdout, everything else to stderr. The
//! exit code is 0 (success), 1 (failure) or 2 (invalid arguments).

mod advice;
mod api_call;
mod arguments;
mod banner;
mod check_token;
mod client;
mod configuration;
mod health;
mod init;
mod logging;
mod machine;
mod missing_secrets;
mod password;
mod publish;
mod secrets;
mod secrets_file;
mod serve;
mod service_manager;
mod state_directory;
mod tail;
mod token;
mod token_input;
mod top;
mod users;

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, Parser};

use self::{
    arguments::{Arguments, CliCommand, ConfigAction, UserAction},
    configuration::ConfigInputs,
};
use crate::channel::is_invisible;

/// The version in `--version` and in the log at start.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("WARDCAST_COMMIT"), ")");

/// The error of a command.
#[derive(Debug)]
struct CliError {
    /// Output in spite of the error, for stdout.
    output: String,
    /// What failed and what to do, for stderr.
    message: String,
}

impl<T: Into<String>> From<T> for CliError {
    fn from(message: T) -> Self {
        Self { output: String::new(), message: message.into() }
    }
}

/// The output of a command, for stdout.
type CommandResult = Result<String, CliError>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let outcome = run(Arguments::parse());
    let (output, message) = match outcome {
        Ok(output) => (output, None),
        Err(CliError { output, message }) => (output, Some(message)),
    };
    let output = print_output(&output);
    let message = message.or_else(|| output.err().map(|error| format!("stdout: {error}")));
    match message {
        None => ExitCode::SUCCESS,
        Some(message) => {
            // The message may quote untrusted text.
            message.lines().map(escape_control).enumerate().for_each(|(at, line)| {
                print_error_line(&if at == 0 { format!("wardcast: {line}") } else { line });
            });
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> CommandResult {
    let Arguments { config, settings, serve, command } = arguments;
    let inputs = ConfigInputs::from_process(config, settings);
    if serve.ephemeral && command.is_some() {
        return Err("--ephemeral is an option of the hub: wardcast --ephemeral, or wardcast serve --ephemeral".into());
    }
    match command.unwrap_or(CliCommand::Serve(serve)) {
        CliCommand::Serve(serve) => {
            serve::serve(&inputs?, serve.ephemeral)?;
            Ok(String::new())
        }
        CliCommand::Token(wanted) => token::create(&inputs?.load_with_kept_secrets()?, &wanted),
        CliCommand::CheckToken { json } => check_token::check(&inputs?, json),
        CliCommand::HashPassword => password::hash(),
        CliCommand::User { command } => user(&inputs?, command),
        CliCommand::Config { command: ConfigAction::Check } => configuration::check(&inputs?),
        CliCommand::Config { command: ConfigAction::Print { defaults } } => configuration::print(inputs, defaults),
        CliCommand::Init { dir, user, base_url, api_url } => {
            init::create_configuration(&dir, &user, &base_url, &api_url)
        }
        CliCommand::Health { url } => health::check(inputs, url.as_deref()),
        CliCommand::Publish { hub, text, channel, data } => publish::publish(&inputs?, &hub, &channel, &data, text),
        CliCommand::Subscribe(arguments) => tail::subscribe(&inputs?, &arguments),
        CliCommand::Top(arguments) => top::show(&inputs?, &arguments),
        CliCommand::Api { hub, method, fields } => api_call::call(&inputs?, &hub, method.as_deref(), &fields),
        CliCommand::Man { dir } => write_manual(&dir),
        CliCommand::Completions { shell } => Ok(completions(shell)),
    }
}

fn user(inputs: &ConfigInputs, command: UserAction) -> CommandResult {
    match command {
        UserAction::Add { name, grants, file } => users::LoginFile::open(inputs, file.file)?.add(&name, &grants),
        UserAction::Remove { name, file } => users::LoginFile::open(inputs, file.file)?.remove(&name),
        UserAction::Passwd { name, file } => users::LoginFile::open(inputs, file.file)?.passwd(&name),
        UserAction::List { file } => users::LoginFile::open(inputs, file.file)?.list(),
    }
}

fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "wardcast", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes the manual pages.
fn write_manual(dir: &Path) -> CommandResult {
    clap_mangen::generate_to(Arguments::command(), dir)
        .map_err(|error| format!("{}: {error}; name a directory that this user can write to", dir.display()))?;
    Ok(String::new())
}

/// Writes to stdout. A reader that stops early, like `head`, is not an error.
fn print_output(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Writes a line to stderr. Ignores errors, which could not be reported anywhere.
fn print_error_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Escapes untrusted text for a terminal: control characters, which a terminal executes, and characters that are
/// invisible or change the direction of the text.
fn escape_control(text: &str) -> String {
    let show = |c: char| if is_invisible(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// Replaces characters of a JSON text that are invisible. They can only be in its strings.
fn escape_invisible(json: &str) -> String {
    if !json.chars().any(is_invisible) {
        return json.to_owned();
    }
    json.chars().fold(String::with_capacity(json.len()), |mut text, character| {
        if is_invisible(character) {
            // Writing to a string cannot fail.
            character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(text, "\\u{unit:04x}"));
        } else {
            text.push(character);
        }
        text
    })
}

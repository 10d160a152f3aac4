//! The command line: what an operator does in the first five minutes, and what a container does for ever. Results go to
//! stdout, everything else to stderr; the exit code is 0, 1 (it did not work) or 2 (it was not asked well).

mod advice;
mod arguments;
mod banner;
mod check_token;
mod configuration;
mod health;
mod init;
mod machine;
mod password;
mod remedy;
mod secrets;
mod serve;
mod token;
mod users;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, Parser};

use self::{
    arguments::{Arguments, Command, ConfigCommand, UserCommand},
    configuration::Inputs,
};

/// What `--version` says, and the log at start.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("WARDCAST_COMMIT"), ")");

/// A command that did not work.
#[derive(Debug)]
struct Failure {
    /// What it has found all the same, for stdout.
    said: String,
    /// Why, and what to do next; for stderr.
    problem: String,
}

impl<T: Into<String>> From<T> for Failure {
    fn from(problem: T) -> Self {
        Self { said: String::new(), problem: problem.into() }
    }
}

/// What a command prints on stdout.
type Outcome = Result<String, Failure>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let outcome = run(Arguments::parse());
    let (said, problem) = match outcome {
        Ok(said) => (said, None),
        Err(Failure { said, problem }) => (said, Some(problem)),
    };
    let said = say(&said);
    let problem = problem.or_else(|| said.err().map(|error| format!("stdout: {error}")));
    match problem {
        None => ExitCode::SUCCESS,
        Some(problem) => {
            // What is wrong is quoted, and may come from anywhere.
            problem.lines().map(visible).enumerate().for_each(|(at, line)| {
                tell(&if at == 0 { format!("wardcast: {line}") } else { line });
            });
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Outcome {
    let inputs = Inputs::of_process(arguments.config, arguments.settings);
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => {
            let inputs = inputs?;
            serve::serve(inputs.checked()?, inputs.environment)?;
            Ok(String::new())
        }
        Command::Token(wanted) => token::make(&inputs?.loaded()?, &wanted),
        Command::CheckToken { json } => check_token::check(&inputs?, json),
        Command::HashPassword => password::hash(),
        Command::User { command } => user(&inputs?, command),
        Command::Config { command: ConfigCommand::Check } => configuration::check(&inputs?),
        Command::Config { command: ConfigCommand::Print { defaults } } => configuration::print(inputs, defaults),
        Command::Init { dir, user, base_url } => init::init(&dir, &user, &base_url),
        Command::Health { url } => health::ask(&url),
        Command::Completions { shell } => Ok(completions(shell)),
    }
}

fn user(inputs: &Inputs, command: UserCommand) -> Outcome {
    match command {
        UserCommand::Add { name, grants, file } => users::File::of(inputs, file.file)?.add(&name, &grants),
        UserCommand::Remove { name, file } => users::File::of(inputs, file.file)?.remove(&name),
        UserCommand::Passwd { name, file } => users::File::of(inputs, file.file)?.passwd(&name),
        UserCommand::List { file } => users::File::of(inputs, file.file)?.list(),
    }
}

fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "wardcast", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes to stdout. Whoever has stopped reading, as `head` does, has got what was wanted.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Writes a line to stderr. When that is gone too, there is nobody to tell.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Text that others have written, for a terminal, which obeys control characters; some others turn the text around.
fn visible(text: &str) -> String {
    let is_tricky = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let show = |c: char| if is_tricky(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// A duration as people say it: "24h", not "1day".
fn readable(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 3600 && seconds % 3600 == 0 && seconds <= 48 * 3600 => format!("{}h", seconds / 3600),
        _ => humantime::format_duration(duration).to_string(),
    }
}

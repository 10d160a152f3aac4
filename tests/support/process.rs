//! Runs the built binary as a child process, reads its output, and checks how it exits.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{PATIENCE, mark_secret, trace_log};

const SIGSTOP: u32 = 19;

/// A run of the binary. It is killed when dropped.
pub struct Process {
    pub child: Child,
    lines: Receiver<String>,
    log_lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    /// Whether its output is a token or a hash.
    prints_secrets: bool,
}

/// Whether a process has a handler for a signal.
pub fn handles_signal(process: u32, signal: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
    u64::from_str_radix(caught, 16).unwrap() >> (signal - 1) & 1 == 1
}

/// How a run ended.
#[derive(Debug)]
pub struct ProcessResult {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// What a hub in development prints when it has started.
pub struct Banner {
    pub text: String,
    pub address: SocketAddr,
    pub token: String,
    pub curl: String,
    /// The password of the demo user; empty if there is a login file.
    pub password: String,
}

/// The binary, with no variable of this environment but the path of system programs.
pub fn wardcast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wardcast"));
    command.args(arguments).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}

/// Runs a command until it exits.
pub fn run(command: &mut Command) -> ProcessResult {
    Process::start(command).wait_for_exit()
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self::start_with_input(command, "")
    }

    pub fn start_with_input(command: &mut Command, stdin: &str) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, value) in command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?))) {
            if ["SECRET", "KEY"].iter().any(|end| name.ends_with(end)) {
                mark_secret(value);
            }
        }
        // The tests send only passwords and tokens to standard input.
        mark_secret(stdin.trim());
        let prints_secrets = command.get_args().any(|argument| argument == "token" || argument == "hash-password");
        let mut child = command.process_group(0).spawn().unwrap();
        // A command that does not read its input may have exited already.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || BufReader::new(stdout).lines().try_for_each(|line| sender.send(line.unwrap())));
        let (log_sender, log_lines) = channel();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(stderr).split(b'\n') {
                let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
                text += &format!("{line}\n");
                // Few tests read the log line by line.
                let _ = log_sender.send(line);
            }
            trace_log::record(&text);
            text
        });
        Self { child, lines, log_lines, stderr: Some(stderr), prints_secrets }
    }

    /// Waits until a hub in development listens, and returns its banner.
    pub fn banner(&mut self) -> Banner {
        let mut text = String::new();
        while !text.contains("Ctrl-C stops") {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => text += &format!("{line}\n"),
                Err(_) => panic!("no banner: {text} {}", self.kill()),
            }
        }
        let between = |start: &str, end: char| {
            let rest = text.split_once(start).unwrap_or_else(|| panic!("no {start:?} in {text}")).1;
            rest.split(end).next().unwrap().to_owned()
        };
        let address = between("ws://", '/').parse().unwrap();
        let curl = text.lines().find(|line| line.trim().starts_with("curl ")).expect("a curl line").trim().to_owned();
        if let Some((_, key)) = curl.split_once("X-API-Key: ") {
            mark_secret(key.split(['\'', '"']).next().unwrap());
        }
        let password = text.lines().find_map(|line| line.split_once("user demo, password ")).unwrap_or_default().1;
        let password = mark_secret(password.to_owned());
        Banner { password, address, token: mark_secret(between("token=", '"')), curl, text }
    }

    /// Does something again and again until the process prints a line, and returns the line.
    pub fn wait_for_line(&self, act: impl Fn()) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            act();
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => return line,
                Err(error) => assert!(Instant::now() < deadline, "no line is printed: {error}"),
            }
        }
    }

    /// Returns the next line that the process has printed, if there is one.
    pub fn try_line(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Waits until the log has a line with this phrase, and returns it.
    pub fn wait_for_log(&self, phrase: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let next = || self.log_lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        loop {
            let line = next().unwrap_or_else(|error| panic!("no {phrase:?} in the log: {error}"));
            if line.contains(phrase) {
                return line;
            }
        }
    }

    /// Sends a signal. A hub handles signals before it prints its banner.
    pub fn signal(&self, number: u32) {
        let status = Command::new("kill").args([format!("-{number}"), self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Stops the process without closing anything. Returns when all of its threads have stopped: the signal reaches one of them, which
    /// has to run to stop the others.
    pub fn freeze(&self) {
        self.signal(SIGSTOP);
        let deadline = Instant::now() + PATIENCE;
        let is_stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // After the name, which is in parentheses.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        let tasks = || fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        while !tasks().all(|task| is_stopped(task.unwrap())) {
            assert!(Instant::now() < deadline, "the process does not stop");
            thread::yield_now();
        }
    }

    /// Waits until the process exits.
    pub fn wait_for_exit(mut self) -> ProcessResult {
        let deadline = Instant::now() + PATIENCE;
        let mut stdout = Vec::new();
        // The output ends when the process exits.
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => stdout.push(if self.prints_secrets { mark_secret(line) } else { line }),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the process does not exit"),
            }
        }
        let status = self.child.wait().unwrap();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        ProcessResult { code: status.code(), stdout: stdout.join("\n"), stderr }
    }

    /// Kills the process; returns what it has written to stderr.
    pub fn kill(&mut self) -> String {
        _ = self.child.kill();
        _ = self.child.wait();
        self.stderr.take().map(|stderr| stderr.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl ProcessResult {
    /// Checks that the run failed, with all of these parts in its message.
    #[track_caller]
    pub fn assert_failed_with(&self, parts: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{}", self.stderr);
        parts.iter().for_each(|part| assert!(self.stderr.contains(part), "no {part:?} in {}", self.stderr));
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

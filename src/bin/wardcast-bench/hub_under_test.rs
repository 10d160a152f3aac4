//! The hub of a run: the one that the options name, or else one of this program's own, started for the run.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::args::{HubArgs, or_variable};
use crate::clients::ClientOptions;
use crate::error::{BenchError, IoContext, Result};
use crate::process::{listening_process, raise_file_limit_to_maximum};
use crate::report::Report;
use crate::socket::SocketOptions;
use crate::target_url::TargetUrl;
use crate::tls;
use crate::token::tokens;

/// Where the secret of tokens is looked for when it is not an option.
const SECRET_VARIABLE: &str = "WARDCAST_BENCH_SECRET";
/// Where the API key is looked for when it is not an option.
const API_KEY_VARIABLE: &str = "WARDCAST_BENCH_API_KEY";
/// The hub that is meant when there is a secret and no URL.
const DEFAULT_URL: &str = "ws://127.0.0.1:8000/connection/websocket";
/// The end of what a development run prints.
const BANNER_LAST_LINE: &str = "Ctrl-C stops";
/// The most of a banner that is read.
const MAX_BANNER_LINES: usize = 200;
/// How to come by a hub whose secrets are known.
const HOW_TO_SET_SECRETS: &str = "A hub prints a token and its API key in development, or give it secrets of yours: \
    `export WARDCAST_AUTH__HMAC_SECRET=$(openssl rand -hex 32) WARDCAST_API__KEY=$(openssl rand -hex 32); wardcast`, and here \
    the same as WARDCAST_BENCH_SECRET and WARDCAST_BENCH_API_KEY. Without --url and without any secret, a hub of its own is \
    started.";

/// A hub.
#[derive(Debug)]
pub(crate) struct HubUnderTest {
    /// Where its clients go, in turns.
    pub(crate) targets: Vec<TargetUrl>,
    /// Its processes, if they are known.
    pub(crate) pids: Vec<u32>,
    /// What a report says about how it was found.
    note: Option<String>,
    token: Option<String>,
    secret: Option<String>,
    api_key: Option<String>,
    insecure: bool,
    ca: Option<PathBuf>,
    /// Held to be ended.
    _process: Option<HubProcess>,
}

impl HubUnderTest {
    /// The hub that `args` mean. `settings` are for one of our own, beside those of --hub-set.
    pub(crate) fn select(args: &HubArgs, api_key: Option<&str>, settings: &[&str]) -> Result<Self> {
        let secret = or_variable(args.secret.as_deref(), SECRET_VARIABLE).filter(|_| args.token.is_none());
        let mut hub = Self {
            targets: Vec::new(),
            pids: args.pid.clone(),
            note: None,
            token: args.token.clone(),
            secret,
            api_key: or_variable(api_key, API_KEY_VARIABLE),
            insecure: args.insecure,
            ca: args.ca.clone(),
            _process: None,
        };
        if args.url.is_empty() && hub.token.is_none() && hub.secret.is_none() {
            return hub.start(args, settings);
        }
        if !args.hub_set.is_empty() {
            return Err(BenchError::Usage("--hub-set is for a hub of our own, without --url and secret".to_owned()));
        }
        let urls = if args.url.is_empty() { &[DEFAULT_URL.to_owned()][..] } else { &args.url };
        hub.targets = urls.iter().map(|url| TargetUrl::parse(url)).collect::<Result<_>>()?;
        hub.find_processes();
        Ok(hub)
    }

    fn start(mut self, args: &HubArgs, settings: &[&str]) -> Result<Self> {
        let (secret, key) = (random_secret()?, random_secret()?);
        let settings = settings.iter().copied().chain(args.hub_set.iter().map(String::as_str));
        let process = HubProcess::start(&secret, &key, settings)?;
        self.targets = vec![TargetUrl::parse(&format!("ws://{}/connection/websocket", process.address))?];
        self.pids = vec![process.child.id()];
        self.note = Some(format!("measured a hub started for this run ({})", process.program.display()));
        (self.secret, self.api_key, self._process) = (Some(secret), Some(key), Some(process));
        Ok(self)
    }

    fn find_processes(&mut self) {
        let is_local = |target: &TargetUrl| target.address.ip().is_loopback();
        if !self.pids.is_empty() || !self.targets.iter().all(is_local) {
            return;
        }
        let mut found: Vec<u32> =
            self.targets.iter().filter_map(|target| listening_process(target.address.port())).collect();
        found.sort_unstable();
        found.dedup();
        self.note = found.is_empty().then(|| {
            "no process was seen at the hub's port: give --pid PID of the hub to learn its CPU and memory".to_owned()
        });
        self.pids = found;
    }

    /// Reports whose figures these are.
    pub(crate) fn report_identity(&self, report: &mut Report) {
        let pids: Vec<String> = self.pids.iter().map(u32::to_string).collect();
        if !pids.is_empty() {
            report.set("server_pids", pids.join(", "));
        }
        if let Some(note) = &self.note {
            report.add_note(note);
        }
    }

    /// Tokens for so many connections.
    pub(crate) fn tokens(&self, count: usize) -> Result<Vec<String>> {
        match (&self.token, &self.secret) {
            (Some(token), _) => Ok(vec![token.clone()]),
            (None, Some(secret)) => tokens(count, secret),
            (None, None) => Err(BenchError::Usage(format!(
                "a token is needed: set {SECRET_VARIABLE} to the hub's auth.hmac_secret, or give --token. {HOW_TO_SET_SECRETS}"
            ))),
        }
    }

    /// The key of its API.
    pub(crate) fn api_key(&self) -> Result<String> {
        self.api_key.clone().ok_or_else(|| {
            let what = format!("publishing needs the hub's API key: set {API_KEY_VARIABLE} to its api.key");
            BenchError::Usage(format!("{what}. {HOW_TO_SET_SECRETS}"))
        })
    }

    /// Completes a plan with where its connections go and who they are.
    pub(crate) fn complete_client_options(&self, mut client_options: ClientOptions) -> Result<ClientOptions> {
        client_options.targets.clone_from(&self.targets);
        client_options.pids.clone_from(&self.pids);
        client_options.tokens = self.tokens(client_options.connections)?;
        client_options.socket = self.socket_options(&self.targets)?;
        let loopback = |target: &TargetUrl| target.address.is_ipv4() && target.address.ip().is_loopback();
        if client_options.source_addresses > 1 && !client_options.targets.iter().all(loopback) {
            return Err(BenchError::Usage("several source addresses need a --url on 127.0.0.0/8".to_owned()));
        }
        Ok(client_options)
    }

    /// TLS is set up only where a URL asks for it.
    pub(crate) fn socket_options(&self, targets: &[TargetUrl]) -> Result<SocketOptions> {
        let tls = match targets.iter().any(|target| target.tls) {
            true => Some(tls::client_config(self.ca.as_deref(), self.insecure)?),
            false => None,
        };
        Ok(SocketOptions { tls, ..SocketOptions::default() })
    }
}

/// A hub that lives as long as this value, and no longer than this program.
#[derive(Debug)]
struct HubProcess {
    child: Child,
    program: PathBuf,
    address: String,
}

impl HubProcess {
    /// Starts the `wardcast` beside this program, with these secrets, on a port of its own.
    fn start<'a>(secret: &str, key: &str, settings: impl Iterator<Item = &'a str>) -> Result<Self> {
        let me = std::env::current_exe().context(|| "finding this program")?;
        let program = me.with_file_name("wardcast");
        if !program.is_file() {
            return Err(BenchError::Usage(format!(
                "there is no {} to start: build it (cargo build --release), or measure another hub with --url. \
                 {HOW_TO_SET_SECRETS}",
                program.display()
            )));
        }
        let mut command = Command::new(me);
        command.arg("hub-server").arg(&program).args(["--set", "server.bind=127.0.0.1:0", "--set", "log.level=warn"]);
        command.args(settings.flat_map(|setting| ["--set", setting]));
        command.env("WARDCAST_ENV", "development").env_remove("RUST_LOG");
        command.env("WARDCAST_AUTH__HMAC_SECRET", secret).env("WARDCAST_API__KEY", key);
        // Not of our group: Ctrl-C is for this program, which still has figures to read from the hub.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().context(|| format!("starting {}", program.display()))?;
        let mut process = Self { child, program, address: String::new() };
        let banner = process.child.stdout.take().map(|stdout| BufReader::new(stdout).lines().take(MAX_BANNER_LINES));
        for line in banner.into_iter().flatten().map_while(std::io::Result::ok) {
            if let Some((_, rest)) = line.split_once("ws://").filter(|_| process.address.is_empty()) {
                rest.split('/').next().unwrap_or_default().clone_into(&mut process.address);
            }
            if line.contains(BANNER_LAST_LINE) {
                return Ok(process);
            }
        }
        Err(BenchError::Failed("the hub did not start; what it says is above".to_owned()))
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        // It may be gone already, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the child does before it becomes the hub: whatever happens to this program, the hub ends with it.
pub(crate) fn exec_hub(program: &PathBuf, arguments: &[String]) -> Result<()> {
    raise_file_limit_to_maximum()?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from).context(|| "prctl")?;
    Err(Command::new(program).args(arguments).exec()).context(|| format!("starting {}", program.display()))
}

/// 256 bits, in hex.
fn random_secret() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other).context(|| "making a secret")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

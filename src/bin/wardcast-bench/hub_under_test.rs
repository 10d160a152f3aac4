//! The hub of a run: the one that the options name, or else one that is started for the run.

use std::{
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::Duration,
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use mio::Registry;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api_connection::ApiConnection;
use crate::args::{ApiArgs, ConnectionArgs, HubArgs, SendToken, or_variable};
use crate::certificate::{CertificateFile, RunCertificate};
use crate::clients::{ClientBehavior, ClientOptions};
use crate::error::{Context, Result, fail};
use crate::http_transport::{HttpConnection, HttpTransport, PublishMethod};
use crate::process::{listening_process, raise_file_limit};
use crate::{
    child_process::{ChildProcess, free_port},
    clock,
    connection::SocketOptions,
    http::quote,
    run::Run,
    target_url::TargetUrl,
    tls,
    tls::Trust,
};

/// The secret of tokens, if it is not an option.
pub(crate) const SECRET_VARIABLE: &str = "WARDCAST_BENCH_SECRET";
/// The API key, if it is not an option.
pub(crate) const API_KEY_VARIABLE: &str = "WARDCAST_BENCH_API_KEY";
/// The hub that is measured if there is a secret but no URL.
const DEFAULT_URL: &str = "ws://127.0.0.1:8000/connection/websocket";
/// The end of what a hub prints when it starts in development.
const BANNER_END: &str = "Ctrl-C stops";
/// How much of what a hub prints is read until that end.
const MAX_BANNER_LINES: usize = 200;
/// The settings of a hub that name the files of its certificate and of its key.
const TLS_CERT: &str = "server.tls.cert=";
const TLS_KEY: &str = "server.tls.key=";
/// How many tokens a call revokes.
const REVOCATIONS_PER_CALL: usize = 1000;
/// The lifetime of tokens: longer than any run.
const TOKEN_SECONDS: u64 = 3600;
/// How to start a hub with known secrets.
const HOW_TO_SET_SECRETS: &str = "In development a hub prints a token and its API key. Or start it with your own secrets: \
    `export WARDCAST_AUTH__HMAC_SECRET=$(openssl rand -hex 32) WARDCAST_API__KEY=$(openssl rand -hex 32); wardcast`, and set \
    WARDCAST_BENCH_SECRET and WARDCAST_BENCH_API_KEY here to the same values. Without --url and without any secret, this \
    program starts a hub for the run.";

/// The hub.
pub(crate) struct HubUnderTest<'a> {
    args: &'a HubArgs,
    /// Where its clients connect to, in turns.
    pub(crate) targets: Vec<TargetUrl>,
    secret: Option<String>,
    api_key: Option<String>,
    /// The certificate of a hub that was started with TLS.
    certificate: Option<CertificateDer<'static>>,
    /// What was started for the run, which ends with this value.
    processes: Vec<ChildProcess>,
}

impl<'a> HubUnderTest<'a> {
    /// Finds or starts the hub that `args` mean. `settings` are for a hub that is started, before those of --hub-set.
    pub(crate) fn select(run: &mut Run, args: &'a HubArgs, api: Option<&ApiArgs>, settings: &[&str]) -> Result<Self> {
        Self::select_nodes(run, args, api, settings, 1)
    }

    /// As [`Self::select`], but starts this many hubs, several of them on a Redis that is started, too.
    pub(crate) fn select_nodes(
        run: &mut Run,
        args: &'a HubArgs,
        api: Option<&ApiArgs>,
        settings: &[&str],
        nodes: usize,
    ) -> Result<Self> {
        let mut hub = Self {
            args,
            targets: Vec::new(),
            secret: or_variable(args.secret.as_deref(), SECRET_VARIABLE).filter(|_| args.token.is_none()),
            api_key: or_variable(api.and_then(|api| api.api_key.as_deref()), API_KEY_VARIABLE),
            certificate: None,
            processes: Vec::new(),
        };
        run.pids.clone_from(&args.pid);
        if args.url.is_empty() && args.token.is_none() && hub.secret.is_none() {
            hub.start_nodes(run, settings, nodes)?;
        } else if !args.hub_set.is_empty() || args.tls {
            return fail(
                "--hub-set and --tls are for a hub that is started for the run: give no --url and no secret with them",
            );
        } else {
            let urls = if args.url.is_empty() { &[DEFAULT_URL.to_owned()][..] } else { &args.url };
            hub.targets = urls.iter().map(|url| TargetUrl::parse(url)).collect::<Result<_>>()?;
            hub.find_processes(run);
        }
        let origins: Vec<String> = hub.targets.iter().map(TargetUrl::origin).collect();
        run.report.set("url", origins.join(", "));
        if !run.pids.is_empty() {
            let pids: Vec<String> = run.pids.iter().map(u32::to_string).collect();
            run.report.set("server_pids", pids.join(", "));
        }
        hub.revoke_others(run)?;
        Ok(hub)
    }

    /// Revokes as many tokens as --revocations says, none of which the run uses.
    fn revoke_others(&self, run: &mut Run) -> Result<()> {
        let count = self.args.revocations;
        if count == 0 {
            return Ok(());
        }
        let mut api = ApiConnection::open(&self.targets[0], self.api_key()?)?;
        let numbers: Vec<u32> = (0..count).collect();
        for numbers in numbers.chunks(REVOCATIONS_PER_CALL) {
            let commands: Vec<Value> =
                numbers.iter().map(|number| json!({"revoke_token": {"jti": format!("bench-{number}")}})).collect();
            let answer = api.call("/api/batch", &json!({"commands": commands, "parallel": true}).to_string())?;
            let replies = answer["replies"].as_array();
            let is_revoked = |reply: &Value| reply.get("revoke_token").is_some();
            if replies.is_none_or(|replies| replies.len() != numbers.len() || !replies.iter().all(is_revoked)) {
                return fail(format!("revoking tokens was answered {}", quote(answer.to_string().as_bytes())));
            }
        }
        run.report.set("revocations", count);
        Ok(())
    }

    /// Starts hubs with the same random secrets.
    fn start_nodes(&mut self, run: &mut Run, settings: &[&str], nodes: usize) -> Result<()> {
        (self.secret, self.api_key) = (Some(random_secret()), Some(random_secret()));
        if nodes < 2 {
            return self.start(run, settings);
        }
        let port = free_port()?;
        let (redis, output) = ChildProcess::start_program(Path::new("redis-server"), |command| {
            command.args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"]);
        })?;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if output.has_ended() {
                return fail(format!("redis-server has ended: {}", output.text()));
            }
            clock::sleep(Duration::from_millis(10));
        }
        let url = format!("broker.redis.url=redis://127.0.0.1:{port}");
        let settings: Vec<&str> = settings.iter().copied().chain(["broker.type=redis", &url]).collect();
        (0..nodes).try_for_each(|_| self.start(run, &settings))?;
        // It ends after the hubs.
        self.processes.push(redis);
        // Until each knows all others.
        clock::sleep(Duration::from_secs(2));
        Ok(())
    }

    /// Starts the `wardcast` beside this program on a free port.
    fn start(&mut self, run: &mut Run, settings: &[&str]) -> Result<()> {
        let program = std::env::current_exe().context("finding this program")?.with_file_name("wardcast");
        if !program.is_file() {
            return fail(format!(
                "there is no {} to start: build it (cargo build --release), or measure another hub with --url. \
                 {HOW_TO_SET_SECRETS}",
                program.display()
            ));
        }
        let (secret, key) = (self.secret.clone().unwrap_or_default(), self.api_key.clone().unwrap_or_default());
        let certificate_file = self.choose_certificate()?;
        let tls = certificate_file.iter().flat_map(|file| {
            let path = file.path().display();
            [format!("{TLS_CERT}{path}"), format!("{TLS_KEY}{path}")]
        });
        let settings =
            settings.iter().map(|setting| (*setting).to_owned()).chain(self.args.hub_set.iter().cloned()).chain(tls);
        let (child, lines) = ChildProcess::start("hub-server", |command| {
            command.arg(&program).args(["--set", "server.bind=127.0.0.1:0", "--set", "log.level=warn"]);
            command.args(settings.flat_map(|setting| ["--set".to_owned(), setting]));
            command.env("WARDCAST_ENV", "development").env_remove("RUST_LOG");
            // It keeps no secrets without a home directory.
            command.env_remove("HOME").env_remove("XDG_STATE_HOME");
            command.env("WARDCAST_AUTH__HMAC_SECRET", &secret).env("WARDCAST_API__KEY", &key);
        })?;
        let url = read_banner(lines.take(MAX_BANNER_LINES).map_while(std::io::Result::ok))?;
        self.targets.push(TargetUrl::parse(&url)?);
        run.pids.push(child.id());
        run.report.add_note(format!("measured a hub started for this run ({})", program.display()));
        self.processes.push(child);
        Ok(())
    }

    /// Determines the certificate of the hub that is started: none, the one of --hub-set, or for --tls one that is made now.
    /// Returns the file of the latter, which the hub reads when it starts.
    fn choose_certificate(&mut self) -> Result<Option<CertificateFile>> {
        if let Some(file) = self.args.hub_set.iter().rev().find_map(|setting| setting.strip_prefix(TLS_CERT)) {
            self.certificate = Some(tls::read_certificate(Path::new(file))?);
            return Ok(None);
        }
        if !self.args.tls {
            return Ok(None);
        }
        let made = RunCertificate::generate()?;
        let file = CertificateFile::write(&made)?;
        self.certificate = Some(made.certificate);
        Ok(Some(file))
    }

    /// Finds the processes of hubs on this machine by their ports, if no option names them.
    fn find_processes(&self, run: &mut Run) {
        let is_local = |target: &TargetUrl| target.address.ip().is_loopback();
        if !run.pids.is_empty() || !self.targets.iter().all(is_local) {
            return;
        }
        run.pids = self.targets.iter().filter_map(|target| listening_process(target.address.port())).collect();
        run.pids.sort_unstable();
        run.pids.dedup();
        if run.pids.is_empty() {
            run.report.add_note("no process was found at the hub's port: give --pid PID to measure its CPU and memory");
        }
    }

    /// Returns whether the hub was started for the run, with the settings that the run needs.
    pub(crate) fn is_started(&self) -> bool {
        !self.processes.is_empty()
    }

    /// How clients send their tokens.
    pub(crate) fn send_token(&self) -> SendToken {
        self.args.send_token
    }

    /// The API key.
    pub(crate) fn api_key(&self) -> Result<&str> {
        match &self.api_key {
            Some(key) => Ok(key),
            None => fail(format!("the hub's API key is needed: set {API_KEY_VARIABLE}. {HOW_TO_SET_SECRETS}")),
        }
    }

    /// A token of a user that expires at this time, in seconds since 1970.
    pub(crate) fn token_of(&self, user: &str, expires_at: u64) -> Result<String> {
        let Some(secret) = &self.secret else {
            return fail(format!("a secret for tokens is needed: set {SECRET_VARIABLE}. {HOW_TO_SET_SECRETS}"));
        };
        let claims = json!({"sub": user, "iat": clock::unix_seconds(), "exp": expires_at});
        encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))
            .context("signing a token")
    }

    /// Tokens for `count` connections.
    pub(crate) fn tokens(&self, count: usize) -> Result<Vec<String>> {
        match (&self.args.token, &self.secret) {
            (Some(token), _) => Ok(vec![token.clone()]),
            (None, Some(secret)) => sign_tokens(count, secret),
            (None, None) => fail(format!(
                "a token is needed: set {SECRET_VARIABLE} to the hub's auth.hmac_secret, or give --token. \
                 {HOW_TO_SET_SECRETS}"
            )),
        }
    }

    /// The method of the server API that publishes to these channels, `publications` at a time, as a transport for this many
    /// publishers, whose numbers are the tokens of their sockets.
    pub(crate) fn http_transport(
        &self,
        (registry, args): (&Registry, &ApiArgs),
        (method, publications): (PublishMethod, u32),
        channels: &[String],
        publishers: usize,
    ) -> Result<Box<HttpTransport>> {
        let target = match &args.publish_url {
            None => self.targets[0].with_path(method.path()),
            Some(url) => match TargetUrl::parse(url)? {
                target if target.path == "/" => target.with_path(method.path()),
                target => target,
            },
        };
        let Some(key) = self.api_key.clone() else {
            return fail(format!(
                "publishing needs the hub's API key: set {API_KEY_VARIABLE} to its api.key. {HOW_TO_SET_SECRETS}"
            ));
        };
        Ok(Box::new(HttpTransport {
            socket_options: self.socket_options(std::slice::from_ref(&target))?,
            target,
            key,
            method,
            publications,
            channels: channels.to_vec(),
            registry: registry.try_clone().context("epoll")?,
            publishers: (0..publishers).map(|_| HttpConnection::default()).collect(),
            next_channel: 0,
        }))
    }

    /// Options of clients of this hub. The caller adds channels.
    pub(crate) fn client_options(
        &self,
        behavior: ClientBehavior,
        connections: usize,
        args: &ConnectionArgs,
    ) -> Result<ClientOptions> {
        let options = ClientOptions::new(behavior, connections, args);
        if options.source_addresses > 1 && !self.targets.iter().all(TargetUrl::is_ipv4_loopback) {
            return fail("several source addresses need a --url on 127.0.0.0/8");
        }
        let (targets, tokens, send_token) = (self.targets.clone(), self.tokens(connections)?, self.send_token());
        Ok(ClientOptions { targets, tokens, send_token, socket: self.socket_options(&self.targets)?, ..options })
    }

    /// The certificates that connections accept: those that an option names, or that of the hub that was started.
    fn trust(&self) -> Result<Trust<'_>> {
        match (&self.args.ca, self.args.insecure, &self.certificate) {
            (Some(file), ..) => Ok(Trust::SignedBy(file)),
            (None, true, _) => Ok(Trust::Any),
            (None, false, Some(certificate)) => Ok(Trust::Only(certificate.clone())),
            (None, false, None) => fail("wss and https need --ca FILE (PEM) or --insecure"),
        }
    }

    /// Options of sockets, with a TLS configuration if one of the targets needs it.
    pub(crate) fn socket_options(&self, targets: &[TargetUrl]) -> Result<SocketOptions> {
        let tls = match targets.iter().any(|target| target.is_tls) {
            true => Some(tls::client_config(self.trust()?, self.args.resume)?),
            false => None,
        };
        Ok(SocketOptions { tls, ..SocketOptions::default() })
    }
}

/// Reads the banner of a hub up to its end, and returns the WebSocket URL. The hub writes no more after that.
fn read_banner(lines: impl Iterator<Item = String>) -> Result<String> {
    let (mut url, mut has_ended) = (None, false);
    for line in lines {
        url = url.or_else(|| find_websocket_url(&line).map(str::to_owned));
        has_ended = line.contains(BANNER_END);
        if has_ended {
            break;
        }
    }
    match url {
        Some(url) if has_ended => Ok(url),
        _ if has_ended => fail("the hub printed no WebSocket URL: is it a wardcast of this version?"),
        _ => fail("the hub did not start; its own error message is above"),
    }
}

/// The WebSocket URL in a line of a hub's banner, without its query.
fn find_websocket_url(line: &str) -> Option<&str> {
    let start = ["ws://", "wss://"].iter().find_map(|scheme| line.find(scheme))?;
    line[start..].split(['?', '"', ' ']).next()
}

/// Becomes the hub, which ends with this program whatever ends that.
pub(crate) fn exec_hub(program: &Path, arguments: &[String]) -> Result<()> {
    raise_file_limit(0)?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl")?;
    Err(Command::new(program).args(arguments).exec()).context(format_args!("starting {}", program.display()))
}

/// Random text that is long enough for a secret.
pub(crate) fn random_secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Signs `count` tokens with the HS256 secret, for the users `bench-0`, `bench-1` and so on.
pub(crate) fn sign_tokens(count: usize, secret: &str) -> Result<Vec<String>> {
    let key = EncodingKey::from_secret(secret.as_bytes());
    let sign = |user| encode(&Header::new(Algorithm::HS256), &token_claims(user), &key).context("signing a token");
    (0..count).map(sign).collect()
}

/// The claims of the user with this number.
pub(crate) fn token_claims(user: usize) -> Value {
    let now = clock::unix_seconds();
    json!({"sub": format!("bench-{user}"), "iat": now, "exp": now + TOKEN_SECONDS})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_found_in_the_banner_with_its_scheme_and_path() {
        let line = |url: &str| format!("   ws = new WebSocket(\"{url}?token=a.b.c\")");
        for url in ["ws://127.0.0.1:8000/connection/websocket", "wss://127.0.0.1:41234/live"] {
            assert_eq!(find_websocket_url(&line(url)), Some(url));
        }
        assert_eq!(find_websocket_url("  Page     https://127.0.0.1:8000/"), None);
    }

    #[test]
    fn banner_is_read_to_its_end_only() {
        let read = |lines: &[&str]| read_banner(lines.iter().map(|line| (*line).to_owned()));
        assert_eq!(read(&["a", "ws://h/a?token=t", "ws://h/b?token=t", BANNER_END, "c"]), Ok("ws://h/a".to_owned()));
        assert!(read(&["ws://h/a?token=t"]).is_err_and(|error| error.0.contains("did not start")));
        // The hub runs and writes nothing more, so that a further line would be awaited for ever.
        let mut lines = ["a".to_owned(), BANNER_END.to_owned()].into_iter();
        let endless = std::iter::from_fn(|| Some(lines.next().expect("no line is read after the end")));
        assert!(read_banner(endless).is_err_and(|error| error.0.contains("no WebSocket URL")));
    }
}

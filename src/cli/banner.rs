//! The banner of a development run: everything that is needed to send a first message.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use super::{VERSION, token};
use crate::{
    auth::users,
    clock::format_duration,
    config::{Config, Door},
    server::{ListenAddress, RunningServer},
};

/// Prints the banner to stdout. It is not logged, because it contains secrets.
pub(super) fn print(config: &Config, running: &RunningServer, generated: &GeneratedSecrets) -> Result<(), String> {
    let addresses = (running.addresses(), running.internal_addresses());
    let is_plain = !io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let text = render(config, (&addresses.0, &addresses.1), generated, if is_plain { PLAIN } else { BOLD })?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| error.to_string())
}

/// Where the secrets come from that the configuration does not set.
#[derive(Clone, Debug)]
pub(super) enum GeneratedSecrets {
    /// It sets all of them.
    None,
    /// A file that later runs use, too.
    Kept(PathBuf),
    /// They were generated for this run.
    ForThisRun,
}

impl fmt::Display for GeneratedSecrets {
    /// Writes a line of its own for the banner, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Kept(path) => write!(f, "\nGenerated secrets are kept in {}.", path.display()),
            Self::ForThisRun => f.write_str("\nGenerated secrets are valid for this run only."),
        }
    }
}

/// The escape sequences before and after bold text.
type Style = (&'static str, &'static str);
const PLAIN: Style = ("", "");
const BOLD: Style = ("\x1b[1m", "\x1b[0m");

fn render(
    config: &Config,
    (public, internal): (&[ListenAddress], &[ListenAddress]),
    generated: &GeneratedSecrets,
    style: Style,
) -> Result<String, String> {
    let (bold, end) = style;
    let ttl = Duration::from_secs(24 * 3600).min(config.auth.max_ttl);
    let signer = token::signer(config);
    let token = signer
        .map(|signer| signer.sign(users::DEMO_USER, ttl, &users::UserClaims::default()))
        .transpose()
        .map_err(|error| error.to_string())?;
    let validity = match token {
        Some(_) => format!("for user \"{}\", valid for {}", users::DEMO_USER, format_duration(ttl)),
        None => "replace TOKEN by a token of your backend: with auth.keys only, the hub cannot sign one".to_owned(),
    };
    let token = token.as_deref().unwrap_or("TOKEN");
    let (ws, http) = if config.server.tls.cert.is_some() { ("wss", "https") } else { ("ws", "http") };
    let api = ApiAddress::new(config, public, internal);
    let address = reachable(public).map_or_else(String::new, authority);
    let key = config.api.key.expose();
    let prefix = &config.server.path_prefix;
    let path = format!("{prefix}{}", config.server.websocket_paths.first().map_or("/", String::as_str));
    let page = format!("{http}://{address}{prefix}/");
    let mut rows = login_rows(config, &page, style);
    if let Some(address) = api.address.filter(|_| config.admin.enabled) {
        rows.push(("Admin", format!("{}://{}{prefix}/admin, with the API key", api.scheme, authority(address))));
    }
    rows.extend([("API key", key.to_owned()), ("Token", validity)]);
    if let [_, _, ..] | [ListenAddress::Unix(_)] = public {
        let listed: Vec<String> = public.iter().map(ListenAddress::to_string).collect();
        rows.push(("Listens", listed.join(", ")));
    }
    let table: String = rows.iter().map(|(name, value)| format!("  {name:<9}{value}\n")).collect();
    let listen = where_to_listen(config, &page);
    // The lines are for a page of the hub itself: its Content-Security-Policy and the browser's rules for local networks permit
    // connections to the origin at which the browser has opened it, be it localhost or 127.0.0.1, and to no other.
    let origin = r#"location.origin.replace("http", "ws")"#;
    Ok(format!(
        r#"
{bold}Wardcast {VERSION}{end} is running in development: it listens on this machine only.{generated}

{table}
{bold}1. Listen.{end} {listen}

   ws = new WebSocket({origin} + "{path}?token={token}")
   ws.onmessage = (message) => console.log(message.data)
   ws.onopen = () => ws.send('{{"id":1,"subscribe":{{"channel":"news"}}}}')

   Other clients, with the same token: {ws}://{address}{path}

{bold}2. Publish.{end} In another terminal:

   curl{api}/api/publish -H 'X-API-Key: {key}' -d '{{"channel":"news","data":{{"hello":"world"}}}}'

Ctrl-C stops.
"#
    ))
}

/// Returns the address that the printed commands name: one of TCP, if there is one.
fn reachable(addresses: &[ListenAddress]) -> Option<&ListenAddress> {
    addresses.iter().find(|address| address.tcp().is_some()).or(addresses.first())
}

/// Returns the host and port of an address in a URL. Those of a Unix socket are ignored.
fn authority(address: &ListenAddress) -> String {
    address.tcp().map_or_else(|| "localhost".to_owned(), |address| address.to_string())
}

/// Where the server API is served, as curl needs it: with the options before the URL.
struct ApiAddress<'a> {
    options: &'static str,
    scheme: &'static str,
    address: Option<&'a ListenAddress>,
    path_prefix: &'a str,
}

impl<'a> ApiAddress<'a> {
    fn new(config: &'a Config, public: &'a [ListenAddress], internal: &'a [ListenAddress]) -> Self {
        let (server, is_internal) = (&config.server, !internal.is_empty());
        let tls = if is_internal { &server.internal_tls.cert } else { &server.tls.cert };
        let (options, scheme) = match (tls.is_some(), is_internal && server.internal_tls.client_ca.is_some()) {
            (false, _) => ("", "http"),
            (true, false) => (" --insecure", "https"),
            (true, true) => (" --insecure --cert CLIENT.pem --key CLIENT.key", "https"),
        };
        Self {
            options,
            scheme,
            address: reachable(if is_internal { internal } else { public }),
            path_prefix: &server.path_prefix,
        }
    }
}

impl fmt::Display for ApiAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(address) = self.address else { return Ok(()) };
        if let ListenAddress::Unix(path) = address {
            write!(f, " --unix-socket {}", path.display())?;
        }
        write!(f, "{} {}://{}{}", self.options, self.scheme, authority(address), self.path_prefix)
    }
}

/// Returns the rows of the demo page and of the login, if the hub has them.
fn login_rows(config: &Config, page: &str, (bold, end): Style) -> Vec<(&'static str, String)> {
    let password = config.login.demo_password.expose();
    let mut rows = Vec::new();
    if config.web.demo_page {
        let filled_in = match password {
            "" => String::new(),
            password => format!("#login={}:{}", users::DEMO_USER, url_encode(password)),
        };
        rows.push(("Page", format!("{bold}{page}{filled_in}{end}")));
    }
    match &config.login.users_file {
        Some(path) => rows.push(("Login", format!("the users of {}", path.display()))),
        None if password.is_empty() => {}
        None => rows.push(("Login", format!("user {}, password {password}", users::DEMO_USER))),
    }
    rows
}

/// Returns the sentence before the lines that listen: where to paste them. Every page of the hub will do.
fn where_to_listen(config: &Config, page: &str) -> String {
    if !config.auth.doors.contains(&Door::Query) {
        return "auth.doors does not list \"query\", so the hub refuses these lines; docs/tokens.md has other ways to send a token:"
            .to_owned();
    }
    let page = if config.web.demo_page { "the page above".to_owned() } else { format!("{page}health/live") };
    format!("Open {page} and paste into its console (F12; type \"allow pasting\" first if the browser asks for it):")
}

/// Encodes any text for a URL.
fn url_encode(text: &str) -> impl std::fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::secrets, cli::secrets::DevelopmentSecrets, config::Secret};

    fn banner(style: Style, change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        config.web.demo_page = true;
        change(&mut config);
        secrets::fill_missing(&mut config, &DevelopmentSecrets::generate().unwrap());
        let address = |port: u16| ListenAddress::Tcp(([127, 0, 0, 1], port).into());
        let internal: Vec<_> = config.server.internal_bind.iter().map(|_| address(8001)).collect();
        render(&config, (&[address(8000)], &internal), &GeneratedSecrets::None, style).unwrap()
    }

    #[test]
    fn commands_use_the_unix_socket_only_if_there_is_no_other_address() {
        let mut config = Config::default();
        secrets::fill_missing(&mut config, &DevelopmentSecrets::generate().unwrap());
        let (unix, tcp) =
            (ListenAddress::Unix("/run/hub.sock".into()), ListenAddress::Tcp(([127, 0, 0, 1], 8000).into()));
        let banner =
            |addresses: &[ListenAddress]| render(&config, (addresses, &[]), &GeneratedSecrets::None, PLAIN).unwrap();
        let only = banner(std::slice::from_ref(&unix));
        assert!(only.contains("curl --unix-socket /run/hub.sock http://localhost/api/publish "), "{only}");
        assert!(only.contains("Listens  unix:/run/hub.sock\n"), "{only}");
        let both = banner(&[unix, tcp]);
        assert!(both.contains("curl http://127.0.0.1:8000/api/publish "), "{both}");
        assert!(both.contains("Listens  unix:/run/hub.sock, 127.0.0.1:8000\n"), "{both}");
    }

    #[test]
    fn page_url_carries_the_demo_login_only_if_there_is_one() {
        let demo = |config: &mut Config| config.login.demo_password = Secret::new("right horse");
        let text = banner(PLAIN, demo);
        assert!(text.contains("http://127.0.0.1:8000/#login=demo:right%20horse\n"), "{text}");
        assert!(text.contains("user demo, password right horse"), "{text}");
        assert!(
            !banner(PLAIN, |config| (config.web.demo_page, config.login.demo_password) =
                (false, Secret::new("right horse")))
            .contains("#login")
        );
        let users = banner(PLAIN, |config| config.login.users_file = Some("users.toml".into()));
        assert!(users.contains("http://127.0.0.1:8000/\n") && users.contains("the users of users.toml"), "{users}");
    }

    #[test]
    fn bold_text_only_with_bold_style() {
        assert!(!banner(PLAIN, |_| ()).contains('\x1b'));
        assert!(banner(BOLD, |_| ()).contains("\x1b[1m"));
    }

    #[test]
    fn printed_commands_match_the_configuration() {
        let tls = banner(PLAIN, |config| config.server.tls.cert = Some("cert.pem".into()));
        assert!(tls.contains("curl --insecure https://") && tls.contains("wss://127.0.0.1:8000/connection/"), "{tls}");
        let closed = banner(PLAIN, |config| config.auth.doors.retain(|door| *door != Door::Query));
        assert!(closed.contains("does not list \"query\""), "{closed}");
        let internal = banner(PLAIN, |config| config.server.internal_bind = Some(([127, 0, 0, 1], 8001).into()));
        assert!(
            internal.contains("curl http://127.0.0.1:8001/api/publish") && internal.contains("ws://127.0.0.1:8000")
        );
        let prefix = banner(PLAIN, |config| config.server.path_prefix = "/realtime".to_owned());
        for part in [
            "Page     http://127.0.0.1:8000/realtime/",
            r#" + "/realtime/connection/websocket?token="#,
            "ws://127.0.0.1:8000/realtime/connection/websocket\n",
            "curl http://127.0.0.1:8000/realtime/api/publish ",
        ] {
            assert!(prefix.contains(part), "no {part} in {prefix}");
        }
        let path = banner(PLAIN, |config| config.server.websocket_paths = vec!["/live".to_owned()]);
        assert!(path.contains(r#" + "/live?token="#) && path.contains("ws://127.0.0.1:8000/live\n"), "{path}");
    }

    #[test]
    fn lines_to_paste_name_a_page_of_the_hub_and_no_host() {
        for (has_page, page) in [(true, "the page above"), (false, "http://127.0.0.1:8000/health/live")] {
            let text = banner(PLAIN, |config| config.web.demo_page = has_page);
            assert!(text.contains(&format!("Open {page} and paste into its console")), "{text}");
            let line = text.lines().find(|line| line.contains("new WebSocket")).unwrap();
            assert!(
                line.contains(r#"location.origin.replace("http", "ws") + "/connection/websocket?token="#),
                "{line}"
            );
            assert!(!line.contains("127.0.0.1"), "{line}");
        }
    }
}

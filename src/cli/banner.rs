//! What a development run prints: like a notebook server, all that is needed for a first message.

use std::{io::Write, net::SocketAddr, time::Duration};

use crate::{auth::Signer, clock::Clock, config::Config};

/// Prints a token and the two lines that use it. To stdout: it is for a person, and it holds secrets.
pub(super) fn print(config: &Config, address: SocketAddr) -> Result<(), String> {
    let ttl = Duration::from_secs(24 * 3600).min(config.auth.max_ttl);
    let signs = !config.auth.hmac_secret.is_empty();
    let (token, about) = if signs {
        let signer = Signer::new(&config.auth, Clock::default());
        let token = signer.sign("demo", ttl, None).map_err(|error| error.to_string())?;
        (token, format!("The token is for the user \"demo\" and good for {}.", humantime::format_duration(ttl)))
    } else {
        ("TOKEN".to_owned(), "TOKEN is one that your backend signs: only auth.keys are configured here.".to_owned())
    };
    let (ws, http, insecure) =
        if config.server.tls.cert.is_some() { ("wss", "https", " --insecure") } else { ("ws", "http", "") };
    let key = config.api.key.expose();
    let text = format!(
        r#"
Wardcast is running in development: on this machine only, with secrets made for this run.

1. Listen. Paste into the console of a browser:

   ws = new WebSocket("{ws}://{address}/connection/websocket?token={token}")
   ws.onmessage = (message) => console.log(message.data)
   ws.onopen = () => ws.send('{{"id":1,"subscribe":{{"channel":"news"}}}}')

2. Publish. In another terminal:

   curl{insecure} {http}://{address}/api/publish -H 'X-API-Key: {key}' -d '{{"channel":"news","data":{{"hello":"world"}}}}'

{about} Ctrl-C stops.
"#
    );
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
}

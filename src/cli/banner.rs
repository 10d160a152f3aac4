//! What a development run prints: like a notebook server, all that is needed for a first message.

use std::{io::Write, net::SocketAddr, time::Duration};

use crate::{auth::Signer, clock::Clock, config::Config};

/// Prints a token and the two lines that use it. To stdout: it is for a person, and it holds secrets.
pub(super) fn print(config: &Config, address: SocketAddr) -> Result<(), String> {
    let ttl = Duration::from_secs(24 * 3600).min(config.auth.max_ttl);
    let token =
        Signer::new(&config.auth, Clock::default()).sign("demo", ttl, None).map_err(|error| error.to_string())?;
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

The token is for the user "demo" and good for {}. Ctrl-C stops.
"#,
        humantime::format_duration(ttl)
    );
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
}

//! `health`: checks whether a hub is ready, for health checks in container images without curl. Without a URL it asks the hub
//! of the configuration, as that hub listens: on its address, with or without TLS, with or without a PROXY header.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{CliError, CommandResult, configuration::ConfigInputs};
use crate::{
    config::{Config, ServerConfig},
    server::proxy,
};

/// Maximum time from connecting to the end of the response.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum response that is read.
const MAX_RESPONSE_BYTES: u64 = 64 * 1024;
/// The endpoint of a hub that says whether it is ready.
const READY_PATH: &str = "/health/ready";

/// Runs `health`, for a URL or else for the hub of the configuration.
pub(super) fn check(inputs: Result<ConfigInputs, CliError>, url: Option<&str>) -> CommandResult {
    let (endpoint, config) = match url {
        Some(url) => (Endpoint::from_url(url)?, None),
        None => {
            let config = inputs?.load()?;
            (Endpoint::of_hub(&config)?, Some(config))
        }
    };
    let response = endpoint.fetch(config.as_ref().map(|config| &config.server));
    let response = response.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => format!(
            "{endpoint}: {error}; no hub listens there: start it, or name its address by the --config, variables and --set \
             that it was started with, or by --url"
        ),
        _ => format!("{endpoint}: {error}"),
    })?;
    let status_line = response.lines().next().unwrap_or_default();
    let Some(status) = status_line.strip_prefix("HTTP/1.1 ") else {
        let other = if endpoint.tls { "http" } else { "https" };
        return Err(format!("{endpoint}: the response is not HTTP; does the hub listen for {other}?").into());
    };
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match status.split(' ').next() {
        Some("200") => Ok(format!("{body}\n")),
        _ => Err(format!("{endpoint}: {status_line} {body}").into()),
    }
}

/// Where to ask.
#[derive(Debug, PartialEq)]
struct Endpoint {
    tls: bool,
    /// Host and port, as in the URL.
    authority: String,
    host: String,
    path: String,
    /// Tried one after the other until one accepts the connection.
    addresses: Vec<SocketAddr>,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl Endpoint {
    /// The hub of this configuration, on this machine.
    fn of_hub(config: &Config) -> Result<Self, String> {
        let bind = config.server.bind;
        if bind.port() == 0 {
            return Err(
                "server.bind has the port 0, so only the hub's log has its port; name it: wardcast health --url \
                        http://127.0.0.1:PORT/health/ready"
                    .to_owned(),
            );
        }
        let hosts = match bind.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => vec![Ipv4Addr::LOCALHOST.into()],
            // It listens for IPv4, too, and the loopback of a machine may have no IPv6.
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
            host => vec![host],
        };
        let addresses: Vec<SocketAddr> = hosts.iter().map(|host| SocketAddr::new(*host, bind.port())).collect();
        Ok(Self {
            tls: config.server.tls.cert.is_some(),
            authority: addresses[0].to_string(),
            host: hosts[0].to_string(),
            path: READY_PATH.to_owned(),
            addresses,
        })
    }

    fn from_url(url: &str) -> Result<Self, String> {
        let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err("--url must begin with http:// or https://".to_owned()),
        };
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let after_host = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[after_host..].rfind(':') {
            Some(at) => (&authority[..after_host + at], authority[after_host + at + 1..].parse().ok()),
            None => (authority, Some(if tls { 443 } else { 80 })),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port: u16 = port.ok_or_else(|| format!("{url}: the port is not a number below 65536"))?;
        let addresses = (host, port).to_socket_addrs().map_err(|error| format!("{url}: {error}"))?.collect();
        Ok(Self { tls, authority: authority.to_owned(), host: host.to_owned(), path: path.to_owned(), addresses })
    }

    /// Sends the request; returns the whole response. `server`: the hub's own settings, if the hub is that of the
    /// configuration.
    fn fetch(&self, server: Option<&ServerConfig>) -> io::Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        let mut stream = self.connect(deadline)?;
        if let Some(server) = server.filter(|server| server.proxy_protocol)
            && server.is_trusted_proxy(stream.tcp.local_addr()?.ip())
        {
            stream.write_all(&proxy::LOCAL_HEADER)?;
        }
        if !self.tls {
            return self.exchange(stream);
        }
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(tls_config()?), name).map_err(io::Error::other)?;
        self.exchange(StreamOwned::new(connection, stream))
    }

    fn connect(&self, deadline: Instant) -> io::Result<DeadlineStream> {
        let mut last_error = io::Error::other("the host has no address");
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, remaining(deadline)?) {
                Ok(tcp) => return Ok(DeadlineStream { tcp, deadline }),
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    fn exchange(&self, mut stream: impl Read + Write) -> io::Result<String> {
        let Self { authority, path, .. } = self;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        // In one write: after the first bytes, a peer that speaks another protocol may answer and close.
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let mut response = Vec::new();
        match stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response) {
            // The peer has closed TLS without saying so, or reset the connection after its response.
            Err(error) if response.is_empty() || error.kind() == ErrorKind::TimedOut => return Err(error),
            _ => {}
        }
        Ok(String::from_utf8_lossy(&response).into_owned())
    }
}

/// Returns the time until the deadline.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() { Err(no_response_in_time()) } else { Ok(remaining) }
}

fn no_response_in_time() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("no response within {} s", TIMEOUT.as_secs()))
}

/// A socket on which reading and writing fail after the deadline.
struct DeadlineStream {
    tcp: TcpStream,
    deadline: Instant,
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(remaining(self.deadline)?))?;
        self.tcp.read(buffer).map_err(name_timeout)
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(remaining(self.deadline)?))?;
        self.tcp.write(bytes).map_err(name_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

/// A socket whose timeout has passed reports that it would block.
fn name_timeout(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { no_response_in_time() } else { error }
}

fn tls_config() -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(io::Error::other)?.dangerous();
    Ok(builder.with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth())
}

/// Accepts any certificate: that of the hub is for its public name, which is not the name by which this machine reaches it.
/// The request contains no secret, and the response is trusted no further than the exit code.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_follows_the_address_and_tls_of_the_configuration() {
        let endpoint = |bind: &str, tls: bool| {
            let mut config = Config::default();
            config.server.bind = bind.parse().unwrap();
            config.server.tls.cert = tls.then(|| "cert.pem".into());
            let endpoint = Endpoint::of_hub(&config)?;
            Ok::<_, String>((endpoint.to_string(), endpoint.addresses.len()))
        };
        for (bind, tls, url, addresses) in [
            ("127.0.0.1:8000", false, "http://127.0.0.1:8000/health/ready", 1),
            ("0.0.0.0:443", true, "https://127.0.0.1:443/health/ready", 1),
            ("[::]:8000", false, "http://[::1]:8000/health/ready", 2),
            ("192.0.2.1:9", true, "https://192.0.2.1:9/health/ready", 1),
        ] {
            assert_eq!(endpoint(bind, tls), Ok((url.to_owned(), addresses)), "{bind}");
        }
        assert!(endpoint("127.0.0.1:0", false).unwrap_err().contains("--url"));
    }

    #[test]
    fn url_may_have_any_host_and_no_port() {
        let parsed = |url: &str| {
            Endpoint::from_url(url).map(|endpoint| (endpoint.tls, endpoint.host, endpoint.path, endpoint.addresses[0]))
        };
        for (url, tls, host, path, address) in [
            ("http://127.0.0.1:8000/health/live", false, "127.0.0.1", "/health/live", "127.0.0.1:8000"),
            ("https://[::1]:9/", true, "::1", "/", "[::1]:9"),
            ("https://[::1]", true, "::1", "/", "[::1]:443"),
            ("http://127.0.0.1", false, "127.0.0.1", "/", "127.0.0.1:80"),
        ] {
            assert_eq!(parsed(url), Ok((tls, host.to_owned(), path.to_owned(), address.parse().unwrap())), "{url}");
        }
        for (url, problem) in
            [("ftp://a", "http://"), ("http://127.0.0.1:port/", "port"), ("http://[::1]:70000", "port")]
        {
            assert!(parsed(url).unwrap_err().contains(problem), "{url}");
        }
    }
}

//! `health`: checks whether a hub is ready, for health checks in container images without curl.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use super::CommandResult;

const TIMEOUT: Duration = Duration::from_secs(4);

/// Sends one GET request over HTTP.
pub(super) fn query(url: &str) -> CommandResult {
    let rest = url.strip_prefix("http://").ok_or("--url must begin with http://")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let answer = fetch(authority, path).map_err(|error| format!("{url}: {error}"))?;
    let mut lines = answer.lines();
    let status = lines.next().unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if status.split(' ').nth(1) == Some("200") {
        Ok(format!("{body}\n"))
    } else {
        Err(format!("{url}: {status} {body}").into())
    }
}

fn fetch(authority: &str, path: &str) -> std::io::Result<String> {
    let address =
        authority.to_socket_addrs()?.next().ok_or_else(|| std::io::Error::other("the host has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}

//! A connection to the server API that waits for each answer.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

use crate::error::{Context, Result, fail};
use crate::{http::Response, target_url::TargetUrl};

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The connection.
pub(crate) struct ApiConnection {
    stream: TcpStream,
    authority: String,
    key: String,
}

impl ApiConnection {
    /// Connects.
    pub(crate) fn open(target: &TargetUrl, key: &str) -> Result<Self> {
        if target.is_tls {
            return fail("this program calls the server API without TLS: give a --url with ws://");
        }
        let stream = TcpStream::connect(target.address).context("connecting")?;
        stream.set_nodelay(true).context("connecting")?;
        stream.set_read_timeout(Some(TIMEOUT)).context("connecting")?;
        Ok(Self { stream, authority: target.authority.clone(), key: key.to_owned() })
    }

    /// Calls a method and returns its answer.
    pub(crate) fn call(&mut self, path: &str, body: &str) -> Result<Value> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nX-API-Key: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.authority,
            self.key,
            body.len()
        );
        self.exchange(&request, |response| serde_json::from_slice(response.body).context("an answer that is not JSON"))
    }

    /// Reads the metrics, as a monitor does.
    pub(crate) fn read_metrics(&mut self) -> Result<()> {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", self.authority);
        self.exchange(&request, |response| match response.code() {
            "200" => Ok(()),
            _ => fail(format!("reading /metrics was {}", response.quote())),
        })
    }

    fn exchange<T>(&mut self, request: &str, on_response: impl FnOnce(Response<'_>) -> Result<T>) -> Result<T> {
        self.stream.write_all(request.as_bytes()).context("calling the server API")?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = self.stream.read(&mut buffer).context("reading an answer of the server API")?;
            answer.extend_from_slice(&buffer[..count]);
            if let Some(response) = Response::parse(&answer, count == 0)? {
                return on_response(response);
            }
            if count == 0 {
                return fail("the server API has closed the connection");
            }
        }
    }
}

//! The publishers of a cell: at a rate, through the hubs in turns, as a load balancer sends them, whatever the answers are.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::error::{BenchError, Context, Result, fail};
use crate::http::Response;

use super::findings::{Answer, Publication};

/// How long an answer may take. A hub answers error 100 before that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum publications without an answer. Above it, publications are left out.
const MAX_IN_FLIGHT: usize = 1000;
/// Why a request was not even sent.
const REFUSED: &str = "connection refused";

/// The publishers.
pub(super) struct Publishers {
    /// The addresses of the hubs.
    pub(super) addresses: Rc<[SocketAddr]>,
    /// The API key.
    pub(super) api_key: String,
    /// The channels, which take turns.
    pub(super) channels: Vec<String>,
    /// Publications per second.
    pub(super) rate: f64,
    /// What was published so far.
    pub(super) log: RefCell<Vec<Publication>>,
}

impl Publishers {
    /// Publishes until `stop` is ready, and then waits for the answers.
    pub(super) async fn run(self: Rc<Self>, stop: impl Future) {
        let mut ticks = interval(Duration::from_secs_f64(1.0 / self.rate));
        // After a moment in which the machine was busy, the publications that were due are made up for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = JoinSet::new();
        let publish = async {
            loop {
                ticks.tick().await;
                while requests.try_join_next().is_some() {}
                if requests.len() < MAX_IN_FLIGHT {
                    requests.spawn_local(self.clone().publish());
                }
            }
        };
        tokio::select! {
            () = publish => {}
            _ = stop => {}
        }
        requests.join_all().await;
    }

    /// Publishes once, and records the answer.
    async fn publish(self: Rc<Self>) {
        let number = self.log.borrow().len();
        let channel = number % self.channels.len();
        self.log.borrow_mut().push(Publication { channel, answer: None });
        let answer = timeout(ANSWER_TIMEOUT, self.request(number, &self.channels[channel])).await;
        let answer = answer.unwrap_or_else(|_| Err(BenchError("no answer".to_owned())));
        self.log.borrow_mut()[number].answer =
            Some(Answer { at: Instant::now(), refusal: answer.err().map(|error| error.0) });
    }

    /// Sends the request to a hub, and to the next one if that does not take it, as a load balancer does.
    async fn request(&self, number: usize, channel: &str) -> Result<()> {
        let body = json!({"channel": channel, "data": {"n": number}}).to_string();
        let (key, length) = (&self.api_key, body.len());
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        let mut refusal = BenchError(REFUSED.to_owned());
        for attempt in 0..self.addresses.len() {
            let address = self.addresses[(number + attempt) % self.addresses.len()];
            match exchange(address, request.as_bytes()).await.and_then(|answer| check_accepted(&answer)) {
                // A hub that is full or stops answers 503 before it executes a request.
                Err(error) if [REFUSED, "503"].contains(&error.0.as_str()) => refusal = error,
                result => return result,
            }
        }
        Err(refusal)
    }
}

/// Sends a request on a connection of its own, and returns all that is answered.
///
/// # Errors
/// [`REFUSED`] if the connection is refused, so that the request has not been sent.
pub(super) async fn exchange(address: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.map_err(|_| BenchError(REFUSED.to_owned()))?;
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(request).await?;
        stream.read_to_end(&mut answer).await
    };
    match exchange.await {
        Ok(1..) => Ok(answer),
        _ => fail("connection lost"),
    }
}

/// Returns the body of a response whose status is 200.
///
/// # Errors
/// The status, or that the response is incomplete.
pub(super) fn check_status(answer: &[u8]) -> Result<&[u8]> {
    match Response::parse(answer, true)? {
        Some(response) if response.code() == "200" => Ok(response.body),
        Some(response) => fail(response.code()),
        None => fail("half a response"),
    }
}

/// Checks that a publication was accepted.
fn check_accepted(answer: &[u8]) -> Result<()> {
    let body: Value = serde_json::from_slice(check_status(answer)?).context("a response that is not JSON")?;
    match body.pointer("/error/code") {
        Some(code) => fail(format!("error {code}")),
        None => Ok(()),
    }
}

//! The operator's backend: an HTTP server with kept connections, whose answers to hooks the test chooses.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use actix_rt::task::JoinHandle;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use wardcast::config::{Config, HookConfig, HookEndpoint};

use super::{client::Stream, tls::Authority};

/// What the backend answers on a path.
#[derive(Clone)]
pub enum Answer {
    /// 200 with this JSON.
    Json(Value),
    /// These bytes, from the status line on; the connection is closed then.
    Raw(Vec<u8>),
    /// The same, and the connection stays open.
    Kept(Vec<u8>),
    /// Nothing, and the connection stays open.
    Silence,
    /// 200 with `{"result":{}}`, but only when the path has had so many calls.
    WhenCalled(usize),
    /// This status to calls whose body has this text, and otherwise 200 with `{}`.
    StatusForBodiesWith(String, &'static str),
}

/// A call of a hook.
#[derive(Clone)]
pub struct Call {
    path: String,
    head: String,
    pub body: String,
    /// Whether it was answered with JSON, or another success.
    is_accepted: bool,
}

impl Call {
    /// The values of a header.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Served {
    answers: HashMap<String, Answer>,
    calls: Vec<Call>,
    connections: usize,
    open_connections: usize,
    peak_connections: usize,
}

impl Served {
    fn note_accepted(&mut self) {
        self.connections += 1;
        self.open_connections += 1;
        self.peak_connections = self.peak_connections.max(self.open_connections);
    }
}

type Shared = Arc<(Mutex<Served>, watch::Sender<()>)>;

pub struct Backend {
    /// With a name over TLS, which the certificate has.
    origin: String,
    served: Shared,
    accepting: JoinHandle<()>,
}

impl Backend {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a backend that serves https, with a certificate of this authority for `localhost`.
    pub async fn start_tls(authority: &Authority) -> Self {
        Self::start_with(Some(authority.issue("backend").acceptor())).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, served) = (listener.local_addr().unwrap(), Shared::default());
        let origin = match tls {
            None => format!("http://{address}"),
            Some(_) => format!("https://localhost:{}", address.port()),
        };
        let shared = served.clone();
        let accepting = actix_rt::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.0.lock().unwrap().note_accepted();
                let (shared, tls) = (shared.clone(), tls.clone());
                actix_rt::spawn(async move {
                    match tls {
                        None => serve(stream, shared.clone()).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, shared.clone()).await;
                            }
                        }
                    }
                    shared.0.lock().unwrap().open_connections -= 1;
                });
            }
        });
        Self { origin, served, accepting }
    }

    /// Has the connect hook ask `/connect`, within the time that it may have at most.
    pub fn configure_connect(&self, config: &mut Config) {
        self.configure(&mut config.hooks.connect, "/connect");
        config.hooks.connect.timeout = Duration::from_secs(4);
        config.hooks.connect.headers = vec!["cookie".to_owned(), "authorization".to_owned()];
    }

    /// Has a hook ask this path.
    pub fn configure(&self, hook: &mut HookConfig, path: &str) {
        hook.endpoint = Some(HookEndpoint::parse(&self.url(path)).unwrap());
        hook.timeout = Duration::from_secs(10);
    }

    pub fn answer(&self, path: &str, answer: Answer) {
        self.served.0.lock().unwrap().answers.insert(path.to_owned(), answer);
        self.served.1.send_replace(());
    }

    pub fn answer_json(&self, path: &str, json: Value) {
        self.answer(path, Answer::Json(json));
    }

    /// The calls of a path so far.
    pub fn calls(&self, path: &str) -> Vec<Call> {
        let served = self.served.0.lock().unwrap();
        served.calls.iter().filter(|call| call.path == path).cloned().collect()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// The events that it has accepted on a path, in their order, each once.
    pub fn events(&self, path: &str) -> Vec<Value> {
        let calls = self.calls(path);
        let accepted = calls.iter().filter(|call| call.is_accepted);
        let events = accepted.flat_map(|call| call.json()["events"].as_array().unwrap().clone());
        let mut seen = HashSet::new();
        events.filter(|event| seen.insert(event["id"].as_str().unwrap().to_owned())).collect()
    }

    /// Waits until it has accepted so many events on a path.
    pub async fn wait_for_events(&self, path: &str, count: usize) -> Vec<Value> {
        super::poll_until(&format!("{count} events"), async || self.events(path).len() >= count).await;
        self.events(path)
    }

    /// Waits until a path has had so many calls.
    pub async fn wait_for_calls(&self, path: &str, count: usize) {
        let mut changes = self.served.1.subscribe();
        let wait = async {
            while self.calls(path).len() < count {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(super::PATIENCE, wait).await.expect("the calls in time");
    }

    /// What a path answers now.
    pub fn last_json(&self, path: &str) -> Value {
        match self.served.0.lock().unwrap().answers.get(path) {
            Some(Answer::Json(json)) => json.clone(),
            _ => panic!("{path} answers no JSON"),
        }
    }

    /// The largest number of connections that were open at the same time.
    pub fn peak_connections(&self) -> usize {
        self.served.0.lock().unwrap().peak_connections
    }

    pub fn connections(&self) -> usize {
        self.served.0.lock().unwrap().connections
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: impl Stream, served: Shared) {
    while let Some(call) = read_call(&mut stream).await {
        let (path, body) = (call.path.clone(), call.body.clone());
        let number = {
            let mut served = served.0.lock().unwrap();
            served.calls.push(call);
            served.calls.len() - 1
        };
        served.1.send_replace(());
        let bytes = match answer(&path, &served).await {
            Answer::StatusForBodiesWith(text, status) if body.contains(&text) => {
                let refusal = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                if stream.write_all(refusal.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
            Answer::StatusForBodiesWith(..) => {
                served.0.lock().unwrap().calls[number].is_accepted = true;
                "{}".to_owned()
            }
            Answer::Raw(bytes) => {
                let _ = stream.write_all(&closing(bytes)).await;
                let _ = stream.shutdown().await;
                return;
            }
            Answer::Kept(bytes) => {
                served.0.lock().unwrap().calls[number].is_accepted = bytes.starts_with(b"HTTP/1.1 2");
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
                continue;
            }
            Answer::Json(json) => {
                served.0.lock().unwrap().calls[number].is_accepted = true;
                json.to_string()
            }
            Answer::Silence | Answer::WhenCalled(_) => unreachable!("waited for"),
        };
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{bytes}", bytes.len());
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A response that says that the connection is closed after it, so that the hub does not use it again.
fn closing(response: Vec<u8>) -> Vec<u8> {
    let end_of_line = response.windows(2).position(|bytes| bytes == b"\r\n");
    match end_of_line.filter(|_| response.starts_with(b"HTTP/1.1 ")) {
        Some(at) => [&response[..at], b"\r\nconnection: close", &response[at..]].concat(),
        None => response,
    }
}

/// The answer on a path, as soon as it is one that can be written.
async fn answer(path: &str, served: &Shared) -> Answer {
    let mut changes = served.1.subscribe();
    loop {
        changes.mark_unchanged();
        let (answer, calls) = {
            let served = served.0.lock().unwrap();
            let calls = served.calls.iter().filter(|call| call.path == path).count();
            (served.answers.get(path).cloned(), calls)
        };
        match answer {
            None => return Answer::Raw(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec()),
            Some(Answer::WhenCalled(count)) if calls >= count => return Answer::Json(json!({"result": {}})),
            Some(Answer::Silence | Answer::WhenCalled(_)) => changes.changed().await.unwrap(),
            Some(answer) => return answer,
        }
    }
}

async fn read_call(stream: &mut impl Stream) -> Option<Call> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let (path, body) = (head.split(' ').nth(1).unwrap().to_owned(), String::new());
    let mut call = Call { path, head, body, is_accepted: false };
    let length = call.headers("content-length").first().map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    call.body = String::from_utf8(body).unwrap();
    Some(call)
}

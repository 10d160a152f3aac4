//! A hub with everything on: hooks that ask a backend of this program, events for it, and a monitor that reads `/metrics`. Shows that
//! none of it costs deliveries.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use bytes::BytesMut;
use serde_json::json;

use crate::api_connection::ApiConnection;
use crate::delivery_stats::{Counter, Latencies};
use crate::error::{BenchError, Context, Result};
use crate::http::take_request;
use crate::{clock, hub_under_test::HubUnderTest, run::Run};

/// How often the monitor reads the metrics. Prometheus does by default every minute, and few do more often than this.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);
/// The answer to every call: the events are accepted, the subscription or publication is allowed.
const ACCEPTED: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"result\":{}}";
/// The hooks that are asked beside the events.
const HOOKS: [&str; 7] = ["connect", "refresh", "subscribe", "sub_refresh", "publish", "rpc", "send"];

/// The backend. It accepts everything, and ends with this program.
pub(crate) struct Backend {
    port: u16,
    calls: Arc<Counter>,
}

impl Backend {
    /// Starts to listen on a free port.
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for the hooks of the hub")?;
        let port = listener.local_addr().context("listening for the hooks of the hub")?.port();
        let calls = Arc::new(Counter::default());
        let counted = calls.clone();
        spawn("backend", move || {
            for stream in listener.incoming().flatten() {
                let counted = counted.clone();
                // Without a thread the hub sees a closed connection, and calls again.
                let _ = spawn("backend", move || serve(stream, &counted));
            }
        })?;
        Ok(Self { port, calls })
    }

    /// The settings of a hub that asks it about everything.
    pub(crate) fn hub_settings(&self) -> Vec<String> {
        let url = format!("http://127.0.0.1:{}/", self.port);
        let types = json!(["connect", "disconnect", "subscribe", "unsubscribe", "occupied", "vacated"]);
        let hooks = HOOKS.iter().map(|hook| format!("hooks.{hook}.endpoint={url}"));
        let others = [
            format!("hooks.events.endpoint={url}"),
            format!("hooks.events.types={types}"),
            "channels.subscribe_hook=true".to_owned(),
            "channels.publish_hook=true".to_owned(),
            // Many subscribe at once.
            "hooks.waiting=100000".to_owned(),
            "hooks.subscribe.timeout=30s".to_owned(),
        ];
        hooks.chain(others).collect()
    }
}

/// Answers the calls of a connection until it ends.
fn serve(mut stream: TcpStream, calls: &Counter) {
    let (mut bytes, mut buffer) = (BytesMut::new(), [0; 16 * 1024]);
    let _ = stream.set_nodelay(true);
    loop {
        match take_request(&mut bytes) {
            Ok(Some(_)) => {
                calls.add(1);
                if stream.write_all(ACCEPTED).is_err() {
                    return;
                }
            }
            Ok(None) => match stream.read(&mut buffer) {
                Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
                _ => return,
            },
            Err(_) => return,
        }
    }
}

/// The monitor, and the backend of the hub that it watches.
pub(crate) struct Everything {
    backend: Backend,
    /// Dropped to stop the monitor.
    stop: mpsc::Sender<()>,
    monitor: JoinHandle<Result<Latencies>>,
}

impl Everything {
    /// Starts to read the metrics of a hub that asks this backend.
    pub(crate) fn start(backend: Backend, hub: &HubUnderTest<'_>) -> Result<Self> {
        let mut connection = ApiConnection::open(&hub.targets[0], hub.api_key()?)?;
        let (stop, stopped) = mpsc::channel();
        let monitor = spawn("monitor", move || {
            let mut times = Latencies::default();
            while stopped.recv_timeout(SCRAPE_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                let start = clock::now();
                connection.read_metrics()?;
                times.record(start, clock::now());
            }
            Ok(times)
        })?;
        Ok(Self { backend, stop, monitor })
    }

    /// Stops the monitor, and reports what was asked.
    pub(crate) fn report(self, run: &mut Run) -> Result<()> {
        drop(self.stop);
        let times = self.monitor.join().map_err(|_| BenchError("the monitor has panicked".to_owned()))??;
        run.report.set("hook_calls", self.backend.calls.get());
        run.report.set("scrapes", times.0.len());
        run.report.set_percentiles("scrape", &times);
        Ok(())
    }
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).context("starting a thread")
}

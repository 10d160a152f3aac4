//! Records the answers of the hubs to `/health/ready` while a cell runs, as load balancers see them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{BenchError, Context, Result, fail};

use super::publisher::{check_status, exchange};

/// The time between two requests to a hub.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long an answer may take: as long as load balancers usually wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The status of a hub that is not ready.
const NOT_READY: &str = "503";

/// Checks that a hub answers 200.
///
/// # Errors
/// [`NOT_READY`] if the hub is not ready; otherwise its other status, or why it sent no response.
async fn check_readiness(address: SocketAddr) -> Result<()> {
    let request = "GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    match timeout(ANSWER_TIMEOUT, exchange(address, request.as_bytes())).await {
        Ok(answer) => check_status(&answer?).map(drop),
        Err(_) => fail("no answer"),
    }
}

/// Checks that a hub is ready.
pub(super) async fn check_ready(address: SocketAddr) -> Result<()> {
    check_readiness(address).await.context("asking for /health/ready")
}

/// What a hub has answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Ready,
    NotReady,
    /// Nothing, or a refused connection.
    Nothing,
}

/// The answers of a hub: each that differs from the one before, with the time of its request.
#[derive(Default)]
struct AnswerLog(Vec<(Instant, Answer)>);

impl AnswerLog {
    fn record(&mut self, asked_at: Instant, answer: Answer) {
        if self.0.last().is_none_or(|(_, last)| *last != answer) {
            self.0.push((asked_at, answer));
        }
    }

    /// The times in which the hub gave an answer: from when until when.
    fn periods(&self, of: Answer, end: Instant) -> impl Iterator<Item = (Instant, Instant)> {
        let ends = self.0.iter().skip(1).map(|(at, _)| *at).chain([end]);
        let periods = self.0.iter().zip(ends).filter(move |((_, answer), _)| *answer == of);
        periods.map(|((start, _), end)| (*start, end))
    }
}

/// Asks all hubs again and again, until it is dropped.
pub(super) struct ReadinessWatch {
    logs: Vec<Rc<RefCell<AnswerLog>>>,
    _asking: JoinSet<()>,
}

impl ReadinessWatch {
    /// Begins to ask.
    pub(super) fn start(hubs: &[SocketAddr]) -> Self {
        let mut asking = JoinSet::new();
        let logs = hubs.iter().map(|address| {
            let log = Rc::new(RefCell::default());
            asking.spawn_local(ask(*address, Rc::clone(&log)));
            log
        });
        Self { logs: logs.collect(), _asking: asking }
    }

    /// What the hubs have answered since `broken_at`.
    pub(super) fn findings(&self, broken_at: Instant) -> Readiness {
        let end = Instant::now();
        let logs: Vec<_> = self.logs.iter().map(|log| log.borrow()).collect();
        let of = |answer| Unready::new(logs.iter().map(|log| &**log), answer, broken_at, end);
        Readiness { hubs: logs.len(), not_ready: of(Answer::NotReady), no_answer: of(Answer::Nothing) }
    }
}

async fn ask(address: SocketAddr, log: Rc<RefCell<AnswerLog>>) {
    loop {
        let asked_at = Instant::now();
        let answer = match check_readiness(address).await {
            Ok(()) => Answer::Ready,
            Err(BenchError(status)) if status == NOT_READY => Answer::NotReady,
            Err(_) => Answer::Nothing,
        };
        log.borrow_mut().record(asked_at, answer);
        sleep(INTERVAL).await;
    }
}

/// The readiness of the hubs during a cell.
#[derive(Default)]
pub(super) struct Readiness {
    hubs: usize,
    /// Those that answered 503.
    not_ready: Option<Unready>,
    /// Those that did not answer.
    no_answer: Option<Unready>,
}

/// Hubs that gave an answer other than 200.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Unready {
    hubs: usize,
    /// The time from the failure to the first such answer.
    after: Duration,
    /// The longest time in which a hub gave only such answers.
    longest: Duration,
}

impl Unready {
    fn new<'a>(
        logs: impl Iterator<Item = &'a AnswerLog>,
        answer: Answer,
        broken_at: Instant,
        end: Instant,
    ) -> Option<Self> {
        let mut unready: Option<Self> = None;
        for log in logs {
            let periods: Vec<_> = log.periods(answer, end).filter(|(_, end)| *end > broken_at).collect();
            let Some((first, _)) = periods.first() else { continue };
            let after = first.saturating_duration_since(broken_at);
            let longest = periods.iter().map(|(start, end)| end.duration_since(*start)).max().unwrap_or_default();
            let others = unready.unwrap_or(Self { hubs: 0, after, longest });
            unready = Some(Self {
                hubs: others.hubs + 1,
                after: others.after.min(after),
                longest: others.longest.max(longest),
            });
        }
        unready
    }

    fn to_json(self) -> Value {
        let Self { hubs, after, longest } = self;
        json!({"hubs": hubs, "after_seconds": after.as_secs_f64(), "longest_seconds": longest.as_secs_f64()})
    }
}

impl Readiness {
    /// In words.
    pub(super) fn describe(&self) -> String {
        let all = self.hubs;
        let part = |what: &str, unready: Option<Unready>| {
            unready.map(|Unready { hubs, after, longest }| {
                let (after, longest) = (after.as_secs_f64(), longest.as_secs_f64());
                format!("{what} from {hubs} of {all} after {after:.1} s, for {longest:.1} s")
            })
        };
        let parts: Vec<String> =
            [part("503", self.not_ready), part("no answer", self.no_answer)].into_iter().flatten().collect();
        if parts.is_empty() { "200".to_owned() } else { parts.join("; ") }
    }

    /// As JSON.
    pub(super) fn to_json(&self) -> Value {
        let of = |unready: Option<Unready>| unready.map_or(Value::Null, Unready::to_json);
        json!({"hubs": self.hubs, "not_ready": of(self.not_ready), "no_answer": of(self.no_answer)})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_longest_period_of_an_answer_are_found_over_all_hubs() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let log = |answers: &[(u64, Answer)]| {
            let mut log = AnswerLog::default();
            answers.iter().for_each(|(ms, answer)| log.record(at(*ms), *answer));
            log
        };
        use Answer::{NotReady, Nothing, Ready};
        let logs = [
            log(&[(0, NotReady), (50, Ready), (200, NotReady), (300, NotReady), (400, Ready), (500, NotReady)]),
            log(&[(0, Ready), (250, Nothing), (700, Ready)]),
            log(&[(0, Ready)]),
        ];
        let of = |answer| Unready::new(logs.iter(), answer, at(100), at(1000));
        let expected =
            |after, longest| Some(Unready { hubs: 1, after: at(after) - start, longest: at(longest) - start });
        assert_eq!(of(NotReady), expected(100, 500), "what was before the failure does not count");
        assert_eq!(of(Nothing), expected(150, 450));
        let readiness = Readiness { hubs: 3, not_ready: of(NotReady), no_answer: of(Nothing) };
        assert_eq!(
            readiness.describe(),
            "503 from 1 of 3 after 0.1 s, for 0.5 s; no answer from 1 of 3 after 0.1 s, for 0.5 s"
        );
        assert_eq!(Readiness { hubs: 3, ..Readiness::default() }.describe(), "200");
    }
}

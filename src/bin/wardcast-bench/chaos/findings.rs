//! What publishers and subscribers have recorded, and what follows from it: what clients saw, for how long, and what was lost.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::readiness::Readiness;

/// Times below this are the normal distance of publications on a busy machine.
const NOTICEABLE: Duration = Duration::from_millis(500);

/// Counts by reason.
pub(super) type Counts = BTreeMap<String, u64>;

/// A publication that was sent. Its number is its place in the list.
pub(super) struct Publication {
    /// The index of its channel.
    pub(super) channel: usize,
    /// `None` before the answer.
    pub(super) answer: Option<Answer>,
}

/// The answer to a publication.
pub(super) struct Answer {
    /// When it was read.
    pub(super) at: Instant,
    /// Why the publication was refused; `None` if it was accepted.
    pub(super) refusal: Option<String>,
}

impl Publication {
    /// Returns whether a hub has answered that the publication is accepted.
    fn is_accepted(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.refusal.is_none())
    }
}

/// Why a recovery failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unrecovered {
    /// The channel has begun again.
    NewEpoch,
    /// The history does not reach back to the position.
    TooOld,
}

/// What a subscriber has seen.
#[derive(Default)]
pub(super) struct SubscriberLog {
    /// The index of its channel.
    channel: usize,
    /// Whether it subscribes with a position and recovers.
    pub(super) is_recovering: bool,
    /// Whether it is subscribed at the moment.
    pub(super) is_live: bool,
    /// The numbers of the publications, in the order in which they arrived, and when.
    received: Vec<(u64, Instant)>,
    /// Why its connections have ended.
    ends: Counts,
    /// Unsubscribe codes and errors.
    told: Counts,
    /// Successful recoveries.
    pub(super) recovered: u64,
    /// Failed recoveries.
    pub(super) unrecovered: Vec<Unrecovered>,
    /// Publications whose offset was not the next one.
    pub(super) offset_faults: u64,
}

impl SubscriberLog {
    /// The log of a subscriber that has seen nothing yet.
    pub(super) fn new(channel: usize, is_recovering: bool) -> Self {
        Self { channel, is_recovering, ..Self::default() }
    }

    /// Records a publication that was received now.
    pub(super) fn record_publication(&mut self, number: u64) {
        self.received.push((number, Instant::now()));
    }

    /// Records the end of a connection.
    pub(super) fn record_end(&mut self, reason: String) {
        self.is_live = false;
        *self.ends.entry(reason).or_default() += 1;
    }

    /// Records the end of a subscription.
    pub(super) fn record_unsubscribed(&mut self, code: u64) {
        self.is_live = false;
        *self.told.entry(format!("unsubscribed {code}")).or_default() += 1;
    }

    /// Records an error reply.
    pub(super) fn record_error(&mut self, code: u64) {
        *self.told.entry(format!("error {code} to subscribe")).or_default() += 1;
    }

    /// Returns whether the subscriber is live and has received a publication that is not older than this one.
    pub(super) fn has_received_from(&self, number: u64) -> bool {
        self.is_live && self.received.iter().rev().any(|(received, _)| *received >= number)
    }

    /// Returns whether the subscriber has received all accepted publications of its channel, or does not recover.
    pub(super) fn is_complete(&self, publications: &[Publication]) -> bool {
        !self.is_recovering || self.losses(publications).lost == 0
    }

    /// What it has not received, or twice.
    fn losses(&self, publications: &[Publication]) -> Losses {
        let mut times = vec![0_u64; publications.len()];
        for (number, _) in &self.received {
            if let Some(times) = times.get_mut(*number as usize) {
                *times += 1;
            }
        }
        let own = || publications.iter().zip(&times).filter(|(publication, _)| publication.channel == self.channel);
        let count = |is_counted: &dyn Fn(&Publication, u64) -> bool| {
            own().filter(|(publication, times)| is_counted(publication, **times)).count() as u64
        };
        let missing = count(&|publication, times| publication.is_accepted() && times == 0);
        // A subscriber whose recovery failed knows that it has missed something.
        let is_told = !self.unrecovered.is_empty();
        Losses {
            accepted: count(&|publication, _| publication.is_accepted()),
            lost: if is_told { 0 } else { missing },
            told: if is_told { missing } else { 0 },
            doubled: own().map(|(_, times)| times.saturating_sub(1)).sum(),
            arrived_though_refused: count(&|publication, times| !publication.is_accepted() && times > 0),
        }
    }

    /// The longest time without a publication.
    fn silence(&self) -> Duration {
        longest_gap(self.received.iter().map(|(_, at)| *at))
    }
}

/// What became of the publications that subscribers should have received, summed over subscribers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Losses {
    /// Those that were answered with ok.
    pub(super) accepted: u64,
    /// Those of them that never arrived, without a word to the subscriber.
    pub(super) lost: u64,
    /// Those of them that never arrived at subscribers whose recovery failed, and who know it.
    pub(super) told: u64,
    /// Deliveries beyond the first.
    pub(super) doubled: u64,
    /// Those that were answered with an error, or not at all, and arrived.
    pub(super) arrived_though_refused: u64,
}

impl Losses {
    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.lost += other.lost;
        self.told += other.told;
        self.doubled += other.doubled;
        self.arrived_though_refused += other.arrived_though_refused;
    }
}

/// What a cell has shown.
#[derive(Default)]
pub(super) struct Findings {
    /// How many subscribers there were.
    pub(super) subscribers: u64,
    /// How many of them lost their connection.
    pub(super) disconnected: u64,
    /// Why, by reason.
    pub(super) ends: Counts,
    /// Unsubscribe codes and errors to subscribe commands.
    pub(super) told: Counts,
    /// Successful recoveries.
    pub(super) recovered: u64,
    /// Failed recoveries, because the channel has begun again, or the history did not reach back.
    pub(super) new_epochs: u64,
    pub(super) too_old: u64,
    /// Publications.
    pub(super) publications: u64,
    /// Those that were not accepted, by reason.
    pub(super) refused: Counts,
    /// The longest time without an accepted publication.
    pub(super) publish_outage: Duration,
    /// The longest time in which a subscriber received nothing.
    pub(super) silence: Duration,
    /// Losses of subscribers that recover, and of plain ones.
    pub(super) recovering: Losses,
    pub(super) plain: Losses,
    /// Publications whose offset was not the next one, at recovering subscribers.
    pub(super) offset_faults: u64,
    /// How long after the end of the failure all subscribers received new publications; `None` if some never did.
    pub(super) settled_after: Option<Duration>,
    /// What the hubs have answered to `/health/ready`.
    pub(super) readiness: Readiness,
}

impl Findings {
    /// Draws the conclusions.
    pub(super) fn new<'a>(
        publications: &[Publication],
        logs: impl Iterator<Item = &'a SubscriberLog>,
        settled_after: Option<Duration>,
    ) -> Self {
        let mut findings = Self { settled_after, publications: publications.len() as u64, ..Self::default() };
        let mut accepted: Vec<Instant> = Vec::new();
        for publication in publications {
            match &publication.answer {
                Some(Answer { at, refusal: None }) => accepted.push(*at),
                Some(Answer { refusal: Some(reason), .. }) => *findings.refused.entry(reason.clone()).or_default() += 1,
                None => *findings.refused.entry("no answer".to_owned()).or_default() += 1,
            }
        }
        accepted.sort_unstable();
        findings.publish_outage = longest_gap(accepted.into_iter());
        for log in logs {
            findings.subscribers += 1;
            findings.disconnected += u64::from(!log.ends.is_empty());
            add_counts(&mut findings.ends, &log.ends);
            add_counts(&mut findings.told, &log.told);
            findings.recovered += log.recovered;
            let count = |why| log.unrecovered.iter().filter(|unrecovered| **unrecovered == why).count() as u64;
            findings.new_epochs += count(Unrecovered::NewEpoch);
            findings.too_old += count(Unrecovered::TooOld);
            findings.offset_faults += log.offset_faults;
            findings.silence = findings.silence.max(log.silence());
            let losses = if log.is_recovering { &mut findings.recovering } else { &mut findings.plain };
            losses.add(log.losses(publications));
        }
        findings
    }

    /// Returns whether something has happened that must not: a recovering subscriber lost a publication without learning
    /// of it, received one twice, or a subscriber never received any again.
    pub(super) fn has_failed(&self) -> bool {
        let Losses { lost, doubled, .. } = self.recovering;
        lost + doubled + self.offset_faults > 0 || self.settled_after.is_none()
    }

    /// What clients see, in words.
    pub(super) fn what_clients_see(&self) -> String {
        let mut parts = vec![match (self.disconnected, self.subscribers) {
            (0, _) => "stay connected".to_owned(),
            (some, all) if some == all => format!("{} and reconnect", reasons(&self.ends)),
            (some, all) => {
                format!("{some} of {all}: {}, and reconnect; the others stay connected", reasons(&self.ends))
            }
        }];
        parts.extend((!self.told.is_empty()).then(|| counted(&self.told)));
        let outcomes = [
            (self.recovered, "recovered"),
            (self.new_epochs, "not recovered: new epoch"),
            (self.too_old, "not recovered: no history for the position"),
        ];
        parts.extend(outcomes.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} × {what}")));
        parts.push(match self.refused.is_empty() {
            true => "publishing works".to_owned(),
            false => format!("publishing: {}", counted(&self.refused)),
        });
        parts.join("; ")
    }

    /// How long, in words.
    pub(super) fn how_long(&self) -> String {
        let Some(settled_after) = self.settled_after else { return "not back at the end of the cell".to_owned() };
        let time = |time: Duration| match time {
            time if time < NOTICEABLE => format!("below {:.1} s", NOTICEABLE.as_secs_f64()),
            time => format!("{:.1} s", time.as_secs_f64()),
        };
        let (silence, publish_outage) = (time(self.silence), time(self.publish_outage));
        format!(
            "all receive {} after its end; no delivery for {silence}, no accepted publish for {publish_outage}",
            time(settled_after)
        )
    }

    /// What is lost, in words.
    pub(super) fn what_is_lost(&self) -> String {
        let Losses { accepted, lost, told, doubled, .. } = self.recovering;
        let mut parts = vec![format!("recovering: {lost} of {accepted} lost, {doubled} doubled")];
        parts.extend((told > 0).then(|| format!("{told} missed by subscribers that know it")));
        let faults = self.offset_faults;
        parts.extend((faults > 0).then(|| format!("{faults} offsets out of order")));
        let Losses { accepted, lost, doubled, .. } = self.plain;
        let doubled = if doubled > 0 { format!(", {doubled} doubled") } else { String::new() };
        parts.push(format!("plain: {lost} of {accepted} lost{doubled}"));
        let arrived = self.recovering.arrived_though_refused;
        parts.extend((arrived > 0).then(|| format!("{arrived} arrived though publishing was answered with an error")));
        parts.join("; ")
    }
}

fn add_counts(to: &mut Counts, from: &Counts) {
    from.iter().for_each(|(reason, count)| *to.entry(reason.clone()).or_default() += count);
}

fn counted(counts: &Counts) -> String {
    counts.iter().map(|(reason, count)| format!("{count} × {reason}")).collect::<Vec<_>>().join(", ")
}

fn reasons(counts: &Counts) -> String {
    counts.keys().cloned().collect::<Vec<_>>().join(" or ")
}

/// The longest time between two moments that follow each other.
fn longest_gap(moments: impl Iterator<Item = Instant>) -> Duration {
    let (mut previous, mut longest) = (None, Duration::ZERO);
    for moment in moments {
        longest = longest.max(previous.map_or(Duration::ZERO, |previous| moment.duration_since(previous)));
        previous = Some(moment);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLED: Option<Duration> = Some(Duration::from_millis(100));

    /// Publications to one channel, one per 10 ms, accepted or not.
    fn publications(accepted: &[bool]) -> Vec<Publication> {
        let start = Instant::now();
        let publication = |(number, is_accepted): (usize, &bool)| {
            let at = start + Duration::from_millis(10) * number as u32;
            let refusal = (!is_accepted).then(|| "error 100".to_owned());
            Publication { channel: 0, answer: Some(Answer { at, refusal }) }
        };
        accepted.iter().enumerate().map(publication).collect()
    }

    fn subscriber(is_recovering: bool, received: &[u64]) -> SubscriberLog {
        let mut log = SubscriberLog::new(0, is_recovering);
        log.is_live = true;
        received.iter().for_each(|number| log.record_publication(*number));
        log
    }

    #[test]
    fn lost_doubled_and_unexpected_publications_are_counted_by_kind_of_subscriber() {
        let publications = publications(&[true, true, false, true]);
        let logs = [subscriber(true, &[0, 1, 1, 2, 3]), subscriber(false, &[0])];
        let findings = Findings::new(&publications, logs.iter(), SETTLED);
        let recovering = Losses { accepted: 3, lost: 0, told: 0, doubled: 1, arrived_though_refused: 1 };
        assert_eq!(findings.recovering, recovering);
        assert_eq!(findings.plain, Losses { accepted: 3, lost: 2, ..Losses::default() });
        assert!(findings.has_failed(), "a doubled publication");
        assert_eq!(findings.refused, Counts::from([("error 100".to_owned(), 1)]));
        let text = findings.what_is_lost();
        assert_eq!(
            text,
            "recovering: 0 of 3 lost, 1 doubled; plain: 2 of 3 lost; 1 arrived though publishing was answered with an error"
        );
    }

    #[test]
    fn subscriber_whose_recovery_failed_has_lost_nothing_without_knowing() {
        let publications = publications(&[true; 3]);
        let mut log = subscriber(true, &[0]);
        assert!(Findings::new(&publications, [&log].into_iter(), SETTLED).has_failed());
        log.unrecovered.push(Unrecovered::NewEpoch);
        let findings = Findings::new(&publications, [&log].into_iter(), SETTLED);
        assert_eq!((findings.recovering.lost, findings.recovering.told, findings.new_epochs), (0, 2, 1));
        assert!(!findings.has_failed());
        assert!(Findings::new(&publications, [&log].into_iter(), None).has_failed(), "it is not live");
    }

    #[test]
    fn clients_that_stay_and_clients_that_reconnect_are_told_apart() {
        let mut ended = subscriber(true, &[0]);
        ended.record_end("close 3001 shutdown".to_owned());
        ended.recovered = 1;
        let logs = [ended, subscriber(false, &[0])];
        let see =
            |logs: &[SubscriberLog]| Findings::new(&publications(&[true]), logs.iter(), SETTLED).what_clients_see();
        assert_eq!(
            see(&logs),
            "1 of 2: close 3001 shutdown, and reconnect; the others stay connected; 1 × recovered; publishing works"
        );
        assert_eq!(see(&logs[1..]), "stay connected; publishing works");
        assert_eq!(see(&logs[..1]), "close 3001 shutdown and reconnect; 1 × recovered; publishing works");
    }

    #[test]
    fn longest_gap_is_found_between_neighbours() {
        let start = Instant::now();
        let moments = [0, 10, 40, 45].map(|at| start + Duration::from_millis(at));
        assert_eq!(longest_gap(moments.into_iter()), Duration::from_millis(30));
        assert_eq!(longest_gap([].into_iter()), Duration::ZERO);
    }
}

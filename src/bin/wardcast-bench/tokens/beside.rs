//! Sessions that stay connected beside something that costs the hub much, in a channel to which publications arrive.

use super::{
    SECOND,
    publisher::{Publisher, TimedFrom},
    sessions::{SessionPlan, Sessions},
    staying::StayingSessions,
};
use crate::error::Result;
use crate::{clock, hub_under_test::HubUnderTest, run::Run};

/// How long their tokens are valid, in seconds: longer than any run.
const TOKEN_SECONDS: u64 = 3600;

/// The sessions, and the publisher of their channel.
pub(crate) struct SessionsBeside {
    staying: StayingSessions,
    publisher: Publisher,
}

impl SessionsBeside {
    /// Opens `count` sessions in a channel, and publishes to it at this rate per second, with this size. They need a hub with a secret.
    pub(crate) fn start(
        hub: &HubUnderTest<'_>,
        run: &Run,
        count: usize,
        (channel, rate, size): (&str, f64, usize),
    ) -> Result<Self> {
        let expires_at = clock::unix_nanos() / SECOND + TOKEN_SECONDS;
        let plan = |number| SessionPlan { user: format!("beside-{number}"), expires_at, end: None };
        let sessions = Sessions::open((hub, channel), run, 0..count, 0, plan)?;
        let staying = StayingSessions::start(sessions)?;
        // A hub that answers late would otherwise be judged only by the publications that it has answered.
        let publisher = Publisher::start((hub, channel), rate, size, TimedFrom::Due)?;
        Ok(Self { staying, publisher })
    }

    /// Waits until each session has received a publication, so that there are deliveries to compare with.
    pub(crate) fn wait_for_publications(&self, run: &Run) {
        self.staying.wait_for_publications(run);
    }

    /// Ends everything, and reports the deliveries before this time and within it. Returns how many publications there were.
    pub(crate) fn finish(self, during: (u64, u64), run: &mut Run) -> Result<u64> {
        let published = self.publisher.stop()?;
        self.staying.finish(during, run)?;
        Ok(published)
    }
}

//! Where publications go out: the HTTP API of a hub, or the control connection of the comparison server.

use crate::error::Result;

/// What became of a publication on its way in.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Taken: it will be delivered.
    Taken,
    /// Not taken (such as error 111, too many): it may be tried again.
    Refused(String),
}

/// A way to publish, in lanes: within a lane the next publication waits for the answer to the last.
pub(crate) trait Outlet {
    /// Sends the data of a publication on a free lane. Returns the answer where there is none to wait for.
    fn send(&mut self, lane: usize, data: &[u8]) -> Result<Option<Answer>>;

    /// Handles an event of the poll and appends the answers that came, with their lanes.
    fn ready(&mut self, token: usize, answers: &mut Vec<(usize, Answer)>) -> Result<()>;
}

//! Where publications go out: the HTTP API of a hub, or the control connection of the comparison server.

use crate::error::Result;

/// What became of what was sent: one publication, or those of a batch or broadcast.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishAnswer {
    /// How many were taken: they will be delivered.
    pub(crate) accepted: u32,
    /// The errors of those that were not (such as 111, too many): they may be tried again.
    pub(crate) refused: Vec<String>,
}

impl PublishAnswer {
    /// All were taken.
    pub(crate) fn accepted(count: u32) -> Self {
        Self { accepted: count, refused: Vec::new() }
    }

    /// None was taken.
    pub(crate) fn refused(error: impl Into<String>) -> Self {
        Self { accepted: 0, refused: vec![error.into()] }
    }
}

/// A way to publish, in lanes: within a lane the next publication waits for the answer to the last.
pub(crate) trait PublishTransport {
    /// Sends the data of a publication on a free lane. Returns the answer where there is none to wait for.
    fn send(&mut self, publisher: usize, data: &[u8]) -> Result<Option<PublishAnswer>>;

    /// Handles an event of the poll and appends the answers that came, with their lanes.
    fn ready(&mut self, token: usize, answers: &mut Vec<(usize, PublishAnswer)>) -> Result<()>;
}

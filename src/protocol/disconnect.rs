//! Reasons for which a connection is closed. The range of the code tells a client what to do: 3500–3999 stay away,
//! everything else come back with backoff. 1002–1011 are RFC 6455's own and come from the transport.

/// Why a connection is closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// This instance is going; another will take the client.
    Shutdown = 3001,
    /// The token's time is over.
    Expired = 3005,
    /// The client reads more slowly than its channels speak (`limits.outbox_bytes`).
    Slow = 3008,
    /// No pong within `server.pong_timeout`.
    NoPong = 3012,
    /// Token refused: signature, claims, or another user's.
    InvalidToken = 3500,
    /// What came makes no sense in this protocol.
    BadRequest = 3501,
    /// Nothing said who this is within `auth.first_message_timeout`.
    Stale = 3502,
    /// Asked for what is not switched on.
    NotAvailable = 3508,
    /// More nonsense than `limits.errors`.
    TooManyErrors = 3509,
}

impl Disconnect {
    /// The close code.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// Plain text, at most 123 bytes (RFC 6455 §5.5.1), never valid JSON: clients that expect an object there fail loudly.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Expired => "connection expired",
            Self::Slow => "slow",
            Self::NoPong => "no pong",
            Self::InvalidToken => "invalid token",
            Self::BadRequest => "bad request",
            Self::Stale => "stale",
            Self::NotAvailable => "not available",
            Self::TooManyErrors => "too many errors",
        }
    }
}

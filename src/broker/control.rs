//! Orders of the server API to the sessions of a user, wherever they are.

use serde::{Deserialize, Serialize};

/// An order to sessions, on all instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Whose sessions.
    pub user: String,
    /// Only the connection with this id.
    pub client: Option<String>,
    /// All connections but those with these ids.
    pub whitelist: Vec<String>,
    /// What they have to do.
    pub order: Order,
}

/// What sessions have to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Order {
    /// Stop receiving a channel (unsubscribe push 2000).
    Unsubscribe {
        /// Its name, checked.
        channel: String,
    },
    /// Go.
    Disconnect {
        /// The close code, 3000 to 4999.
        code: u16,
        /// At most 123 bytes.
        reason: String,
    },
    /// End at another time than the token says.
    Refresh {
        /// Milliseconds since the epoch; `None`: it does not end by itself.
        expires_at: Option<i64>,
        /// Raw JSON that replaces what others see of the user.
        info: Option<String>,
    },
}

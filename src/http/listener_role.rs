//! The role of the listener on which a request has arrived, which decides what it serves: the only listener, the public one or
//! the internal one.

/// The role of a listener. Each instance of the application has it in its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// Everything: `server.internal_bind` is not set.
    Sole,
    /// Clients and users: WebSockets, `/auth`, `/v1` with tokens, the demo page. The API key is refused here.
    Public,
    /// Backends and operators: the server API, `/v1` and metrics.
    Internal,
}

impl ListenerRole {
    /// Returns whether clients connect and users log in here.
    pub fn serves_clients(self) -> bool {
        self != Self::Internal
    }

    /// Returns whether the API key is accepted, and metrics are served.
    pub fn serves_operators(self) -> bool {
        self != Self::Public
    }
}

//! Wardcast: a JWT-guarded realtime hub. Clients hold a WebSocket, subscribe to channels, and receive what anyone
//! publishes there over REST or a socket, on whichever instance they sit.
//!
//! This file is the map. The rooms stand in the order in which a message meets them:
//!
//! ```text
//!  TCP ─▶ http (actix-web App, doors) ─▶ 101 + Admission ─▶ transport (the socket, frames)
//!                                                             │ commands
//!  REST ─▶ api ─┐                                         session (actor, one per connection)
//!               ▼                                             │ subscribe / publish
//!            broker (memory | redis) ◀── first/last interest ─ hub (actor, one per worker thread)
//!               │ deliveries: one wake per worker, never one per session  ▲
//!               └─────────────────────────────────────────────────────────┘ fan-out: outbox of each session
//! ```
//!
//! Who may know whom stands in docs/architecture.md and is checked by `tests/architecture.rs`.

#![forbid(unsafe_code)]

// What everybody may know: nouns without behaviour, time, counters, configuration.
pub mod channel;
pub mod publication;

pub mod position;

pub mod tags;

pub mod filter;

pub mod delta;

pub mod address;

pub mod origin;

pub mod clock;

pub mod connection_limit;

pub mod rate_limit;

pub mod metrics;

pub mod config;

// The only place that knows the wire: commands, replies, pushes, codes, frames.
pub mod protocol;

// The door: HTTP up to the 101.
pub mod http;

// Who is this, and until when.
pub mod auth;

// The socket itself: strict reading, bounded writing.
pub mod transport;

// One connection that is somebody.
pub mod session;

// One per worker: who listens to what, and the fan-out.
pub mod hub;

// The one seam: memory or Redis.
pub mod broker;

// The server API over REST.
pub mod api;

// The demo page: static files, and what they must know of the hub.
pub mod web;

// The composition root.
pub mod server;

// The command line.
pub mod cli;

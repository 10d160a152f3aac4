//! Wardcast: a realtime hub guarded by JSON Web Tokens. Clients hold a WebSocket, or an HTTP response that does not end, subscribe to channels, and receive what is
//! published there over the REST API or a WebSocket, on any instance.
//!
//! This file is the map of the crate. The modules are in the order in which a message passes them:
//!
//! ```text
//!  TCP ─▶ http (actix-web App, handshake) ─▶ 101 + Admission ─▶ transport (socket, frames)
//!                                                                │ commands
//!  REST ─▶ api ─┐                                            session (actor, one per connection)
//!               ▼                                                │ subscribe / publish
//!            broker (memory | redis) ◀── first/last subscriber ── hub (actor, one per worker thread)
//!               │ deliveries: one wake-up per worker, never one per session  ▲
//!               └────────────────────────────────────────────────────────────┘ fan-out: outbox of each session
//! ```
//!
//! docs/architecture.md says which module may import which; `tests/architecture.rs` checks it.

#![forbid(unsafe_code)]

// Basic types. Every module may import them.

// Enums whose variants each have a text.
mod text_enum;
// Strict reading of JSON.
mod json;
// Channel names and the patterns that match them.
pub mod channel;
// A publication.
pub mod publication;
// Offset and epoch of a publication in the history of its channel.
pub mod position;
// Tags of a publication.
pub mod tags;
// Filters on tags.
pub mod filter;
// Deltas: a publication as the difference to its base publication.
pub mod delta;
// Client addresses, as limits count them.
pub mod address;
// Web origins and the patterns of `origins.allowed`.
pub mod origin;
// The wall clock for dates, and the monotonic clock for everything that has a length. Tests move them.
pub mod clock;
// Limits of concurrent connections.
pub mod connection_limit;
// Rate limits.
pub mod rate_limit;
// Log lines that others may cause as often as they like.
pub mod log_throttle;
// Certificates and keys in PEM files.
pub mod certificate;
// Requests that the hub sends to other servers.
mod http_client;
// The audit log: who was let in, refused or revoked, and by whom.
pub mod audit;
// Revoked tokens: the list, shared by verifier, hubs and broker.
pub mod revocation;
// Commands of clients whose connection is an HTTP response.
pub mod emulation;
// permessage-deflate: what is negotiated, and compressing and inflating a message.
pub mod deflate;
// Prometheus metrics.
pub mod metrics;
// Configuration: loading, validating and printing.
pub mod config;

// A message's way through the server.

// The client protocol: commands, replies, pushes, codes and frames, in JSON and Protobuf.
pub mod protocol;
// HTTP up to the 101: routes, handshake, login, tickets, health.
pub mod http;
// Authentication and authorization: tokens, keys, claims, permissions.
pub mod auth;
// Calls of the operator's backend: hooks over HTTP.
pub mod hooks;
// The socket: validated reading, bounded writing.
pub mod transport;
// The session actor: one per connection.
pub mod session;
// The hub actor: one per worker, with its subscriptions and the fan-out.
pub mod hub;
// The broker: publications, history, presence and tickets, in memory or in Redis.
pub mod broker;
// The server API over REST.
pub mod api;
// The demo page.
pub mod web;

// Entry points.

// The composition root: creates the parts of a server and starts it.
pub mod server;
// The command line.
pub mod cli;

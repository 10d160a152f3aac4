//! The tests, one subject a module. They talk to real servers over real sockets; what is pure is tested where it stands.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

// The plan of the house: who imports whom, sizes, the top level.
mod architecture;
// How a token gets in, and what happens to one that does not.
mod credentials;
// Each door by itself, and what comes of what is brought to it.
mod credentials_by_door;
// Attacks on tokens and their keys.
mod tokens;
// What is accepted as a WebSocket handshake.
mod handshake;
// Whose pages may connect, and read.
mod origins;
// Tickets: a token's stand-in for one connection.
mod tickets;
// Addresses, schemes and headers that proxies tell.
mod proxies;
// How many may come, and how fast.
mod connection_limits;
// What a client sends as frames, and how it is judged.
mod frames;
// What a client says, and what it is answered.
mod commands;
// The wire, byte for byte.
mod wire;
// Protobuf beside JSON.
mod protobuf;
// Protobuf, byte for byte.
mod protobuf_wire;
// A publication's way from REST or a socket to every subscriber.
mod delivery;
// A hub without sessions around it.
mod hub_actor;
// Subscriptions while the broker is slow, or fails.
mod slow_broker;
// The server API and the plain form.
mod api;
// What is said to the server API to hurt it.
mod api_attacks;
// Attacks on each field of each method, made from the descriptions of the methods.
mod api_fields;
// Read-only methods change nothing.
mod api_access;
// How calls of the server API arrive.
mod api_bodies;
// Many commands in one call.
mod api_batch;
// Histories and presence, over the API and a socket.
mod api_history;
// Orders to the sessions of a user.
mod control_messages;
// Tokens end on time, whatever the client does.
mod expiry;
// Newer tokens: refresh, and a token on any command.
mod refresh;
// Subscriptions that a token grants or brings, and their end.
mod subscriptions;
// Coming back: what was missed comes with the reply, or is told to be gone.
mod recovery;
// Gaps, live and in silence: 2500 and 3010.
mod positions;
// Who is in a channel, and who comes and goes.
mod presence;
// Differences between publications.
mod deltas;
// Tag filters.
mod filters;
// What the server API brings, and whom it leaves out.
mod api_subscribe;
// Rights to channels, on every path.
mod permissions;
// Sessions without a user.
mod anonymous;
// How fast a client may ask, and how many it may be.
mod rate_limits;
// Orders of the server API to living sessions.
mod session_control;
// Everything at once, by chance.
mod stress;
// Pings, pongs, and connections that are dead.
mod keep_alive;
// The bounded queue of one connection.
mod outbox;
// Clients that do not read.
mod slow_consumers;
// User and password for a token.
mod login;
// README.md and docs/ against the code.
mod docs;
// docs/server-api.md, generated from the methods; its examples.
mod server_api_docs;
// docs/codes.md, generated from the codes, and other lists of codes.
mod codes_docs;
// docs/configuration.md, generated from config/*.toml.
mod configuration_docs;
// The demo page and its headers.
mod demo_page;
// Certificates.
mod tls;
// Starting, stopping and asking for health.
mod lifecycle;
// The command line, as a process.
mod command_line;
// The load generator, on hubs of its own and on hubs with limits.
mod bench;
// Memory and Redis keep the same promises.
mod broker;
// What holds for any bytes at all.
mod fuzzing;
// Two hubs on one Redis.
mod two_hubs;

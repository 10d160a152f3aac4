//! Black-box tests, one module for each subject. They start real hubs and connect over real sockets. Unit tests are in src,
//! beside the code.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

// The tools of the tests themselves.
mod redis_tools;

// The structure of the source, and the documentation.
mod architecture;
mod docs;

// Authentication and permissions.
mod admin;
mod admin_sessions;
mod anonymous;
mod audit;
mod audit_logins;
mod backchannel_logout;
mod connect_hook;
mod connect_hook_failures;
mod credentials;
mod credentials_by_door;
mod ended_logins;
mod expiry;
mod expiry_warning;
mod identity_providers;
mod issuers;
mod key_files;
mod key_reload;
mod key_set_attacks;
mod key_sets;
mod login;
mod login_attacks;
mod logins_under_way;
mod logout;
mod logout_failures;
mod permissions;
mod refresh;
mod refresh_tokens;
mod renewal_hooks;
mod ticket_store;
mod tickets;
mod tokens;
mod users_file;

// HTTP, handshakes and the transport.
mod compression;
mod compression_attacks;
mod connection_limits;
mod demo_page;
mod frames;
mod handshake;
mod internal_listener;
mod keep_alive;
mod listeners;
mod origins;
mod outbox;
mod pacing;
mod packages;
mod passed_sockets;
mod path_prefix;
mod pipelining;
mod proxies;
mod slow_consumers;
mod storms;
mod stream_requests;
mod streams;
mod tls;
mod tls_attacks;
mod tls_resumption;

// The client protocol.
mod channel_names;
mod commands;
mod protobuf;
mod protobuf_wire;
mod rate_limits;
mod shared_limits;
mod wire;

// Channels, delivery and subscriptions.
mod binary_data;
mod broker_losses;
mod channel_event_refusals;
mod channel_events;
mod clock_steps;
mod delivery;
mod deltas;
mod filters;
mod gaps;
mod hook_event_answers;
mod hook_event_refusals;
mod hook_events;
mod hook_events_on_nodes;
mod hook_failures;
mod hook_shapes;
mod hooks;
mod hub_actor;
mod large_publications;
mod overrides;
mod personal_channels;
mod positions;
mod presence;
mod recovery;
mod reload;
mod request_ids;
mod restored_subscriptions;
mod revocation;
mod revocation_on_nodes;
mod revocation_reach;
mod send_hook;
mod slow_broker;
mod stress;
mod subscribe_groups;
mod subscriptions;

// The server API.
mod api;
mod api_access;
mod api_attacks;
mod api_base64;
mod api_batch;
mod api_bodies;
mod api_connections;
mod api_fields;
mod api_history;
mod api_lines;
mod api_subscribe;
mod connections;
mod control_messages;
mod explain;
mod explain_refused;
mod named_limits;
mod openapi;
mod session_control;
mod traces;

// Brokers, and several hubs on one.
mod balancer;
mod broker;
mod bus_messages;
mod cluster_faults;
mod gaps_over_redis;
mod losses_over_redis;
mod node_processes;
mod presence_on_nodes;
mod two_hubs;

// The process: its life, its command line, and the load generator.
mod bench;
mod bench_chaos;
mod bench_compare;
mod bench_storm;
mod bench_tokens;
mod command_line;
mod lifecycle;
mod metrics;
mod scrapes;
mod stopping;

// The fuzz targets.
mod fuzzing;

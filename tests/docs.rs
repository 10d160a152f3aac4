//! README.md and docs/: what is generated from code is up to date, and the rest says what is true.

mod audit;
mod codes;
mod configuration;
mod pages;
mod server_api;

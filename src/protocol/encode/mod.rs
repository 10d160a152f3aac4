//! Replies and pushes, written: one file a format.

pub(super) mod json;
pub(super) mod protobuf;

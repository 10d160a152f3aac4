//! The encoders of replies and pushes, one for each format.

pub(super) mod event;
pub(super) mod json;
pub(super) mod protobuf;

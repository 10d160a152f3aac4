//! Small pieces of JSON writing that commands, replies and pushes share.

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Raw JSON that becomes part of what we write, without CR and LF: in JSON they are only ever white space, and on the wire
/// a newline ends a reply. Shares the bytes of `whole`, of which `raw` is a part, unless something has to be replaced or
/// a little of it would keep a lot: queues count what is published, not what it came in.
pub fn one_line(whole: &Bytes, raw: &RawValue) -> Bytes {
    let text = raw.get().as_bytes();
    if text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        text.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
    } else if whole.len() > 4 * text.len() {
        Bytes::copy_from_slice(text)
    } else {
        whole.slice_ref(text)
    }
}

/// Appends `value`; what we write ourselves has no map with odd keys and no float, so it cannot fail.
pub(super) fn append(into: &mut Vec<u8>, value: &impl Serialize) {
    let written = serde_json::to_writer(into, value);
    debug_assert!(written.is_ok(), "our own values are JSON");
}

/// The same for JSON that is somebody else's.
pub(super) fn raw_borrowed<S: Serializer>(bytes: &Option<&Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    raw(&bytes.cloned(), serializer)
}

/// Raw JSON in place. It was validated where it came in; should it not be JSON after all, it becomes `null`.
pub(super) fn raw<S: Serializer>(bytes: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    let raw = bytes.as_deref().and_then(|bytes| serde_json::from_slice::<&RawValue>(bytes).ok());
    raw.serialize(serializer)
}

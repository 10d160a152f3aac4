//! Where a positioned client stands in its channel's history: what it asks for with that, and what it checks of what it gets.

use serde::Deserialize;
use serde_json::value::RawValue;

/// What stands before the offset of a publication, behind its data.
const MARKER: &[u8] = b"\"offset\":";
/// More than what stands behind the data of a publication of this program.
const MAX_TAIL_BYTES: usize = 64;

/// The newest publication that a client has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamPosition {
    /// Which history.
    pub(crate) epoch: String,
    /// Which publication of it.
    pub(crate) offset: u64,
}

/// What a client wants of its subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SubscribeMode {
    /// Publications.
    Plain,
    /// To know where it stands, and to be able to come back.
    Positioned,
    /// What it has missed since it stood there.
    Recover(StreamPosition),
}

/// What clients found wrong with positions, and what they recovered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecoveryStats {
    /// Came back and got all that they had missed, as the hub says.
    pub(crate) recovered: u64,
    /// Came back and did not.
    pub(crate) unrecovered: u64,
    /// Publications that came with the replies.
    pub(crate) publications: u64,
    /// Times an offset jumped.
    pub(crate) gaps: u64,
    /// Offsets that came twice or too late.
    pub(crate) out_of_order: u64,
}

impl RecoveryStats {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: Self) {
        self.recovered += other.recovered;
        self.unrecovered += other.unrecovered;
        self.publications += other.publications;
        self.gaps += other.gaps;
        self.out_of_order += other.out_of_order;
    }
}

impl StreamPosition {
    /// Moves on to the publication that came, and books what is wrong with that.
    pub(crate) fn advance(&mut self, offset: u64, stats: &mut RecoveryStats) {
        if offset <= self.offset {
            stats.out_of_order += 1;
            return;
        }
        stats.gaps += u64::from(offset > self.offset + 1);
        self.offset = offset;
    }
}

/// The offset in a publication's push, or `None` when it has none.
pub(crate) fn find_offset(push: &[u8]) -> Option<u64> {
    let end = &push[push.len().saturating_sub(MAX_TAIL_BYTES)..];
    let start = end.windows(MARKER.len()).rposition(|at| at == MARKER)? + MARKER.len();
    let digits = end[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&end[start..start + digits]).ok()?.parse().ok()
}

/// The subscribe command, with id 1.
pub(crate) fn subscribe_command(channel: &str, mode: &SubscribeMode) -> String {
    let mut request = serde_json::json!({ "channel": channel });
    if *mode != SubscribeMode::Plain {
        request["positioned"] = true.into();
        request["recoverable"] = true.into();
    }
    if let SubscribeMode::Recover(StreamPosition { epoch, offset }) = mode {
        request["recover"] = true.into();
        request["epoch"] = epoch.as_str().into();
        request["offset"] = (*offset).into();
    }
    serde_json::json!({"id": 1, "subscribe": request}).to_string()
}

/// The reply to a subscribe command.
#[derive(Debug, Deserialize)]
pub(crate) struct SubscribeReply<'a> {
    /// Its result.
    #[serde(borrow)]
    pub(crate) subscribe: SubscribeResult<'a>,
}

/// A subscription, as the hub describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct SubscribeResult<'a> {
    /// Which history; none when the channel has none.
    #[serde(default)]
    pub(crate) epoch: Option<&'a str>,
    /// Where the client begins in it.
    #[serde(default)]
    pub(crate) offset: u64,
    /// Whether it got all that it had missed.
    #[serde(default)]
    pub(crate) recovered: bool,
    /// What it had missed.
    #[serde(borrow, default)]
    pub(crate) publications: Vec<RecoveredPublication<'a>>,
}

/// A publication that came with the reply.
#[derive(Debug, Deserialize)]
pub(crate) struct RecoveredPublication<'a> {
    /// Its data.
    #[serde(borrow)]
    pub(crate) data: &'a RawValue,
    /// Its place in the history.
    #[serde(default)]
    pub(crate) offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_is_read_after_the_data_and_not_inside_it() {
        let push = |rest: &str| format!(r#"{{"push":{{"channel":"a","pub":{{"data":{{"offset":7}}{rest}}}}}}}"#);
        assert_eq!(find_offset(push(r#","offset":1234"#).as_bytes()), Some(1234));
        assert_eq!(find_offset(push(r#","offset":18446744073709551615,"delta":true"#).as_bytes()), Some(u64::MAX));
        assert_eq!(find_offset(b"{}"), None);
    }

    #[test]
    fn gaps_and_repetitions_are_counted_separately() {
        let (mut position, mut stats) = (StreamPosition { epoch: "e".to_owned(), offset: 4 }, RecoveryStats::default());
        [5, 6, 9, 9, 2, 10].into_iter().for_each(|offset| position.advance(offset, &mut stats));
        assert_eq!((position.offset, stats.gaps, stats.out_of_order), (10, 1, 2));
    }

    #[test]
    fn recovering_client_sends_its_position() {
        let position = StreamPosition { epoch: "AAAA".to_owned(), offset: 9 };
        let subscribe_command: serde_json::Value =
            subscribe_command("news", &SubscribeMode::Recover(position)).parse().unwrap();
        let request = serde_json::json!({"channel": "news", "positioned": true, "recoverable": true, "recover": true,
            "epoch": "AAAA", "offset": 9});
        assert_eq!(subscribe_command["subscribe"], request);
    }
}

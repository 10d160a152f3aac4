//! Where a positioned client stands in its channel's history: what it asks for with that, and what it checks of what it gets.

use serde::Deserialize;
use serde_json::value::RawValue;

/// What stands before the offset of a publication, behind its data.
const MARKER: &[u8] = b"\"offset\":";
/// More than what stands behind the data of a publication of this program.
const END_BYTES: usize = 64;

/// The newest publication that a client has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Which history.
    pub(crate) epoch: String,
    /// Which publication of it.
    pub(crate) offset: u64,
}

/// What a client wants of its subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Publications.
    Plain,
    /// To know where it stands, and to be able to come back.
    Positioned,
    /// What it has missed since it stood there.
    Recover(Standing),
}

/// What clients found wrong with positions, and what they recovered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recoveries {
    /// Came back and got all that they had missed, as the hub says.
    pub(crate) recovered: u64,
    /// Came back and did not.
    pub(crate) unrecovered: u64,
    /// Publications that came with the replies.
    pub(crate) publications: u64,
    /// Times an offset jumped.
    pub(crate) gaps: u64,
    /// Offsets that came twice or too late.
    pub(crate) disorder: u64,
}

impl Recoveries {
    /// Adds another's.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.recovered += other.recovered;
        self.unrecovered += other.unrecovered;
        self.publications += other.publications;
        self.gaps += other.gaps;
        self.disorder += other.disorder;
    }
}

impl Standing {
    /// Moves on to the publication that came, and books what is wrong with that.
    pub(crate) fn follow(&mut self, offset: u64, books: &mut Recoveries) {
        if offset <= self.offset {
            books.disorder += 1;
            return;
        }
        books.gaps += u64::from(offset > self.offset + 1);
        self.offset = offset;
    }
}

/// The offset in a publication's push, or `None` when it has none.
pub(crate) fn offset_of(push: &[u8]) -> Option<u64> {
    let end = &push[push.len().saturating_sub(END_BYTES)..];
    let start = end.windows(MARKER.len()).rposition(|at| at == MARKER)? + MARKER.len();
    let digits = end[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&end[start..start + digits]).ok()?.parse().ok()
}

/// The subscribe command, with id 1.
pub(crate) fn command(channel: &str, wish: &Wish) -> String {
    let mut request = serde_json::json!({ "channel": channel });
    if *wish != Wish::Plain {
        request["positioned"] = true.into();
        request["recoverable"] = true.into();
    }
    if let Wish::Recover(Standing { epoch, offset }) = wish {
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
    pub(crate) subscribe: Subscribed<'a>,
}

/// A subscription, as the hub describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Subscribed<'a> {
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
    pub(crate) publications: Vec<Missed<'a>>,
}

/// A publication that came with the reply.
#[derive(Debug, Deserialize)]
pub(crate) struct Missed<'a> {
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
    fn the_offset_is_that_behind_the_data_and_not_one_within() {
        let push = |rest: &str| format!(r#"{{"push":{{"channel":"a","pub":{{"data":{{"offset":7}}{rest}}}}}}}"#);
        assert_eq!(offset_of(push(r#","offset":1234"#).as_bytes()), Some(1234));
        assert_eq!(offset_of(push(r#","offset":18446744073709551615,"delta":true"#).as_bytes()), Some(u64::MAX));
        assert_eq!(offset_of(b"{}"), None);
    }

    #[test]
    fn jumps_and_repetitions_are_told_apart() {
        let (mut standing, mut books) = (Standing { epoch: "e".to_owned(), offset: 4 }, Recoveries::default());
        [5, 6, 9, 9, 2, 10].into_iter().for_each(|offset| standing.follow(offset, &mut books));
        assert_eq!((standing.offset, books.gaps, books.disorder), (10, 1, 2));
    }

    #[test]
    fn who_comes_back_says_where_it_stood() {
        let standing = Standing { epoch: "AAAA".to_owned(), offset: 9 };
        let command: serde_json::Value = command("news", &Wish::Recover(standing)).parse().unwrap();
        let request = serde_json::json!({"channel": "news", "positioned": true, "recoverable": true, "recover": true,
            "epoch": "AAAA", "offset": 9});
        assert_eq!(command["subscribe"], request);
    }
}

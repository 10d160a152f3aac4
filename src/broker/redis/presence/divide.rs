//! Divides a call that changes the presence of several channels into calls for one channel each: while a slot moves, the keys of its
//! channels may be on both servers, and none would run the call. Pure.

use redis::{Arg, Cmd, Value};

use super::super::scripts::{PRESENCE_REFRESH, PRESENCE_REMOVE, PRESENCE_STORE};

/// A call of one of the scripts that change the presence.
struct ChangeCall<'a> {
    /// EVALSHA and the hash.
    head: [&'a [u8]; 2],
    ttl: Option<&'a [u8]>,
    /// Of each channel its two keys, and its clients.
    channels: Vec<([&'a [u8]; 2], Vec<&'a [u8]>, usize)>,
}

impl<'a> ChangeCall<'a> {
    /// Reads a call. `None`: it is another one.
    fn read(call: &'a Cmd) -> Option<Self> {
        let mut arguments = call.args_iter().filter_map(|argument| match argument {
            Arg::Simple(argument) => Some(argument),
            _ => None,
        });
        let head = [arguments.next().filter(|name| *name == b"EVALSHA")?, arguments.next()?];
        let is_call_of = |script: &super::RedisScript| head[1] == script.hash().as_bytes();
        let (has_ttl, width) = match () {
            () if is_call_of(&PRESENCE_STORE) => (true, 2),
            () if is_call_of(&PRESENCE_REFRESH) => (true, 1),
            () if is_call_of(&PRESENCE_REMOVE) => (false, 1),
            () => return None,
        };
        let count = number(arguments.next()?)?;
        let keys: Vec<&[u8]> = arguments.by_ref().take(count).collect();
        let ttl = if has_ttl { Some(arguments.next()?) } else { None };
        let mut channels = Vec::new();
        for keys in keys.chunks_exact(2) {
            let count = number(arguments.next()?)?;
            channels.push(([keys[0], keys[1]], arguments.by_ref().take(count * width).collect(), count));
        }
        Some(Self { head, ttl, channels })
    }
}

fn number(argument: &[u8]) -> Option<usize> {
    std::str::from_utf8(argument).ok()?.parse().ok()
}

/// Returns whether a call changes the presence.
pub(in crate::broker::redis) fn is_change(call: &Cmd) -> bool {
    ChangeCall::read(call).is_some()
}

/// Divides a call. One that does not change the presence stays whole.
pub(in crate::broker::redis) fn divide(call: &Cmd) -> Vec<Cmd> {
    let Some(ChangeCall { head: [name, hash], ttl, channels, .. }) = ChangeCall::read(call) else {
        return vec![call.clone()];
    };
    let part = |(keys, clients, count): ([&[u8]; 2], Vec<&[u8]>, usize)| {
        let mut part = Cmd::new();
        part.arg(name).arg(hash).arg(2).arg(&keys).arg(ttl.as_slice()).arg(count).arg(clients);
        part
    };
    channels.into_iter().map(part).collect()
}

/// Returns what a call would have replied, from the replies to its parts.
pub(in crate::broker::redis) fn merge(call: &Cmd, mut replies: Vec<Value>) -> Value {
    if replies.len() == 1 {
        return replies.swap_remove(0);
    }
    if let Some(error) = replies.iter().find(|reply| matches!(reply, Value::ServerError(_))) {
        return error.clone();
    }
    let Some(ChangeCall { channels, ttl: Some(_), .. }) = ChangeCall::read(call) else { return Value::Okay };
    // A refresh returns the numbers of the clients that are not stored, counted over all channels.
    let (mut missing, mut counted) = (Vec::new(), 0);
    for (reply, (_, _, count)) in replies.into_iter().zip(channels) {
        match reply {
            Value::Array(numbers) => missing.extend(numbers.into_iter().map(|number| match number {
                Value::Int(number) => Value::Int(number + counted),
                other => other,
            })),
            // A call that stores has no numbers.
            other => return other,
        }
        counted += i64::try_from(count).unwrap_or(i64::MAX);
    }
    Value::Array(missing)
}

#[cfg(test)]
mod tests {
    use super::{super::RedisScript, *};

    fn texts(call: &Cmd) -> Vec<String> {
        let texts = call.args_iter().map(|argument| match argument {
            Arg::Simple(text) => String::from_utf8(text.to_vec()).unwrap(),
            _ => String::new(),
        });
        texts.skip(2).collect()
    }

    fn call(script: &RedisScript, arguments: &[&str]) -> Cmd {
        let mut call = script.call(&["p:{1}a", "e:{1}a", "p:{1}b", "e:{1}b"]);
        call.arg(arguments);
        call
    }

    #[test]
    fn each_part_has_the_keys_and_the_clients_of_one_channel() {
        for (script, arguments, parts) in [
            (
                &PRESENCE_STORE,
                vec!["60", "1", "x", "X", "2", "y", "Y", "z", "Z"],
                [vec!["60", "1", "x", "X"], vec!["60", "2", "y", "Y", "z", "Z"]],
            ),
            (&PRESENCE_REFRESH, vec!["60", "2", "x", "y", "1", "z"], [vec!["60", "2", "x", "y"], vec!["60", "1", "z"]]),
            (&PRESENCE_REMOVE, vec!["1", "x", "2", "y", "z"], [vec!["1", "x"], vec!["2", "y", "z"]]),
        ] {
            let divided: Vec<_> = divide(&call(script, &arguments)).iter().map(texts).collect();
            let keys = [["2", "p:{1}a", "e:{1}a"], ["2", "p:{1}b", "e:{1}b"]];
            let expected: Vec<_> =
                keys.iter().zip(&parts).map(|(keys, part)| [keys.as_slice(), part].concat()).collect();
            assert_eq!(divided, expected);
        }
        let mut other = redis::cmd("SPUBLISH");
        other.arg("c:{1}a").arg("1");
        assert_eq!((divide(&other).len(), is_change(&other)), (1, false));
    }

    #[test]
    fn merged_replies_are_the_reply_to_the_whole_call() {
        let numbers = |numbers: &[i64]| Value::Array(numbers.iter().copied().map(Value::Int).collect());
        let refresh = call(&PRESENCE_REFRESH, &["60", "2", "x", "y", "3", "z", "u", "v"]);
        assert_eq!(merge(&refresh, vec![numbers(&[2]), numbers(&[1, 3])]), numbers(&[2, 3, 5]));
        let remove = call(&PRESENCE_REMOVE, &["1", "x", "1", "y"]);
        assert_eq!(merge(&remove, vec![Value::Okay, Value::Okay]), Value::Okay);
        let store = call(&PRESENCE_STORE, &["60", "1", "x", "X", "1", "y", "Y"]);
        assert_eq!(merge(&store, vec![Value::Okay, Value::Okay]), Value::Okay);
        let error = redis::parse_redis_value(b"-WRONGTYPE key\r\n").unwrap();
        assert_eq!(merge(&store, vec![Value::Okay, error.clone()]), error);
    }
}

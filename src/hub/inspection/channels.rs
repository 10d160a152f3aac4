//! Pages of channels. A node counts the subscribers of all of its channels, and answers with those of the page.

use std::collections::BTreeMap;

use actix::Addr;

use super::subscribers;
use crate::{
    broker::{ChannelsPage, ChannelsQuery},
    channel::Pattern,
    hub::Hub,
};

/// Returns the channels of this node that a page has. A query whose pattern is invalid has none: the server API checks it.
pub(super) async fn list(hubs: &[Addr<Hub>], query: ChannelsQuery) -> ChannelsPage {
    let Ok(pattern) = Pattern::wildcard(&query.pattern) else { return ChannelsPage::default() };
    let counts = subscribers(hubs).await;
    // Outside of the workers: 100,000 names take several milliseconds.
    let select = move || {
        page_of(
            counts.iter().map(|(channel, count)| (channel.as_str(), *count as u64)),
            &pattern,
            &query.after,
            query.limit,
        )
    };
    tokio::task::spawn_blocking(select).await.unwrap_or_default()
}

fn page_of<'a>(
    channels: impl Iterator<Item = (&'a str, u64)>,
    pattern: &Pattern,
    after: &str,
    limit: usize,
) -> ChannelsPage {
    let (mut page, mut total, mut has_more) = (BTreeMap::new(), 0, false);
    for (name, count) in channels.filter(|(name, _)| pattern.matches(name)) {
        total += 1;
        // No channel has the empty name of the first page.
        if name <= after {
            continue;
        }
        let is_full = page.len() >= limit;
        has_more |= is_full;
        if !is_full || page.last_key_value().is_some_and(|(last, _)| name < *last) {
            page.insert(name, count);
            if is_full {
                page.pop_last();
            }
        }
    }
    let channels = page.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    ChannelsPage { channels, has_more, total }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_the_first_channels_after_a_name_and_no_more_than_its_limit() {
        let channels = ["d", "a", "x1", "c", "b", "x2"];
        for (pattern, after, limit, expected, has_more, total) in [
            ("*", "", 2, "ab", true, 6),
            ("*", "b", 2, "cd", true, 6),
            ("*", "d", 2, "x1x2", false, 6),
            ("*", "bb", 1, "c", true, 6),
            ("*", "x2", 3, "", false, 6),
            ("x*", "", 1, "x1", true, 2),
            ("x*", "", 2, "x1x2", false, 2),
            ("y*", "", 2, "", false, 0),
        ] {
            let all = channels.iter().map(|name| (*name, 1));
            let page = page_of(all, &Pattern::wildcard(pattern).unwrap(), after, limit);
            let names: String = page.channels.keys().map(String::as_str).collect();
            assert_eq!((&*names, page.has_more, page.total), (expected, has_more, total), "{pattern} {after} {limit}");
            assert!(page.channels.values().all(|count| *count == 1));
        }
    }
}

//! Tests of shared reads, with a broker that answers when the test lets it.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::*;
use crate::{broker::SincePosition, position::Epoch};

fn position(offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse("AAAAAAAA").unwrap() }
}

fn since(offset: u64) -> HistoryRequest {
    HistoryRequest { since: Some(SincePosition { offset, epoch: None }), limit: 10, is_reverse: false, max_bytes: None }
}

fn news() -> Channel {
    Channel::new("news").unwrap()
}

/// The publications after `first` up to `top`.
fn page(first: u64, top: u64) -> HistoryPage {
    let publication =
        |offset| Publication { position: Some(position(offset)), ..Publication::new(news(), Bytes::from_static(b"1")) };
    HistoryPage { publications: (first + 1..=top).map(publication).collect(), top: position(top) }
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|publication| publication.position.unwrap().offset).collect()
}

#[test]
fn kept_page_serves_only_hubs_that_it_reaches_and_only_for_a_second() {
    let (now, mut pages) = (Instant::now(), KeptPages::new(Instant::now()));
    pages.keep((news(), since(3)), Arc::new(page(3, 9)), now);
    let find = |request: HistoryRequest, here: Position, at: Instant| {
        pages.find(&news(), &request, here, at).map(|page| offsets(&page))
    };
    assert_eq!(find(since(3), position(9), now), Some(vec![4, 5, 6, 7, 8, 9]));
    assert_eq!(find(since(7), position(8), now), Some(vec![8, 9]), "a part of it");
    assert_eq!(find(since(3), position(10), now), None, "the hub is further");
    assert_eq!(find(since(2), position(9), now), None, "it begins later");
    assert_eq!(find(HistoryRequest { is_reverse: true, ..since(5) }, position(9), now), None);
    assert_eq!(find(HistoryRequest { limit: 9, ..since(5) }, position(9), now), None);
    let other_epoch = Position { epoch: Epoch::parse("BBBBBBBB").unwrap(), ..position(9) };
    assert_eq!(find(since(3), other_epoch, now), None);
    assert_eq!(find(since(3), position(9), now + SHARED_FOR), None);
    let cut = HistoryPage { top: position(99), ..page(3, 9) };
    pages.keep((news(), since(3)), Arc::new(cut), now);
    assert!(pages.find(&news(), &since(3), position(9), now).is_some(), "the same request");
    assert!(pages.find(&news(), &since(7), position(9), now).is_none(), "what follows on the page is unknown");
}

#[test]
fn kept_pages_are_bounded_and_dropped() {
    let (now, mut pages) = (Instant::now(), KeptPages::new(Instant::now()));
    let large = |_| Publication::new(news(), Bytes::from(vec![b'1'; 1 << 20]));
    let large = Arc::new(HistoryPage { publications: (0..3).map(large).collect(), top: position(3) });
    for number in 0..100 {
        pages.keep((Channel::new(&format!("news{number}")).unwrap(), since(0)), large.clone(), now);
    }
    assert!(pages.bytes <= MAX_KEPT_BYTES && pages.by_channel.len() == 2, "{} pages", pages.by_channel.len());
    pages.drop_old(now + SHARED_FOR + SHARED_FOR);
    assert!(pages.by_channel.is_empty() && pages.bytes == 0);
}

#[actix_rt::test]
async fn reads_that_have_not_begun_are_shared_and_those_that_have_are_not() {
    let (answers, reads): (Arc<Mutex<Vec<_>>>, _) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
    let (asked, counter) = (answers.clone(), reads.clone());
    let reader = HistoryReader::with(Box::new(move |_, request, _| {
        let (answer, page) = oneshot::channel();
        asked.lock().push((request, answer));
        counter.fetch_add(1, Ordering::Relaxed);
        page.map(|page| Ok(page.unwrap())).boxed()
    }));
    let reads = || reads.load(Ordering::Relaxed);
    let answer = |request: HistoryRequest, page: HistoryPage| {
        let mut answers = answers.lock();
        let index = answers.iter().position(|(asked, _)| *asked == request).unwrap();
        answers.remove(index).1.send(page).unwrap();
    };
    let retention = Retention { size: 10, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(60) };
    let done = Arc::new(AtomicUsize::new(0));
    let read = |offset| {
        let (page, done) = (reader.read(news(), since(offset), retention, None), done.clone());
        actix_rt::spawn(async move {
            let page = page.await;
            done.fetch_add(1, Ordering::Relaxed);
            page
        })
    };
    let first = read(3);
    let others: Vec<_> = (0..100).map(|_| read(3)).collect();
    let elsewhere = read(4);
    assert_eq!(reads(), 2, "one for each request");
    answer(since(3), page(3, 5));
    answer(since(4), page(4, 5));
    assert_eq!(offsets(&first.await.unwrap().unwrap()), [4, 5]);
    assert_eq!(offsets(&elsewhere.await.unwrap().unwrap()), [5]);
    while reads() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(done.load(Ordering::Relaxed), 2, "the others wait for a read that began after their calls");
    answer(since(3), page(3, 6));
    for other in others {
        assert_eq!(offsets(&other.await.unwrap().unwrap()), [4, 5, 6]);
    }
    assert_eq!(reads(), 3);
    assert!(reader.0.reads.lock().is_empty());
    let kept = reader.read(news(), since(5), retention, Some(position(6))).await.unwrap();
    assert_eq!((offsets(&kept), reads()), (vec![6], 3));
}

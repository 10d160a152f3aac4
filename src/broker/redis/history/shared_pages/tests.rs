//! Tests of shared pages, without a broker.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{clock::WallTime, position::Epoch};

fn news() -> Channel {
    Channel::new("news").unwrap()
}

fn at(offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse("AAAAAAAA").unwrap() }
}

fn elsewhere(offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse("BBBBBBBB").unwrap() }
}

fn publication(position: Position) -> Publication {
    let time = WallTime::from_unix_millis(position.offset as i64);
    Publication { position: Some(position), time, ..Publication::new(news(), Bytes::from_static(b"1")) }
}

fn since(offset: u64) -> HistoryRequest {
    HistoryRequest { since: Some(SincePosition { offset, epoch: None }), limit: 10, ..HistoryRequest::default() }
}

const NEWEST: HistoryRequest = HistoryRequest { since: None, limit: 1, is_reverse: true, max_bytes: None };

fn known(offset: u64) -> Option<SincePosition> {
    Some(SincePosition { offset, epoch: Some(at(0).epoch) })
}

/// A page of a history whose newest publication is at `top`.
fn page_of(publications: Vec<Publication>, top: u64) -> HistoryPage {
    HistoryPage { publications, top: at(top), top_time: Some(publication(at(top)).time) }
}

/// The publications after `first` up to `top`.
fn page(first: u64, top: u64) -> HistoryPage {
    page_of((first + 1..=top).map(|offset| publication(at(offset))).collect(), top)
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|publication| publication.position.unwrap().offset).collect()
}

type Pages = SharedPages<&'static str>;

fn start(pages: &mut Pages, request: HistoryRequest, size: usize) -> ReadId {
    let id = pages.next_id();
    pages.begin(&news(), id, request, size, "read");
    id
}

/// Pages with one that was read.
fn kept(request: HistoryRequest, size: usize, page: HistoryPage) -> Pages {
    let mut pages = Pages::new(1 << 20);
    let id = start(&mut pages, request, size);
    assert!(pages.finish(&news(), id, Some(Arc::new(page))).is_some());
    pages
}

/// The offsets and the top of the page that answers a request.
fn find(pages: &Pages, request: HistoryRequest, known: Option<SincePosition>) -> Option<(Vec<u64>, u64)> {
    match pages.find(&news(), &request, known) {
        Found::Page(kept, page) => {
            let page = answer(&kept, page, &request, known).unwrap();
            Some((offsets(&page), page.top.offset))
        }
        _ => None,
    }
}

fn receive(pages: &mut Pages, position: Position) {
    pages.extend(&publication(position));
}

#[test]
fn page_answers_what_a_new_read_would() {
    let pages = kept(since(3), 100, page(3, 9));
    assert_eq!(find(&pages, since(3), None), Some((vec![4, 5, 6, 7, 8, 9], 9)));
    assert_eq!(find(&pages, since(7), known(7)), Some((vec![8, 9], 9)), "a part of it");
    assert_eq!(find(&pages, since(9), known(9)), Some((vec![], 9)));
    for other in
        [since(2), HistoryRequest { is_reverse: true, ..since(5) }, HistoryRequest { limit: 9, ..since(5) }, NEWEST]
    {
        assert!(matches!(pages.find(&news(), &other, None), Found::Nothing), "{other:?}");
    }
    let pages = kept(NEWEST, 100, page_of(vec![publication(at(9))], 9));
    assert_eq!(find(&pages, NEWEST, None), Some((vec![9], 9)));
    assert!(find(&pages, since(8), None).is_none());
}

#[test]
fn page_without_its_end_answers_only_the_same_request() {
    let mut pages = kept(since(3), 100, HistoryPage { top: at(99), ..page(3, 9) });
    receive(&mut pages, at(100));
    assert_eq!(find(&pages, since(3), None), Some((vec![4, 5, 6, 7, 8, 9], 100)));
    assert!(find(&pages, since(7), None).is_none());
}

#[test]
fn client_that_has_received_more_than_the_page_does_not_get_it() {
    let mut pages = kept(since(3), 100, page(3, 9));
    assert!(matches!(pages.find(&news(), &since(10), known(10)), Found::Behind));
    assert!(matches!(pages.find(&news(), &NEWEST, known(10)), Found::Nothing));
    let any_epoch = Some(SincePosition { offset: 10, epoch: None });
    assert!(matches!(pages.find(&news(), &since(3), any_epoch), Found::Behind));
    let other = Some(SincePosition { offset: 900, epoch: Some(elsewhere(0).epoch) });
    assert_eq!(find(&pages, since(900), other), Some((vec![], 9)), "it has another history");
    receive(&mut pages, at(10));
    assert_eq!(find(&pages, since(10), known(10)), Some((vec![], 10)));
}

#[test]
fn page_has_what_was_received_since_its_read_began() {
    let mut pages = Pages::new(1 << 20);
    let id = start(&mut pages, since(3), 100);
    for offset in [5, 6, 7] {
        receive(&mut pages, at(offset));
    }
    assert!(matches!(pages.find(&news(), &since(4), None), Found::Running(_, "read")));
    assert!(matches!(pages.find(&news(), &since(2), None), Found::Nothing));
    let shared = pages.finish(&news(), id, Some(Arc::new(page(3, 6)))).unwrap();
    assert_eq!(offsets(&shared), [4, 5, 6, 7]);
    // What had been read already arrives once more.
    receive(&mut pages, at(7));
    receive(&mut pages, at(8));
    assert_eq!(find(&pages, since(5), None), Some((vec![6, 7, 8], 8)));
    let mut pages = kept(NEWEST, 100, page_of(vec![publication(at(8))], 8));
    receive(&mut pages, at(9));
    assert_eq!(find(&pages, NEWEST, None), Some((vec![9], 9)));
}

#[test]
fn page_that_may_be_wrong_is_forgotten() {
    let is_kept_after = |change: &dyn Fn(&mut Pages)| {
        let mut pages = kept(since(3), 100, page(3, 9));
        change(&mut pages);
        let is_kept = find(&pages, since(3), None).is_some();
        assert!(is_kept || (pages.entries.is_empty() && pages.bytes == 0));
        is_kept
    };
    let other = Publication { time: WallTime::from_unix_millis(-1), ..publication(at(9)) };
    for (what, change) in [
        ("a gap", &(|pages: &mut Pages| receive(pages, at(11))) as &dyn Fn(&mut Pages)),
        ("another history", &|pages| receive(pages, elsewhere(10))),
        ("an older one of another history", &|pages| receive(pages, elsewhere(1))),
        ("another publication at a known offset", &|pages| pages.extend(&other)),
        ("another history was read", &|pages| pages.compare(&news(), None, Some(elsewhere(9)))),
        ("lost publications were read", &|pages| pages.compare(&news(), Some(at(9)), Some(at(8)))),
        ("no history was read", &|pages| pages.compare(&news(), None, None)),
        ("it was removed", &|pages| pages.forget(&news())),
        ("everything is void", &Pages::clear),
    ] {
        assert!(!is_kept_after(change), "{what}");
    }
    let unpositioned = Publication { position: None, ..publication(at(1)) };
    for (what, change) in [
        ("a repetition", &(|pages: &mut Pages| receive(pages, at(9))) as &dyn Fn(&mut Pages)),
        ("an old one", &|pages| receive(pages, at(1))),
        ("one without a position", &|pages| pages.extend(&unpositioned)),
        ("a later position was read", &|pages| pages.compare(&news(), Some(at(9)), Some(at(10)))),
        ("one arrived while a position was read", &|pages| {
            let before = pages.top(&news());
            receive(pages, at(10));
            pages.compare(&news(), before, Some(at(9)));
        }),
        ("a position was read while the page was", &|pages| pages.compare(&news(), None, Some(at(8)))),
    ] {
        assert!(is_kept_after(change), "{what}");
    }
}

#[test]
fn read_that_may_lack_something_is_not_shared() {
    for change in [
        |pages: &mut Pages| pages.forget(&news()),
        |pages: &mut Pages| receive(pages, at(8)),
        |pages: &mut Pages| [5, 7].into_iter().for_each(|offset| receive(pages, at(offset))),
        |pages: &mut Pages| receive(pages, elsewhere(7)),
        |pages: &mut Pages| _ = start(pages, since(1), 100),
    ] {
        let mut pages = Pages::new(1 << 20);
        let id = start(&mut pages, since(3), 100);
        change(&mut pages);
        assert!(pages.finish(&news(), id, Some(Arc::new(page(3, 6)))).is_none());
        assert!(find(&pages, since(3), None).is_none());
    }
    let mut pages = Pages::new(1 << 20);
    let id = start(&mut pages, since(3), 100);
    assert!(pages.finish(&news(), id, None).is_none(), "it has failed");
    assert!(pages.entries.is_empty());
}

#[test]
fn end_of_a_read_leaves_the_page_of_a_later_one() {
    let mut pages = Pages::new(1 << 20);
    let (first, second) = (start(&mut pages, since(3), 100), start(&mut pages, since(1), 100));
    assert!(pages.finish(&news(), second, Some(Arc::new(page(1, 6)))).is_some());
    assert!(pages.finish(&news(), first, Some(Arc::new(page(3, 5)))).is_none());
    pages.expire(&news(), first);
    assert_eq!(find(&pages, since(4), None), Some((vec![5, 6], 6)));
    pages.expire(&news(), second);
    assert!(pages.entries.is_empty());
}

#[test]
fn pages_are_bounded_in_bytes() {
    let cost = publication(at(1)).cost_bytes();
    let mut pages = Pages::new(ENTRY_OVERHEAD + 4 + 3 * cost);
    let id = start(&mut pages, since(0), 100);
    assert!(pages.finish(&news(), id, Some(Arc::new(page(0, 2)))).is_some());
    let other = Channel::new("other").unwrap();
    pages.begin(&other, ReadId(7), since(0), 100, "read");
    assert!(pages.entries.len() == 1 && !pages.entries.contains_key(&other));
    receive(&mut pages, at(3));
    assert_eq!(pages.bytes, ENTRY_OVERHEAD + 4 + 3 * cost);
    receive(&mut pages, at(4));
    assert!(pages.entries.is_empty() && pages.bytes == 0);
    let id = start(&mut pages, since(0), 100);
    assert!(pages.finish(&news(), id, Some(Arc::new(page(0, 4)))).is_none());
    let _running = start(&mut pages, since(0), 100);
    (1..=4).for_each(|offset| receive(&mut pages, at(offset)));
    assert!(pages.entries.is_empty() && pages.bytes == 0);
}

#[test]
fn page_of_a_request_that_names_an_epoch_answers_no_other_request() {
    let of_epoch = |offset| HistoryRequest { since: known(offset), ..since(0) };
    let pages = kept(of_epoch(0), 10, page(0, 3));
    assert_eq!(find(&pages, of_epoch(0), None), Some((vec![1, 2, 3], 3)));
    assert_eq!((find(&pages, of_epoch(1), None), find(&pages, since(1), None)), (None, None));
    assert_eq!(find(&kept(since(0), 10, page(0, 3)), of_epoch(1), None), None);
}

#[test]
fn newest_publications_are_as_many_as_the_history_keeps() {
    let newest = HistoryRequest { limit: 5, ..NEWEST };
    let reversed = |mut page: HistoryPage| {
        page.publications.reverse();
        page
    };
    let mut pages = kept(newest, 2, reversed(page(1, 3)));
    receive(&mut pages, at(4));
    assert_eq!(find(&pages, newest, None), Some((vec![4, 3], 4)));
}

#[test]
fn page_is_cut_to_the_limit_whoever_else_has_it() {
    let shared = Arc::new(page(0, 5));
    assert_eq!(offsets(&within_limit(shared.clone(), 3)), [1, 2, 3]);
    assert_eq!(offsets(&within_limit(shared, 3)), [1, 2, 3]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish,
    Receive,
    /// A read with this request begins.
    Begin(HistoryRequest),
    /// Redis reads the page.
    Read,
    Finish,
}

fn request() -> impl Strategy<Value = HistoryRequest> {
    let limit = prop_oneof![Just(4_usize), Just(1000)];
    let stream = (0..20_u64, limit).prop_map(|(offset, limit)| HistoryRequest { limit, ..since(offset) });
    prop_oneof![8 => stream, 1 => Just(NEWEST)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Publish),
        3 => Just(Step::Receive),
        2 => request().prop_map(Step::Begin),
        2 => Just(Step::Read),
        2 => Just(Step::Finish),
    ]
}

/// What a history with `published` publications, of which it keeps `size`, answers.
fn read(published: u64, size: u64, request: HistoryRequest) -> HistoryPage {
    let oldest = published.saturating_sub(size);
    let mut page = page(request.since.map_or(0, |since| since.offset).max(oldest), published);
    if request.is_reverse {
        page.publications.reverse();
    }
    page.publications.truncate(request.limit);
    page
}

/// Whether a page is that of a read at its top. One that was cut off may be older: what it lacks at its end is not in it, and what has
/// left the history meanwhile still is.
fn is_read(page: &HistoryPage, size: u64, request: HistoryRequest) -> bool {
    let top = page.top.offset;
    let is_older = |earlier| {
        let read = read(earlier, size, request);
        !has_end(&read) && read.publications == page.publications
    };
    *page == read(top, size, request) || (0..top).any(is_older)
}

proptest! {
    #[test]
    fn shared_pages_are_those_of_a_new_read_that_has_everything_received(
        steps in proptest::collection::vec(step(), 0..60),
        asked in proptest::collection::vec(request(), 60),
        size in 1_u64..12,
    ) {
        let (mut pages, mut published, mut received) = (Pages::new(1 << 20), 0, 0);
        let mut running: Option<(ReadId, HistoryRequest, Option<HistoryPage>)> = None;
        for (step, asked) in steps.into_iter().zip(asked) {
            match step {
                Step::Publish => published += 1,
                Step::Receive if received < published => {
                    received += 1;
                    receive(&mut pages, at(received));
                }
                Step::Begin(request) => running = Some((start(&mut pages, request, size as usize), request, None)),
                Step::Read => {
                    if let Some((_, request, page)) = &mut running {
                        page.get_or_insert_with(|| read(published, size, *request));
                    }
                }
                Step::Finish if running.as_ref().is_some_and(|(_, _, page)| page.is_some()) => {
                    let (id, request, page) = running.take().unwrap();
                    let shared = pages.finish(&news(), id, page.map(Arc::new)).unwrap();
                    prop_assert!(shared.top.offset >= received);
                    let own = within_limit(shared.clone(), request.limit);
                    prop_assert!(is_read(&own, size, request), "{own:?}");
                }
                Step::Receive | Step::Finish => {}
            }
            if let Found::Page(kept, page) = pages.find(&news(), &asked, known(received)) {
                let page = answer(&kept, page, &asked, known(received)).unwrap();
                prop_assert!(page.top.offset >= received && page.top.offset <= published);
                prop_assert!(is_read(&page, size, asked), "{page:?}");
            }
        }
        let bytes: usize = pages.entries.values().map(|entry| entry.bytes).sum();
        prop_assert_eq!(bytes, pages.bytes);
    }
}

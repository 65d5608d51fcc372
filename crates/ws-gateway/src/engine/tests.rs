use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tokio::time::Instant;

use super::{HistoryQuery, NotThisEpoch, Since, Stream};
use crate::publication::Publication;

const PLENTY: usize = usize::MAX;

fn publication(n: u64) -> Arc<Publication> {
    Arc::new(Publication::from_server(n.to_string().as_bytes(), &[].into(), 64).unwrap())
}

fn stream_of(n_published: u64, max_items: usize) -> Stream {
    let now = Instant::now();
    let mut stream = Stream::new("E".into(), now);
    for n in 1..=n_published {
        assert_eq!(stream.append(publication(n), None, (now, SystemTime::UNIX_EPOCH), max_items), n);
    }
    stream
}

fn since(offset: u64, epoch: &str) -> Since {
    Since { offset, epoch: epoch.into() }
}

fn recovered(stream: &Stream, since: &Since, max_items: usize) -> Option<Vec<u64>> {
    stream.recover(since, max_items, PLENTY).map(|items| items.map(|item| item.offset).collect())
}

#[test]
fn who_comes_back_gets_all_or_nothing() {
    let stream = stream_of(5, 3);
    for (offset, epoch, expected) in [
        (5, "E", Some(vec![])),
        (4, "E", Some(vec![5])),
        (2, "E", Some(vec![3, 4, 5])),
        (2, "", Some(vec![3, 4, 5])),
        (1, "E", None),
        (0, "E", None),
        (0, "", None),
        (6, "E", None),
        (u64::MAX, "E", None),
        (4, "F", None),
        (5, "F", None),
    ] {
        assert_eq!(recovered(&stream, &since(offset, epoch), 300), expected, "{offset} {epoch:?}");
    }
    assert_eq!(recovered(&stream, &since(2, "E"), 2), None, "more than the limit");
    assert!(stream.recover(&since(2, "E"), 300, 100).is_none(), "more than fits");
    let empty = stream_of(0, 3);
    assert_eq!(recovered(&empty, &since(0, ""), 300), Some(vec![]));
    assert_eq!(recovered(&empty, &since(1, "E"), 300), None);
}

#[test]
fn what_is_too_old_cannot_be_recovered_and_the_numbers_go_on() {
    let start = Instant::now();
    let mut stream = Stream::new("E".into(), start);
    for n in 1..=4 {
        let at = start + Duration::from_secs(n);
        stream.append(publication(n), None, (at, SystemTime::UNIX_EPOCH), 10);
    }
    stream.expire(start + Duration::from_secs(12), Duration::from_secs(10));
    assert_eq!(recovered(&stream, &since(2, "E"), 300), Some(vec![3, 4]));
    assert_eq!(recovered(&stream, &since(1, "E"), 300), None);
    stream.expire(start + Duration::from_secs(60), Duration::from_secs(10));
    assert_eq!((stream.len(), stream.bytes(), stream.position().offset), (0, 0, 4));
    assert_eq!(recovered(&stream, &since(4, "E"), 300), Some(vec![]));
    assert_eq!(recovered(&stream, &since(3, "E"), 300), None);
    assert_eq!(stream.append(publication(5), None, (start, SystemTime::UNIX_EPOCH), 10), 5);
    stream.clear();
    assert_eq!((stream.len(), stream.bytes(), stream.position().offset), (0, 0, 5));
}

#[test]
fn pages_are_cut_from_either_end() {
    let stream = stream_of(6, 5);
    let page = |max_items, since: Option<Since>, reverse| {
        let query = HistoryQuery { max_items, since, reverse };
        let page = stream.page(&query, PLENTY)?;
        Ok::<_, NotThisEpoch>(page.iter().map(|item| item.offset).collect::<Vec<_>>())
    };
    assert_eq!(page(0, None, false), Ok(vec![]));
    assert_eq!(page(2, None, false), Ok(vec![2, 3]));
    assert_eq!(page(2, None, true), Ok(vec![6, 5]));
    assert_eq!(page(9, Some(since(4, "E")), false), Ok(vec![5, 6]));
    assert_eq!(page(9, Some(since(4, "")), true), Ok(vec![3, 2]));
    assert_eq!(page(9, Some(since(6, "E")), false), Ok(vec![]));
    assert_eq!(page(9, Some(since(4, "F")), false), Err(NotThisEpoch));
    let small = HistoryQuery { max_items: 9, ..HistoryQuery::default() };
    let two = 2 * publication(1).cost_bytes();
    assert_eq!(stream.page(&small, two).unwrap().len(), 2);
}

proptest! {
    #[test]
    fn recovery_is_never_partial(
        n_published in 0..40_u64,
        max_items in 1..20_usize,
        n_forgotten in 0..10_usize,
        offset in 0..45_u64,
        limit in 0..30_usize,
    ) {
        let mut stream = stream_of(n_published, max_items);
        for _ in 0..n_forgotten {
            stream.forget_oldest();
        }
        let missed: Vec<u64> = (offset + 1..=n_published).collect();
        let n_kept = (n_published as usize).min(max_items).saturating_sub(n_forgotten);
        let possible = offset <= n_published && missed.len() <= n_kept && missed.len() <= limit;
        prop_assert_eq!(recovered(&stream, &since(offset, "E"), limit), possible.then_some(missed));
    }
}

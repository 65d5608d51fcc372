use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;

/// Room for `n` events of a user and a channel with names of one letter, on each shelf.
fn journal(n: usize) -> Arc<Journal> {
    let event_bytes = size_of::<Event>() + 2;
    Journal::new(2 * n * event_bytes, at(0), JournalFigures::default())
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn note(journal: &Journal, seconds: u64, user: &str, step: Step, channel: &str) {
    let channel = Channel::parse(channel, 255).unwrap();
    journal.note(|| at(seconds), (Uuid::nil(), &user.into()), step, Some(&channel));
}

fn of(user: &str, channel: &str) -> Interest {
    Interest { user: user.into(), channel: channel.into(), since: None }
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.number).collect()
}

/// Reads what can be told at once.
fn told(follow: &mut Follow) -> (Vec<u64>, u64) {
    let (mut events, mut missed) = (Vec::new(), 0);
    while let Some(news) = follow.next().now_or_never() {
        events.extend(numbers(&news.events));
        missed += news.missed;
    }
    (events, missed)
}

#[test]
fn the_latest_that_fit_are_told_in_order() {
    let journal = journal(100);
    for n in 1..=9 {
        let (user, step) = if n % 3 == 0 { ("b", Step::Published) } else { ("a", Step::Subscribed) };
        note(&journal, n, user, step, if n < 5 { "x" } else { "y" });
    }
    let all = journal.latest(&Interest::default(), 100);
    assert_eq!((numbers(&all.events), all.truncated, all.complete_since), ((1..=9).collect(), false, at(0)));
    let some = journal.latest(&of("a", ""), 3);
    assert_eq!((numbers(&some.events), some.truncated), (vec![5, 7, 8], true));
    let exactly = journal.latest(&of("b", "y"), 2);
    assert_eq!((numbers(&exactly.events), exactly.truncated), (vec![6, 9], false));
    let since = journal.latest(&Interest { since: Some(at(7)), ..Interest::default() }, 100);
    assert_eq!((numbers(&since.events), since.truncated), (vec![7, 8, 9], false));
}

#[test]
fn who_publishes_a_lot_pushes_out_publications_only() {
    let journal = journal(10);
    note(&journal, 1, "a", Step::Connected, "x");
    for n in 2..=100 {
        note(&journal, n, "b", Step::Published, "x");
    }
    note(&journal, 101, "a", Step::Unsubscribed, "x");
    let kept = journal.latest(&Interest::default(), 1_000);
    assert_eq!(numbers(&kept.events), [vec![1], (91..=101).collect()].concat());
    assert_eq!((kept.complete_since, journal.figures.events.get()), (at(90), 101));
    let most_bytes = 2 * 10 * (size_of::<Event>() as i64 + 2);
    assert!(journal.figures.bytes.get() <= most_bytes, "{}", journal.figures.bytes.get());
}

#[test]
fn a_reader_goes_on_where_it_was_and_learns_what_it_missed() {
    let journal = journal(10);
    let mut now = journal.follow(None, Interest::default()).unwrap();
    assert_eq!(told(&mut now), (vec![], 0));
    for n in 1..=8 {
        note(&journal, n, "a", Step::Subscribed, "x");
    }
    assert_eq!(told(&mut now), ((1..=8).collect(), 0));
    let process = journal.process().to_owned();
    let mut resumed = journal.follow(Some((&process, 5)), Interest::default()).unwrap();
    assert_eq!(told(&mut resumed), (vec![6, 7, 8], 0));
    for n in 9..=30 {
        note(&journal, n, "a", Step::Subscribed, "x");
    }
    // Twelve of those are forgotten, and both learn it.
    assert_eq!(told(&mut now), ((21..=30).collect(), 12));
    assert_eq!(told(&mut resumed), ((21..=30).collect(), 12));
    assert_eq!(journal.figures.missed.get(), 24);
    let mut elsewhere = journal.follow(Some(("another process", 7_000)), Interest::default()).unwrap();
    assert!(elsewhere.next().now_or_never().unwrap().began_anew);
    let mut all = journal.follow(Some(("", 0)), Interest::default()).unwrap();
    let first = all.next().now_or_never().unwrap();
    assert_eq!((numbers(&first.events), first.missed, first.began_anew), ((21..=30).collect(), 20, false));
    assert!(matches!(journal.follow(Some((&process, 31)), Interest::default()), Err(NotFollowed::NotYet)));
}

#[test]
fn readers_are_few_and_leave_their_places() {
    let journal = journal(10);
    let readers: Vec<_> = (0..16).map(|_| journal.follow(None, Interest::default()).unwrap()).collect();
    assert!(matches!(journal.follow(None, Interest::default()), Err(NotFollowed::TooMany)));
    assert_eq!(journal.figures.followers.get(), 16);
    drop(readers);
    assert!(journal.follow(None, Interest::default()).is_ok());
}

#[test]
fn nothing_is_kept_where_nothing_may_be() {
    let journal = journal(0);
    note(&journal, 1, "a", Step::Connected, "x");
    assert!(!journal.is_on());
    assert_eq!(journal.latest(&Interest::default(), 10).events.len(), 0);
}

#[tokio::test]
async fn a_reader_that_waits_is_woken_by_each_event() {
    let journal = journal(1_000);
    let mut follow = journal.follow(None, of("a", "")).unwrap();
    assert_eq!(follow.next().await.at, 0);
    let writer = Arc::clone(&journal);
    let writing = async move {
        for n in 0..500 {
            note(&writer, n, if n % 2 == 0 { "a" } else { "b" }, Step::Published, "x");
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let mut n_read = 0;
        while n_read < 250 {
            n_read += follow.next().await.events.len();
        }
    };
    tokio::join!(writing, reading);
}

proptest! {
    /// Whatever is kept, forgotten and read in whatever order: each event is told or counted as missed, once.
    #[test]
    fn every_event_is_told_once_or_missed(
        turns in prop::collection::vec((any::<bool>(), 1_u64..400, any::<bool>()), 1..60),
        room in 1_usize..300,
    ) {
        let journal = journal(room);
        let mut follow = journal.follow(None, Interest::default()).unwrap();
        let (mut n_told, mut n_missed, mut n_noted, mut last) = (0, 0, 0, 0);
        for (publishes, times, reads) in turns {
            let step = if publishes { Step::Published } else { Step::Subscribed };
            for _ in 0..times {
                note(&journal, n_noted, "a", step, "x");
                n_noted += 1;
            }
            if reads {
                let (events, missed) = told(&mut follow);
                prop_assert!(events.iter().all(|&number| std::mem::replace(&mut last, number) < number));
                (n_told, n_missed) = (n_told + events.len() as u64, n_missed + missed);
                prop_assert_eq!(n_told + n_missed, n_noted);
            }
        }
        let kept = journal.latest(&Interest::default(), usize::MAX - 1);
        prop_assert!(kept.events.len() <= 2 * room && !kept.truncated);
        let in_order = kept.events.windows(2).all(|two| two[0].number < two[1].number);
        prop_assert!(in_order);
    }
}

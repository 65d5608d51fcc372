use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

const TIMING: Timing = Timing { fires_after: Duration::from_secs(2), clears_after: Duration::from_secs(2) };

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
}

fn book(keep: usize) -> AlertBook {
    AlertBook::new(NonZeroUsize::new(keep).unwrap())
}

fn key(subject: u8) -> Key {
    let source = "replica-service".to_owned();
    Key {
        rule: "component_unhealthy".into(),
        source,
        endpoint: "http://127.0.0.1:4030".to_owned(),
        subject: format!("s{subject}"),
    }
}

fn breach(subject: u8, severity: Severity) -> Breach {
    Breach {
        key: key(subject),
        severity,
        summary: "down".to_owned(),
        value: 1.0,
        threshold: 0.0,
        labels: BTreeMap::new(),
        since: None,
        timing: TIMING,
    }
}

/// Hands out ids that tests can foresee.
struct Ids(u128);

impl Ids {
    fn next(&mut self) -> Uuid {
        self.0 += 1;
        Uuid::from_u128(self.0)
    }
}

fn fine(_: &Key) -> Absence {
    Absence::Fine(None)
}

fn evaluate(book: &mut AlertBook, ids: &mut Ids, breaches: Vec<Breach>, second: u64) -> Vec<Change> {
    book.evaluate(breaches, fine, at(second), || ids.next()).into_iter().map(|event| event.change).collect()
}

/// Fires and resolves subject 0 once.
fn one_episode(book: &mut AlertBook, ids: &mut Ids, second: u64) {
    evaluate(book, ids, vec![breach(0, Severity::Warning)], second);
    evaluate(book, ids, vec![breach(0, Severity::Warning)], second + 2);
    evaluate(book, ids, vec![], second + 3);
    evaluate(book, ids, vec![], second + 5);
}

#[test]
fn alert_is_seen_pending_then_firing_then_resolved() {
    let (mut book, mut ids) = (book(10), Ids(0));
    let state =
        |book: &AlertBook| book.page(&Filter::default(), None, 10).alerts.first().map(|alert| alert.state);
    let warn = || vec![breach(0, Severity::Warning)];

    assert_eq!(evaluate(&mut book, &mut ids, warn(), 0), [Change::State(Transition::Started)]);
    assert_eq!(state(&book), Some(AlertState::Pending));
    assert_eq!(evaluate(&mut book, &mut ids, warn(), 1), []);
    assert_eq!(evaluate(&mut book, &mut ids, warn(), 2), [Change::State(Transition::Fired)]);
    assert_eq!(book.firing(), Counts { warning: 1, ..Counts::default() });
    assert_eq!(evaluate(&mut book, &mut ids, vec![], 3), [Change::State(Transition::Recovering)]);
    assert_eq!(state(&book), Some(AlertState::Firing));
    assert_eq!(evaluate(&mut book, &mut ids, vec![], 5), [Change::State(Transition::Resolved)]);
    assert_eq!(state(&book), Some(AlertState::Resolved));
    assert_eq!(book.firing(), Counts::default());
    assert!(book.open.is_empty());
}

#[test]
fn condition_that_passes_at_once_leaves_no_trace() {
    let (mut book, mut ids) = (book(10), Ids(0));
    evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 0);
    assert_eq!(evaluate(&mut book, &mut ids, vec![], 1), [Change::State(Transition::Withdrawn)]);
    assert!(book.page(&Filter::default(), None, 10).alerts.is_empty());
}

#[test]
fn alert_that_nobody_can_look_at_keeps_firing() {
    let (mut book, mut ids) = (book(10), Ids(0));
    evaluate(&mut book, &mut ids, vec![breach(0, Severity::Critical)], 0);
    evaluate(&mut book, &mut ids, vec![breach(0, Severity::Critical)], 2);
    for second in 3..100 {
        assert!(book.evaluate(vec![], |_| Absence::Unseen, at(second), || ids.next()).is_empty());
    }
    assert_eq!(book.firing().critical, 1);
}

#[test]
fn evidence_from_before_counts_towards_firing_and_resolving() {
    let (mut book, mut ids) = (book(10), Ids(0));
    let since = Breach { since: Some(at(0)), ..breach(0, Severity::Warning) };
    assert_eq!(
        evaluate(&mut book, &mut ids, vec![since], 10),
        [Change::State(Transition::Started), Change::State(Transition::Fired)]
    );
    assert_eq!(book.page(&Filter::default(), None, 1).alerts[0].started_at, at(0));
    let events = book.evaluate(vec![], |_| Absence::Fine(Some(at(18))), at(20), || ids.next());
    let changes: Vec<_> = events.iter().map(|event| event.change).collect();
    assert_eq!(changes, [Change::State(Transition::Recovering), Change::State(Transition::Resolved)]);
}

#[test]
fn severity_rises_at_once_and_falls_only_with_the_episode() {
    let (mut book, mut ids) = (book(10), Ids(0));
    evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 0);
    evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 2);
    assert_eq!(evaluate(&mut book, &mut ids, vec![breach(0, Severity::Critical)], 3), [Change::Raised]);
    assert_eq!(evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 4), []);
    assert_eq!(book.firing(), Counts { critical: 1, ..Counts::default() });
}

#[test]
fn acknowledgement_is_kept_until_it_expires_and_changes_no_state() {
    let (mut book, mut ids) = (book(10), Ids(0));
    let by = |expires_in| {
        Acknowledgement::try_new("ann".to_owned(), "on it".to_owned(), expires_in, at(3)).unwrap()
    };
    evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 0);
    evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 2);

    let id = Uuid::from_u128(1);
    let alert = book.acknowledge(id, by(Some(Duration::from_secs(10))), None).unwrap();
    assert_eq!(alert.alert.state, AlertState::Firing);
    assert_eq!(evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 12), []);
    assert_eq!(
        evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 13),
        [Change::AcknowledgementExpired]
    );

    book.acknowledge(id, by(None), None).unwrap();
    evaluate(&mut book, &mut ids, vec![], 14);
    evaluate(&mut book, &mut ids, vec![], 1000);
    let resolved = book.page(&Filter::default(), None, 1).alerts[0];
    assert_eq!(resolved.state, AlertState::Resolved);
    assert!(resolved.acknowledgement.is_some(), "the history tells who looked after it");
    assert_eq!(book.acknowledge(id, by(None), None), Err(AcknowledgeError::AlreadyResolved));
    assert_eq!(book.acknowledge(Uuid::from_u128(77), by(None), None), Err(AcknowledgeError::NotFound));
}

#[test]
fn alert_that_nobody_looks_after_is_escalated_once_per_channel() {
    let (mut book, mut ids) = (book(10), Ids(0));
    let channels =
        [("second".to_owned(), Duration::from_mins(5)), ("boss".to_owned(), Duration::from_mins(15))];
    let escalated = |book: &mut AlertBook, second: u64| -> Vec<String> {
        let events = book.escalated(&channels, at(second), |_| false);
        events.into_iter().filter_map(|event| event.alert.escalated.last().cloned()).collect()
    };
    evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 0);
    let fired = book.evaluate(vec![breach(0, Severity::Warning)], fine, at(2), || ids.next());
    assert_eq!(escalated(&mut book, 900), Vec::<String>::new(), "nobody was told of it at all");
    for mut event in fired {
        book.notify(&mut event, false, at(0));
    }
    assert_eq!(escalated(&mut book, 301), Vec::<String>::new());
    assert_eq!(book.escalated(&channels, at(302), |_| true), [], "it is silenced");
    assert_eq!(escalated(&mut book, 302), ["second"]);
    assert_eq!(escalated(&mut book, 303), Vec::<String>::new());
    let by = Acknowledgement::try_new("ann".to_owned(), String::new(), None, at(400)).unwrap();
    book.acknowledge(Uuid::from_u128(1), by, None).unwrap();
    assert_eq!(escalated(&mut book, 2_000), Vec::<String>::new());
}

#[test]
fn alert_that_fires_on_is_repeated_until_somebody_looks_after_it() {
    let (mut book, mut ids) = (book(10), Ids(0));
    let due = |_: &Alert| {
        vec![("often".to_owned(), Duration::from_secs(60)), ("rarely".to_owned(), Duration::from_secs(90))]
    };
    let repeated = |book: &mut AlertBook, second: u64| -> Vec<String> {
        let events = book.repeated(due, at(second), |_| false);
        events.into_iter().filter_map(|event| Some(event.alert.repeated.last()?.channel.clone())).collect()
    };
    let none = Vec::<String>::new();
    evaluate(&mut book, &mut ids, vec![breach(0, Severity::Warning)], 0);
    let fired = book.evaluate(vec![breach(0, Severity::Warning)], fine, at(2), || ids.next());
    assert_eq!(repeated(&mut book, 500), none, "nobody was told of it at all");
    for mut event in fired {
        book.notify(&mut event, false, at(10));
    }
    assert_eq!(repeated(&mut book, 69), none);
    assert_eq!(book.repeated(due, at(70), |_| true), [], "it is silenced");
    assert_eq!(repeated(&mut book, 70), ["often"]);
    assert_eq!(repeated(&mut book, 100), ["rarely"]);
    assert_eq!(repeated(&mut book, 129), none);
    assert_eq!(repeated(&mut book, 130), ["often"]);
    assert_eq!(repeated(&mut book, 20), none, "the clock was set back");
    let by = Acknowledgement::try_new("ann".to_owned(), String::new(), None, at(131)).unwrap();
    book.acknowledge(Uuid::from_u128(1), by, None).unwrap();
    assert_eq!(repeated(&mut book, 2_000), none);
}

#[test]
fn acknowledgement_of_another_version_is_refused() {
    let (mut book, mut ids) = (book(10), Ids(0));
    let by = || Acknowledgement::try_new("ann".to_owned(), String::new(), None, at(3)).unwrap();
    let events = book.evaluate(vec![breach(0, Severity::Warning)], fine, at(0), || ids.next());
    let id = Uuid::from_u128(1);
    let mut seen = events.into_iter().map(|mut event| {
        book.notify(&mut event, false, at(0));
        event.alert.version
    });
    assert_eq!((seen.next(), seen.next()), (Some(1), None));
    assert_eq!(book.acknowledge(id, by(), Some(7)), Err(AcknowledgeError::Changed(1)));
    let mut acknowledged = book.acknowledge(id, by(), Some(1)).unwrap();
    book.notify(&mut acknowledged, false, at(0));
    assert_eq!(acknowledged.alert.version, 2);
    assert_eq!(book.acknowledge(id, by(), Some(1)), Err(AcknowledgeError::Changed(2)));
}

#[test]
fn acknowledgement_has_limits() {
    let new = |n_characters, expires_in_s: Option<u64>| {
        let expires_in = expires_in_s.map(Duration::from_secs);
        Acknowledgement::try_new("ann".to_owned(), "ä".repeat(n_characters), expires_in, at(0))
            .map_err(|error| error.field())
    };
    assert!(new(1000, None).is_ok());
    assert_eq!(new(1001, None).unwrap_err(), "comment");
    assert_eq!(new(0, Some(0)).unwrap_err(), "expires_in");
    assert_eq!(new(0, Some(u64::MAX)).unwrap_err(), "expires_in");
}

#[test]
fn pages_are_newest_first_and_stay_in_place_when_alerts_arrive() {
    let (mut book, mut ids) = (book(100), Ids(0));
    for episode in 0..5 {
        one_episode(&mut book, &mut ids, episode * 10);
    }
    let numbers = |page: &Page<'_>| page.alerts.iter().map(|alert| alert.number).collect::<Vec<_>>();
    let first = book.page(&Filter::default(), None, 2);
    assert_eq!((numbers(&first), first.next_before), (vec![5, 4], Some(4)));
    one_episode(&mut book, &mut ids, 100);
    let second = book.page(&Filter::default(), Some(4), 2);
    assert_eq!((numbers(&second), second.next_before), (vec![3, 2], Some(2)));
    let last = book.page(&Filter::default(), Some(2), 2);
    assert_eq!((numbers(&last), last.next_before), (vec![1], None));
}

#[test]
fn filters_choose_by_state_severity_source_and_time() {
    let (mut book, mut ids) = (book(100), Ids(0));
    one_episode(&mut book, &mut ids, 0);
    evaluate(&mut book, &mut ids, vec![breach(1, Severity::Critical)], 50);
    let count = |filter: Filter| book.page(&filter, None, 100).alerts.len();
    assert_eq!(count(Filter::default()), 2);
    assert_eq!(count(Filter { states: vec![AlertState::Resolved], ..Filter::default() }), 1);
    assert_eq!(
        count(Filter { severities: vec![Severity::Critical, Severity::Info], ..Filter::default() }),
        1
    );
    assert_eq!(count(Filter { source: Some("cache-service".to_owned()), ..Filter::default() }), 0);
    assert_eq!(count(Filter { from: Some(at(50)), ..Filter::default() }), 1);
    assert_eq!(count(Filter { to: Some(at(50)), ..Filter::default() }), 1);
}

#[test]
fn oldest_resolved_alert_makes_room_and_open_ones_never_do() {
    let (mut book, mut ids) = (book(2), Ids(0));
    one_episode(&mut book, &mut ids, 0);
    evaluate(&mut book, &mut ids, vec![breach(1, Severity::Warning), breach(2, Severity::Warning)], 10);
    assert_eq!(book.open.len(), 2);
    let three =
        vec![breach(1, Severity::Warning), breach(2, Severity::Warning), breach(3, Severity::Warning)];
    evaluate(&mut book, &mut ids, three, 11);
    assert_eq!((book.alerts.len(), book.refused_now()), (2, 1));
    assert!(!book.open.contains_key(&key(3)));
}

proptest! {
    #[test]
    fn ids_are_stable_in_an_episode_and_every_firing_is_told_once(
        rounds in proptest::collection::vec((0..5_u64, proptest::collection::btree_map(0..4_u8, 0..3_u8, 0..4)), 1..120),
    ) {
        let (mut book, mut ids) = (book(6), Ids(0));
        let mut told: HashMap<Uuid, Vec<Transition>> = HashMap::new();
        let mut keys: HashMap<Uuid, Key> = HashMap::new();
        let mut second = 0;
        for (pause, seen) in rounds {
            second += pause;
            let unseen: BTreeSet<Key> = seen.iter().filter(|(_, kind)| **kind == 1).map(|(subject, _)| key(*subject)).collect();
            let broken = seen.iter().filter(|(_, kind)| **kind == 0);
            let breaches = broken.map(|(subject, _)| breach(*subject, Severity::Warning)).collect();
            let absent = |key: &Key| if unseen.contains(key) { Absence::Unseen } else { Absence::Fine(None) };
            for event in book.evaluate(breaches, absent, at(second), || ids.next()) {
                let Change::State(transition) = event.change else { continue };
                prop_assert_eq!(keys.entry(event.alert.id).or_insert_with(|| event.alert.key.clone()), &event.alert.key);
                told.entry(event.alert.id).or_default().push(transition);
            }
            prop_assert!(book.alerts.len() <= 6);
            prop_assert_eq!(book.firing().warning as usize,
                book.alerts.values().filter(|alert| alert.state == AlertState::Firing).count());
        }
        for transitions in told.values() {
            let count = |wanted| transitions.iter().filter(|transition| **transition == wanted).count();
            prop_assert_eq!(transitions[0], Transition::Started);
            prop_assert_eq!(count(Transition::Started), 1);
            prop_assert!(count(Transition::Fired) <= 1);
            prop_assert!(count(Transition::Resolved) <= count(Transition::Fired));
        }
    }
}

/// Steps a book until it rests, tells what would be told, and what is kept.
fn told(book: &mut AlertBook, breaches: Vec<Breach>, second: u64, silenced: bool) -> Vec<&'static str> {
    let mut events = book.evaluate(breaches, fine, at(second), Uuid::new_v4);
    events.extend(book.released(at(second), |_| silenced));
    let mut told = Vec::new();
    for mut event in events {
        if book.notify(&mut event, silenced, at(0)) {
            told.push(event.change.as_str());
        }
    }
    told
}

#[test]
fn silenced_alert_is_told_when_the_silence_ends_and_it_still_fires() {
    let mut book = book(10);
    let warn = || vec![breach(0, Severity::Warning)];
    let none: [&str; 0] = [];
    assert_eq!(told(&mut book, warn(), 0, true), none);
    assert_eq!(told(&mut book, warn(), 2, true), none, "it fires in silence");
    assert_eq!(told(&mut book, warn(), 3, true), none);
    assert_eq!(told(&mut book, warn(), 4, false), ["released"]);
    assert_eq!(told(&mut book, warn(), 5, false), none, "once");
    assert_eq!(told(&mut book, vec![], 6, false), none);
    assert_eq!(told(&mut book, vec![], 8, false), ["resolved"]);
}

#[test]
fn end_of_what_nobody_was_told_of_is_not_told() {
    let mut book = book(10);
    let none: [&str; 0] = [];
    told(&mut book, vec![breach(0, Severity::Warning)], 0, true);
    told(&mut book, vec![breach(0, Severity::Warning)], 2, true);
    told(&mut book, vec![], 3, true);
    assert_eq!(told(&mut book, vec![], 5, true), none);
}

#[test]
fn flapping_alert_is_held_back_until_it_fires_on_for_long() {
    let mut book = book(100);
    let warn = || vec![breach(0, Severity::Warning)];
    let mut fires = 0;
    for episode in 0..10 {
        let second = episode * 10;
        for (offset, breaches) in [(0, warn()), (2, warn()), (3, vec![]), (5, vec![])] {
            fires += told(&mut book, breaches, second + offset, false)
                .iter()
                .filter(|change| **change == "fired")
                .count();
        }
    }
    assert_eq!(fires, 5, "the sixth and all after it are held back");
    told(&mut book, warn(), 100, false);
    told(&mut book, warn(), 102, false);
    assert_eq!(told(&mut book, warn(), 102 + 600, false), ["released"], "it is no flapping any more");
}

proptest! {
    #[test]
    fn book_that_was_stored_and_restored_goes_on_as_if_nothing_had_been(
        seen in proptest::collection::vec((any::<bool>(), any::<bool>(), 0..4_u64), 1..20), cut in 0..20_usize,
    ) {
        let (mut whole, mut restarted) = (book(50), book(50));
        let (mut ids_a, mut ids_b) = (Ids(0), Ids(0));
        let mut second = 0;
        for (index, (first, other, pause)) in seen.into_iter().enumerate() {
            second += pause;
            if index == cut {
                let kept: Vec<Kept> = restarted.numbers().into_iter().filter_map(|n| restarted.kept(n)).collect();
                let stored = serde_json::to_string(&kept).unwrap();
                restarted = book(50);
                restarted.restore(serde_json::from_str::<Vec<Kept>>(&stored).unwrap());
                // A number that was withdrawn may be given again: nobody has seen it.
                restarted.next_number = whole.next_number;
            }
            let breaches = || {
                let subjects = [(first, 0), (other, 1)].into_iter().filter(|(broken, _)| *broken);
                subjects.map(|(_, subject)| breach(subject, Severity::Warning)).collect::<Vec<_>>()
            };
            let a = evaluate(&mut whole, &mut ids_a, breaches(), second);
            let b = evaluate(&mut restarted, &mut ids_b, breaches(), second);
            prop_assert_eq!(a, b);
            prop_assert_eq!(&whole.alerts, &restarted.alerts);
        }
    }
}

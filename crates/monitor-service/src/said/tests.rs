use proptest::prelude::*;

use super::*;
use crate::roster::tests::at;

fn acknowledged(by: &str, second: u64) -> Said {
    let acknowledgement =
        Acknowledgement { by: by.to_owned(), at: at(second), comment: String::new(), expires_at: None };
    Said::Acknowledged(acknowledgement)
}

fn silence(ends: u64) -> Said {
    Said::Silenced(Silence {
        id: Uuid::nil(),
        matchers: [("rule".to_owned(), "r".to_owned())].into(),
        starts_at: at(0),
        ends_at: at(ends),
        by: "ann".to_owned(),
        comment: "moving".to_owned(),
    })
}

fn ended() -> Said {
    Said::Ended { until: at(100) }
}

fn alert() -> Topic {
    Topic::Alert("f00d".to_owned())
}

fn written(entries: &[Entry], board: &mut Board) -> usize {
    let mut n = 0;
    for Entry { field, seen, text } in entries {
        if board.get(field).map_or("", String::as_str) != seen {
            continue;
        }
        n += 1;
        if text.is_empty() {
            drop(board.remove(field))
        } else {
            drop(board.insert(field.clone(), text.clone()))
        }
    }
    n
}

#[test]
fn what_holds_is_decided_by_what_was_said_alone() {
    let table = [
        ("later", acknowledged("ann", 5), acknowledged("bob", 4), true),
        ("earlier", acknowledged("ann", 4), acknowledged("bob", 5), false),
        ("at once", acknowledged("bob", 4), acknowledged("ann", 4), true),
        ("the same", acknowledged("ann", 4), acknowledged("ann", 4), false),
        ("ended", ended(), silence(100), true),
        ("begun again", silence(100), ended(), false),
        ("of another kind", silence(100), acknowledged("ann", 4), false),
    ];
    for (name, one, other, expected) in table {
        assert_eq!(one.beats(&other), expected, "{name}");
        assert!(!(expected && other.beats(&one)), "{name}: both");
        assert_eq!(Said::from_text(&one.to_text()), Some(one), "{name}");
    }
    assert_eq!(Said::from_text("{\"asked\":{}}"), None);
}

#[test]
fn differences_are_found_on_either_side() {
    let topic = Topic::Silence(Uuid::nil());
    let text = |said: &Said| said.to_text();
    let (early, late) = (acknowledged("ann", 4), acknowledged("bob", 5));
    let none = || (None, None);
    // What lies there, what is known here, what is news, and what is written.
    let table = [
        ("theirs", alert(), Some(&early), None, Some(&early), None),
        ("ours", alert(), None, Some(&early), None, Some(text(&early))),
        ("theirs is later", alert(), Some(&late), Some(&early), Some(&late), None),
        ("ours is later", alert(), Some(&early), Some(&late), None, Some(text(&late))),
        ("the same", alert(), Some(&early), Some(&early), none().0, none().1),
        ("silenced there", topic.clone(), Some(&silence(100)), None, Some(&silence(100)), None),
        ("ended here", topic.clone(), Some(&silence(100)), Some(&ended()), None, Some(text(&ended()))),
        ("ended there", topic.clone(), Some(&ended()), Some(&silence(100)), Some(&ended()), None),
        ("ended, and nobody knew", topic.clone(), None, Some(&ended()), None, None),
        ("over by itself", topic, Some(&silence(8)), None, None, Some(String::new())),
    ]
    .map(|(name, topic, there, here, news, entry)| {
        (name, topic, there.cloned(), here.cloned(), news.cloned(), entry)
    });
    for (name, topic, there, here, news, entry) in table {
        let field = topic.field();
        assert_eq!(Topic::of(&field), Some(topic.clone()), "{name}");
        let board: Board = there.iter().map(|said| (field.clone(), said.to_text())).collect();
        let own = here.into_iter().map(|said| (topic.clone(), said)).collect();
        let found = compare(&board, &mut Board::new(), &own, |_, _| false, at(10));
        assert_eq!(found.news.get(&topic), news.as_ref(), "{name}");
        let texts: Vec<&String> = found.entries.iter().map(|entry| &entry.text).collect();
        assert_eq!(texts, entry.iter().collect::<Vec<_>>(), "{name}");
        let seen = board.get(&field).cloned().unwrap_or_default();
        assert!(found.entries.iter().all(|entry| entry.seen == seen), "{name}");
    }
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let board: Board = [("alert:f00d", "nonsense"), ("else", "x"), ("silence:no-uuid", "{}")]
        .map(|(field, text)| (field.to_owned(), text.to_owned()))
        .into();
    let own = [(alert(), acknowledged("ann", 4))].into();
    let found = compare(&board, &mut Board::new(), &own, |_, _| true, at(10));
    assert_eq!(found, Difference::default());
}

#[test]
fn a_moment_at_the_end_of_time_is_told_from_others() {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX.unsigned_abs());
    let Said::Acknowledged(acknowledgement) = acknowledged("ann", 10) else { panic!("it is one") };
    let text = Said::Acknowledged(Acknowledgement { at: last, ..acknowledgement }).to_text();
    let board = Board::from([(alert().field(), text)]);
    let found = compare(&board, &mut Board::new(), &BTreeMap::new(), |_, _| false, at(20));
    assert_eq!((found.news.len(), found.entries.len()), (1, 0));
}

#[test]
fn what_somebody_removed_is_not_written_again_unless_all_was_lost() {
    let own = [(alert(), acknowledged("ann", 4))].into();
    let (mut board, mut once) = (Board::new(), Board::new());
    let entries = compare(&board, &mut once, &own, |_, _| false, at(10)).entries;
    assert_eq!(written(&entries, &mut board), 1);
    assert_eq!(compare(&board, &mut once, &own, |_, _| false, at(10)), Difference::default());
    // Another one has seen the alert end.
    let entries = compare(&board, &mut Board::new(), &BTreeMap::new(), |_, _| true, at(11)).entries;
    assert_eq!((written(&entries, &mut board), board.len()), (1, 0));
    assert_eq!(compare(&board, &mut once, &own, |_, _| false, at(12)), Difference::default());
    let again = compare(&board, &mut Board::new(), &own, |_, _| false, at(12)).entries;
    assert_eq!(again.len(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Acknowledge(usize, u64),
    Silence(usize),
    End(usize),
    Sync(usize),
    /// Two compare with the same board, and write one after the other.
    Race(usize, usize),
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..3_usize;
    prop_oneof![
        3 => (who(), 1..50_u64).prop_map(|(who, second)| Step::Acknowledge(who, second)),
        1 => who().prop_map(Step::Silence),
        1 => who().prop_map(Step::End),
        4 => who().prop_map(Step::Sync),
        2 => (who(), who()).prop_map(|(one, other)| Step::Race(one, other)),
        1 => Just(Step::Lose),
    ]
}

proptest! {
    #[test]
    fn all_monitors_come_to_know_the_same(steps in proptest::collection::vec(step(), 1..60)) {
        let now = at(60);
        let mut board = Board::new();
        let mut monitors: [(BTreeMap<Topic, Said>, Board); 3] = Default::default();
        let see = |(own, once): &mut (BTreeMap<Topic, Said>, Board), board: &Board| {
            let difference = compare(board, once, own, |_, _| false, now);
            own.extend(difference.news);
            difference.entries
        };
        for step in steps.into_iter().chain((0..9).map(|n| Step::Sync(n % 3))) {
            match step {
                Step::Acknowledge(who, second) => {
                    let said = acknowledged(&format!("{who}"), second);
                    // As a person may do at any time: the newest word is the one that this monitor knows.
                    let known = monitors[who].0.get(&alert());
                    if known.is_none_or(|known| said.beats(known)) {
                        monitors[who].0.insert(alert(), said);
                    }
                }
                Step::Silence(who) => {
                    monitors[who].0.entry(Topic::Silence(Uuid::nil())).or_insert_with(|| silence(100));
                }
                Step::End(who) => {
                    if let Some(said) = monitors[who].0.get_mut(&Topic::Silence(Uuid::nil())) {
                        *said = ended();
                    }
                }
                Step::Sync(who) => {
                    let entries = see(&mut monitors[who], &board);
                    written(&entries, &mut board);
                }
                Step::Race(one, other) => {
                    let both = [see(&mut monitors[one], &board), see(&mut monitors[other], &board)];
                    for entries in &both {
                        written(entries, &mut board);
                    }
                }
                Step::Lose => {
                    board.clear();
                    monitors.iter_mut().for_each(|(_, once)| once.clear());
                }
            }
        }
        let [one, two, three] = monitors.map(|(own, _)| own);
        let but_ended = |own: BTreeMap<Topic, Said>| {
            own.into_iter().filter(|(_, said)| !matches!(said, Said::Ended { .. })).collect::<Vec<_>>()
        };
        let (one, two, three) = (but_ended(one), but_ended(two), but_ended(three));
        prop_assert_eq!(&one, &two);
        prop_assert_eq!(&two, &three);
    }
}

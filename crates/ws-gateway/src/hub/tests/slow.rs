//! Clients that are too slow for what is published.

use serde_json::Value;

use super::*;
use crate::config::Slow;

const SMALL: Limits = Limits { outbox_bytes: 8_000, ..LIMITS };

fn slow(policy: Slow, recovery: Recovery) -> Arc<NamespaceConfig> {
    let history_size = if recovery == Recovery::Off { 0 } else { 100 };
    Arc::new(NamespaceConfig { slow: policy, recovery, history_size, ..NamespaceConfig::default() })
}

/// Returns the data of the publications that wait, and the code of the unsubscription if there is one.
fn waiting(seat: &Seat) -> (Vec<u64>, Option<u64>) {
    let lines = received(seat);
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    let data = lines.iter().filter_map(|line| line["push"]["pub"]["data"].as_u64()).collect();
    let code = lines.last().and_then(|line| line["push"]["unsubscribe"]["code"].as_u64());
    (data, code)
}

fn publish_each(hub: &Hub, options: &Arc<NamespaceConfig>, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        hub.publish(&channel("a"), options, &message(&n.to_string()));
    }
}

#[test]
fn who_does_not_count_gets_the_newest() {
    for (policy, least) in [(Slow::DropOldest, 20), (Slow::KeepLatest, 1)] {
        let (hub, options) = (hub(SMALL), slow(policy, Recovery::Off));
        let seat = open(&hub).unwrap();
        subscribe(&hub, &seat, &wanted("a", &options)).unwrap();
        publish_each(&hub, &options, 1..=500);
        let (data, code) = waiting(&seat);
        let first = 501 - data.len() as u64;
        assert!(data.len() >= least && data.len() < 200, "{policy:?}: {data:?}");
        assert_eq!((data, code), ((first..=500).collect(), None), "{policy:?}");
        assert_eq!(seat.connection().outbox.closing(), None);
        publish_each(&hub, &options, 501..=502);
        assert_eq!(waiting(&seat).0, [501, 502]);
    }
}

#[test]
fn who_counts_is_unsubscribed_at_the_gap_and_recovers_all_of_it() {
    for policy in [Slow::DropOldest, Slow::KeepLatest] {
        let (hub, options) = (hub(SMALL), slow(policy, Recovery::Stream));
        let seat = open(&hub).unwrap();
        let plan = |recover| Subscription { recoverable: true, recover, ..wanted("a", &options) };
        let begun = subscribe(&hub, &seat, &plan(None)).unwrap();
        let epoch = begun.epoch.unwrap();
        publish_each(&hub, &options, 1..=3);
        assert_eq!(waiting(&seat), (vec![1, 2, 3], None));
        publish_each(&hub, &options, 4..=27);
        assert_eq!(waiting(&seat), (vec![], Some(2_500)), "{policy:?}");
        assert_eq!(hub.census().subscriptions, 0);
        let begun = subscribe(&hub, &seat, &plan(since(3, &epoch))).unwrap();
        assert_eq!((begun.recovered, offsets(&begun)), (true, (4..=27).collect()));
        publish_each(&hub, &options, 28..=28);
        assert_eq!(waiting(&seat).0, [28]);
    }
}

#[test]
fn what_others_queued_is_left_alone() {
    let (hub, options) = (hub(SMALL), slow(Slow::KeepLatest, Recovery::Off));
    let seat = open(&hub).unwrap();
    subscribe(&hub, &seat, &wanted("a", &options)).unwrap();
    assert!(join(&hub, &seat, "b"));
    for n in 1..=40 {
        publish_each(&hub, &options, n..=n);
        publish(&hub, "b", &(1_000 + n).to_string());
    }
    let (data, _) = waiting(&seat);
    let (others, own): (Vec<u64>, Vec<u64>) = data.into_iter().partition(|n| *n > 1_000);
    assert_eq!((others, own), ((1_001..=1_040).collect(), vec![40]));
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    Read(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![(1..60_u8).prop_map(Step::Publish), (1..40_u8).prop_map(Step::Read)]
}

/// A client that counts: it knows its place and comes back to it when it is unsubscribed.
struct Counting<'a> {
    hub: &'a Hub,
    seat: Seat,
    options: Arc<NamespaceConfig>,
    epoch: String,
    last: u64,
}

impl Counting<'_> {
    fn subscribe(&mut self, recover: Option<Since>) {
        let plan = Subscription { recoverable: true, recover, ..wanted("a", &self.options) };
        let begun = subscribe(self.hub, &self.seat, &plan).unwrap();
        if begun.recovered {
            for offset in offsets(&begun) {
                self.take(offset);
            }
        } else {
            self.last = begun.offset;
        }
        self.epoch = begun.epoch.unwrap().to_string();
    }

    fn take(&mut self, offset: u64) {
        assert_eq!(offset, self.last + 1, "a gap or a double");
        self.last = offset;
    }

    /// Reads some messages; tells whether there were any.
    fn read(&mut self, max_messages: usize) -> bool {
        let mut batch = Vec::new();
        self.seat.connection().outbox.take(max_messages, usize::MAX, &mut batch);
        for line in &batch {
            let line: Value = serde_json::from_slice(line).unwrap();
            if let Some(offset) = line["push"]["pub"]["offset"].as_u64() {
                self.take(offset);
            }
            if line["push"]["unsubscribe"].is_object() {
                self.subscribe(since(self.last, &self.epoch));
            }
        }
        !batch.is_empty()
    }
}

proptest! {
    #[test]
    fn who_counts_sees_everything_once_and_in_order(
        policy in prop_oneof![Just(Slow::DropOldest), Just(Slow::KeepLatest)],
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let (hub, options) = (hub(SMALL), slow(policy, Recovery::Stream));
        let seat = open(&hub).unwrap();
        let (epoch, plan) = (String::new(), Arc::clone(&options));
        let mut client = Counting { hub: &hub, seat, options: plan, epoch, last: 0 };
        client.subscribe(None);
        let mut n_published = 0;
        for step in steps {
            match step {
                Step::Publish(count) => {
                    publish_each(&hub, &options, 1..=count.into());
                    n_published += u64::from(count);
                }
                Step::Read(count) => {
                    client.read(count.into());
                }
            }
        }
        while client.read(usize::MAX) {}
        prop_assert_eq!(client.last, n_published);
        prop_assert_eq!(client.seat.connection().outbox.closing(), None);
    }
}

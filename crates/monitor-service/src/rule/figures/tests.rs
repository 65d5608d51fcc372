use std::num::NonZeroUsize;
use std::sync::Arc;

use super::*;
use crate::config::AlertsConfig;
use crate::roster::tests::{at, targets};
use crate::series::Reading;
use crate::target::Target;

const AT_LATEST: Duration = Duration::from_secs(2);

/// Two targets, and rules that look at their figures.
struct World {
    history: History,
    roster: Roster,
    targets: Vec<Arc<Target>>,
    rules: FigureRules,
}

impl World {
    fn new(rules: &[(&str, RuleSpec)]) -> Self {
        let targets = targets(&["cache-service", "ws-gateway"]);
        let rules = rules.iter().map(|(name, spec)| ((*name).to_owned(), spec.clone())).collect();
        Self {
            history: History::new(&targets, NonZeroUsize::new(100).unwrap(), 1_000),
            roster: Roster::new(&targets),
            rules: FigureRules::new(Vec::new(), &rules, Vec::new()),
            targets,
        }
    }

    fn read(&mut self, target: usize, second: u64, metric: &str, value: f64) {
        let reading = Reading { metric, labels: &[], value };
        self.history.record(&self.targets[target], at(second), [reading]);
    }

    /// Returns how many targets were looked at, and the sources of what is broken.
    fn look(&mut self, second: u64) -> (usize, Vec<String>) {
        let news = self.history.take_news();
        let config = AlertsConfig::default();
        let (history, roster) = (&self.history, &self.roster);
        let scene = Scene { history, roster, config: &config, now: at(second) };
        let n = self.rules.look(&scene, &news, AT_LATEST, |_| None);
        (n, self.rules.breaches().map(|breach| breach.key.source).collect())
    }
}

fn high(metric: &str) -> RuleSpec {
    RuleSpec { metric: metric.to_owned(), warning: Some(5.0), ..RuleSpec::default() }
}

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn what_was_read_is_judged_at_once_and_nothing_else() {
    let mut world = World::new(&[("high", high("m"))]);
    assert_eq!(world.look(0), (2, none()), "nobody has looked yet");
    world.read(0, 1, "m", 9.0);
    assert_eq!(world.look(1), (1, vec!["cache-service".to_owned()]));
    assert_eq!(world.look(1), (0, vec!["cache-service".to_owned()]), "what was broken stays so");
    world.read(1, 1, "m", 9.0);
    assert_eq!(world.look(1).1, ["cache-service", "ws-gateway"]);
    world.read(0, 2, "m", 1.0);
    assert_eq!(world.look(2), (1, vec!["ws-gateway".to_owned()]));
}

#[test]
fn windows_move_on_also_where_nothing_is_read() {
    let mut world = World::new(&[("high", high("m"))]);
    world.read(0, 0, "m", 9.0);
    assert_eq!(world.look(0).1, ["cache-service"]);
    assert_eq!(world.look(1).0, 0);
    assert_eq!(world.look(2), (2, vec!["cache-service".to_owned()]), "fresh enough");
    // By then it is older than a figure may be, which is `alerts.missing_for`.
    assert_eq!(world.look(4), (2, none()));
    assert_eq!(world.look(3).0, 2, "the clock was set back");
}

#[test]
fn rule_that_was_changed_is_looked_at_everywhere_at_once() {
    let mut world = World::new(&[]);
    world.read(0, 0, "m", 9.0);
    world.read(1, 0, "m", 9.0);
    assert_eq!(world.look(0), (2, none()));
    assert!(world.rules.put(Rule { name: "high".to_owned(), spec: high("m") }));
    assert_eq!(world.look(0), (2, vec!["cache-service".to_owned(), "ws-gateway".to_owned()]));
    let matched = |world: &World| {
        let all = world.rules.list();
        all.into_iter().find(|status| status.rule.name == "high").map(|status| status.look.n_matched)
    };
    assert_eq!(matched(&world), Some(2));
    world.history.remove(&world.targets[1]);
    assert_eq!(world.look(0), (0, vec!["cache-service".to_owned()]), "nobody watches the other one any more");
    assert_eq!(matched(&world), Some(1));
    assert!(world.rules.delete("high"));
    assert_eq!((world.look(0).1, matched(&world)), (none(), None));
}

#[test]
fn each_target_that_lacks_a_metric_is_found_by_itself() {
    let spec = RuleSpec {
        kind: RuleKind::Absence,
        metric: "m".to_owned(),
        service: "ws-gateway".to_owned(),
        window: Duration::from_secs(5),
        ..RuleSpec::default()
    };
    let mut world = World::new(&[("lacks", spec)]);
    for second in 0..=10 {
        world.read(0, second, "other", 1.0);
        world.read(1, second, if second < 5 { "m" } else { "other" }, 1.0);
        let report = crate::roster::tests::report(at(second), Vec::new());
        world.roster.answered(&world.targets[1], report, None);
        let expected = if second < 9 { none() } else { vec!["ws-gateway".to_owned()] };
        assert_eq!(world.look(second).1, expected, "second {second}");
    }
}

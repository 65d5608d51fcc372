use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::*;

struct Fixture {
    background: Background,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Fixture {
    fn new() -> Self {
        let background = Background::new(BackgroundMetrics::default());
        Self { background, tasks: TaskTracker::new(), stopping: CancellationToken::new() }
    }

    fn start<T: Activate>(&self, schedule: Schedule, task: T) -> Trigger {
        let (driver, trigger) = self.background.add("job".to_owned(), schedule, Clock::system());
        self.tasks.spawn(driver.run(task, self.stopping.clone()));
        trigger
    }

    fn status(&self) -> TaskStatus {
        self.background.snapshot().pop().expect("one job was added").1
    }

    async fn stop(self) -> TaskStatus {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.status()
    }
}

#[tokio::test(start_paused = true)]
async fn periodic_job_runs_at_once_and_then_about_once_per_period() {
    let fixture = Fixture::new();
    let (round_tx, mut round_rx) = mpsc::channel(100);
    let begun_at = Instant::now();
    let trigger = fixture.start(Schedule::Every(Duration::from_secs(10)), move || {
        let round_tx = round_tx.clone();
        async move { Ok(round_tx.send(begun_at.elapsed()).await?) }
    });
    trigger.fire();
    let mut rounds = Vec::new();
    for _ in 0..5 {
        rounds.push(round_rx.recv().await.expect("the job runs"));
    }
    assert!(rounds[0] < Duration::from_millis(10), "the first round is not at once: {rounds:?}");
    for pair in rounds.windows(2) {
        let gap = pair[1] - pair[0];
        assert!((Duration::from_millis(8_990)..=Duration::from_millis(11_010)).contains(&gap), "{rounds:?}");
    }
    let status = fixture.stop().await;
    assert_eq!((status.period, status.failures), (Some(Duration::from_secs(10)), 0));
    assert!(status.last_started_at.is_some() && status.last_duration.is_some() && !status.running);
}

#[tokio::test(start_paused = true)]
async fn triggers_during_a_round_make_exactly_one_more_and_rounds_never_overlap() {
    let fixture = Fixture::new();
    let under_way = Arc::new(AtomicU32::new(0));
    let (round_tx, mut round_rx) = mpsc::channel(100);
    let trigger = fixture.start(Schedule::OnTrigger, move || {
        let (round_tx, under_way) = (round_tx.clone(), Arc::clone(&under_way));
        async move {
            assert_eq!(under_way.fetch_add(1, Ordering::SeqCst), 0, "two rounds at once");
            round_tx.send(()).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            under_way.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    });
    assert_eq!(fixture.status().activations, 0);
    trigger.fire();
    round_rx.recv().await.expect("the trigger starts a round");
    assert!(fixture.status().running);
    for _ in 0..5 {
        trigger.fire();
    }
    round_rx.recv().await.expect("the triggers are heard");
    let more = tokio::time::timeout(Duration::from_secs(60), round_rx.recv()).await;
    assert!(more.is_err(), "five triggers made more than one round");
    assert_eq!(fixture.stop().await.activations, 2);
}

#[tokio::test(start_paused = true)]
async fn errors_and_panics_belong_to_their_round_only() {
    let fixture = Fixture::new();
    let (round_tx, mut round_rx) = mpsc::channel(100);
    let mut n_rounds = 0;
    let trigger = fixture.start(Schedule::EveryOrTrigger(Duration::from_secs(3600)), move || {
        n_rounds += 1;
        let (round, round_tx) = (n_rounds, round_tx.clone());
        async move {
            round_tx.send(()).await?;
            match round {
                1 => Err(anyhow::anyhow!("connection refused").context("cannot probe")),
                2 => panic!("index out of bounds"),
                _ => Ok(()),
            }
        }
    });
    let mut errors = Vec::new();
    for _ in 0..3 {
        round_rx.recv().await.expect("the job runs on after an error and after a panic");
        while fixture.status().running {
            tokio::task::yield_now().await;
        }
        errors.push(fixture.status().last_error);
        trigger.fire();
    }
    assert_eq!(errors, ["cannot probe: connection refused", "panicked: index out of bounds", ""]);
    let status = fixture.stop().await;
    assert_eq!(status.failures, 2);
}

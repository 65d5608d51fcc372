use tokio::sync::oneshot;

use super::*;

fn lifecycle() -> (Arc<Lifecycle>, Counter) {
    let panics = Counter::default();
    (Lifecycle::new(panics.clone()), panics)
}

#[tokio::test]
async fn failed_or_panicked_task_is_a_crash_and_a_finished_one_is_not() {
    let (calm, _) = lifecycle();
    calm.spawn("fine", async { Ok(()) });
    calm.stop(Duration::from_secs(5), &CancellationToken::new()).await;
    assert!(!calm.crashed().is_cancelled());

    let (failing, _) = lifecycle();
    failing.spawn("failing", async { anyhow::bail!("no more") });
    failing.crashed().cancelled().await;

    let (panicking, _) = lifecycle();
    panicking.spawn("panicking", async { panic!("out of luck") });
    panicking.crashed().cancelled().await;
}

#[tokio::test]
async fn panic_of_short_work_is_counted_and_harms_nobody() {
    let (lifecycle, panics) = lifecycle();
    lifecycle.spawn_work(async { panic!("bad request") });
    lifecycle.stop(Duration::from_secs(5), &CancellationToken::new()).await;
    assert_eq!(panics.get(), 1);
    assert!(!lifecycle.crashed().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn work_in_flight_has_the_grace_and_no_more() {
    let (lifecycle, _) = lifecycle();
    let (done_tx, done_rx) = oneshot::channel();
    let stopping = lifecycle.stopping();
    lifecycle.spawn("polite", async move {
        stopping.cancelled().await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        done_tx.send(()).map_err(|()| anyhow::anyhow!("nobody waits"))
    });
    let (never_tx, never_rx) = oneshot::channel::<()>();
    lifecycle.spawn_work(async move {
        std::future::pending::<()>().await;
        drop(never_tx);
    });
    let begun_at = tokio::time::Instant::now();
    lifecycle.stop(Duration::from_secs(5), &CancellationToken::new()).await;
    assert_eq!(done_rx.await, Ok(()), "the polite one was not cut off");
    assert!(never_rx.await.is_err(), "the other one was dropped");
    let took = begun_at.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_millis(5100)).contains(&took), "took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn hurry_cuts_the_grace_short() {
    let (lifecycle, _) = lifecycle();
    lifecycle.spawn("deaf", std::future::pending());
    assert_eq!(lifecycle.unfinished(), "deaf and 0 unnamed");
    let hurry = CancellationToken::new();
    hurry.cancel();
    let begun_at = tokio::time::Instant::now();
    lifecycle.stop(Duration::from_secs(60), &hurry).await;
    assert!(begun_at.elapsed() < Duration::from_secs(1));
    assert!(lifecycle.aborting().is_cancelled());
}

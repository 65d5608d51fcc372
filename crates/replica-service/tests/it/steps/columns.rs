use mainstay_proto::replica::v1::{SwitchoverStep, value::Kind};

use super::pair::Switched;
use crate::rig::*;

/// The pitfall of a backfill that takes days: somebody adds a column meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_comes_in_the_middle_of_a_backfill_stops_it_until_both_have_it() {
    let switched = Switched::start("grown", 600, |config| {
        config.steps.batch_rows = 20;
        config.steps.duty_cycle = 0.01;
    })
    .await;
    switched.take(SwitchoverStep::InstallTriggers).await;
    switched.take(SwitchoverStep::Backfill).await;
    switched.wait("some rows to be copied", |state| state.rows_copied > 0).await;
    let connection = switched.connect().await;
    let alter = async |table: &str| {
        // A batch may be under way.
        let alter = format!("SET lock_timeout = '60s'; ALTER TABLE {table} ADD COLUMN extra int DEFAULT 7");
        connection.batch_execute(&alter).await.unwrap();
    };
    alter("grown").await;
    let stopped =
        switched.wait("the backfill to say why it stops", |state| state.held_up.contains("extra")).await;
    assert!(!stopped.backfilled, "{stopped:?}");
    let pair = switched
        .wait_pair("the columns to be told", |pair| {
            pair.checks
                .iter()
                .any(|check| check.name == "columns" && check.reason.contains("extra is not in"))
        })
        .await;
    assert!(!pair.ready);
    // Nobody's write fails for it.
    switched.rig.execute("UPDATE grown SET note = 'written on' WHERE id = 1").await.unwrap();

    alter("grown_p").await;
    // Told again, the triggers know the new column.
    switched.take(SwitchoverStep::InstallTriggers).await;
    switched.rig.execute("UPDATE grown SET extra = 8 WHERE id IN (1, 599)").await.unwrap();
    switched.wait("the backfill to end", |state| state.backfilled).await;
    switched.take(SwitchoverStep::Verify).await;
    let state = switched.wait("the verification to end", |state| state.verified_at.is_some()).await;
    assert_eq!((state.rows_verified, state.rows_repaired), (600, 0), "{state:?}");
    let differ = "SELECT count(*) FROM (TABLE grown EXCEPT TABLE grown_p) AS one";
    assert_eq!(first(&switched.rig.query_primary(differ).await.unwrap()), Kind::Int(0));
    let new = "SELECT sum(extra) FROM grown_p WHERE id IN (1, 2, 599)";
    assert_eq!(first(&switched.rig.query_primary(new).await.unwrap()), Kind::Int(23));

    // The other way round writes do fail, until the triggers are told.
    connection
        .batch_execute("ALTER TABLE grown_p DROP COLUMN extra; ALTER TABLE grown DROP COLUMN extra")
        .await
        .unwrap();
    let update = "UPDATE grown SET note = 'as ever' WHERE id = 3";
    let failure = switched.rig.execute(update).await.unwrap_err();
    assert_eq!(failure.details()["sqlState"], "42703", "{failure:?}");
    switched.take(SwitchoverStep::InstallTriggers).await;
    switched.rig.execute(update).await.unwrap();
    let differ = "SELECT count(*) FROM (TABLE grown EXCEPT TABLE grown_p) AS one";
    assert_eq!(first(&switched.rig.query_primary(differ).await.unwrap()), Kind::Int(0));
}

use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::{SwitchoverStage, SwitchoverStep};

use super::pair::Switched;
use crate::rig::*;

/// What is made beside the table that has the name, how it is taken away again, and how a swap names it.
const OBSTACLES: [(&str, &str, &str); 9] = [
    (
        "CREATE RULE tied_rule AS ON DELETE TO tied DO ALSO NOTIFY tied",
        "DROP RULE tied_rule ON tied",
        "rule of tied would keep to the old table",
    ),
    (
        "CREATE FUNCTION tied_count() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM tied; END",
        "DROP FUNCTION tied_count()",
        "function tied_count() would keep to the old table",
    ),
    (
        "CREATE TRIGGER tied_own BEFORE UPDATE ON tied FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "DROP TRIGGER tied_own ON tied",
        "trigger tied_own is not on the other table",
    ),
    (
        "ALTER TABLE tied ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE tied DISABLE ROW LEVEL SECURITY",
        "row security is on for the one table only",
    ),
    (
        "CREATE POLICY tied_policy ON tied USING (true)",
        "DROP POLICY tied_policy ON tied",
        "policy tied_policy is not on the other table",
    ),
    (
        "CREATE PUBLICATION tied_publication FOR TABLE tied",
        "DROP PUBLICATION tied_publication",
        "publication tied_publication has the one table only",
    ),
    (
        "GRANT SELECT (note) ON tied TO PUBLIC",
        "REVOKE SELECT (note) ON tied FROM PUBLIC",
        "privileges on column note cannot follow",
    ),
    (
        "ALTER TABLE tied ADD CONSTRAINT tied_check CHECK (id > 0)",
        "ALTER TABLE tied DROP CONSTRAINT tied_check",
        "check tied_check is not on the other table",
    ),
    (
        "CREATE TABLE tied_parent (id bigint PRIMARY KEY); \
         ALTER TABLE tied ADD CONSTRAINT tied_up FOREIGN KEY (id) REFERENCES tied_parent NOT VALID",
        "ALTER TABLE tied DROP CONSTRAINT tied_up; DROP TABLE tied_parent",
        "foreign key tied_up is not on the other table",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_cannot_follow_the_name_is_refused_by_its_own() {
    let switched = Switched::start("tied", 100, |_| {}).await;
    switched.to_the_swap().await;
    let server = primary(shared().await);
    for (make, take_away, told) in OBSTACLES {
        sql(server, make).await;
        // Locks of others are no answer, and what the watch knows of rows is a moment old.
        wait_until(told, EVERY, SOON, || async {
            match switched.try_take(SwitchoverStep::Swap).await {
                Err(failure) if failure.reason() == "STEP_REFUSED" && failure.message().contains(told) => {
                    Ok(())
                }
                Err(failure) => Err(format!("{failure:?}")),
                Ok(state) => panic!("{make}: swapped: {state:?}"),
            }
        })
        .await
        .unwrap();
        sql(server, take_away).await;
    }
    assert_eq!(switched.state().await.stage(), SwitchoverStage::DualWrite);
    // All of them gone, nothing is in the way.
    assert_eq!(switched.take(SwitchoverStep::Swap).await.stage(), SwitchoverStage::Swapped);
}

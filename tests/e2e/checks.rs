//! The checks that operators run, against the shared stack.

use std::path::PathBuf;

use mainstay_tests::{run_checks, shared};

/// The other tests of this binary change what the smoke checks judge (hit rates, alerts), so these are the others alone.
#[tokio::test]
async fn observability_checks_find_every_figure_of_a_whole_stack() {
    let report = run_checks(shared().await, "observability").await;
    // Times are what the machine gives while other tests run on it.
    let failed: Vec<_> =
        report.failures().into_iter().filter(|failure| !failure.contains("median")).collect();
    assert!(failed.is_empty(), "{failed:?}\n{}", report.text);
    assert!(report.n_checks() >= 50, "{}", report.text);
}

#[tokio::test]
async fn checks_of_an_unknown_environment_tell_the_known_ones() {
    let environments: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "environments.toml"].iter().collect();
    let arguments = ["smoke", "--env", "moon", "--environments", environments.to_str().unwrap()];
    let finished = mainstay_tests::run_to_end("mainstay-checks", &arguments, &[]).await;
    assert_eq!(finished.code, Some(64), "{finished:?}");
    assert!(finished.stderr.contains("there are: local, production, staging"), "{}", finished.stderr);
}

//! One check: what it looks at, and what it found.

use std::pin::Pin;

use crate::shape::Kind;
use crate::target::Target;

pub(crate) enum Verdict {
    Pass(String),
    /// Something an operator should know, that is no fault of the stack.
    Warn(String),
    Fail(String),
}

pub(crate) type Outcome = Result<Verdict, String>;
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

pub(crate) struct Check {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    probe: Probe,
}

enum Probe {
    /// The answer of `path` has a value of this kind at `pointer` (RFC 6901).
    Field {
        path: &'static str,
        pointer: &'static str,
        kind: Kind,
    },
    Doing(for<'a> fn(&'a Target) -> Running<'a>),
}

impl Check {
    pub(crate) const fn field(
        group: &'static str,
        name: &'static str,
        path: &'static str,
        pointer: &'static str,
        kind: Kind,
    ) -> Self {
        Self { group, name, probe: Probe::Field { path, pointer, kind } }
    }

    pub(crate) const fn doing(
        group: &'static str,
        name: &'static str,
        run: for<'a> fn(&'a Target) -> Running<'a>,
    ) -> Self {
        Self { group, name, probe: Probe::Doing(run) }
    }

    pub(crate) async fn run(&self, target: &Target) -> Verdict {
        let outcome = match &self.probe {
            Probe::Field { path, pointer, kind } => {
                target.json_once(path).await.and_then(|answer| kind.check(&answer, pointer))
            }
            Probe::Doing(run) => run(target).await,
        };
        outcome.unwrap_or_else(Verdict::Fail)
    }
}

/// A check that held.
pub(crate) fn pass(detail: impl Into<String>) -> Outcome {
    Ok(Verdict::Pass(detail.into()))
}

/// Holds when `true`; otherwise fails with `why`.
pub(crate) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

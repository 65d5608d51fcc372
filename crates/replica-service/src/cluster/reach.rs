use mainstay_resilience::hysteresis::Flip;

use super::Limits;

/// Whether something answers, steadily.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// `None` until the first answer, which is believed at once; only changes of mind need more.
    flip: Option<Flip>,
    /// Why the last probe failed; `None` when it did not.
    pub failure: Option<String>,
    pub probed: bool,
}

/// How steadily a node answers probes; the numbers are those of its metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeState {
    Down = 0,
    /// It answers again, not often enough yet.
    Probation = 1,
    /// The last probe failed, not enough of them yet.
    Suspect = 2,
    Up = 3,
}

impl Reach {
    pub(super) fn observe(&mut self, failure: Option<&String>, limits: &Limits) {
        self.probed = true;
        self.failure = failure.cloned();
        match &mut self.flip {
            Some(flip) => {
                flip.observe(failure.is_none());
            }
            None if failure.is_none() => self.flip = Some(Flip::new(limits.down_after, limits.up_after)),
            None => {}
        }
    }

    /// Counts answers by other limits from now on; what it is stays.
    pub(super) fn turn_by(&mut self, limits: &Limits) {
        if let Some(flip) = &mut self.flip {
            let new = if flip.is_up() { Flip::new } else { Flip::new_down };
            *flip = new(limits.down_after, limits.up_after);
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.flip.as_ref().is_some_and(Flip::is_up)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.flip.as_ref().is_some_and(|flip| !flip.is_up())
    }

    pub(super) fn state(&self) -> ProbeState {
        match (self.is_up(), self.failure.is_some()) {
            (true, false) => ProbeState::Up,
            (true, true) => ProbeState::Suspect,
            (false, false) if self.probed => ProbeState::Probation,
            (false, _) => ProbeState::Down,
        }
    }
}

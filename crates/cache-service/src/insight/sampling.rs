use super::Insight;

/// Says which reads of a thread are looked at: after each, a random number of them is passed over, from none to twice as
/// many as on average. A fixed number would look at the same place again and again of whatever repeats itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampling {
    left: u32,
    /// Of xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016); 0 before
    /// the first read.
    state: u64,
}

impl Sampling {
    pub(super) const fn new() -> Self {
        Self { left: 0, state: 0 }
    }

    pub(super) fn is_due(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        let is_first = self.state == 0;
        if is_first {
            self.state = rand::random::<u64>() | 1;
        }
        self.left = self.draw();
        !is_first
    }

    /// Returns how many reads are passed over: 0 to twice as many as on average, each as often as the others.
    fn draw(&mut self) -> u32 {
        const MOST: u64 = 2 * (Insight::SAMPLE_EVERY as u64 - 1);
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        u32::try_from((random * (MOST + 1)) >> 32).expect("at most twice the average")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_pattern_is_looked_at_as_often_as_the_others() {
        const READS: usize = 1_600_000;
        // With one that shares a factor with the mean stride, a fixed stride sees some places never.
        for (period, seed) in [(2, 1), (4, 7), (8, 21), (16, 3), (31, 5), (32, 9), (48, 11)] {
            let mut sampling = Sampling { left: 0, state: seed };
            let mut seen = vec![0_u32; period];
            for read in 0..READS {
                seen[read % period] += u32::from(sampling.is_due());
            }
            let expected = READS as f64 / f64::from(Insight::SAMPLE_EVERY) / period as f64;
            let off = |n: &u32| (f64::from(*n) - expected).abs();
            let most = seen.iter().map(off).fold(0.0, f64::max);
            assert!(most < 6.0 * expected.sqrt(), "period {period}: {most} off {expected} in {seen:?}");
        }
    }

    #[test]
    fn a_thread_that_reads_once_is_not_always_looked_at() {
        let n_looked_at = (0..1_000).filter(|_| Sampling::new().is_due()).count();
        assert!(n_looked_at < 200, "{n_looked_at} of 1,000");
    }
}

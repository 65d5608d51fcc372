use std::collections::HashMap;

/// Counts reads of the keys that are read most, in bounded memory: when there are twice as many keys as are wanted, the
/// rarer half is forgotten and all counts are halved.
#[derive(Debug)]
pub(crate) struct Recorder {
    most_keys: usize,
    counts: HashMap<Box<str>, u64>,
}

impl Recorder {
    pub(crate) fn new(most_keys: usize) -> Self {
        Self { most_keys, counts: HashMap::new() }
    }

    /// Counts a key, given as `namespace:key`.
    pub(crate) fn add(&mut self, key: &str, n_reads: u64) {
        if let Some(count) = self.counts.get_mut(key) {
            *count += n_reads;
            return;
        }
        if self.counts.len() >= 2 * self.most_keys {
            self.forget();
        }
        self.counts.insert(key.into(), n_reads);
    }

    pub(crate) fn n_keys(&self) -> usize {
        self.counts.len().min(self.most_keys)
    }

    /// Returns the keys read most, the first first, of those that are wanted.
    pub(crate) fn hottest(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<(Box<str>, u64)> {
        let wanted = self.counts.iter().filter(|(key, _)| is_wanted(key));
        let mut keys: Vec<(Box<str>, u64)> = wanted.map(|(key, count)| (key.clone(), *count)).collect();
        keys.sort_unstable_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        keys.truncate(self.most_keys);
        keys
    }

    fn forget(&mut self) {
        let mut counts: Vec<u64> = self.counts.values().copied().collect();
        let (_, &mut least, _) = counts.select_nth_unstable_by(self.most_keys - 1, |a, b| b.cmp(a));
        let mut n_of_the_least = self.most_keys - counts.iter().filter(|count| **count > least).count();
        self.counts.retain(|_, count| {
            let stays = *count > least || (*count == least && n_of_the_least > 0);
            if *count == least && stays {
                n_of_the_least -= 1;
            }
            *count = count.div_ceil(2);
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_often_stays_while_many_are_read_once() {
        let mut recorder = Recorder::new(100);
        for round in 0..1_000 {
            for hot in 0..50 {
                recorder.add(&format!("hot{hot}"), 1 + u64::from(hot == 7));
            }
            recorder.add(&format!("once{round}"), 1);
        }
        assert!(recorder.counts.len() <= 200);
        let hottest = recorder.hottest(|_| true);
        assert_eq!((hottest.len(), recorder.n_keys(), &*hottest[0].0), (100, 100, "hot7"));
        assert!(hottest[..50].iter().all(|(key, _)| key.starts_with("hot")), "{hottest:?}");
        assert_eq!(recorder.hottest(|key| key == "hot3").len(), 1);
    }
}

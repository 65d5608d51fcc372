use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Lets one caller of several that ask the same at the same time do the work, and gives the others its result.
///
/// Bounded by the callers: an entry lives as long as the caller that leads it.
#[derive(Debug)]
pub(super) struct Flights<T> {
    under_way: Mutex<HashMap<String, watch::Receiver<Option<Arc<T>>>>>,
}

/// What a caller is to do.
pub(super) enum Part<'a, T> {
    /// Do the work, and tell the others.
    Lead(Lead<'a, T>),
    /// Wait for the others' result.
    Follow(watch::Receiver<Option<Arc<T>>>),
}

/// The work of one caller for others; dropped without a result it sends them off to help themselves.
pub(super) struct Lead<'a, T> {
    flights: &'a Flights<T>,
    key: String,
    result_tx: watch::Sender<Option<Arc<T>>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

impl<T> Flights<T> {
    pub(super) fn join(&self, key: &str) -> Part<'_, T> {
        let mut under_way = self.under_way.lock();
        if let Some(result) = under_way.get(key) {
            return Part::Follow(result.clone());
        }
        let (result_tx, result) = watch::channel(None);
        under_way.insert(key.to_owned(), result);
        Part::Lead(Lead { flights: self, key: key.to_owned(), result_tx })
    }
}

impl<T> Lead<'_, T> {
    /// Gives the result to all that wait.
    pub(super) fn land(self, result: Arc<T>) {
        self.result_tx.send_replace(Some(result));
    }
}

impl<T> Drop for Lead<'_, T> {
    fn drop(&mut self) {
        self.flights.under_way.lock().remove(&self.key);
    }
}

/// Waits for the result of another caller; `None` when it had none.
pub(super) async fn follow<T>(mut result: watch::Receiver<Option<Arc<T>>>) -> Option<Arc<T>> {
    // Closed and without a result: the leader failed, or its caller went away.
    let landed = result.wait_for(Option::is_some).await.ok()?;
    landed.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn followers_get_the_result_and_the_next_caller_leads_again() {
        let flights = Flights::default();
        let Part::Lead(lead) = flights.join("k") else { panic!("nobody leads") };
        let Part::Follow(one) = flights.join("k") else { panic!("two lead") };
        assert!(matches!(flights.join("other"), Part::Lead(_)));
        lead.land(Arc::new(7));
        assert_eq!(follow(one).await.as_deref(), Some(&7));
        assert!(matches!(flights.join("k"), Part::Lead(_)));
    }

    #[tokio::test]
    async fn followers_of_a_leader_that_failed_are_sent_off() {
        let flights = Flights::<u8>::default();
        let Part::Lead(lead) = flights.join("k") else { panic!("nobody leads") };
        let Part::Follow(one) = flights.join("k") else { panic!("two lead") };
        drop(lead);
        assert_eq!(follow(one).await, None);
    }
}

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Begins the requests of an HTTP/2 connection on the task of the connection, and makes a task only of those that wait.
///
/// What can be answered at once costs no task and no wake-up, and the answers to requests that came together leave
/// together. The first poll is made with a waker that wakes nobody: whoever waits is polled again as a task, and by the
/// contract of `Future` the last waker is the one that counts.
#[derive(Clone, Default)]
pub(super) struct Inline {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// Somebody will look at `begun` before they return.
    driven: bool,
    begun: VecDeque<Work>,
}

/// Requests begun before what they answered is written.
const MOST_AT_ONCE: usize = 32;
/// Rounds of [`MOST_AT_ONCE`] before other connections of this thread get their turn.
const MOST_ROUNDS: usize = 8;

impl<F> Executor<F> for Inline
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: F) {
        let mut shared = self.shared.lock();
        if shared.driven {
            shared.begun.push_back(Box::pin(work));
        } else {
            drop(shared);
            TokioExecutor::new().execute(work);
        }
    }
}

impl Inline {
    /// Polls a connection that executes with this, and what it begins.
    pub(super) fn drive<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        for _ in 0..MOST_ROUNDS {
            self.shared.lock().driven = true;
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                self.hand_over();
                return Poll::Ready(ended);
            }
            if !self.begin_some() {
                return Poll::Pending;
            }
        }
        self.hand_over();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns false when there was nothing to begin; from then on nobody looks.
    fn begin_some(&self) -> bool {
        for n_begun in 0..MOST_AT_ONCE {
            let mut shared = self.shared.lock();
            let Some(work) = shared.begun.pop_front() else {
                shared.driven = n_begun > 0;
                return n_begun > 0;
            };
            drop(shared);
            begin(work);
        }
        true
    }

    fn hand_over(&self) {
        let begun = {
            let mut shared = self.shared.lock();
            shared.driven = false;
            std::mem::take(&mut shared.begun)
        };
        for work in begun {
            TokioExecutor::new().execute(work);
        }
    }
}

fn begin(mut work: Work) {
    let mut nobody = Context::from_waker(Waker::noop());
    // As in a task, a panic ends this request and nothing else. The hook has logged it.
    match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut nobody))) {
        Ok(Poll::Pending) => TokioExecutor::new().execute(work),
        Ok(Poll::Ready(())) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    /// Stands for a connection: begins `n` pieces of work when polled first, and ends when told.
    async fn connection(inline: Inline, works: Vec<Work>, end: oneshot::Receiver<()>) {
        for work in works {
            inline.execute(work);
        }
        let _ = end.await;
    }

    async fn driven(works: Vec<Work>, end: oneshot::Receiver<()>) {
        let inline = Inline::default();
        let mut connection = std::pin::pin!(connection(inline.clone(), works, end));
        std::future::poll_fn(|cx| inline.drive(connection.as_mut(), cx)).await;
    }

    #[tokio::test]
    async fn work_that_need_not_wait_is_done_where_it_came_and_the_rest_becomes_a_task() {
        let done = Arc::new(AtomicUsize::new(0));
        let (go, gone) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut works: Vec<Work> = Vec::new();
        for _ in 0..MOST_AT_ONCE * MOST_ROUNDS + 1 {
            let done = Arc::clone(&done);
            works.push(Box::pin(async move {
                done.fetch_add(1, Ordering::Relaxed);
            }));
        }
        works.push(Box::pin(async move {
            gone.await.unwrap();
            tell.send(()).unwrap();
        }));
        let n_quick = works.len() - 1;
        let (end, ended) = oneshot::channel();
        let watch = async {
            go.send(()).unwrap();
            told.await.unwrap();
            assert_eq!(done.load(Ordering::Relaxed), n_quick);
            end.send(()).unwrap();
        };
        futures_util::future::join(driven(works, ended), watch).await;
    }

    #[tokio::test]
    async fn work_that_panics_takes_nothing_else_down() {
        let (tell, told) = oneshot::channel();
        let works: Vec<Work> =
            vec![Box::pin(async { panic!("boom") }), Box::pin(async move { tell.send(()).unwrap() })];
        let (end, ended) = oneshot::channel();
        let watch = async {
            told.await.unwrap();
            end.send(()).unwrap();
        };
        futures_util::future::join(driven(works, ended), watch).await;
    }

    #[tokio::test]
    async fn what_is_begun_while_nobody_polls_the_connection_is_not_forgotten() {
        let (tell, told) = oneshot::channel();
        let inline = Inline::default();
        inline.execute(async move { tell.send(()).unwrap() });
        told.await.unwrap();
        // Nor what is left when a connection ends as it begins it.
        let (tell, told) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        drop(end);
        driven(vec![Box::pin(async move { tell.send(()).unwrap() })], ended).await;
        told.await.unwrap();
    }
}

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use mainstay_runtime::{Component, Latch};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::log::Log;
use super::record::Kind;
use super::{Disk, Put, Raised};

/// Puts written at one go.
const BATCH: usize = 256;
/// How often the disk is tried again after it failed, and what is past its time is dropped.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Opens the directory, writes what is put, and watches over the health of it all.
pub(crate) struct Writer {
    disk: Arc<Disk>,
    puts: mpsc::Receiver<Put>,
    component: Component,
    on_raised: Arc<OnRaised>,
}

/// Is told what a directory says was invalidated, before anything in it is served.
type OnRaised = dyn Fn(Raised) + Send + Sync;

impl Writer {
    pub(super) fn new(disk: Arc<Disk>, puts: mpsc::Receiver<Put>, component: Component) -> Self {
        Self { disk, puts, component, on_raised: Arc::new(drop) }
    }

    /// Says whom to tell of the invalidations that are found when the directory is opened.
    pub(crate) fn on_raised(self, on_raised: impl Fn(Raised) + Send + Sync + 'static) -> Self {
        Self { on_raised: Arc::new(on_raised), ..self }
    }

    /// Runs until `stopping`, and then until the queue is empty. `latch` is released when the directory has been read.
    pub(crate) async fn run(mut self, stopping: CancellationToken, latch: Latch) -> anyhow::Result<()> {
        let on_raised = Arc::clone(&self.on_raised);
        self.aside(move |disk| disk.open(&*on_raised)).await?;
        latch.release();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut puts = Vec::with_capacity(BATCH);
            tokio::select! {
                n_puts = self.puts.recv_many(&mut puts, BATCH) => {
                    if n_puts == 0 {
                        return Ok(());
                    }
                    self.aside(move |disk| disk.write_all(&puts)).await?;
                }
                _ = look.tick() => {
                    let on_raised = Arc::clone(&self.on_raised);
                    self.aside(move |disk| disk.look(&*on_raised)).await?;
                }
                () = stopping.cancelled(), if !self.puts.is_closed() => self.puts.close(),
            }
        }
    }

    /// Does blocking work, and shows how it ended.
    async fn aside(&self, work: impl FnOnce(&Disk) -> io::Result<()> + Send + 'static) -> anyhow::Result<()> {
        let disk = Arc::clone(&self.disk);
        let worked = move || {
            let result = work(&disk);
            if result.is_err() {
                disk.fail();
            }
            result
        };
        let result = tokio::task::spawn_blocking(worked).await.context("disk work")?;
        let figures = self.disk.figures();
        match result {
            Err(error) => self.component.unhealthy(format!("off: {error}")),
            Ok(()) if figures.available => {
                self.component.healthy("");
                self.component.attribute("entries", figures.entries.to_string());
                self.component.attribute("bytes", figures.bytes.to_string());
            }
            Ok(()) => {}
        }
        Ok(())
    }
}

impl Disk {
    fn open(&self, on_raised: &OnRaised) -> io::Result<()> {
        let mut found = self.index.lock().sibling();
        let (log, recovered) =
            Log::open(&self.directory, self.capacity_bytes, &mut found, self.time.unix_ms())?;
        if recovered.damaged_segments > 0 {
            self.damaged.fetch_add(recovered.damaged_segments, Ordering::Relaxed);
            let segments = recovered.damaged_segments;
            tracing::warn!(segments, "damage on disk: what was older than it is discarded");
        }
        recovered.raised.into_iter().for_each(on_raised);
        self.bytes.store(log.bytes(), Ordering::Relaxed);
        let mut slot = self.log.lock();
        {
            let mut index = self.index.lock();
            index.take_over(found);
            for record in self.news.lock().iter().filter(|record| record.kind == Kind::Gone) {
                let hash = index.hash(&record.key);
                index.remove(hash);
            }
        }
        *slot = Some(log);
        self.available.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn write_all(&self, puts: &[Put]) -> io::Result<()> {
        let told = self.write_news();
        let write = |put: &Put| {
            let written = self.write(put);
            self.queued_bytes.fetch_sub(put.bytes(), Ordering::Relaxed);
            written
        };
        let written = puts.iter().map(write).fold(Ok(()), Result::and);
        let noted = self.log.lock().as_ref().map_or(Ok(()), Log::note_end);
        told.and(written).and(noted)
    }

    /// Tries a failed disk again, looks whether the files are as they were left, and drops what is past its time.
    fn look(&self, on_raised: &OnRaised) -> io::Result<()> {
        if self.log.lock().is_none() {
            return self.open(on_raised);
        }
        self.write_news()?;
        let mut log = self.log.lock();
        let Some(log) = log.as_mut() else { return Ok(()) };
        if !log.is_intact()? {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::other("its files were cut or removed by somebody else"));
        }
        log.sweep(&self.index, self.time.unix_ms())?;
        self.bytes.store(log.bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Closes and empties a directory that could not be written: what it holds may no longer be true.
    pub(super) fn fail(&self) {
        self.available.store(false, Ordering::Relaxed);
        let log = self.log.lock().take();
        if let Some(mut log) = log
            && let Err(error) = log.clear(&self.index)
        {
            tracing::error!(error = %error, "files of a failed disk cannot be removed");
        }
        self.bytes.store(0, Ordering::Relaxed);
    }
}

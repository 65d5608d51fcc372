//! A reconnect storm: all connections are cut at once while numbered messages are published, and all come back for what
//! they missed. Every client counts by number: nothing may be lost or come twice.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay_proto::realtime::v1::PublishRequest;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::client::{OPENS_WITHIN, frame, shake_hands};
use super::gateway::{self, CHANNEL, Gateway};
use super::{DATA_BYTES, OPENING, SETTLE, verdict};

const RECOVERED_BAR: Duration = Duration::from_secs(10);
/// Longest wait for anything; a storm that takes longer has failed.
const PATIENCE: Duration = Duration::from_mins(3);
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// How long is published before the cut and after everybody is back.
const AROUND: Duration = Duration::from_secs(3);
/// SDKs wait a random part of this before they come back for the first time, and after an attempt that failed.
const BACKOFF: Duration = Duration::from_millis(500);
const READ_BYTES: usize = 16 << 10;

/// What all clients have seen together.
#[derive(Default)]
struct Seen {
    received: AtomicU64,
    /// Numbers that were left out, and numbers that had come before.
    missing: AtomicU64,
    doubled: AtomicU64,
    /// Who is subscribed for the first time, and who has come back.
    begun: AtomicUsize,
    recovered: AtomicUsize,
    /// Who came back and was told that something is lost.
    unrecovered: AtomicUsize,
    /// Attempts to come back that failed.
    failed: AtomicUsize,
}

/// One client, over as many connections as it takes.
struct Fan {
    address: SocketAddr,
    index: usize,
    token: String,
    epoch: String,
    /// Number of the last message, which is its place in the history too.
    last: u64,
    seen: Arc<Seen>,
}

/// Connects, publishes, cuts all connections, and prints how they come back.
pub(crate) async fn run(program: &Path, n_clients: usize) -> anyhow::Result<()> {
    let settings = [
        ("MAINSTAY__CHANNELS__DEFAULT__HISTORY_SIZE", "5000".to_owned()),
        ("MAINSTAY__CHANNELS__DEFAULT__RECOVERY", "stream".to_owned()),
        ("MAINSTAY__CHANNELS__HISTORY_LIMIT", "5000".to_owned()),
    ];
    let gateway = Gateway::start(program, &settings).await?;
    println!(
        "{n_clients} clients of one channel, cut off at once while messages of {DATA_BYTES} bytes go on"
    );
    let seen = Arc::new(Seen::default());
    let (cut, is_cut) = watch::channel(false);
    let mut clients = JoinSet::new();
    let slots = Arc::new(Semaphore::new(OPENING));
    for index in 0..n_clients {
        let (seen, token) = (Arc::clone(&seen), gateway::token(index));
        let fan = Fan { address: gateway.websocket, index, token, epoch: String::new(), last: 0, seen };
        clients.spawn(fan.live(Arc::clone(&slots), is_cut.clone()));
    }
    drop(is_cut);
    wait("everybody to subscribe", || seen.begun.load(Ordering::Relaxed) == n_clients).await?;

    let (stop, stopped) = watch::channel(false);
    let publishing = tokio::spawn(publish(gateway.api().await?, stopped));
    sleep(AROUND).await;
    let (cpu, cut_at) = (gateway.cpu()?, Instant::now());
    cut.send(true).context("the clients are there")?;
    let all_back = || {
        let (yes, no) = (&seen.recovered, &seen.unrecovered);
        yes.load(Ordering::Relaxed) + no.load(Ordering::Relaxed) == n_clients
    };
    wait("everybody to come back", all_back).await?;
    let (took, cpu) = (cut_at.elapsed(), gateway.cpu()? - cpu);
    sleep(AROUND).await;
    stop.send(true).context("the publisher is there")?;
    let n_published = publishing.await??;
    let expected = n_published * n_clients as u64;
    wait("the last message to arrive", || seen.received.load(Ordering::Relaxed) >= expected).await?;
    // What came twice would come now.
    sleep(SETTLE).await;
    seen.tell(n_clients, (took, cpu), expected)
}

impl Seen {
    fn tell(&self, n_clients: usize, (took, cpu): (Duration, Duration), expected: u64) -> anyhow::Result<()> {
        let count = |figure: &AtomicUsize| figure.load(Ordering::Relaxed);
        let number = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let (recovered, unrecovered) = (count(&self.recovered), count(&self.unrecovered));
        println!(
            "  all back            {took:>10.1?} after the cut, {cpu:.1?} of processor time, {} attempts failed  {}",
            count(&self.failed),
            verdict(took <= RECOVERED_BAR, format_args!("{RECOVERED_BAR:?}"))
        );
        println!(
            "  recovered           {recovered:>10} of {n_clients}, {unrecovered} were told of a loss  {}",
            verdict(recovered == n_clients, n_clients)
        );
        let (received, missing, doubled) =
            (number(&self.received), number(&self.missing), number(&self.doubled));
        let is_exact = received == expected && missing == 0 && doubled == 0;
        println!(
            "  received            {received:>10} of {expected}, {missing} missing, {doubled} twice  {}",
            verdict(is_exact, "every one once")
        );
        ensure!(is_exact && recovered == n_clients, "messages were lost, or came twice");
        Ok(())
    }
}

impl Fan {
    /// Subscribes, is cut off, comes back, and reads until it is dropped.
    async fn live(mut self, slots: Arc<Semaphore>, mut cut: watch::Receiver<bool>) {
        let Ok(slot) = slots.acquire_owned().await else { return };
        let (mut stream, lines) = self.come().await;
        self.seen.begun.fetch_add(1, Ordering::Relaxed);
        drop(slot);
        tokio::select! {
            // It ends too early: who waits for it will say so.
            _ = self.read(&mut stream, lines) => return,
            _ = cut.changed() => {}
        }
        // No goodbye: the connection breaks.
        let _ = stream.set_zero_linger();
        drop(stream);
        sleep(BACKOFF.mul_f64(rand::random())).await;
        let (mut stream, lines) = self.come().await;
        let _ = self.read(&mut stream, lines).await;
    }

    /// Connects and subscribes, however often it takes.
    async fn come(&mut self) -> (TcpStream, Lines) {
        loop {
            if let Ok(Ok(come)) = timeout(OPENS_WITHIN, self.try_come()).await {
                return come;
            }
            self.seen.failed.fetch_add(1, Ordering::Relaxed);
            sleep(BACKOFF.mul_f64(rand::random())).await;
        }
    }

    async fn try_come(&mut self) -> anyhow::Result<(TcpStream, Lines)> {
        let mut stream = shake_hands(self.address, self.index).await?;
        let connect = format!("{{\"id\":1,\"connect\":{{\"token\":\"{}\"}}}}", self.token);
        let recover = match self.epoch.as_str() {
            "" => "\"recoverable\":true".to_owned(),
            epoch => format!("\"recover\":true,\"epoch\":\"{epoch}\",\"offset\":{}", self.last),
        };
        let subscribe = format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"{CHANNEL}\",{recover}}}}}");
        stream.write_all(&frame(connect.as_bytes())).await?;
        let mut lines = Lines::default();
        let answer = lines.find(&mut stream, b"\"id\":1").await?;
        ensure!(contains(&answer, b"\"connect\":"), "{}", String::from_utf8_lossy(&answer));
        stream.write_all(&frame(subscribe.as_bytes())).await?;
        let answer = lines.find(&mut stream, b"\"id\":2").await?;
        ensure!(contains(&answer, b"\"subscribe\":"), "{}", String::from_utf8_lossy(&answer));
        if self.epoch.is_empty() {
            let epoch = after(&answer, b"\"epoch\":\"").context("a position")?;
            let end = epoch.iter().position(|&byte| byte == b'"').context("an epoch")?;
            self.epoch = String::from_utf8(epoch[..end].to_vec())?;
        } else {
            self.take(&answer);
            let is_whole = contains(&answer, b"\"recovered\":true");
            let figure = if is_whole { &self.seen.recovered } else { &self.seen.unrecovered };
            figure.fetch_add(1, Ordering::Relaxed);
        }
        Ok((stream, lines))
    }

    /// Counts what comes, and answers pings, until the connection ends.
    async fn read(&mut self, stream: &mut TcpStream, mut lines: Lines) -> anyhow::Result<()> {
        loop {
            let line = lines.next(stream).await?;
            if line == b"{}" {
                stream.write_all(&frame(b"{}")).await?;
            } else {
                self.take(&line);
            }
        }
    }

    /// Counts the numbered messages of a line, in their order.
    fn take(&mut self, line: &[u8]) {
        let mut rest = line;
        while let Some(digits) = after(rest, b"\"s\":") {
            rest = digits;
            let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
            let number = digits.fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0'));
            if number <= self.last {
                self.seen.doubled.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.seen.missing.fetch_add(number - self.last - 1, Ordering::Relaxed);
            self.seen.received.fetch_add(1, Ordering::Relaxed);
            self.last = number;
        }
    }
}

/// The lines of the frames of a server, as far as they have come.
#[derive(Default)]
struct Lines {
    /// Not taken apart yet.
    bytes: Vec<u8>,
    /// Bytes of the frame at hand that are still to come.
    left: usize,
    line: Vec<u8>,
}

impl Lines {
    /// Returns the first line with a mark in it.
    async fn find(&mut self, stream: &mut TcpStream, mark: &[u8]) -> anyhow::Result<Vec<u8>> {
        loop {
            let line = self.next(stream).await?;
            if contains(&line, mark) {
                return Ok(line);
            }
        }
    }

    async fn next(&mut self, stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(line) = self.parse() {
                return Ok(line);
            }
            // Nothing is kept for a connection on which nothing comes.
            if self.bytes.is_empty() {
                self.bytes = Vec::new();
            }
            stream.readable().await?;
            let mut buffer = [0; READ_BYTES];
            match stream.try_read(&mut buffer) {
                Ok(0) => anyhow::bail!("closed"),
                Ok(n_bytes) => self.bytes.extend(&buffer[..n_bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the next line, if all of it is there.
    fn parse(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.left == 0 {
                let (head_bytes, payload_bytes) = head(&self.bytes)?;
                self.bytes.drain(..head_bytes);
                self.left = payload_bytes;
            }
            let here = &self.bytes[..self.left.min(self.bytes.len())];
            let end = here.iter().position(|&byte| byte == b'\n');
            let taken = end.unwrap_or(here.len());
            self.line.extend(&here[..taken]);
            let consumed = taken + usize::from(end.is_some());
            self.bytes.drain(..consumed);
            self.left -= consumed;
            if end.is_some() || self.left == 0 {
                return Some(std::mem::take(&mut self.line));
            }
            if self.bytes.is_empty() {
                return None;
            }
        }
    }
}

/// Reads the head of a frame of a server: how long it is, and what it leads.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = bytes.get(1)? & 0x7f;
    let (head_bytes, digits) = match length {
        126 => (4, bytes.get(2..4)?),
        127 => (10, bytes.get(2..10)?),
        _ => (2, &bytes[1..2]),
    };
    Some((head_bytes, digits.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte))))
}

/// Returns what comes after the first occurrence of a mark.
fn after<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    Some(&bytes[at + mark.len()..])
}

fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    after(bytes, mark).is_some()
}

/// Publishes numbered messages until it is told to stop; gives how many.
async fn publish(mut api: gateway::Api, mut stopped: watch::Receiver<bool>) -> anyhow::Result<u64> {
    let mut ticks = interval(PUBLISH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => return Ok(number - 1),
        }
        let mut data = format!("{{\"s\":{number},\"x\":\"");
        data.extend(std::iter::repeat_n('x', (DATA_BYTES - 2).saturating_sub(data.len())));
        data.push_str("\"}");
        let request =
            PublishRequest { channel: CHANNEL.to_owned(), data: data.into(), ..PublishRequest::default() };
        let placed = api.publish(request).await?.into_inner();
        ensure!(placed.offset == number, "message {number} has place {}", placed.offset);
    }
    anyhow::bail!("there are no more numbers")
}

async fn wait(what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let began_at = Instant::now();
    while !done() {
        ensure!(began_at.elapsed() < PATIENCE, "waited for {what} for {PATIENCE:?}");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

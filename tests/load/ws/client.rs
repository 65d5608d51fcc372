use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Connections from one source address. Ports are found by trying some: with many in use that is most of the work.
const PER_SOURCE: usize = 2_000;
pub(crate) const OPENS_WITHIN: Duration = Duration::from_secs(20);
const READ_BYTES: usize = 64 << 10;
/// One connection of this many looks at the times in what it receives.
const SAMPLED: usize = 50;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// What all connections have received together.
pub(crate) struct Tally {
    began_at: Instant,
    published: AtomicU64,
    received: AtomicU64,
    lost: AtomicU64,
    latencies_us: Mutex<Histogram<u64>>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let latencies_us = Histogram::new(3).expect("three digits are allowed").into();
        Self {
            began_at: Instant::now(),
            published: AtomicU64::new(0),
            received: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            latencies_us,
        }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.began_at.elapsed().as_micros() as u64
    }

    /// Notes that so many more publications are on their way.
    pub(crate) fn will_receive(&self, n: usize) -> u64 {
        self.published.fetch_add(n as u64, Ordering::Relaxed);
        n as u64
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_latencies(&self) {
        self.latencies_us.lock().expect("nobody panics with it").reset();
    }

    /// Gives median and 99th percentile.
    pub(crate) fn latencies(&self) -> (Duration, Duration) {
        let latencies = self.latencies_us.lock().expect("nobody panics with it");
        let at = |quantile| Duration::from_micros(latencies.value_at_quantile(quantile));
        (at(0.5), at(0.99))
    }

    /// Notes a publication that says when it was sent.
    fn sample(&self, message: &[u8]) {
        let Some(at) = message.windows(4).position(|window| window == b"\"t\":") else { return };
        let digits = message[at + 4..].iter().take_while(|byte| byte.is_ascii_digit());
        let sent_us = digits.fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0'));
        let took_us = self.now_us().saturating_sub(sent_us);
        let _ = self.latencies_us.lock().expect("nobody panics with it").record(took_us);
    }
}

/// One subscribed connection on a plain socket; frames are made and read by hand.
pub(crate) struct Client {
    stream: TcpStream,
    is_sampled: bool,
    /// Bytes of the current frame still to come.
    left: usize,
    head: Vec<u8>,
    line: usize,
}

impl Client {
    /// Shakes hands, connects and subscribes.
    pub(crate) async fn open(
        address: SocketAddr,
        index: usize,
        (token, channel): (&str, &str),
        tally: &Tally,
    ) -> anyhow::Result<Self> {
        let opened = timeout(OPENS_WITHIN, Self::try_open(address, index, token, channel)).await;
        opened.context("a connection took too long").flatten().inspect_err(|_| {
            tally.lost.fetch_add(1, Ordering::Relaxed);
        })
    }

    async fn try_open(address: SocketAddr, index: usize, token: &str, channel: &str) -> anyhow::Result<Self> {
        let mut stream = shake_hands(address, index).await?;
        let connect = format!("{{\"id\":1,\"connect\":{{\"token\":\"{token}\",\"name\":\"bench\"}}}}");
        stream.write_all(&frame(connect.as_bytes())).await?;
        read_until(&mut stream, b"}}").await?;
        let subscribe = format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}");
        stream.write_all(&frame(subscribe.as_bytes())).await?;
        let answer = read_until(&mut stream, b"}}").await?;
        ensure!(
            answer.windows(12).any(|window| window == b"\"subscribe\":"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        let is_sampled = index.is_multiple_of(SAMPLED);
        Ok(Self { stream, is_sampled, left: 0, head: Vec::new(), line: 0 })
    }

    /// Answers pings and counts until the connection ends.
    pub(crate) async fn hold(mut self, tally: std::sync::Arc<Tally>) {
        while self.stream.readable().await.is_ok() {
            let outcome = READ.with_borrow_mut(|buffer| {
                let n_bytes = self.stream.try_read(buffer)?;
                Ok::<_, std::io::Error>((n_bytes, self.count(&buffer[..n_bytes], &tally)))
            });
            match outcome {
                Ok((0, _)) => break,
                Ok((_, 0)) => {}
                Ok(_) => {
                    if self.stream.write_all(&frame(b"{}")).await.is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        tally.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts publications in what was read; gives the number of pings.
    fn count(&mut self, mut bytes: &[u8], tally: &Tally) -> usize {
        let (mut pings, mut publications) = (0, 0);
        while !bytes.is_empty() {
            if self.left == 0 {
                let Some(payload_bytes) = self.read_head(&mut bytes) else { break };
                self.left = payload_bytes;
                self.line = 0;
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            bytes = rest;
            self.left -= payload.len();
            let mut lines = payload.split(|&byte| byte == b'\n').peekable();
            while let Some(line) = lines.next() {
                self.line += line.len();
                if lines.peek().is_none() && self.left > 0 {
                    break;
                }
                // `{}` is a ping; everything else here is a publication.
                if self.line == 2 {
                    pings += 1;
                } else {
                    publications += 1;
                    if self.is_sampled {
                        tally.sample(line);
                    }
                }
                self.line = 0;
            }
        }
        tally.received.fetch_add(publications, Ordering::Relaxed);
        pings
    }

    fn read_head(&mut self, bytes: &mut &[u8]) -> Option<usize> {
        loop {
            let want = match self.head.get(1).map(|byte| byte & 0x7f) {
                None => 2,
                Some(126) => 4,
                Some(127) => 10,
                Some(_) => 2,
            };
            if self.head.len() == want {
                let payload_bytes = match &self.head[..] {
                    [_, len] => usize::from(*len),
                    [_, _, length @ ..] => length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)),
                    _ => 0,
                };
                self.head.clear();
                return Some(payload_bytes);
            }
            let (byte, rest) = bytes.split_first()?;
            self.head.push(*byte);
            *bytes = rest;
        }
    }
}

/// Opens a connection up to the first frame.
pub(crate) async fn shake_hands(address: SocketAddr, index: usize) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let source = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(index / PER_SOURCE)?);
    socket.set_reuseaddr(true)?;
    socket.bind((source, 0).into())?;
    let mut stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /connection/websocket HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let answer = read_until(&mut stream, b"\r\n\r\n").await?;
    ensure!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

/// Makes a text frame of a client. The mask is all zeros, which leaves the payload as it is.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Reads until what came ends with `end`.
async fn read_until(stream: &mut TcpStream, end: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        ensure!(stream.read_buf(&mut read).await? > 0, "closed: {}", String::from_utf8_lossy(&read));
    }
    Ok(read)
}

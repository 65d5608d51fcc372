use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::server::{Peer, Server};

/// Stands once in every publication, and nowhere else in what servers send.
pub(crate) const MARK: u8 = b'~';

const OPENS_WITHIN: Duration = Duration::from_secs(60);
/// Handshakes under way at once.
const OPENING: usize = 64;
/// Connections from one source address. Ports are found by trying some: with many in use that is most of the work.
const PER_SOURCE: usize = 2_000;
const READ_BYTES: usize = 64 << 10;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Connections that listen to one channel and count what they receive, until dropped.
pub(crate) struct Crowd {
    counts: Arc<Counts>,
    n_clients: usize,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    received: AtomicUsize,
    lost: AtomicUsize,
}

struct Client {
    stream: TcpStream,
    peer: Peer,
    frames: Frames,
}

/// Finds frames in what is read, whatever way it is cut.
#[derive(Default)]
pub(crate) struct Frames {
    head: Vec<u8>,
    opcode: u8,
    /// Bytes of the current frame still to come.
    left: usize,
    /// The first bytes of the current frame: all of it when it is a ping.
    begin: Vec<u8>,
}

/// Longest message that is looked at as a whole.
const BEGIN_BYTES: usize = 512;

impl Crowd {
    pub(crate) async fn gather(server: &Server, n_clients: usize) -> anyhow::Result<Self> {
        let slots = Arc::new(Semaphore::new(OPENING));
        let (peer, address) = (server.peer, server.websocket);
        let mut opening = JoinSet::new();
        for index in 0..n_clients {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            opening.spawn(async move {
                let client = timeout(OPENS_WITHIN, Client::open(peer, address, index)).await;
                drop(slot);
                client.context("a connection took too long").flatten()
            });
        }
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        while let Some(client) = opening.join_next().await {
            tasks.spawn(client??.hold(Arc::clone(&counts)));
        }
        Ok(Self { counts, n_clients, _tasks: tasks })
    }

    pub(crate) fn len(&self) -> usize {
        self.n_clients
    }

    pub(crate) fn received(&self) -> usize {
        self.counts.received.load(Ordering::Relaxed)
    }

    pub(crate) fn lost(&self) -> usize {
        self.counts.lost.load(Ordering::Relaxed)
    }
}

impl Client {
    /// Shakes hands and says all that makes it a subscriber.
    async fn open(peer: Peer, address: SocketAddr, index: usize) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        let source = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(index / PER_SOURCE)?);
        socket.set_reuseaddr(true)?;
        socket.bind((source, 0).into())?;
        let mut stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let path = peer.path();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut read = Vec::new();
        let head_bytes = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(stream.read_buf(&mut read).await? > 0, "closed: {}", String::from_utf8_lossy(&read));
        };
        ensure!(read.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&read));
        read.drain(..head_bytes);
        // What is expected comes in frames of its own, so the text can be looked for in the bytes.
        for (awaited, say) in peer.dialogue(index) {
            while !contains(&read, awaited.as_bytes()) {
                ensure!(stream.read_buf(&mut read).await? > 0, "closed: {}", String::from_utf8_lossy(&read));
            }
            if !awaited.is_empty() {
                read.clear();
            }
            if !say.is_empty() {
                stream.write_all(&frame(0x1, say.as_bytes())).await?;
            }
        }
        Ok(Self { stream, peer, frames: Frames::default() })
    }

    /// Answers pings and counts until the connection ends.
    async fn hold(mut self, counts: Arc<Counts>) {
        let mut answers = Vec::new();
        while self.stream.readable().await.is_ok() {
            let outcome = READ.with_borrow_mut(|buffer| {
                let n_bytes = self.stream.try_read(buffer)?;
                let peer = self.peer;
                let n_marks = self.frames.read(&buffer[..n_bytes], |opcode, payload| match opcode {
                    0x9 => answers.extend(frame(0xa, payload)),
                    _ => answers.extend(
                        peer.pong(payload).map(|pong| frame(0x1, pong.as_bytes())).unwrap_or_default(),
                    ),
                });
                Ok::<_, std::io::Error>((n_bytes, n_marks))
            });
            match outcome {
                Ok((0, _)) => break,
                Ok((_, n_marks)) => {
                    counts.received.fetch_add(n_marks, Ordering::Relaxed);
                    if !answers.is_empty()
                        && self.stream.write_all(&std::mem::take(&mut answers)).await.is_err()
                    {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        counts.lost.fetch_add(1, Ordering::Relaxed);
    }
}

impl Frames {
    /// Returns how many marks the payloads in these bytes have; `short` is given every frame that is short, once it is whole.
    pub(crate) fn read(&mut self, mut bytes: &[u8], mut short: impl FnMut(u8, &[u8])) -> usize {
        let mut n_marks = 0;
        loop {
            if self.left == 0 {
                let Some(payload_bytes) = self.read_head(&mut bytes) else { return n_marks };
                self.left = payload_bytes;
                self.begin.clear();
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            bytes = rest;
            self.left -= payload.len();
            n_marks += payload.iter().filter(|&&byte| byte == MARK).count();
            let room = BEGIN_BYTES - self.begin.len();
            self.begin.extend(&payload[..payload.len().min(room)]);
            if self.left == 0 && self.begin.len() < BEGIN_BYTES {
                short(self.opcode, &self.begin);
            }
            if self.left > 0 {
                return n_marks;
            }
        }
    }

    fn read_head(&mut self, bytes: &mut &[u8]) -> Option<usize> {
        loop {
            let want = match self.head.get(1).map(|byte| byte & 0x7f) {
                Some(126) => 4,
                Some(127) => 10,
                _ => 2,
            };
            if self.head.len() == want {
                let payload_bytes = match &self.head[..] {
                    [_, len] => usize::from(*len),
                    [_, _, length @ ..] => length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)),
                    _ => 0,
                };
                self.opcode = self.head[0] & 0xf;
                self.head.clear();
                return Some(payload_bytes);
            }
            let (byte, rest) = bytes.split_first()?;
            self.head.push(*byte);
            *bytes = rest;
        }
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

/// Makes a frame of a client. The mask is all zeros, which leaves the payload as it is.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
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

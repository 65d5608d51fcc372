//! What the same deliveries cost where nothing but the system calls is left: a process whose threads write to plain
//! sockets. What it cannot do on this machine, no server can.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::gateway::free;

/// Threads that write, each to its part of the sockets.
const WRITERS: usize = 2;
/// Begins what a publisher says. Then each line has names of channels, a tab, and what is published.
pub(crate) const GREETING: &[u8] = b"PUBLISH\n";

/// Such a process. Dropping it ends it.
pub(crate) struct Bare {
    pub(crate) address: SocketAddr,
    _child: Child,
}

/// What a writer is told.
enum Word {
    Subscribed(String, TcpStream),
    Published(Arc<str>, Arc<[u8]>),
}

impl Bare {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let address = free()?;
        let child = Command::new(std::env::current_exe()?)
            .args(["--bare", &address.to_string()])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting bare writers")?;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
        Ok(Self { address, _child: child })
    }
}

/// Is such a process, until the one who started it ends.
pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (word_tx, word_rx) = channel();
            thread::spawn(move || write(&word_rx));
            word_tx
        })
        .collect();
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { continue };
            // Whoever leaves in between has only looked whether somebody listens.
            let _ = welcome(stream, number, &writers);
        }
    });
    let mut parent = std::io::stdin();
    while parent.read(&mut [0; 1]).is_ok_and(|n_bytes| n_bytes > 0) {}
    Ok(())
}

/// Writes what is published, round by round: what came during one goes out with the next, in one piece.
fn write(words: &Receiver<Word>) {
    let mut subscribers: HashMap<String, Vec<TcpStream>> = HashMap::new();
    while let Ok(first) = words.recv() {
        let mut due: HashMap<Arc<str>, Vec<u8>> = HashMap::new();
        for word in [first].into_iter().chain(std::iter::from_fn(|| words.try_recv().ok())) {
            match word {
                Word::Subscribed(channel, stream) => subscribers.entry(channel).or_default().push(stream),
                Word::Published(channel, frame) => due.entry(channel).or_default().extend_from_slice(&frame),
            }
        }
        for (channel, bytes) in due {
            for stream in subscribers.get_mut(&*channel).into_iter().flatten() {
                // A client that is gone counts itself as lost.
                let _ = stream.write_all(&bytes);
            }
        }
    }
}

/// Shakes hands with a subscriber, or reads what a publisher says.
fn welcome(stream: TcpStream, number: usize, writers: &[Sender<Word>]) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if line.as_bytes() == GREETING {
        let writers = writers.to_vec();
        thread::spawn(move || publish(reader, &writers));
        return Ok(());
    }
    while line.trim_end() != "" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
        }
    }
    (&stream).write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")?;
    read_frame(&mut reader)?;
    (&stream).write_all(&frame(r#"{"id":1,"connect":{}}"#))?;
    let subscribe = read_frame(&mut reader)?;
    (&stream).write_all(&frame(r#"{"id":2,"subscribe":{}}"#))?;
    let (_, name) = subscribe.split_once(r#""channel":""#).context("no channel")?;
    let name = name.split('"').next().unwrap_or_default().to_owned();
    writers[number % writers.len()].send(Word::Subscribed(name, stream)).ok().context("a writer ended")
}

fn publish(reader: BufReader<TcpStream>, writers: &[Sender<Word>]) {
    for line in reader.lines().map_while(Result::ok) {
        let Some((channels, data)) = line.split_once('\t') else { return };
        for channel in channels.split(' ') {
            let message = format!(r#"{{"push":{{"channel":"{channel}","pub":{{"data":{data}}}}}}}"#);
            let (channel, frame): (Arc<str>, Arc<[u8]>) = (channel.into(), frame(&message).into());
            for writer in writers {
                if writer.send(Word::Published(Arc::clone(&channel), Arc::clone(&frame))).is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads a short frame of a client whose mask is all zeros.
fn read_frame(reader: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut head = [0; 2];
    reader.read_exact(&mut head)?;
    let mut rest = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            reader.read_exact(&mut length)?;
            vec![0; usize::from(u16::from_be_bytes(length)) + 4]
        }
        length => vec![0; usize::from(length) + 4],
    };
    reader.read_exact(&mut rest)?;
    Ok(String::from_utf8(rest.split_off(4))?)
}

/// Makes a text frame of a server.
fn frame(message: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match message.len() {
        len @ 0..=125 => frame.push(len as u8),
        len => {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend(message.as_bytes());
    frame
}

//! As much of the Redis protocol (RESP2) as asking a Sentinel, or a node of a cluster where the others are, needs.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// A Sentinel says less than this in answer to what we ask.
const LONGEST_LINE: u64 = 4096;
const LONGEST_TEXT: usize = 4096;
const MOST_ITEMS: usize = 128;

/// Holds one reply; deeper lists are not needed and not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Nil,
    Text(String),
    List(Vec<String>),
    Lists(Vec<Vec<String>>),
    Error(String),
}

/// Writes a command.
pub(crate) fn encode(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// Reads one reply.
pub(crate) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Reply> {
    read_up_to(stream, LONGEST_TEXT).await
}

/// Reads one reply whose texts have at most so many bytes.
pub(crate) async fn read_up_to(
    stream: &mut (impl AsyncBufRead + Unpin),
    longest: usize,
) -> io::Result<Reply> {
    let line = read_line(stream).await?;
    match line.split_at_checked(1) {
        Some(("*", "-1")) => Ok(Reply::Nil),
        Some(("*", count)) => {
            let (mut items, mut lists) = (Vec::new(), Vec::new());
            for _ in 0..length(count, MOST_ITEMS)? {
                let line = read_line(stream).await?;
                match line.split_at_checked(1) {
                    Some(("*", count)) => lists.push(read_list(stream, count).await?),
                    _ => items.push(read_item(stream, &line).await?),
                }
            }
            match (items.is_empty(), lists.is_empty()) {
                (_, true) => Ok(Reply::List(items)),
                (true, false) => Ok(Reply::Lists(lists)),
                (false, false) => Err(malformed("texts and lists in one list")),
            }
        }
        _ => read_text(stream, &line, longest).await,
    }
}

async fn read_list(stream: &mut (impl AsyncBufRead + Unpin), count: &str) -> io::Result<Vec<String>> {
    let mut items = Vec::new();
    for _ in 0..length(count, MOST_ITEMS)? {
        let line = read_line(stream).await?;
        items.push(read_item(stream, &line).await?);
    }
    Ok(items)
}

async fn read_item(stream: &mut (impl AsyncBufRead + Unpin), line: &str) -> io::Result<String> {
    match read_text(stream, line, LONGEST_TEXT).await? {
        Reply::Text(text) => Ok(text),
        other => Err(malformed(&format!("{other:?} in a list"))),
    }
}

async fn read_text(
    stream: &mut (impl AsyncBufRead + Unpin),
    line: &str,
    longest: usize,
) -> io::Result<Reply> {
    match line.split_at_checked(1) {
        Some(("+" | ":", text)) => Ok(Reply::Text(text.to_owned())),
        Some(("-", text)) => Ok(Reply::Error(text.to_owned())),
        Some(("$", "-1")) => Ok(Reply::Nil),
        Some(("$", count)) => {
            let mut bytes = vec![0; length(count, longest)? + 2];
            stream.read_exact(&mut bytes).await?;
            let text = bytes.strip_suffix(b"\r\n").ok_or_else(|| malformed("text without end"))?;
            String::from_utf8(text.to_vec()).map(Reply::Text).map_err(|_| malformed("text that is not UTF-8"))
        }
        _ => Err(malformed(line)),
    }
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = String::new();
    stream.take(LONGEST_LINE).read_line(&mut line).await?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = line.strip_suffix("\r\n").ok_or_else(|| malformed("line without end"))?;
    Ok(text.to_owned())
}

fn length(text: &str, most: usize) -> io::Result<usize> {
    text.parse().ok().filter(|length| *length <= most).ok_or_else(|| malformed(text))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a reply of Redis: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> io::Result<Reply> {
        let mut bytes = bytes;
        futures_util::FutureExt::now_or_never(read(&mut bytes)).expect("all bytes are there")
    }

    #[test]
    fn replies_are_read() {
        let text = |text: &str| text.to_owned();
        for (bytes, reply) in [
            (&b"+OK\r\n"[..], Reply::Text(text("OK"))),
            (b"$-1\r\n", Reply::Nil),
            (b"*-1\r\n", Reply::Nil),
            (b"-NOAUTH go away\r\n", Reply::Error(text("NOAUTH go away"))),
            (b"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n", Reply::List(vec![text("127.0.0.1"), text("6379")])),
            (b"*0\r\n", Reply::List(Vec::new())),
            (b"*2\r\n*1\r\n+a\r\n*0\r\n", Reply::Lists(vec![vec![text("a")], Vec::new()])),
        ] {
            assert_eq!(parse(bytes).unwrap(), reply);
        }
    }

    #[test]
    fn what_is_not_a_reply_is_an_error() {
        for bytes in [
            &b""[..],
            b"+OK",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"$99999999\r\n",
            b"*3\r\n+a\r\n",
            b"*1\r\n*1\r\n",
            b"*1\r\n*1\r\n*0\r\n",
            b"*2\r\n+a\r\n*0\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_command_is_a_list_of_texts() {
        assert_eq!(encode(&["AUTH", "p w"]), b"*2\r\n$4\r\nAUTH\r\n$3\r\np w\r\n");
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }
    }
}

//! The addresses of a name: from the resolver of the machine, or asked of one server (RFC 1035, A and AAAA).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Finds the addresses of names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Resolver {
    /// As every program on this machine does.
    Machine,
    /// By asking this server.
    Server(SocketAddr),
}

/// Says why there are no addresses.
#[derive(Debug, thiserror::Error)]
pub(super) enum DnsError {
    /// In time, that is.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// On the way.
    #[error("cannot be asked for")]
    Io(#[source] io::Error),
    /// The server says no: 3 is that the name does not exist.
    #[error("refused by the server with code {0}")]
    Refused(u8),
    /// What came is no answer to the question.
    #[error("the answer is not readable")]
    Unreadable,
    /// The name exists.
    #[error("it has no addresses")]
    Empty,
}

const A: u16 = 1;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;
/// Bytes of an answer over UDP; a longer one is asked for over TCP.
const DATAGRAM_MAX: usize = 4_096;
/// Bytes before the question.
const HEAD: usize = 12;
const WITHIN: Duration = Duration::from_secs(2);

impl Resolver {
    /// Finds the addresses of a name: at least one.
    pub(super) async fn resolve(self, host: &str) -> Result<BTreeSet<IpAddr>, DnsError> {
        let addresses = timeout(WITHIN, async {
            match self {
                Self::Machine => {
                    let found = tokio::net::lookup_host((host, 0)).await.map_err(DnsError::Io)?;
                    Ok::<BTreeSet<IpAddr>, DnsError>(found.map(|address| address.ip()).collect())
                }
                Self::Server(server) => {
                    let (v4, v6) = tokio::join!(ask(server, host, A), ask(server, host, AAAA));
                    let mut addresses = v4?;
                    addresses.extend(v6?);
                    Ok(addresses)
                }
            }
        });
        let addresses = addresses.await.map_err(|_| DnsError::Late(WITHIN))??;
        if addresses.is_empty() { Err(DnsError::Empty) } else { Ok(addresses) }
    }
}

async fn ask(server: SocketAddr, host: &str, kind: u16) -> Result<BTreeSet<IpAddr>, DnsError> {
    let question = question(rand::random(), host, kind).ok_or(DnsError::Unreadable)?;
    let from: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((from, 0)).await.map_err(DnsError::Io)?;
    // Only what this server sends is received then.
    socket.connect(server).await.map_err(DnsError::Io)?;
    socket.send(&question).await.map_err(DnsError::Io)?;
    let mut answer = vec![0; DATAGRAM_MAX];
    loop {
        let n = socket.recv(&mut answer).await.map_err(DnsError::Io)?;
        match read(&question, &answer[..n]) {
            // Late, of an earlier question, or forged.
            Err(DnsError::Unreadable) => {}
            Ok(None) => return ask_at_length(server, &question).await,
            Ok(Some(addresses)) => return Ok(addresses),
            Err(error) => return Err(error),
        }
    }
}

/// Asks over TCP, where an answer may be longer.
async fn ask_at_length(server: SocketAddr, question: &[u8]) -> Result<BTreeSet<IpAddr>, DnsError> {
    let mut stream = TcpStream::connect(server).await.map_err(DnsError::Io)?;
    let length = u16::try_from(question.len()).map_err(|_| DnsError::Unreadable)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await.map_err(DnsError::Io)?;
    let n = stream.read_u16().await.map_err(DnsError::Io)?;
    let mut answer = vec![0; n.into()];
    stream.read_exact(&mut answer).await.map_err(DnsError::Io)?;
    read(question, &answer)?.ok_or(DnsError::Unreadable)
}

/// Writes a question; none where the name cannot be one.
fn question(id: u16, host: &str, kind: u16) -> Option<Vec<u8>> {
    // Recursion is wanted; one question.
    let mut text = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in host.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        text.push(length);
        text.extend(label.bytes());
    }
    text.push(0);
    text.extend([kind.to_be_bytes(), INTERNET.to_be_bytes()].concat());
    (text.len() - HEAD <= 255 + 4).then_some(text)
}

/// Reads the addresses out of an answer to this question; none where it was cut short.
fn read(question: &[u8], answer: &[u8]) -> Result<Option<BTreeSet<IpAddr>>, DnsError> {
    let unreadable = || DnsError::Unreadable;
    let head = answer.get(..HEAD).ok_or_else(unreadable)?;
    let (flags, code) = (head[2], head[3] & 0x0f);
    let echoed =
        answer.get(HEAD..question.len()).is_some_and(|echo| echo.eq_ignore_ascii_case(&question[HEAD..]));
    if head[..2] != question[..2] || flags & 0x80 == 0 || !echoed {
        return Err(unreadable());
    }
    if code != 0 {
        return Err(DnsError::Refused(code));
    }
    if flags & 0x02 != 0 {
        return Ok(None);
    }
    let n_answers = u16::from_be_bytes([head[6], head[7]]);
    let mut rest = &answer[question.len()..];
    let mut addresses = BTreeSet::new();
    for _ in 0..n_answers {
        rest = after_name(rest).ok_or_else(unreadable)?;
        let (fields, data) = rest.split_at_checked(10).ok_or_else(unreadable)?;
        let kind = u16::from_be_bytes([fields[0], fields[1]]);
        let length = u16::from_be_bytes([fields[8], fields[9]]);
        let (data, next) = data.split_at_checked(length.into()).ok_or_else(unreadable)?;
        // Of other kinds is what leads to the name that has the addresses: they follow.
        match kind {
            A => {
                let octets: [u8; 4] = data.try_into().map_err(|_| unreadable())?;
                addresses.insert(octets.into());
            }
            AAAA => {
                let octets: [u8; 16] = data.try_into().map_err(|_| unreadable())?;
                addresses.insert(octets.into());
            }
            _ => {}
        }
        rest = next;
    }
    Ok(Some(addresses))
}

/// Skips a name: labels up to an empty one, or up to where it goes on elsewhere.
fn after_name(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let (length, rest) = text.split_first()?;
        match *length {
            0 => return Some(rest),
            length if length >= 0xc0 => return rest.get(1..),
            length => text = rest.get(usize::from(length)..)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes an answer with these records: kind and data.
    fn answer(question: &[u8], flags: [u8; 2], records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut text = question.to_vec();
        (text[2], text[3], text[7]) = (flags[0], flags[1], records.len() as u8);
        for (kind, data) in records {
            // The name: where it stands in the question.
            text.extend([0xc0, 12]);
            text.extend(kind.to_be_bytes());
            text.extend([0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            text.extend(*data);
        }
        text
    }

    #[test]
    fn addresses_are_read_also_behind_an_alias() {
        let question = question(7, "cache.internal", A).unwrap();
        let alias = [3, b'o', b'n', b'e', 0xc0, 18];
        let text = answer(&question, [0x81, 0x80], &[(5, &alias), (A, &[10, 0, 0, 7]), (A, &[10, 0, 0, 8])]);
        let found = read(&question, &text).unwrap().unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [IpAddr::from([10, 0, 0, 7]), [10, 0, 0, 8].into()]
        );
        let long = answer(&question, [0x83, 0x80], &[]);
        assert!(read(&question, &long).unwrap().is_none(), "cut short");
        let v6 = answer(&question, [0x81, 0x80], &[(AAAA, &Ipv6Addr::LOCALHOST.octets())]);
        assert!(read(&question, &v6).unwrap().unwrap().contains(&IpAddr::from(Ipv6Addr::LOCALHOST)));
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_none() {
        let question = question(7, "cache.internal", A).unwrap();
        let good = answer(&question, [0x81, 0x80], &[(A, &[10, 0, 0, 7])]);
        let missing = answer(&question, [0x81, 0x83], &[]);
        assert!(matches!(read(&question, &missing), Err(DnsError::Refused(3))));
        for n in 0..good.len() {
            assert!(matches!(read(&question, &good[..n]), Err(DnsError::Unreadable)), "{n} bytes");
        }
        let other = super::question(7, "other.internal", A).unwrap();
        let late = super::question(8, "cache.internal", A).unwrap();
        for asked in [other, late] {
            assert!(matches!(read(&asked, &good), Err(DnsError::Unreadable)));
        }
        assert!(super::question(1, "a..b", A).is_none() && super::question(1, &"a".repeat(64), A).is_none());
    }
}

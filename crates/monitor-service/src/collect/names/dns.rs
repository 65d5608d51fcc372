//! The addresses of a name: from the resolver of the machine, or asked of one server (RFC 1035, A and AAAA); and the places of
//! a service (RFC 2782, SRV), which only a server of DNS can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::config::NamedEndpoint;

/// Finds the addresses of names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Resolver {
    /// As every program on this machine does.
    Machine,
    /// By asking this server.
    Server(SocketAddr),
}

/// Tells where an endpoint is.
#[derive(Debug)]
pub(super) struct Found {
    /// At least one, with the name of each.
    pub(super) places: BTreeMap<SocketAddr, String>,
    /// Names of places of a service that gave nothing, and why.
    pub(super) missing: Vec<(String, DnsError)>,
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
    /// Where the machine would ask is not known.
    #[error("{RESOLV_CONF} names no server")]
    NoServer,
}

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;
/// Where a machine keeps whom it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// Places of one service that are looked up.
const PLACES_MAX: usize = 200;
const INTERNET: u16 = 1;
/// Bytes of an answer over UDP; a longer one is asked for over TCP.
const DATAGRAM_MAX: usize = 4_096;
/// Bytes before the question.
const HEAD: usize = 12;
const WITHIN: Duration = Duration::from_secs(2);
/// Labels and jumps of one name: more is a ring.
const NAME_STEPS_MAX: usize = 130;

impl Resolver {
    /// Finds where an endpoint is.
    ///
    /// The name of a service, which begins with an underscore, tells the port of each of its places; priorities and weights are
    /// for those who choose one. A place whose name gives nothing is no reason to leave the others.
    pub(super) async fn places(self, endpoint: &NamedEndpoint) -> Result<Found, DnsError> {
        let named = if endpoint.is_service() {
            self.places_of_service(&endpoint.host).await?
        } else {
            BTreeSet::from([(endpoint.host.clone(), endpoint.port)])
        };
        let lookups = named.into_iter().take(PLACES_MAX).map(|(host, port)| async move {
            let addresses = self.resolve(&host).await;
            (host, port, addresses)
        });
        let mut found = Found { places: BTreeMap::new(), missing: Vec::new() };
        for (host, port, addresses) in join_all(lookups).await {
            match addresses {
                Ok(addresses) => {
                    let place = |ip| (SocketAddr::new(ip, port), host.clone());
                    found.places.extend(addresses.into_iter().map(place));
                }
                Err(error) => found.missing.push((host, error)),
            }
        }
        if !found.places.is_empty() {
            return Ok(found);
        }
        Err(found.missing.pop().map_or(DnsError::Empty, |(_, error)| error))
    }

    async fn places_of_service(self, name: &str) -> Result<BTreeSet<(String, u16)>, DnsError> {
        let server = match self {
            Self::Server(server) => server,
            Self::Machine => {
                let text = tokio::fs::read_to_string(RESOLV_CONF).await.map_err(DnsError::Io)?;
                server_of(&text).ok_or(DnsError::NoServer)?
            }
        };
        let answer = timeout(WITHIN, ask(server, name, SRV)).await;
        services(&answer.map_err(|_| DnsError::Late(WITHIN))??)
    }

    /// Finds the addresses of a name: at least one.
    async fn resolve(self, host: &str) -> Result<BTreeSet<IpAddr>, DnsError> {
        let found = timeout(WITHIN, async {
            match self {
                Self::Machine => {
                    let found = tokio::net::lookup_host((host, 0)).await.map_err(DnsError::Io)?;
                    Ok::<BTreeSet<IpAddr>, DnsError>(found.map(|address| address.ip()).collect())
                }
                Self::Server(server) => {
                    let (v4, v6) = tokio::join!(ask(server, host, A), ask(server, host, AAAA));
                    let mut found = addresses(&v4?)?;
                    found.extend(addresses(&v6?)?);
                    Ok(found)
                }
            }
        });
        let found = found.await.map_err(|_| DnsError::Late(WITHIN))??;
        if found.is_empty() { Err(DnsError::Empty) } else { Ok(found) }
    }
}

async fn ask(server: SocketAddr, host: &str, kind: u16) -> Result<Records, DnsError> {
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
            Ok(Some(records)) => return Ok(records),
            Err(error) => return Err(error),
        }
    }
}

/// Asks over TCP, where an answer may be longer.
async fn ask_at_length(server: SocketAddr, question: &[u8]) -> Result<Records, DnsError> {
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

/// Holds an answer, and where in it the data of each record lies.
#[derive(Debug)]
struct Records {
    message: Vec<u8>,
    records: Vec<(u16, Range<usize>)>,
}

/// Reads an answer to this question; none where it was cut short.
fn read(question: &[u8], answer: &[u8]) -> Result<Option<Records>, DnsError> {
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
    let mut records = Vec::new();
    for _ in 0..n_answers {
        rest = after_name(rest).ok_or_else(unreadable)?;
        let (fields, data) = rest.split_at_checked(10).ok_or_else(unreadable)?;
        let kind = u16::from_be_bytes([fields[0], fields[1]]);
        let length = usize::from(u16::from_be_bytes([fields[8], fields[9]]));
        let begin = answer.len() - data.len();
        rest = data.get(length..).ok_or_else(unreadable)?;
        records.push((kind, begin..begin + length));
    }
    Ok(Some(Records { message: answer.to_vec(), records }))
}

/// Picks the addresses. Of other kinds is what leads to the name that has them: they follow.
fn addresses(Records { message, records }: &Records) -> Result<BTreeSet<IpAddr>, DnsError> {
    let unreadable = |_| DnsError::Unreadable;
    let mut addresses = BTreeSet::new();
    for (kind, range) in records {
        let data = &message[range.clone()];
        match *kind {
            A => {
                let octets: [u8; 4] = data.try_into().map_err(unreadable)?;
                addresses.insert(IpAddr::from(octets));
            }
            AAAA => {
                let octets: [u8; 16] = data.try_into().map_err(unreadable)?;
                addresses.insert(IpAddr::from(octets));
            }
            _ => {}
        }
    }
    Ok(addresses)
}

/// Picks the places of a service: names and ports. A single one that is the root means that there is no such service.
fn services(Records { message, records }: &Records) -> Result<BTreeSet<(String, u16)>, DnsError> {
    let mut places = BTreeSet::new();
    for (_, range) in records.iter().filter(|(kind, _)| *kind == SRV) {
        // Priority, weight, port, and the name.
        let port = message.get(range.start + 4..range.start + 6).filter(|_| range.len() > 6);
        let port = port.and_then(|port| port.try_into().ok()).map(u16::from_be_bytes);
        let place = name_at(message, range.start + 6).zip(port).ok_or(DnsError::Unreadable)?;
        if !place.0.is_empty() {
            places.insert(place);
        }
    }
    if places.is_empty() { Err(DnsError::Empty) } else { Ok(places) }
}

/// Reads a name, also where it goes on elsewhere; without the last point.
fn name_at(message: &[u8], mut at: usize) -> Option<String> {
    let mut labels: Vec<&str> = Vec::new();
    for _ in 0..NAME_STEPS_MAX {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some(labels.join(".")),
            1..=63 => {
                labels.push(std::str::from_utf8(message.get(at + 1..at + 1 + length)?).ok()?);
                at += 1 + length;
            }
            length if length >= 0xc0 => at = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?),
            _ => return None,
        }
    }
    None
}

/// Finds the first server that a machine asks.
fn server_of(resolv_conf: &str) -> Option<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let mut servers = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    servers.next().map(|ip| SocketAddr::new(ip, DNS_PORT))
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
        let found = addresses(&read(&question, &text).unwrap().unwrap()).unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [IpAddr::from([10, 0, 0, 7]), [10, 0, 0, 8].into()]
        );
        let long = answer(&question, [0x83, 0x80], &[]);
        assert!(read(&question, &long).unwrap().is_none(), "cut short");
        let v6 = answer(&question, [0x81, 0x80], &[(AAAA, &Ipv6Addr::LOCALHOST.octets())]);
        let found = addresses(&read(&question, &v6).unwrap().unwrap()).unwrap();
        assert!(found.contains(&IpAddr::from(Ipv6Addr::LOCALHOST)));
        let short = answer(&question, [0x81, 0x80], &[(A, &[10, 0, 0])]);
        assert!(addresses(&read(&question, &short).unwrap().unwrap()).is_err());
    }

    #[test]
    fn places_of_a_service_are_read_with_their_ports_also_where_names_are_shortened() {
        let question = question(7, "_grpc._tcp.cache.internal", SRV).unwrap();
        let plain = [&[0, 1, 0, 5, 0x0f, 0xaa][..], b"\x03one\x05other\x04test\x00"].concat();
        // `two`, and then as the question goes on behind its second label.
        let behind = (HEAD + 1 + "_grpc".len() + 1 + "_tcp".len()) as u8;
        let shortened = [&[0, 1, 0, 5, 0x0f, 0xab][..], b"\x03two", &[0xc0, behind]].concat();
        let text = answer(&question, [0x81, 0x80], &[(SRV, &plain), (SRV, &shortened)]);
        let found = services(&read(&question, &text).unwrap().unwrap()).unwrap();
        let expected = [("one.other.test".to_owned(), 4_010), ("two.cache.internal".to_owned(), 4_011)];
        assert_eq!(found, BTreeSet::from(expected));
        for wrong in [&[0, 0, 0, 0, 0x0f, 0xaa, 0][..], &[0, 0, 0, 0][..], &[0, 0, 0, 0, 1, 1, 0xc0, 35][..]]
        {
            let text = answer(&question, [0x81, 0x80], &[(SRV, wrong)]);
            assert!(services(&read(&question, &text).unwrap().unwrap()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn server_of_the_machine_is_the_first_that_is_an_address() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver nonsense\n nameserver  10.0.0.2 \nnameserver 10.0.0.3\n";
        assert_eq!(server_of(text), Some(SocketAddr::from(([10, 0, 0, 2], 53))));
        assert_eq!(server_of("search a\n"), None);
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

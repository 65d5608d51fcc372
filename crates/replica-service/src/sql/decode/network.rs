use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Malformed, Reader};

const IPV4: u8 = 2;
const IPV6: u8 = 3;

/// Reads `inet` and `cidr`: family, prefix length, whether it is a cidr, address length, address.
pub(super) fn inet_text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let family = reader.u8()?;
    let prefix = reader.u8()?;
    let is_cidr = reader.u8()? != 0;
    let length = reader.u8()?;
    let (address, full) = match (family, length) {
        (IPV4, 4) => (Ipv4Addr::from(*reader.bytes()?).to_string(), 32),
        (IPV6, 16) => (ipv6_text(Ipv6Addr::from(*reader.bytes()?)), 128),
        _ => return Err(Malformed),
    };
    Ok(if is_cidr || prefix != full { format!("{address}/{prefix}") } else { address })
}

/// PostgreSQL also prints the old IPv4-compatible form with dots, from `::1:0` upward.
fn ipv6_text(address: Ipv6Addr) -> String {
    let segments = address.segments();
    if segments[..6] == [0; 6] && segments[6] != 0 {
        let [.., a, b, c, d] = address.octets();
        return format!("::{}", Ipv4Addr::new(a, b, c, d));
    }
    address.to_string()
}

/// Writes 6 or 8 bytes with colons between.
pub(super) fn macaddr_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

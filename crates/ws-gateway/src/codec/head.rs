/// What a server's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
    Close,
    Pong,
}

/// The head of a whole message in one frame. Frames of a server are not masked.
pub(super) struct Head {
    bytes: [u8; 10],
    len: usize,
}

impl Head {
    pub(super) fn new(kind: Kind, payload_bytes: usize) -> Self {
        let mut bytes = [0; 10];
        bytes[0] = 0x80
            | match kind {
                Kind::Text => 1,
                Kind::Binary => 2,
                Kind::Close => 8,
                Kind::Pong => 10,
            };
        let len = match payload_bytes {
            0..=125 => {
                bytes[1] = payload_bytes as u8;
                2
            }
            126..=0xffff => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
                10
            }
        };
        Self { bytes, len }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_few_bytes_as_they_can() {
        for (kind, payload_bytes, expected) in [
            (Kind::Text, 0, &[0x81, 0][..]),
            (Kind::Binary, 125, &[0x82, 125]),
            (Kind::Text, 126, &[0x81, 126, 0, 126]),
            (Kind::Text, 0xffff, &[0x81, 126, 0xff, 0xff]),
            (Kind::Text, 0x1_0000, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (Kind::Pong, 3, &[0x8a, 3]),
            (Kind::Close, 2, &[0x88, 2]),
        ] {
            assert_eq!(Head::new(kind, payload_bytes).as_bytes(), expected, "{payload_bytes}");
        }
    }
}

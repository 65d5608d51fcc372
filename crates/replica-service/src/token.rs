//! What a writer gets and a reader shows, to read their own write.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::lsn::{Lsn, Position};

/// The end of a committed write in the log of one cluster; opaque text outside.
///
/// The text is base64url without padding of 21 bytes: version 1, system identifier (8), timeline (4), position (8), all
/// big-endian. It is no secret and no permission: a forged one can only make a read wait or go to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub system_identifier: u64,
    pub position: Position,
}

const VERSION: u8 = 1;
const LENGTH: usize = 21;

impl Token {
    pub(crate) fn encode(&self) -> String {
        let mut raw = Vec::with_capacity(LENGTH);
        raw.push(VERSION);
        raw.extend(self.system_identifier.to_be_bytes());
        raw.extend(self.position.timeline.to_be_bytes());
        raw.extend(self.position.lsn.0.to_be_bytes());
        URL_SAFE_NO_PAD.encode(raw)
    }

    pub(crate) fn decode(text: &str) -> Result<Self, InvalidToken> {
        // Longer text cannot be a token, and is not worth the memory of decoding it.
        if text.len() > 2 * LENGTH {
            return Err(InvalidToken);
        }
        let raw = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidToken)?;
        let raw: [u8; LENGTH] = raw.try_into().map_err(|_| InvalidToken)?;
        let (&[version], rest) = raw.split_first_chunk::<1>().ok_or(InvalidToken)?;
        let (system_identifier, rest) = rest.split_first_chunk::<8>().ok_or(InvalidToken)?;
        let (timeline, rest) = rest.split_first_chunk::<4>().ok_or(InvalidToken)?;
        let (lsn, _) = rest.split_first_chunk::<8>().ok_or(InvalidToken)?;
        if version != VERSION {
            return Err(InvalidToken);
        }
        Ok(Self {
            system_identifier: u64::from_be_bytes(*system_identifier),
            position: Position {
                timeline: u32::from_be_bytes(*timeline),
                lsn: Lsn(u64::from_be_bytes(*lsn)),
            },
        })
    }
}

/// Says that a text was not made by this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this service")]
pub(crate) struct InvalidToken;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_reads_back(system_identifier in any::<u64>(), timeline in any::<u32>(), lsn in any::<u64>()) {
            let token = Token { system_identifier, position: Position { timeline, lsn: Lsn(lsn) } };
            prop_assert_eq!(Token::decode(&token.encode()), Ok(token));
        }

        #[test]
        fn any_other_text_is_refused_without_a_panic(text in ".{0,64}") {
            if let Ok(token) = Token::decode(&text) {
                prop_assert_eq!(token.encode(), text);
            }
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut raw = [0_u8; LENGTH];
        raw[0] = 2;
        assert_eq!(Token::decode(&URL_SAFE_NO_PAD.encode(raw)), Err(InvalidToken));
    }
}

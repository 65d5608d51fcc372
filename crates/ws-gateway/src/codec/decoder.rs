use std::borrow::Cow;

/// Head of a client's frame at its longest: two bytes, a 64-bit length, the mask.
const MAX_HEAD_BYTES: usize = 14;
/// RFC 6455, section 5.5.
const MAX_CONTROL_BYTES: usize = 125;

/// Turns the bytes of one client into messages.
#[derive(Debug)]
pub struct Decoder {
    max_message_bytes: usize,
    head: [u8; MAX_HEAD_BYTES],
    head_len: u8,
    frame: Option<Frame>,
    /// The data message that has begun and not ended.
    unfinished: Option<Data>,
    /// What has come of it, if that was not all of it at once.
    data: Vec<u8>,
    /// How much of `data` is known to be UTF-8.
    valid_bytes: usize,
    /// What has come of a control frame, if that was not all of it at once.
    control: Vec<u8>,
    closed: bool,
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Text(Cow<'a, str>),
    Binary(Cow<'a, [u8]>),
    Ping(Cow<'a, [u8]>),
    Pong,
    /// The last message, with the code if there is one. Whatever follows is passed over.
    Close(Option<u16>),
}

/// A rule of RFC 6455 that a client broke. Nothing can be read after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a reserved bit is set and no extension was agreed on")]
    ReservedBit,
    #[error("the opcode is reserved")]
    ReservedOpcode,
    #[error("a frame of a client is not masked")]
    NotMasked,
    #[error("a length is written with more bytes than it needs")]
    LengthNotMinimal,
    #[error("the highest bit of a length is set")]
    LengthNegative,
    #[error("a control frame is fragmented")]
    ControlFragmented,
    #[error("a control frame has more than 125 bytes")]
    ControlTooLong,
    #[error("a frame continues a message that never began")]
    NothingToContinue,
    #[error("a message begins inside another")]
    MessageInterrupted,
    #[error("a close frame has one byte of payload")]
    CloseTruncated,
    #[error("the code of a close frame must not be sent")]
    CloseCode,
    #[error("a text is not UTF-8")]
    NotUtf8,
    #[error("a message is larger than allowed")]
    TooLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    Text,
    Binary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Data,
    Close,
    Ping,
    Pong,
}

/// A frame whose head has been read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
    mask: [u8; 4],
    payload_bytes: usize,
    read_bytes: usize,
}

impl Message<'_> {
    /// Returns the bytes of a text or of binary data; 0 for control frames.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(data) => data.len(),
            Self::Ping(_) | Self::Pong | Self::Close(_) => 0,
        }
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Violation {
    /// Returns the close code that says so (RFC 6455, section 7.4.1).
    pub const fn close_code(self) -> u16 {
        match self {
            Self::NotUtf8 => 1007,
            Self::TooLarge => 1009,
            _ => 1002,
        }
    }
}

impl Decoder {
    /// Starts behind the handshake. A message may have `max_message_bytes`, over all of its fragments.
    pub const fn new(max_message_bytes: usize) -> Self {
        Self {
            max_message_bytes,
            head: [0; MAX_HEAD_BYTES],
            head_len: 0,
            frame: None,
            unfinished: None,
            data: Vec::new(),
            valid_bytes: 0,
            control: Vec::new(),
            closed: false,
        }
    }

    /// Takes bytes off the front of `input` until a message is complete; none when all of `input` is taken.
    ///
    /// Payload is unmasked in place, and a message that came in one piece is lent from there. Only what is unfinished
    /// is kept.
    ///
    /// # Errors
    /// Fails at the first byte that no good client sends. The decoder must not be used afterwards.
    pub fn next<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Message<'a>>, Violation> {
        loop {
            if self.closed {
                *input = &mut [];
                return Ok(None);
            }
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.read_head(input)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            let len = input.len().min(frame.payload_bytes - frame.read_bytes);
            let piece = input.split_off_mut(..len).unwrap_or_default();
            unmask(piece, frame.mask, frame.read_bytes);
            let read_bytes = frame.read_bytes + len;
            let is_complete = read_bytes == frame.payload_bytes;
            self.frame = (!is_complete).then_some(Frame { read_bytes, ..frame });
            let message = match frame.opcode {
                Opcode::Data => self.take_data(piece, is_complete && frame.is_final)?,
                opcode => self.take_control(opcode, piece, is_complete)?,
            };
            if message.is_some() || !is_complete {
                return Ok(message);
            }
        }
    }

    /// Says whether bytes of an unfinished frame or message are held.
    pub const fn is_between_messages(&self) -> bool {
        self.frame.is_none() && self.unfinished.is_none() && self.head_len == 0
    }

    /// Reads on in the head of a frame and checks each part as soon as it is there.
    fn read_head(&mut self, input: &mut &mut [u8]) -> Result<Option<Frame>, Violation> {
        loop {
            let have = usize::from(self.head_len);
            let want = if have < 2 { 2 } else { head_bytes(self.head[1]) };
            if have == want && have >= 2 {
                self.head_len = 0;
                return self.begin_frame().map(Some);
            }
            let len = (want - have).min(input.len());
            let Some(piece) = input.split_off_mut(..len).filter(|piece| !piece.is_empty()) else {
                return Ok(None);
            };
            self.head[have..have + len].copy_from_slice(piece);
            self.head_len += u8::try_from(len).expect("a head has at most 14 bytes");
            self.check_start(have + len)?;
        }
    }

    /// Refuses a frame by its first bytes, before its length or payload are waited for.
    fn check_start(&self, have: usize) -> Result<(), Violation> {
        let [first, second, ..] = self.head;
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBit);
        }
        let (opcode, is_final) = (first & 0x0f, first & 0x80 != 0);
        match opcode {
            0 if self.unfinished.is_none() => return Err(Violation::NothingToContinue),
            1 | 2 if self.unfinished.is_some() => return Err(Violation::MessageInterrupted),
            0..=2 => {}
            8..=10 if !is_final => return Err(Violation::ControlFragmented),
            8..=10 => {}
            _ => return Err(Violation::ReservedOpcode),
        }
        if have < 2 {
            return Ok(());
        }
        if second & 0x80 == 0 {
            return Err(Violation::NotMasked);
        }
        if opcode >= 8 && usize::from(second & 0x7f) > MAX_CONTROL_BYTES {
            return Err(Violation::ControlTooLong);
        }
        Ok(())
    }

    fn begin_frame(&mut self) -> Result<Frame, Violation> {
        let head = &self.head[..head_bytes(self.head[1])];
        let (length, mask) = head[2..].split_at(head.len() - 6);
        let payload_bytes = match *length {
            [] => u64::from(head[1] & 0x7f),
            [high, low] => u64::from(u16::from_be_bytes([high, low])),
            _ => length.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
        };
        if payload_bytes >> 63 != 0 {
            return Err(Violation::LengthNegative);
        }
        if (length.len() == 2 && payload_bytes < 126) || (length.len() == 8 && payload_bytes < 1 << 16) {
            return Err(Violation::LengthNotMinimal);
        }
        let opcode = match head[0] & 0x0f {
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => Opcode::Data,
        };
        let payload_bytes = usize::try_from(payload_bytes).unwrap_or(usize::MAX);
        if opcode == Opcode::Data {
            match head[0] & 0x0f {
                1 => self.unfinished = Some(Data::Text),
                2 => self.unfinished = Some(Data::Binary),
                _ => {}
            }
            if payload_bytes > self.max_message_bytes - self.data.len() {
                return Err(Violation::TooLarge);
            }
        }
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        Ok(Frame { opcode, is_final: head[0] & 0x80 != 0, mask, payload_bytes, read_bytes: 0 })
    }

    fn take_data<'a>(&mut self, piece: &'a [u8], is_last: bool) -> Result<Option<Message<'a>>, Violation> {
        let Some(kind) = self.unfinished else { return Err(Violation::NothingToContinue) };
        if is_last && self.data.is_empty() {
            self.unfinished = None;
            return Ok(Some(match kind {
                Data::Text => Message::Text(str::from_utf8(piece).map_err(|_| Violation::NotUtf8)?.into()),
                Data::Binary => Message::Binary(piece.into()),
            }));
        }
        self.data.extend_from_slice(piece);
        if kind == Data::Text {
            self.check_utf8(is_last)?;
        }
        if !is_last {
            return Ok(None);
        }
        self.unfinished = None;
        self.valid_bytes = 0;
        let data = std::mem::take(&mut self.data);
        Ok(Some(match kind {
            Data::Text => Message::Text(String::from_utf8(data).map_err(|_| Violation::NotUtf8)?.into()),
            Data::Binary => Message::Binary(data.into()),
        }))
    }

    /// Checks what has not been checked yet. A character may be cut at the end of a piece, not at the end of a text.
    fn check_utf8(&mut self, is_last: bool) -> Result<(), Violation> {
        match str::from_utf8(&self.data[self.valid_bytes..]) {
            Ok(valid) => self.valid_bytes += valid.len(),
            Err(error) if error.error_len().is_some() || is_last => return Err(Violation::NotUtf8),
            Err(error) => self.valid_bytes += error.valid_up_to(),
        }
        Ok(())
    }

    fn take_control<'a>(
        &mut self,
        opcode: Opcode,
        piece: &'a [u8],
        is_complete: bool,
    ) -> Result<Option<Message<'a>>, Violation> {
        if !is_complete {
            self.control.extend_from_slice(piece);
            return Ok(None);
        }
        let payload: Cow<'a, [u8]> = if self.control.is_empty() {
            piece.into()
        } else {
            self.control.extend_from_slice(piece);
            std::mem::take(&mut self.control).into()
        };
        Ok(Some(match opcode {
            Opcode::Close => {
                self.closed = true;
                Message::Close(close_code(&payload)?)
            }
            Opcode::Ping => Message::Ping(payload),
            Opcode::Pong | Opcode::Data => Message::Pong,
        }))
    }
}

/// Returns the length of a head by its second byte.
const fn head_bytes(second: u8) -> usize {
    6 + match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// Takes the mask off a piece that begins `offset` bytes into the payload.
fn unmask(piece: &mut [u8], mut mask: [u8; 4], offset: usize) {
    mask.rotate_left(offset % 4);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = piece.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Reads the payload of a close frame: nothing, or a code and a reason in UTF-8.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let (high, low, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::CloseTruncated),
        [high, low, reason @ ..] => (*high, *low, reason),
    };
    let code = u16::from_be_bytes([high, low]);
    // RFC 6455, section 7.4, and the codes registered since. 1004 to 1006 and 1015 never stand in a frame.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::CloseCode);
    }
    str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
    Ok(Some(code))
}

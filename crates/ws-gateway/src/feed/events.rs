//! Server-sent events, as the HTML standard describes them ("Server-sent events", section 9.2.6): bytes in, events out.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// The id that held when it came; empty for none.
    pub(super) id: String,
    pub(super) data: String,
}

/// Reads an event stream, however it is cut.
#[derive(Debug)]
pub(super) struct Reader {
    max_bytes: usize,
    line: Vec<u8>,
    /// A carriage return ended the last line: a line feed after it ends none.
    after_return: bool,
    is_first: bool,
    id: String,
    data: String,
}

/// Says why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("an event is larger than allowed")]
    TooLarge,
    #[error("an event is not UTF-8")]
    NotUtf8,
}

impl Reader {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            line: Vec::new(),
            after_return: false,
            is_first: true,
            id: String::new(),
            data: String::new(),
        }
    }

    /// Takes what has come; adds the events that are complete.
    pub(super) fn take(&mut self, bytes: &[u8], events: &mut impl Extend<Event>) -> Result<(), Unreadable> {
        for &byte in bytes {
            let ends = matches!(byte, b'\r' | b'\n');
            let is_second = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            if is_second {
                continue;
            }
            if ends {
                events.extend(self.end_line()?);
            } else if self.line.len() + self.data.len() > self.max_bytes {
                return Err(Unreadable::TooLarge);
            } else {
                self.line.push(byte);
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, Unreadable> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8(line).map_err(|_| Unreadable::NotUtf8)?;
        let line =
            if std::mem::take(&mut self.is_first) { line.trim_start_matches('\u{feff}') } else { &line };
        if line.is_empty() {
            let mut data = std::mem::take(&mut self.data);
            // The last line feed is none of the data.
            return Ok(data.pop().map(|_| Event { id: self.id.clone(), data }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(stream: &[u8], cut: usize) -> Result<Vec<(String, String)>, Unreadable> {
        let (mut reader, mut events) = (Reader::new(40), Vec::new());
        for piece in stream.chunks(cut) {
            reader.take(piece, &mut events)?;
        }
        Ok(events.into_iter().map(|event: Event| (event.id, event.data)).collect())
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let event = |id: &str, data: &str| (id.to_owned(), data.to_owned());
        for (stream, expected) in [
            ("data: a\n\n", vec![event("", "a")]),
            ("\u{feff}data:a\r\rdata: b\r\n\r\n", vec![event("", "a"), event("", "b")]),
            (": hello\n\nid: 7\ndata: a\ndata\ndata:  b\nretry: 5\n\n", vec![event("7", "a\n\n b")]),
            ("id: 7\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", {
                vec![event("7", "a"), event("7", "b"), event("", "c")]
            }),
            ("event: x\n\ndata: unfinished\n", vec![]),
        ] {
            for cut in 1..9 {
                assert_eq!(read(stream.as_bytes(), cut), Ok(expected.clone()), "{stream:?} by {cut}");
            }
        }
        assert_eq!(read(&[b'x'; 50], 7), Err(Unreadable::TooLarge));
        assert_eq!(read("data: 0123456789\n".repeat(5).as_bytes(), 7), Err(Unreadable::TooLarge));
        assert_eq!(read(b"data: \xff\n\n", 7), Err(Unreadable::NotUtf8));
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_it_says_the_same(
            stream in prop::collection::vec(prop::sample::select(b"data:id \r\n\xc3\xa4".to_vec()), 0..80),
            cut in 1_usize..9,
        ) {
            prop_assert_eq!(read(&stream, cut), read(&stream, 1_000));
        }
    }
}

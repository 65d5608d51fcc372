use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;

use crate::codec::{Kind, Message};
use crate::protocol::protobuf;

/// Publications kept in translation by each thread.
const KEPT: usize = 64;

thread_local! {
    /// What this thread translated last, with what it was made of.
    static TRANSLATED: RefCell<VecDeque<(Bytes, Bytes)>> = const { RefCell::new(VecDeque::new()) };
}

/// The form of the client protocol that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Objects in text frames, joined by line feeds. What sessions and the hub speak.
    Json,
    /// Messages in binary frames, each behind its length.
    Protobuf,
}

impl Form {
    /// Returns the commands of a frame as lines of JSON; none when the frame is of another form.
    ///
    /// What cannot be read becomes an empty text, which is no command either.
    pub(super) fn read<'a>(self, message: &'a Message<'_>) -> Option<Cow<'a, str>> {
        match (self, message) {
            (Self::Json, Message::Text(text)) => Some(Cow::Borrowed(text)),
            (Self::Protobuf, Message::Binary(frame)) => {
                Some(protobuf::to_json(frame).unwrap_or_default().into())
            }
            _ => None,
        }
    }

    /// Puts what is about to be written into this form. A publication is translated once for all connections of a
    /// thread that are served soon after each other.
    pub(super) fn translate(self, batch: &mut [Bytes]) {
        if self == Self::Protobuf {
            for message in batch {
                *message = translated(message);
            }
        }
    }

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Json => Kind::Text,
            Self::Protobuf => Kind::Binary,
        }
    }

    pub(super) const fn separator(self) -> &'static [u8] {
        match self {
            Self::Json => b"\n",
            Self::Protobuf => b"",
        }
    }
}

fn translated(json: &Bytes) -> Bytes {
    // Nobody else waits for it: a reply.
    if json.is_unique() {
        return protobuf::from_json(json);
    }
    TRANSLATED.with_borrow_mut(|kept| {
        // Whatever is kept cannot be freed, so an equal address is the same message.
        let is_same = |made_of: &Bytes| made_of.as_ptr() == json.as_ptr() && made_of.len() == json.len();
        if let Some((_, translation)) = kept.iter().find(|(made_of, _)| is_same(made_of)) {
            return translation.clone();
        }
        let translation = protobuf::from_json(json);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((json.clone(), translation.clone()));
        translation
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_message_is_translated_once() {
        let json = Bytes::from_static(br#"{"push":{"channel":"a","pub":{"data":1}}}"#);
        let (mut first, mut second) = ([json.clone()], [json.clone(), Bytes::from_static(b"{}")]);
        Form::Protobuf.translate(&mut first);
        Form::Protobuf.translate(&mut second);
        assert_eq!(first[0].as_ptr(), second[0].as_ptr());
        assert_ne!(first[0], json);
        assert_eq!(second[1], [0][..]);
        Form::Json.translate(&mut [json]);
    }

    #[test]
    fn frames_of_the_other_form_are_not_read() {
        let (text, binary) = (Message::Text("{}".into()), Message::Binary(b"\0"[..].into()));
        assert_eq!(Form::Json.read(&text).as_deref(), Some("{}"));
        assert_eq!(Form::Protobuf.read(&binary).as_deref(), Some("{}"));
        assert_eq!(Form::Protobuf.read(&Message::Binary(b"\x05"[..].into())).as_deref(), Some(""));
        assert_eq!((Form::Json.read(&binary), Form::Protobuf.read(&text)), (None, None));
    }
}

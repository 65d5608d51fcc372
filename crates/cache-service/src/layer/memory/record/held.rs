use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::{Record, Value, tags_in};
use crate::entry::Head;
use crate::key::ContentType;
use crate::layer::memory::pages::Paged;

/// What memory holds of a key, as it was when it was read.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    head: Head,
    content_type: ContentType,
    /// As they lie in a record.
    tags: Box<[u8]>,
    value: HeldValue,
}

#[derive(Debug, Clone)]
enum HeldValue {
    Copied(Bytes),
    /// Shared with memory, to be copied where no lock is held.
    Paged(Arc<Paged>),
}

impl Held {
    /// `paged` is the record's large value, if it has one.
    pub(in super::super) fn new(record: &Record<'_>, paged: Option<&Arc<Paged>>) -> Self {
        let value = match paged {
            Some(paged) => HeldValue::Paged(Arc::clone(paged)),
            None => HeldValue::Copied(record.value().to_bytes()),
        };
        Self {
            head: record.head(),
            content_type: ContentType::kept(record.content_type()),
            tags: record.tags_bytes().into(),
            value,
        }
    }

    /// Returns head, content type and value; no value when the origin does not have the key.
    pub(crate) fn into_parts(self) -> (Head, ContentType, Option<Bytes>) {
        let value = self.head.has_value.then(|| match self.value {
            HeldValue::Copied(value) => value,
            HeldValue::Paged(paged) => Value::of_pages(&paged).to_bytes(),
        });
        (self.head, self.content_type, value)
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = &str> {
        tags_in(&self.tags)
    }
}

impl Deref for Held {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

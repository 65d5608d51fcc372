//! What kind of value a field must have.

use serde_json::Value;

use crate::check::{Outcome, Verdict};

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Number,
    /// A number, or null where nothing was measured yet.
    NumberOrNull,
    Truth,
    List,
    Object,
    /// A list, not empty.
    Some,
    OneOf(&'static [&'static str]),
    /// RFC 3339.
    Time,
}

impl Kind {
    pub(crate) fn check(self, answer: &Value, pointer: &str) -> Outcome {
        let Some(value) = answer.pointer(pointer) else {
            return Err(format!("{pointer} is missing"));
        };
        if self.fits(value) {
            let mut seen = value.to_string();
            if let Some((end, _)) = seen.char_indices().nth(60) {
                seen.truncate(end);
            }
            return Ok(Verdict::Pass(seen));
        }
        Err(format!("{pointer} must be {}, is {value}", self.words()))
    }

    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.as_str().is_some_and(|text| !text.is_empty()),
            Self::Number => value.is_number(),
            Self::NumberOrNull => value.is_number() || value.is_null(),
            Self::Truth => value.is_boolean(),
            Self::List => value.is_array(),
            Self::Object => value.is_object(),
            Self::Some => value.as_array().is_some_and(|list| !list.is_empty()),
            Self::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Time => value.as_str().is_some_and(is_time),
        }
    }

    fn words(self) -> String {
        match self {
            Self::Text => "a text that is not empty".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::NumberOrNull => "a number or null".to_owned(),
            Self::Truth => "true or false".to_owned(),
            Self::List => "a list".to_owned(),
            Self::Object => "an object".to_owned(),
            Self::Some => "a list that is not empty".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Time => "a time as RFC 3339 writes it".to_owned(),
        }
    }
}

fn is_time(text: &str) -> bool {
    let shape = "0000-00-00T00:00:00";
    text.len() > shape.len()
        && text.ends_with('Z')
        && shape.bytes().zip(text.bytes()).all(|(wanted, found)| match wanted {
            b'0' => found.is_ascii_digit(),
            _ => found == wanted,
        })
}

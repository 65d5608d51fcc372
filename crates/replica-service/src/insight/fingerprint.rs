/// A statement without its literals, comments and spare white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// FNV-1a of the whole text; the same in every process.
    pub fingerprint: u64,
    /// Cut at 2 KiB.
    pub sql: String,
    /// `sql` means what the statement meant: it has no literals and was not cut.
    pub is_whole: bool,
}

const KEPT_BYTES: usize = 2_048;

impl Shape {
    /// Reads a statement; what it does not understand stays as it is.
    pub(crate) fn of(sql: &str) -> Self {
        let mut scanner = Scanner {
            rest: sql.as_bytes(),
            out: Vec::with_capacity(sql.len().min(KEPT_BYTES)),
            literals: false,
        };
        scanner.run();
        let Scanner { mut out, literals, .. } = scanner;
        while out.last() == Some(&b' ') {
            out.pop();
        }
        let fingerprint = fnv1a(&out);
        let mut text = String::from_utf8_lossy(&out).into_owned();
        let mut end = text.len().min(KEPT_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let is_whole = !literals && end == text.len();
        text.truncate(end);
        Self { fingerprint, sql: text, is_whole }
    }
}

struct Scanner<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
    literals: bool,
}

impl Scanner<'_> {
    fn run(&mut self) {
        while let Some(&byte) = self.rest.first() {
            match byte {
                b'\'' => self.literal(quoted(self.rest, b'\'', self.ends_with_escape_prefix())),
                b'"' => self.keep(quoted(self.rest, b'"', false)),
                b'$' if !self.in_word() => match dollar_quoted(self.rest) {
                    Some(length) => self.literal(length),
                    None => self.keep(1 + digits(&self.rest[1..])),
                },
                b'0'..=b'9' if !self.in_word() => self.literal(number(self.rest)),
                b'-' if self.rest.starts_with(b"--") => self.skip(line(self.rest)),
                b'/' if self.rest.starts_with(b"/*") => self.skip(comment(self.rest)),
                _ if byte.is_ascii_whitespace() => self.skip(1),
                _ => self.keep(1),
            }
        }
    }

    fn keep(&mut self, length: usize) {
        let (kept, rest) = self.rest.split_at(length);
        self.out.extend_from_slice(kept);
        self.rest = rest;
    }

    fn literal(&mut self, length: usize) {
        self.rest = &self.rest[length..];
        self.out.push(b'?');
        self.literals = true;
    }

    /// White space and comments are one space, and none at the beginning.
    fn skip(&mut self, length: usize) {
        self.rest = &self.rest[length..];
        if self.out.last().is_some_and(|last| *last != b' ') {
            self.out.push(b' ');
        }
    }

    fn in_word(&self) -> bool {
        self.out.last().is_some_and(|last| is_word(*last))
    }

    /// In `E'...'` a backslash escapes a quote.
    fn ends_with_escape_prefix(&self) -> bool {
        match self.out.as_slice() {
            [.., before, b'e' | b'E'] => !is_word(*before),
            [b'e' | b'E'] => true,
            _ => false,
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}

/// Length of a quoted text; a doubled quote is part of it. Without an end it is all of the rest.
fn quoted(text: &[u8], quote: u8, backslash: bool) -> usize {
    let mut at = 1;
    while at < text.len() {
        let escaped = backslash && text[at] == b'\\';
        if escaped || (text[at] == quote && text.get(at + 1) == Some(&quote)) {
            at += 2;
        } else if text[at] == quote {
            return at + 1;
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of `$tag$ ... $tag$`; `None` when it is none.
fn dollar_quoted(text: &[u8]) -> Option<usize> {
    let tag_end = 1 + text[1..].iter().position(|byte| *byte == b'$')?;
    let tag = &text[..=tag_end];
    let name = &tag[1..tag_end];
    if name.first().is_some_and(u8::is_ascii_digit) || !name.iter().all(|byte| is_word(*byte)) {
        return None;
    }
    let body = &text[tag.len()..];
    let end = body.windows(tag.len()).position(|window| window == tag);
    Some(end.map_or(text.len(), |end| end + 2 * tag.len()))
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Length of a number: digits, point, exponent, also `0x1F` and `1_000`.
fn number(text: &[u8]) -> usize {
    let part = |at: &usize| {
        let byte = text[*at];
        let sign = matches!(byte, b'+' | b'-') && matches!(text[*at - 1], b'e' | b'E');
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || sign
    };
    1 + (1..text.len()).take_while(part).count()
}

fn line(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len())
}

/// Length of a comment; comments nest.
fn comment(text: &[u8]) -> usize {
    let (mut at, mut depth) = (2, 1);
    while at < text.len() && depth > 0 {
        if text[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if text[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
        } else {
            at += 1;
        }
    }
    at
}

fn fnv1a(text: &[u8]) -> u64 {
    text.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn literals_white_space_and_comments_do_not_count() {
        for (sql, wanted) in [
            ("SELECT 1", "SELECT ?"),
            ("  SELECT\n\t2 -- two", "SELECT ?"),
            ("SELECT/* a /* b */ c */3", "SELECT ?"),
            ("SELECT 'it''s', E'it\\'s', $$a$$, $x$ $$ $x$", "SELECT ?, E?, ?, ?"),
            (
                "SELECT a1, $1, t2.\"b 3\" FROM t2 WHERE n = -1.5e-3",
                "SELECT a1, $1, t2.\"b 3\" FROM t2 WHERE n = -?",
            ),
            ("SELECT 'never closed", "SELECT ?"),
            ("SELECT größe FROM möbel WHERE n > 0x1F", "SELECT größe FROM möbel WHERE n > ?"),
        ] {
            assert_eq!(Shape::of(sql).sql, wanted, "{sql}");
        }
    }

    #[test]
    fn long_texts_are_cut_but_told_apart() {
        let long = |end: &str| format!("SELECT {}{end}", "é, ".repeat(2_000));
        let (a, b) = (Shape::of(&long("a")), Shape::of(&long("b")));
        assert!(a.sql.len() <= KEPT_BYTES && a.sql == b.sql);
        assert_ne!(a.fingerprint, b.fingerprint);
    }

    proptest! {
        #[test]
        fn any_text_has_a_shape(sql in ".*") {
            prop_assert!(Shape::of(&sql).sql.len() <= KEPT_BYTES);
        }

        #[test]
        fn no_literal_is_left(secret in "[a-z]{8}", n in 1_000_000_u64..) {
            let shape = Shape::of(&format!("UPDATE t SET a = '{secret}' WHERE b = {n}"));
            prop_assert_eq!(shape.sql, "UPDATE t SET a = ? WHERE b = ?");
        }
    }
}

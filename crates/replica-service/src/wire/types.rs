use std::io;

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{DataRowBody, RowDescriptionBody};
use tokio_postgres::types::{Kind, Oid, Type};

use super::{Event, Text, Wire, WireError};
use crate::{session::Column, sql::param::Param};

const LOOK_UP: &str = "SELECT t.typname::text, n.nspname::text, t.typtype::text, t.typbasetype::text, \
    t.typelem::text \
    FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace WHERE t.oid = $1";

/// What the catalog says of a type.
struct Entry {
    name: String,
    schema: String,
    kind: String,
    base: Oid,
    element: Oid,
}

impl Wire {
    /// Returns the columns of a result; `None` when the type of one must be [looked up](Self::look_up) first.
    pub(crate) fn columns(&self, described: &RowDescriptionBody) -> Result<Option<Vec<Column>>, WireError> {
        let mut fields = described.fields();
        let mut columns = Vec::with_capacity(fields.size_hint().0);
        while let Some(field) = fields.next()? {
            let Some(ty) = self.known_type(field.type_oid()) else { return Ok(None) };
            columns.push(Column { name: field.name().to_owned(), ty });
        }
        Ok(Some(columns))
    }

    /// Asks the catalog for the types of columns that are not known, and remembers them; nothing must be under way.
    pub(crate) async fn look_up(&mut self, described: &RowDescriptionBody) -> Result<Vec<Column>, WireError> {
        self.ensure_idle()?;
        let mut fields = described.fields();
        let mut columns = Vec::new();
        while let Some(field) = fields.next()? {
            let ty = self.find_type(field.type_oid()).await?;
            columns.push(Column { name: field.name().to_owned(), ty });
        }
        Ok(columns)
    }

    fn known_type(&self, oid: Oid) -> Option<Type> {
        Type::from_oid(oid).or_else(|| self.types.get(&oid).cloned())
    }

    /// A domain stands on another type, an array holds one: those come first.
    async fn find_type(&mut self, oid: Oid) -> Result<Type, WireError> {
        let mut missing = vec![oid];
        let mut entries = Vec::new();
        while let Some(oid) = missing.pop() {
            if self.known_type(oid).is_some() {
                continue;
            }
            let entry = self.ask_catalog(oid).await?;
            missing.extend([entry.base, entry.element].into_iter().filter(|oid| *oid != 0));
            entries.push((oid, entry));
        }
        for (oid, entry) in entries.into_iter().rev() {
            let of = |wire: &Self, oid| wire.known_type(oid).ok_or(WireError::UnknownType(oid));
            let kind = match (&*entry.kind, entry.base, entry.element) {
                // The labels are not needed: values travel as their labels.
                ("e", ..) => Kind::Enum(Vec::new()),
                ("p", ..) => Kind::Pseudo,
                (_, base, _) if base != 0 => Kind::Domain(of(self, base)?),
                (_, _, element) if element != 0 => Kind::Array(of(self, element)?),
                ("c", ..) => Kind::Composite(Vec::new()),
                _ => Kind::Simple,
            };
            self.types.insert(oid, Type::new(entry.name, oid, kind, entry.schema));
        }
        self.known_type(oid).ok_or(WireError::UnknownType(oid))
    }

    async fn ask_catalog(&mut self, oid: Oid) -> Result<Entry, WireError> {
        let param = Param::text(Type::OID, oid.to_string());
        self.put(Text::Once(LOOK_UP), &[param], false)?;
        self.put_sync();
        let (mut entry, mut refused) = (None, None);
        loop {
            match self.next().await? {
                Event::Row(row) => entry = Some(Entry::read(&row)?),
                Event::Refused(error) => refused = Some(error),
                Event::Ready { .. } => break,
                Event::Columns(_) | Event::LongRow | Event::Done => {}
            }
        }
        match (entry, refused) {
            (_, Some(error)) => Err(WireError::Server(error)),
            (entry, None) => entry.ok_or(WireError::UnknownType(oid)),
        }
    }
}

impl Entry {
    fn read(row: &DataRowBody) -> io::Result<Self> {
        let text = |range: Option<std::ops::Range<usize>>| {
            Ok(range.map(|range| String::from_utf8_lossy(&row.buffer()[range]).into_owned()))
        };
        let texts: Vec<Option<String>> = row.ranges().map(text).collect()?;
        let [name, schema, kind, base, element] =
            <[_; 5]>::try_from(texts).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let oid = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self {
            name: name.unwrap_or_default(),
            schema: schema.unwrap_or_default(),
            kind: kind.unwrap_or_default(),
            base: oid(base),
            element: oid(element),
        })
    }
}

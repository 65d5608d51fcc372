use serde_json::Value as Json;

/// A place in the configuration tree.
pub(super) type Path = Vec<Step>;

/// One step down the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Writes a place as people do: `redis.sentinels[0]`.
pub(super) fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// Cuts a place at the first list: a list is set and replaced as a whole.
pub(super) fn without_index(path: &[Step]) -> &[Step] {
    let end = path.iter().position(|step| matches!(step, Step::Index(_))).unwrap_or(path.len());
    &path[..end]
}

pub(super) fn get<'t>(tree: &'t Json, path: &[Step]) -> Option<&'t Json> {
    path.iter().try_fold(tree, |place, step| match step {
        Step::Key(key) => place.get(key),
        Step::Index(index) => place.get(index),
    })
}

/// Sets the value at a place whose parent exists; tells whether it does.
pub(super) fn set(tree: &mut Json, path: &[Step], value: Json) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    match (parent_mut(tree, parents), last) {
        (Some(Json::Object(table)), Step::Key(key)) => {
            table.insert(key.clone(), value);
            true
        }
        (Some(Json::Array(items)), Step::Index(index)) if *index < items.len() => {
            items[*index] = value;
            true
        }
        _ => false,
    }
}

/// Removes the value at a place; tells whether there was one.
pub(super) fn remove(tree: &mut Json, path: &[Step]) -> bool {
    match path.split_last() {
        Some((Step::Key(key), parents)) => {
            let table = parent_mut(tree, parents).and_then(Json::as_object_mut);
            table.is_some_and(|table| table.remove(key).is_some())
        }
        _ => false,
    }
}

fn parent_mut<'t>(tree: &'t mut Json, path: &[Step]) -> Option<&'t mut Json> {
    path.iter().try_fold(tree, |place, step| match step {
        Step::Key(key) => place.get_mut(key),
        Step::Index(index) => place.get_mut(index),
    })
}

impl Step {
    pub(super) fn from_ignored(path: &serde_ignored::Path<'_>) -> Path {
        use serde_ignored::Path as Ignored;
        let (parent, step) = match path {
            Ignored::Root => return Vec::new(),
            Ignored::Map { parent, key } => (parent, Some(Self::Key(key.clone()))),
            Ignored::Seq { parent, index } => (parent, Some(Self::Index(*index))),
            Ignored::Some { parent }
            | Ignored::NewtypeStruct { parent }
            | Ignored::NewtypeVariant { parent } => (parent, None),
        };
        let mut path = Self::from_ignored(parent);
        path.extend(step);
        path
    }

    pub(super) fn from_tracked(path: &serde_path_to_error::Path) -> Path {
        use serde_path_to_error::Segment;
        let steps = path.iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Self::Index(*index)),
            Segment::Map { key } => Some(Self::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        steps.collect()
    }
}

//! Putting together what the threads of a look saw, sharing every directory that is as it was.

use std::sync::Arc;

use super::manifest::{Dir, File, Name, Node};

/// What a directory held.
#[derive(Default)]
pub(super) struct Seen {
    /// None where nothing is another than it was, as far as this directory itself is concerned.
    pub files: Option<Vec<(Name, File)>>,
    /// Directories below that need no look.
    pub kept: Vec<(Name, Arc<Dir>)>,
    /// Directories below, and their slots.
    pub below: Vec<(Name, usize)>,
    pub known: Option<Arc<Dir>>,
}

/// Puts together what the threads saw. None where there is nothing.
pub(super) fn assemble(slots: &mut [Option<Seen>], slot: usize, changed: &mut bool) -> Option<Arc<Dir>> {
    let Some(Seen { files, kept, below, known }) = slots.get_mut(slot).and_then(Option::take) else {
        *changed = true;
        return None;
    };
    let mut same = files.is_none();
    let mut dirs = Vec::with_capacity(kept.len() + below.len());
    dirs.extend(kept.into_iter().map(|(name, dir)| (name, Node::Dir(dir))));
    for (name, slot) in below {
        let old = known.as_ref().and_then(|known| match known.get(&name) {
            Some(Node::Dir(dir)) => Some(Arc::clone(dir)),
            Some(Node::File(_)) | None => None,
        });
        let found = assemble(slots, slot, changed);
        match (&found, &old) {
            (Some(found), Some(old)) => same &= Arc::ptr_eq(found, old),
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => same = false,
        }
        dirs.extend(found.map(|dir| (name, Node::Dir(dir))));
    }
    let old_dirs =
        known.as_ref().map_or(0, |known| known.entries.iter().filter(|(_, node)| matches!(node, Node::Dir(_))).count());
    if same && old_dirs == dirs.len() {
        return known.filter(|known| !known.entries.is_empty());
    }
    *changed = true;
    let files = match files {
        Some(files) => files,
        None => known
            .iter()
            .flat_map(|known| &known.entries)
            .filter_map(|(name, node)| match node {
                Node::File(file) => Some((name.clone(), *file)),
                Node::Dir(_) => None,
            })
            .collect(),
    };
    let mut entries: Vec<(Name, Node)> =
        files.into_iter().map(|(name, file)| (name, Node::File(file))).chain(dirs).collect();
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    (!entries.is_empty()).then(|| Arc::new(Dir { entries, tree: None }))
}

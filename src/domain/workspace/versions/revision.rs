//! Revisions of the user's own repository, read as plain files: its configuration never runs anything here.

use std::{
    collections::HashMap,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::{Arc, Weak},
};

use git2::{IndexEntry, IndexEntryExtendedFlag, Oid};
use sha2::{Digest, Sha256};

use super::{
    Versions,
    difference::{Difference, DifferenceKind},
    manifest::{Dir, Kind},
    seed::{UserGit, small},
};

/// Most steps from one name to the next.
const MAX_STEPS: usize = 5;
/// Bytes of the longest hash that an index ends with.
const END: i64 = 32;

impl Versions {
    /// The tree of a revision such as `HEAD`, `main`, `v1.0`, `HEAD~2` or a commit's id; none where there is no such
    /// revision, or no repository inside the workspace. Blocks.
    pub(in crate::domain) fn revision(&self, name: &str) -> io::Result<Option<Oid>> {
        let state = self.state();
        let Some(git) = UserGit::of(&self.root_path) else { return Ok(None) };
        if state.git.as_ref() != Some(&git) {
            self.objects.borrow_from(Some(&git.objects()))?;
        }
        drop(state);
        let (base, steps) = name.split_at(name.find(['~', '^']).unwrap_or(name.len()));
        if !steps.bytes().all(|byte| byte == b'~' || byte == b'^' || byte.is_ascii_digit()) || name.len() > 1024 {
            return Ok(None);
        }
        let id = match named(&git, base, MAX_STEPS) {
            Some(id) => id.to_string(),
            None if base.len() >= 4 && base.bytes().all(|byte| byte.is_ascii_hexdigit()) => base.to_owned(),
            None => return Ok(None),
        };
        let store = self.objects.store()?;
        let object = store.repository.revparse_single(&format!("{id}{steps}"));
        Ok(object.ok().and_then(|object| object.peel_to_tree().ok()).map(|tree| tree.id()))
    }
}

/// What the user's git takes for unchanged although it is another thing here: its own content of a file may be another
/// than the file's, where an attribute says so, and so may its mode.
#[derive(Default)]
pub(in crate::domain) struct GitView {
    /// Content and mode, in git's view, of files that are as git saw them.
    same: HashMap<Vec<u8>, (Oid, u32)>,
    /// Those of files that a sparse checkout leaves out.
    absent: HashMap<Vec<u8>, (Oid, u32)>,
    /// The same for the same view.
    tag: [u8; 32],
}

/// What a view was made of, by which it is known whether it still holds.
pub(super) struct Source {
    /// The figures of the user's index, and what it ends with: a hash of all of it.
    index: Option<((u64, i64, i64), Vec<u8>)>,
    manifest: Weak<Dir>,
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.manifest.ptr_eq(&other.manifest)
    }
}

impl GitView {
    /// Whether git sees no difference there.
    pub(in crate::domain) fn is_same(&self, found: &Difference) -> bool {
        let known = match found.kind {
            DifferenceKind::Modified => &self.same,
            DifferenceKind::Deleted => &self.absent,
            DifferenceKind::Created | DifferenceKind::Renamed | DifferenceKind::TypeChanged => return false,
        };
        found.old.is_some_and(|side| known.get(&found.path) == Some(&(side.oid, side.mode)))
    }

    /// The same for the same view.
    pub(in crate::domain) fn tag(&self) -> &[u8; 32] {
        &self.tag
    }
}

impl Versions {
    /// The user's index, as far as its figures are those of the files. Blocks.
    pub(in crate::domain) fn as_git_sees_it(&self) -> io::Result<Arc<GitView>> {
        let mut state = self.state();
        let index = state.git.as_ref().and_then(|git| Some((git.index_figures()?, end_of(&git.folder.join("index"))?)));
        let source = Source { index, manifest: Arc::downgrade(&state.manifest) };
        if let Some((_, view)) = state.view.as_ref().filter(|(last, _)| *last == source) {
            return Ok(Arc::clone(view));
        }
        let entries = state.git.as_ref().map(|git| git.entries(&self.folder.join("index"))).transpose()?.flatten();
        let entries = entries.map(|(entries, _)| entries).unwrap_or_default();
        let view = Arc::new(GitView::new(entries, &state.manifest));
        state.view = Some((source, Arc::clone(&view)));
        Ok(view)
    }
}

impl GitView {
    fn new(entries: Vec<IndexEntry>, manifest: &Dir) -> Self {
        let (mut view, mut hash) = (Self::default(), Sha256::new());
        for entry in entries.into_iter().filter(|entry| (entry.flags >> 12) & 3 == 0) {
            let theirs = (entry.id, entry.mode);
            let known = match manifest.file(&entry.path) {
                Some(file) if !file.figures.is_of(&entry) => continue,
                // Nothing to tell apart, as of most files.
                Some(file) if file.oid == entry.id && bits(file.kind) == entry.mode => continue,
                Some(_) => &mut view.same,
                None if entry.flags_extended & IndexEntryExtendedFlag::SKIP_WORKTREE.bits() != 0 => &mut view.absent,
                None => continue,
            };
            hash.update(format!("{theirs:?} {:?}\n", entry.path));
            known.insert(entry.path, theirs);
        }
        view.tag = hash.finalize().into();
        view
    }
}

/// A kind as the index has it.
fn bits(kind: Kind) -> u32 {
    match kind {
        Kind::Plain => 0o100_644,
        Kind::Executable => 0o100_755,
        Kind::Link => 0o120_000,
    }
}

/// The last bytes of a file.
fn end_of(path: &Path) -> Option<Vec<u8>> {
    let mut file = std::fs::File::open(path).ok()?;
    file.seek(SeekFrom::End(-END)).ok()?;
    let mut end = Vec::new();
    file.take(END as u64).read_to_end(&mut end).ok()?;
    Some(end)
}

/// The commit that a name stands for.
fn named(git: &UserGit, name: &str, steps: usize) -> Option<Oid> {
    if steps == 0 {
        return None;
    }
    let candidates = match name {
        "HEAD" => vec!["HEAD".to_owned()],
        _ if name.starts_with("refs/") => vec![name.to_owned()],
        _ => ["refs/tags/", "refs/heads/", "refs/remotes/"].map(|above| format!("{above}{name}")).to_vec(),
    };
    candidates.iter().filter(|name| git2::Reference::is_valid_name(name)).find_map(|name| {
        let text = [&git.folder, &git.common].into_iter().find_map(|folder| small(&folder.join(name)));
        match text.as_deref().map(str::trim) {
            Some(text) => match text.strip_prefix("ref:") {
                Some(next) => named(git, next.trim(), steps - 1),
                None => Oid::from_str(text).ok(),
            },
            None => packed(&git.common, name),
        }
    })
}

/// A name among those that git has packed into one file.
fn packed(common: &Path, name: &str) -> Option<Oid> {
    let file = common.join("packed-refs");
    std::fs::symlink_metadata(&file).ok().filter(|data| data.is_file() && data.len() < 256 * 1024 * 1024)?;
    let text = std::fs::read_to_string(file).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(_, own)| *own == name).and_then(|(id, _)| Oid::from_str(id).ok())
}

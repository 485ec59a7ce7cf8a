//! What differs between two trees: the list, and for each file the contents and the unified diff, bounded.

use std::{io, os::unix::ffi::OsStrExt, path::Path};

use git2::{Delta, Diff, DiffFindOptions, DiffOptions, Oid};

use super::{
    Versions,
    lack::{Lack, LackReason},
    narrow::{Narrowed, narrow},
    objects::{Keeper, MAX_STORED, failed},
};

/// A file that differs.
#[derive(Clone, Debug)]
pub(in crate::domain) struct Difference {
    /// Relative to the root; the new one of a rename.
    pub path: Vec<u8>,
    /// The path before, of a rename.
    pub old_path: Option<Vec<u8>>,
    pub kind: DifferenceKind,
    pub old: Option<Side>,
    pub new: Option<Side>,
    /// Its place in git's list.
    index: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::domain) enum DifferenceKind {
    Created,
    Modified,
    Deleted,
    Renamed,
    TypeChanged,
}

/// One side of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::domain) struct Side {
    pub oid: Oid,
    /// As git has it, such as 0o100644.
    pub mode: u32,
}

/// What is asked of a comparison.
#[derive(Clone, Debug)]
pub(in crate::domain) struct Ask {
    /// Only this file, or what is below this directory.
    pub path: Option<Vec<u8>>,
    /// Tell a deleted and a created file that belong together as one.
    pub renames: bool,
    /// Lines around each change.
    pub context: u32,
    /// Bytes of the largest content that is compared line by line.
    pub max_bytes: u64,
    /// As a patch has it: what changed its type was deleted and created.
    pub patch: bool,
}

/// A comparison.
pub(in crate::domain) struct Compared<'a> {
    diff: Diff<'a>,
    keeper: Keeper<'a>,
    ask: Ask,
    /// In the order of paths.
    pub list: Vec<Difference>,
    /// Submodules, of which one side has the commit and the other the files: nothing can be said of what is in them.
    pub submodules: Vec<Vec<u8>>,
}

/// What a file held before and holds after.
#[derive(Clone, Debug, Default)]
pub(in crate::domain) struct Contents {
    /// None where there was no file, it is no text, or it is too large.
    pub old: Option<String>,
    pub new: Option<String>,
    pub diff: Option<String>,
    pub additions: Option<u32>,
    pub deletions: Option<u32>,
    pub binary: bool,
    /// Something was left out for its size.
    pub truncated: bool,
    /// What it held is not to be had any more.
    pub gone: bool,
    pub old_size: Option<u64>,
    pub new_size: Option<u64>,
}

/// A patch that `git apply` takes.
#[derive(Debug, Default)]
pub(in crate::domain) struct Patch {
    pub text: Vec<u8>,
    /// Files that are not in it, and why.
    pub left_out: Vec<(Vec<u8>, &'static str)>,
}

/// Files between which renames are looked for.
const MAX_RENAMES: usize = 1000;
/// A submodule in git's modes.
const GITLINK: u32 = 0o160_000;

impl Versions {
    /// Compares two trees. Paths that either side says nothing about are left out. Blocks.
    pub(in crate::domain) fn compare<T>(
        &self,
        trees: (Oid, Oid),
        ask: Ask,
        lacks: &[&[Lack]],
        work: impl FnOnce(Compared<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let store = self.objects.store()?;
        let repository = &store.repository;
        let (old, new) =
            (repository.find_tree(trees.0).map_err(failed)?, repository.find_tree(trees.1).map_err(failed)?);
        let mut options = DiffOptions::new();
        options
            .context_lines(ask.context)
            .include_typechange(!ask.patch)
            .show_binary(ask.patch)
            .id_abbrev(40)
            .max_size(i64::try_from(ask.max_bytes).unwrap_or(i64::MAX));
        // libgit2 reads all of both trees, unless it is told where to look.
        let found = narrow(repository, trees, ask.path.as_deref())?;
        let sides = match &found {
            Narrowed::Paths(paths) if paths.is_empty() => (None, None),
            Narrowed::Paths(_) | Narrowed::Anywhere => (Some(&old), Some(&new)),
        };
        let places = match found {
            Narrowed::Paths(paths) => paths,
            Narrowed::Anywhere => ask.path.iter().cloned().collect(),
        };
        if !places.is_empty() {
            options.disable_pathspec_match(true);
        }
        for path in places {
            options.pathspec(path);
        }
        let mut diff = repository.diff_tree_to_tree(sides.0, sides.1, Some(&mut options)).map_err(failed)?;
        let keeper = store.keeper(false)?;
        if ask.renames {
            // What is not stored can be compared by its id alone.
            let all_there = diff.deltas().all(|delta| {
                [delta.old_file(), delta.new_file()].iter().all(|file| file.id().is_zero() || keeper.has(file.id()))
            });
            let mut find = DiffFindOptions::new();
            find.renames(true).rename_limit(MAX_RENAMES).exact_match_only(!all_there);
            if let Err(error) = diff.find_similar(Some(&mut find)) {
                // An object may be damaged; what can be told is told all the same.
                tracing::warn!(%error, "renames could not be looked for");
            }
        }
        let mut list: Vec<Difference> =
            diff.deltas().enumerate().filter_map(|(index, delta)| difference(index, &delta)).collect();
        // A submodule that git knows by its commit alone is a directory of files here.
        let submodules: Vec<Lack> = list
            .iter()
            .filter(|found| found.old.is_some_and(|side| side.mode == GITLINK))
            .map(|found| Lack::below(found.path.clone(), LackReason::Submodule))
            .collect();
        list.retain(|found| {
            let is_unknown = |path: &[u8]| {
                lacks.iter().copied().flatten().any(|lack| lack.covers(path))
                    || submodules.iter().any(|lack| lack.path != path && lack.covers(path))
            };
            let is_submodule = found.kind == DifferenceKind::Deleted
                && found.old.is_some_and(|side| side.mode == GITLINK)
                && self.exists(&found.path);
            !is_submodule && !is_unknown(&found.path) && !found.old_path.as_deref().is_some_and(is_unknown)
        });
        let submodules = submodules.into_iter().map(|lack| lack.path).filter(|path| self.exists(path)).collect();
        list.sort_by(|one, other| one.path.cmp(&other.path).then(one.index.cmp(&other.index)));
        work(Compared { diff, keeper, ask, list, submodules })
    }
}

/// A patch as git takes it. libgit2 says of a renamed binary file that it differs, even where only its name does.
fn applicable<'a>(found: &Difference, patch: &'a [u8]) -> &'a [u8] {
    const DIFFERS: &[u8] = b"\nBinary files ";
    let is_same = found.old.zip(found.new).is_some_and(|(old, new)| old.oid == new.oid);
    let at = if is_same { patch.windows(DIFFERS.len()).position(|part| part == DIFFERS) } else { None };
    at.map_or(patch, |at| &patch[..=at])
}

/// Whether `git apply` refuses a patch, all of it, for this path: as on Windows it takes some names for `.git`.
fn is_refused(path: &[u8]) -> bool {
    path.split(|byte| matches!(byte, b'/' | b'\\')).any(|name| {
        let rest = [&b".git"[..], b"git~1"].into_iter().find_map(|own| {
            let (head, rest) = name.split_at_checked(own.len())?;
            head.eq_ignore_ascii_case(own).then_some(rest)
        });
        let end = |rest: &[u8]| rest.iter().find(|byte| !matches!(byte, b'.' | b' ')).is_none_or(|byte| *byte == b':');
        rest.is_some_and(end)
    })
}

fn difference(index: usize, delta: &git2::DiffDelta<'_>) -> Option<Difference> {
    let side = |file: git2::DiffFile<'_>| Side { oid: file.id(), mode: u32::from(file.mode()) };
    let path = |file: git2::DiffFile<'_>| file.path_bytes().map(<[u8]>::to_vec);
    let (old, new) = (side(delta.old_file()), side(delta.new_file()));
    let (kind, old, new) = match delta.status() {
        Delta::Added | Delta::Copied => (DifferenceKind::Created, None, Some(new)),
        Delta::Deleted => (DifferenceKind::Deleted, Some(old), None),
        Delta::Modified => (DifferenceKind::Modified, Some(old), Some(new)),
        Delta::Renamed => (DifferenceKind::Renamed, Some(old), Some(new)),
        Delta::Typechange => (DifferenceKind::TypeChanged, Some(old), Some(new)),
        Delta::Unmodified | Delta::Ignored | Delta::Untracked | Delta::Unreadable | Delta::Conflicted => return None,
    };
    let old_path = if kind == DifferenceKind::Renamed { path(delta.old_file()) } else { None };
    let path = path(if new.is_some() { delta.new_file() } else { delta.old_file() })?;
    Some(Difference { path, old_path, kind, old, new, index })
}

impl Ask {
    /// Just the names.
    pub(in crate::domain) fn names() -> Self {
        Self { path: None, renames: false, context: 0, max_bytes: 0, patch: false }
    }
}

impl Compared<'_> {
    /// Whether both sides are stored and no larger than that.
    pub(in crate::domain) fn is_within(&self, found: &Difference, max_bytes: u64) -> bool {
        Self::files(found)
            .all(|side| self.keeper.has(side.oid) && self.keeper.size(side.oid).is_some_and(|size| size <= max_bytes))
    }

    /// Contents and diff of one file; what is longer than `max_text` bytes is left out.
    pub(in crate::domain) fn contents(&self, found: &Difference, max_text: usize) -> Contents {
        let size =
            |side: Option<Side>| side.filter(|side| side.mode != GITLINK).and_then(|side| self.keeper.size(side.oid));
        let (old_size, new_size) = (size(found.old), size(found.new));
        let mut contents = Contents { old_size, new_size, ..Contents::default() };
        let is_large = [old_size, new_size].into_iter().flatten().any(|size| size > self.ask.max_bytes);
        contents.gone = self.is_gone(found);
        if is_large || contents.gone || !self.are_stored(found) {
            contents.truncated = true;
            return contents;
        }
        if let Err(error) = self.fill(&mut contents, found, max_text) {
            // One damaged object says nothing of the other files.
            tracing::warn!(%error, "a file's changes could not be made out");
            return Contents { old_size, new_size, truncated: true, gone: true, ..Contents::default() };
        }
        contents
    }

    fn fill(&self, contents: &mut Contents, found: &Difference, max_text: usize) -> Result<(), git2::Error> {
        let Some(mut patch) = git2::Patch::from_diff(&self.diff, found.index)? else {
            contents.binary = true;
            return Ok(());
        };
        let text = |side: Option<Side>| {
            side.filter(|side| side.mode != GITLINK).map(|side| self.keeper.content(side.oid).map(String::from_utf8))
        };
        let (old, new) = (text(found.old), text(found.new));
        let is_text = |side: &Option<Option<Result<String, _>>>| !matches!(side, Some(None | Some(Err(_))));
        contents.binary = patch.delta().flags().is_binary() || !is_text(&old) || !is_text(&new);
        if contents.binary {
            return Ok(());
        }
        let (_, additions, deletions) = patch.line_stats()?;
        contents.additions = u32::try_from(additions).ok();
        contents.deletions = u32::try_from(deletions).ok();
        let diff = patch.to_buf()?;
        contents.diff = Some(String::from_utf8_lossy(&diff).into_owned());
        contents.old = old.flatten().and_then(Result::ok);
        contents.new = new.flatten().and_then(Result::ok);
        for (text, most) in
            [(&mut contents.old, max_text), (&mut contents.new, max_text), (&mut contents.diff, 2 * max_text)]
        {
            if text.as_ref().is_some_and(|text| text.len() > most) {
                *text = None;
                contents.truncated = true;
            }
        }
        Ok(())
    }

    /// The sides of a change that are files or links.
    fn files<'a>(found: &'a Difference) -> impl Iterator<Item = Side> + 'a {
        [found.old, found.new].into_iter().flatten().filter(|side| side.mode != GITLINK)
    }

    fn are_stored(&self, found: &Difference) -> bool {
        Self::files(found).all(|side| self.keeper.has(side.oid))
    }

    /// Whether what it held is not to be had any more: neither stored nor known to be too large for that.
    pub(in crate::domain) fn is_gone(&self, found: &Difference) -> bool {
        Self::files(found).any(|side| self.keeper.size(side.oid).is_none())
    }

    /// All of it as one patch of at most `max_bytes`.
    pub(in crate::domain) fn patch(&self, max_bytes: usize) -> Patch {
        let mut whole = Patch::default();
        // What a type change deletes comes before what it creates.
        let mut order: Vec<&Difference> = self.list.iter().collect();
        order.sort_by_key(|found| (found.new.is_some(), found.index));
        for found in order {
            let sides = || [found.old, found.new].into_iter().flatten();
            let why = if sides().any(|side| side.mode == GITLINK) {
                Some("submodule")
            } else if self.is_gone(found) {
                Some("gone")
            } else if sides().any(|side| self.keeper.size(side.oid).is_none_or(|size| size > MAX_STORED)) {
                Some("too_large")
            } else if is_refused(&found.path) || found.old_path.as_deref().is_some_and(is_refused) {
                Some("name")
            } else {
                let patch = git2::Patch::from_diff(&self.diff, found.index)
                    .and_then(|patch| patch.map(|mut patch| patch.to_buf()).transpose());
                match patch {
                    Ok(Some(text)) => {
                        let text = applicable(found, &text);
                        if whole.text.len() + text.len() > max_bytes {
                            Some("patch_too_large")
                        } else {
                            whole.text.extend_from_slice(text);
                            None
                        }
                    }
                    // One damaged object says nothing of the other files.
                    Ok(None) | Err(_) => Some("gone"),
                }
            };
            whole.left_out.extend(why.map(|why| (found.path.clone(), why)));
        }
        whole
    }
}

impl Versions {
    /// Whether a path is there now, itself and not what it leads to.
    pub(super) fn is_there(&self, path: &Path) -> bool {
        self.exists(path.as_os_str().as_bytes())
    }
}

//! Walking the workspace: hidden files are shown, `.git` is not, and ignore files hold from the root down, never from
//! above it. Links are named and not followed, so that a walk cannot leave.

use std::{ops::ControlFlow, path::Path, time::SystemTime};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ignore::{DirEntry, WalkBuilder};

use super::Workspace;

/// What a walk found.
pub(crate) struct Found<'a> {
    /// Its path below the root.
    pub path: &'a Path,
    /// How many names it lies below the start of the walk; 1 for the start's own entries.
    pub depth: usize,
    entry: &'a DirEntry,
}

/// Patterns for paths below the start of a walk. One without a slash holds at any depth.
#[derive(Clone, Default)]
pub(crate) struct Globs(GlobSet);

impl Workspace {
    /// Visits what is below the directory `start` (canonical, relative to the root), names in order, ignored files and
    /// what `skip` matches left out. A start that is itself ignored is walked all the same: it was asked for by name.
    /// Answers how many entries could not be read. Blocks.
    pub(crate) fn walk(
        &self,
        start: &Path,
        max_depth: Option<usize>,
        skip: &Globs,
        mut visit: impl FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> usize {
        if has_trap(self.root()) {
            return 1;
        }
        // The walk begins at the root even for a folder below it, so that the ignore files on the way count.
        let whole = start == Path::new(".");
        let above = if whole { 0 } else { start.components().count() };
        let from_root = self.builder(self.root(), start, max_depth.map(|depth| depth + above), skip);
        match self.drive(&from_root, start, above, &mut visit) {
            (true, unreadable) => unreadable,
            (false, _) => {
                let from_start = self.builder(&self.root().join(start), start, max_depth, skip);
                self.drive(&from_start, start, above, &mut visit).1
            }
        }
    }

    /// Whether the start was reached, and how many entries could not be read.
    fn drive(
        &self,
        builder: &WalkBuilder,
        start: &Path,
        above: usize,
        visit: &mut impl FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> (bool, usize) {
        let (mut reached, mut unreadable) = (false, 0);
        for entry in builder.build() {
            let Ok(entry) = entry else {
                unreadable += 1;
                continue;
            };
            let Ok(path) = entry.path().strip_prefix(self.root()) else {
                continue;
            };
            if path == start || (above == 0 && path.as_os_str().is_empty()) {
                reached = true;
            } else if above == 0 || path.starts_with(start) {
                let depth = path.components().count().saturating_sub(above);
                if visit(Found { path, depth, entry: &entry }).is_break() {
                    return (true, unreadable);
                }
            }
        }
        (reached, unreadable)
    }

    fn builder(&self, from: &Path, start: &Path, max_depth: Option<usize>, skip: &Globs) -> WalkBuilder {
        let mut builder = WalkBuilder::new(from);
        builder
            .hidden(false)
            .parents(false)
            .git_global(false)
            .require_git(false)
            .follow_links(false)
            .max_depth(max_depth)
            .sort_by_file_name(Ord::cmp);
        let (root, start, skip) = (self.root().to_owned(), start.to_owned(), skip.clone());
        let whole = start == Path::new(".");
        builder.filter_entry(move |entry| {
            let Ok(path) = entry.path().strip_prefix(&root) else {
                return false;
            };
            if whole || (path.starts_with(&start) && path != start) {
                let below = if whole { path } else { path.strip_prefix(&start).unwrap_or(path) };
                let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
                let git = entry.file_name().eq_ignore_ascii_case(".git");
                let left_out = git || skip.matches(below) || (is_folder && has_trap(entry.path()));
                !left_out
            } else {
                start.starts_with(path)
            }
        });
        builder
    }

    /// Files of that very name anywhere in the workspace, at most `limit`, looked for among the first entries of a
    /// walk.
    pub(crate) fn namesakes(&self, name: &str, limit: usize) -> Vec<String> {
        const LOOKED_AT: usize = 20_000;
        let (mut found, mut seen) = (Vec::new(), 0);
        self.walk(Path::new("."), None, &Globs::default(), |entry| {
            seen += 1;
            if !entry.is_dir() && entry.path.file_name().is_some_and(|own| own == name) {
                found.push(entry.path.display().to_string());
            }
            if found.len() >= limit || seen >= LOOKED_AT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found
    }
}

/// Whether a file that is read by whoever walks through the folder is none: opening a pipe would never return, and a
/// device has no end.
pub(super) fn has_trap(folder: &Path) -> bool {
    [".gitignore", ".ignore", ".git/info/exclude", ".git/HEAD", ".git/config"]
        .iter()
        .any(|name| std::fs::metadata(folder.join(name)).is_ok_and(|found| !found.is_file() && !found.is_dir()))
}

impl Found<'_> {
    /// Whether it is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.entry.file_type().is_some_and(|kind| kind.is_dir())
    }

    /// Whether it is a symbolic link.
    pub(crate) fn is_link(&self) -> bool {
        self.entry.path_is_symlink()
    }

    /// When it last changed; the epoch where that is not known.
    pub(crate) fn modified(&self) -> SystemTime {
        self.entry.metadata().ok().and_then(|data| data.modified().ok()).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl Globs {
    /// Patterns that match a path when any of them does. The error says what is wrong with which.
    pub(crate) fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let text = pattern.as_ref();
            let bare = text.strip_prefix("./").unwrap_or(text);
            let bare = bare.strip_suffix('/').unwrap_or(bare);
            if bare.is_empty() {
                return Err(format!("the glob {text:?} is empty"));
            }
            let full = match bare.strip_prefix('/') {
                Some(anchored) => anchored.to_owned(),
                None if bare.contains('/') => bare.to_owned(),
                None => format!("**/{bare}"),
            };
            let glob = GlobBuilder::new(&full).literal_separator(true).build();
            set.add(glob.map_err(|error| format!("the glob {text:?} is not valid: {}", error.kind()))?);
        }
        set.build().map(Self).map_err(|error| format!("the globs are not valid: {}", error.kind()))
    }

    /// Whether a path below the start of the walk matches.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        self.0.is_match(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_without_a_slash_holds_at_any_depth() {
        let hits = |glob: &str, path: &str| Globs::new([glob]).unwrap().matches(Path::new(path));
        assert!(hits("*.rs", "a.rs") && hits("*.rs", "src/deep/a.rs") && hits("*.{rs,toml}", "x/Cargo.toml"));
        assert!(hits("src/*.rs", "src/a.rs") && !hits("src/*.rs", "src/deep/a.rs") && !hits("src/*.rs", "x/src/a.rs"));
        assert!(hits("src/**/*.rs", "src/a.rs") && hits("/a.rs", "a.rs") && !hits("/a.rs", "x/a.rs"));
        assert!(hits("target/", "x/target") && hits("./src/*", "src/a"));
        assert!(Globs::new(["{a"]).is_err() && Globs::new([""]).is_err());
    }
}

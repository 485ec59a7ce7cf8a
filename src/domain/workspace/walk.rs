//! Walking the workspace for the tools: hidden files are shown, `.git` is not, and ignore files hold from the root down,
//! never from above it. Links are named and not followed.

use std::{ops::ControlFlow, path::Path, time::SystemTime};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{
    Workspace,
    list::{Entry, Wanted},
    path::RelativePath,
};

/// Entries that are read ahead of the one that is looked at.
const AHEAD: usize = 1_000;

/// What a walk found.
pub(crate) struct Found<'a> {
    /// Its path below the root.
    pub path: &'a Path,
    /// How many names it lies below the start of the walk; 1 for the start's own entries.
    pub depth: usize,
    entry: &'a Entry,
}

/// Patterns for paths below the start of a walk. One without a slash holds at any depth.
#[derive(Clone, Default)]
pub(crate) struct Globs(GlobSet);

impl Workspace {
    /// Visits what is below the directory `start` (canonical, relative to the root) in the order of the paths, ignored
    /// files and what `skip` matches or `hides` says left out. A start that is itself ignored is walked all the same: it was asked for by
    /// name. Answers how many directories could not be read. Blocks.
    pub(crate) fn walk(
        &self,
        start: &Path,
        max_depth: Option<usize>,
        skip: &Globs,
        hides: impl Fn(&Path) -> bool,
        mut visit: impl FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> usize {
        let wanted = Wanted {
            recursive: true,
            exclude: skip.clone(),
            exclude_below: true,
            dot_ignore: true,
            max_depth,
            ahead: AHEAD,
            ..Wanted::default()
        };
        let walked = self.list(&RelativePath::found(start), &wanted, &mut |entry| {
            let path = if start == Path::new(".") { entry.path.clone() } else { start.join(&entry.path) };
            let depth = entry.path.components().count();
            hides(&path) || visit(Found { path: &path, depth, entry: &entry }).is_continue()
        });
        walked.unwrap_or(1)
    }

    /// Files of that very name anywhere in the workspace, at most `limit`, looked for among the first entries of a
    /// walk.
    pub(crate) fn namesakes(&self, name: &str, limit: usize, hides: impl Fn(&Path) -> bool) -> Vec<String> {
        const LOOKED_AT: usize = 20_000;
        let (mut found, mut seen) = (Vec::new(), 0);
        self.walk(Path::new("."), None, &Globs::default(), hides, |entry| {
            seen += 1;
            if !entry.is_dir() && entry.path.file_name().is_some_and(|own| own == name) {
                found.push(entry.path.display().to_string());
            }
            if found.len() >= limit || seen >= LOOKED_AT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found
    }
}

/// Whether a file that is read by whoever opens the folder as a repository is none: opening a pipe would never return,
/// and a device has no end.
pub(super) fn has_trap(folder: &Path) -> bool {
    [".gitignore", ".git/info/exclude", ".git/HEAD", ".git/config"]
        .iter()
        .any(|name| std::fs::metadata(folder.join(name)).is_ok_and(|found| !found.is_file() && !found.is_dir()))
}

impl Found<'_> {
    /// Whether it is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.entry.facts.is_directory
    }

    /// Whether it is a symbolic link.
    pub(crate) fn is_link(&self) -> bool {
        self.entry.target.is_some()
    }

    /// When it last changed.
    pub(crate) fn modified(&self) -> SystemTime {
        self.entry.facts.modified_at.into()
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

//! Which files git ignores, from the root down: `.gitignore` at each level, the nearest first, and then
//! `.git/info/exclude`; for tools also `.ignore`, which goes before the `.gitignore` beside it. What is above the root, and the user's own settings, do not count.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};
use rustix::fs::{Mode, OFlags};

use super::beneath::Jail;

/// Bytes of an ignore file that are read.
const MAX_BYTES: u64 = 1024 * 1024;

/// The rules of a directory, and those above it.
pub(super) struct Rules {
    above: Option<Arc<Self>>,
    /// Length of the directory's path with the slash after it: what comes then is what the rules are about.
    base: usize,
    own: Gitignore,
}

/// The rules that hold in a directory, `None` where there are none.
pub(super) type InForce = Option<Arc<Rules>>;

impl Rules {
    /// Whether a path, canonical and below the root, is ignored by its own name. That a directory above it is has been
    /// seen on the way down.
    pub(super) fn ignores(&self, path: &[u8], is_directory: bool) -> bool {
        let mut next = Some(self);
        while let Some(rules) = next {
            let path = Path::new(OsStr::from_bytes(path.get(rules.base..).unwrap_or_default()));
            match rules.own.matched(path, is_directory) {
                Match::None => next = rules.above.as_deref(),
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
        false
    }
}

/// What holds in a directory (open; `path` canonical, empty for the root), of which `has` tells whether it has an entry
/// of that name. A repository in the workspace begins anew, as git has it: rules from above end there.
pub(super) fn enter(
    above: InForce,
    directory: BorrowedFd<'_>,
    path: &[u8],
    dot_ignore: bool,
    has: impl Fn(&str) -> bool,
) -> InForce {
    let base = if path.is_empty() { 0 } else { path.len() + 1 };
    let mut rules = above;
    if has(".git") {
        rules = read(directory, &[".git", "info"], "exclude").map(|own| Arc::new(Rules { above: None, base, own }));
    }
    for name in [".gitignore", ".ignore"] {
        if (dot_ignore || name == ".gitignore")
            && has(name)
            && let Some(own) = read(directory, &[], name)
        {
            rules = Some(Arc::new(Rules { above: rules, base, own }));
        }
    }
    rules
}

/// What holds in a directory of which only the canonical path is known: its own rules and all above, read one by one.
pub(super) fn down_to(root: &Jail, path: &Path, dot_ignore: bool) -> InForce {
    let mut rules = None;
    let mut sofar = Path::new("").to_owned();
    let mut names = path.iter();
    loop {
        let here = if sofar.as_os_str().is_empty() { Path::new(".") } else { &sofar };
        // What is gone or barred has no rules; listing it will tell.
        let Ok(directory) = root.open_plain(here, OFlags::PATH | OFlags::DIRECTORY) else { return rules };
        let has = |name: &str| rustix::fs::statat(&directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok();
        rules = enter(rules, directory.as_fd(), sofar.as_os_str().as_bytes(), dot_ignore, has);
        match names.next() {
            Some(name) => sofar.push(name),
            None => return rules,
        }
    }
}

/// The rules of one file. A link is none, as for git; nor is a pipe, which would never be read to its end.
fn read(directory: BorrowedFd<'_>, folders: &[&str], name: &str) -> Option<Gitignore> {
    let open = |directory: BorrowedFd<'_>, name: &str, flags| {
        rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()
    };
    let mut folder = directory.try_clone_to_owned().ok()?;
    for name in folders {
        folder = open(folder.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY)?;
    }
    let file = File::from(open(folder.as_fd(), name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut content = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut content).ok()?;
    let content = String::from_utf8_lossy(&content);
    let mut builder = GitignoreBuilder::new(".");
    for line in content.strip_prefix('\u{feff}').unwrap_or(&content).lines() {
        // A line that is no pattern counts as none, as for git.
        let _ = builder.add_line(None, line);
    }
    builder.build().ok().filter(|own| !own.is_empty())
}

//! Git's rules on files: which are ignored, and which have another content in git's store than on the disk. They hold
//! from the root down: `.gitignore` at each level, the nearest first, then `.git/info/exclude`; for tools also `.ignore`,
//! which goes before the `.gitignore` beside it. What is above the root, and the user's own settings, do not count.
//! Files of rules are read by descriptor and bounded, so that neither a link nor a pipe of such a name leads anywhere.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{beneath::Jail, figures::Figures};

/// Bytes of rules that one file can have; the rest is not read.
const MAX_BYTES: u64 = 1024 * 1024;
/// Files whose rules are kept compiled; past them all are compiled anew.
const MAX_KEPT: usize = 10_000;

/// Attributes that change content.
const CONVERTING: [&str; 5] = ["filter", "ident", "eol", "working-tree-encoding", "crlf"];

/// The rules of a directory, and those above it.
pub(super) struct Rules {
    above: InForce,
    /// Length of the directory's path with the slash after it: what comes then is what the rules are about.
    base: usize,
    ignored: Option<Arc<Gitignore>>,
    /// Paths whose content git may change between the disk and its store.
    converted: Option<Arc<Gitignore>>,
}

/// The rules that hold in a directory, `None` where there are none.
pub(super) type InForce = Option<Arc<Rules>>;

/// Which files of rules are read, beside `.gitignore` and git's `info/exclude`.
#[derive(Clone, Copy, Default)]
pub(super) struct Reads {
    /// `.ignore`, as search tools do.
    pub dot_ignore: bool,
    /// `.gitattributes` and git's `info/attributes`.
    pub attributes: bool,
}

/// What holds in a directory, and what that came from.
pub(super) struct Entered {
    pub rules: InForce,
    /// The figures of its `.gitignore`.
    pub gitignore: Option<Figures>,
    /// It is a repository: the figures of what that excludes, if anything.
    pub repository: Option<Option<Figures>>,
}

/// Compiled rules by the file that they came from.
#[derive(Default)]
pub(super) struct Compiled(Mutex<HashMap<Vec<u8>, Known>>);

/// The figures of a file, and its rules.
type Known = (Figures, Arc<Gitignore>);

impl Rules {
    /// Whether a path, canonical and below the root, is ignored by its own name. That no directory above it is has been
    /// seen on the way down.
    pub(super) fn ignores(&self, path: &[u8], is_directory: bool) -> bool {
        let mut next = Some(self);
        while let Some(rules) = next {
            let verdict = rules.ignored.as_ref().map(|own| own.matched(rules.relative(path), is_directory));
            match verdict.unwrap_or(Match::None) {
                Match::None => next = rules.above.as_deref(),
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
        false
    }

    /// Whether an attribute may make git's content another one than the file's.
    pub(super) fn converts(&self, path: &[u8]) -> bool {
        let mut next = Some(self);
        while let Some(rules) = next {
            let own = rules.converted.as_ref();
            if own.is_some_and(|own| own.matched_path_or_any_parents(rules.relative(path), false).is_ignore()) {
                return true;
            }
            next = rules.above.as_deref();
        }
        false
    }

    fn relative<'a>(&self, path: &'a [u8]) -> &'a Path {
        Path::new(OsStr::from_bytes(path.get(self.base..).unwrap_or_default()))
    }
}

impl Compiled {
    /// What holds in a directory (open; `path` canonical, empty for the root), of which `has` tells whether it has an
    /// entry of that name. A repository in the workspace begins anew, as git has it: rules from above end there.
    pub(super) fn enter(
        &self,
        above: InForce,
        directory: BorrowedFd<'_>,
        path: &[u8],
        reads: Reads,
        has: impl Fn(&str) -> bool,
    ) -> Entered {
        let base = if path.is_empty() { 0 } else { path.len() + 1 };
        let read = |directory: BorrowedFd<'_>, name: &str, wanted: bool, fill: Fill| {
            wanted.then(|| self.compiled(directory, path, name, fill)).flatten()
        };
        let add = |above: InForce, ignored: Option<Known>, converted: Option<Known>| {
            let full = |known: Option<Known>| known.map(|(_, rules)| rules).filter(|rules| !rules.is_empty());
            match (full(ignored), full(converted)) {
                (None, None) => above,
                (ignored, converted) => Some(Arc::new(Rules { above, base, ignored, converted })),
            }
        };
        let (mut rules, mut repository) = (above, None);
        if has(".git") {
            let info = open(directory, ".git").and_then(|git| open(git.as_fd(), "info"));
            let of = |name, wanted, fill| info.as_ref().and_then(|info| read(info.as_fd(), name, wanted, fill));
            let excluded = of("exclude", true, ignored_lines as Fill);
            repository = Some(excluded.as_ref().map(|(figures, _)| *figures));
            rules = add(None, excluded, of("attributes", reads.attributes, converted_lines as Fill));
        }
        let own = read(directory, ".gitignore", has(".gitignore"), ignored_lines);
        let gitignore = own.as_ref().map(|(figures, _)| *figures);
        let wanted = reads.attributes && has(".gitattributes");
        rules = add(rules, own, read(directory, ".gitattributes", wanted, converted_lines));
        let wanted = reads.dot_ignore && has(".ignore");
        rules = add(rules, read(directory, ".ignore", wanted, ignored_lines), None);
        Entered { rules, gitignore, repository }
    }

    /// [`Self::enter`], where nothing is known of what is in the directory.
    pub(super) fn enter_unread(&self, above: InForce, directory: BorrowedFd<'_>, path: &[u8], reads: Reads) -> Entered {
        let has = |name: &str| rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        self.enter(above, directory, path, reads, has)
    }

    /// What holds in a directory of which only the canonical path is known: its own rules and all above, read one by one.
    pub(super) fn down_to(&self, root: &Jail, path: &Path, reads: Reads) -> InForce {
        let mut rules = None;
        let mut sofar = Path::new("").to_owned();
        let mut names = path.iter();
        loop {
            let here = if sofar.as_os_str().is_empty() { Path::new(".") } else { &sofar };
            // What is gone or barred has no rules; listing it will tell.
            let Ok(directory) = root.open_plain(here, OFlags::PATH | OFlags::DIRECTORY) else { return rules };
            rules = self.enter_unread(rules, directory.as_fd(), sofar.as_os_str().as_bytes(), reads).rules;
            match names.next() {
                Some(name) => sofar.push(name),
                None => return rules,
            }
        }
    }

    /// The rules of one file. A link is none, as for git; nor is a pipe, which would never be read to its end.
    fn compiled(&self, directory: BorrowedFd<'_>, path: &[u8], name: &str, fill: Fill) -> Option<Known> {
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let figures = Figures::of(&stat);
        let key = [path, b"\0", name.as_bytes()].concat();
        let known = self.kept().get(&key).cloned();
        if let Some(known) = known.filter(|(old, _)| *old == figures) {
            return Some(known);
        }
        let began = SystemTime::now();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?);
        let mut content = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut content).ok()?;
        let content = String::from_utf8_lossy(&content);
        let mut builder = GitignoreBuilder::new(".");
        fill(&mut builder, content.strip_prefix('\u{feff}').unwrap_or(&content));
        let rules = Arc::new(builder.build().unwrap_or_else(|_| Gitignore::empty()));
        let mut kept = self.kept();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        if !figures.are_racy(began) {
            kept.insert(key, (figures, Arc::clone(&rules)));
        }
        Some((figures, rules))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes rules of a file's text.
type Fill = fn(&mut GitignoreBuilder, &str);

fn ignored_lines(builder: &mut GitignoreBuilder, text: &str) {
    for line in text.lines() {
        // A line that is no pattern ignores nothing, as in git.
        let _ = builder.add_line(None, line);
    }
}

/// The paths that get an attribute which changes content. What a later line takes back is named all the same: such a file
/// is read instead of trusted, nothing more.
fn converted_lines(builder: &mut GitignoreBuilder, text: &str) {
    let mut names: Vec<String> = CONVERTING.map(str::to_owned).to_vec();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(pattern) = words.next().filter(|word| !word.starts_with('#')) else { continue };
        let converts = words.any(|word| {
            let name = word.split('=').next().unwrap_or(word);
            names.iter().any(|known| known == name)
        });
        match (converts, pattern.strip_prefix("[attr]")) {
            (true, Some(own)) => names.push(own.to_owned()),
            // Quoted patterns are not worth a parser of their own.
            (true, None) if pattern.starts_with('"') => {
                let _ = builder.add_line(None, "*");
            }
            (true, None) => {
                let _ = builder.add_line(None, pattern.trim_start_matches('!'));
            }
            (false, _) => {}
        }
    }
}

fn open(directory: BorrowedFd<'_>, name: &str) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).ok()
}

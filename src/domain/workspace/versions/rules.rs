//! Git's rules on files: which are ignored, and which have another content in git's store than on the disk. Read by
//! descriptor and bounded, so that neither a link nor a pipe named `.gitignore` leads anywhere.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    os::fd::BorrowedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::manifest::Figures;

/// Bytes of rules that one file can have; the rest is not read.
const MAX_RULES: u64 = 1024 * 1024;

/// The rules that hold in a directory: its own, then those above it.
#[derive(Default)]
pub(super) struct Rules {
    above: Option<Arc<Rules>>,
    ignored: Option<Arc<Gitignore>>,
    /// Paths whose content git may change between the disk and its store.
    converted: Option<Arc<Gitignore>>,
}

/// Compiled rules by the file that they came from, kept from one look to the next.
#[derive(Default)]
pub(super) struct Compiled(Mutex<HashMap<Vec<u8>, Known>>);

/// Rules, and the figures of the file that they came from.
type Known = (Figures, Arc<Gitignore>);

/// Attributes that change content.
const CONVERTING: [&str; 5] = ["filter", "ident", "eol", "working-tree-encoding", "crlf"];

impl Rules {
    /// The rules of a directory below another one: files of these names in it, if there are any.
    pub(super) fn below(
        above: &Arc<Self>,
        ignored: Option<Arc<Gitignore>>,
        converted: Option<Arc<Gitignore>>,
    ) -> Arc<Self> {
        if ignored.is_none() && converted.is_none() {
            return Arc::clone(above);
        }
        Arc::new(Self { above: Some(Arc::clone(above)), ignored, converted })
    }

    /// Whether git ignores the path, given that it does not ignore the directory.
    pub(super) fn ignores(&self, path: &Path, is_dir: bool) -> bool {
        let mut here = Some(self);
        while let Some(rules) = here {
            if let Some(own) = &rules.ignored {
                let verdict = own.matched(path, is_dir);
                if !verdict.is_none() {
                    return verdict.is_ignore();
                }
            }
            here = rules.above.as_deref();
        }
        false
    }

    /// Whether an attribute may make git's content another one than the file's.
    pub(super) fn converts(&self, path: &Path) -> bool {
        let mut here = Some(self);
        while let Some(rules) = here {
            if rules.converted.as_ref().is_some_and(|own| own.matched_path_or_any_parents(path, false).is_ignore()) {
                return true;
            }
            here = rules.above.as_deref();
        }
        false
    }
}

impl Compiled {
    /// The rules of `.gitignore` (or git's `info/exclude`) at `name`, which hold from `base` down. None where it is no
    /// regular file.
    pub(super) fn ignored(&self, dir: BorrowedFd<'_>, name: &str, base: &Path) -> Option<(Figures, Arc<Gitignore>)> {
        self.compiled(dir, name, base, |builder, text| {
            for line in text.lines() {
                // A line that is no pattern ignores nothing, as in git.
                let _ = builder.add_line(None, line);
            }
        })
    }

    /// The paths that `.gitattributes` (or git's `info/attributes`) gives an attribute which changes content.
    /// What a later line takes back is named all the same: such a file is read instead of trusted, nothing more.
    pub(super) fn converted(&self, dir: BorrowedFd<'_>, name: &str, base: &Path) -> Option<Arc<Gitignore>> {
        let (_, rules) = self.compiled(dir, name, base, |builder, text| {
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
        })?;
        Some(rules).filter(|rules| !rules.is_empty())
    }

    fn compiled(
        &self,
        dir: BorrowedFd<'_>,
        name: &str,
        base: &Path,
        fill: impl FnOnce(&mut GitignoreBuilder, &str),
    ) -> Option<(Figures, Arc<Gitignore>)> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let figures = Figures::of(&stat);
        let key = [base.as_os_str().as_encoded_bytes(), b"\0", name.as_bytes()].concat();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some((old, rules)) = known
            && old == figures
        {
            return Some((figures, rules));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?);
        let mut bytes = Vec::new();
        file.take(MAX_RULES).read_to_end(&mut bytes).ok()?;
        let mut builder = GitignoreBuilder::new(base);
        fill(&mut builder, String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}'));
        let rules = Arc::new(builder.build().unwrap_or_else(|_| Gitignore::empty()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (figures, Arc::clone(&rules)));
        Some((figures, rules))
    }
}

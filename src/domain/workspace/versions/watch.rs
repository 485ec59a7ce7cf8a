//! Hearing of changes: inotify on every directory that belongs to a version. What it says is a hint where to look; that
//! it may have missed something is always known, and then everything is looked at.

use std::{
    collections::{BTreeSet, HashMap},
    mem::MaybeUninit,
    ops::Bound,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

use super::manifest::{Dir, Node};

/// Most directories that are watched: each takes about a kilobyte of the kernel.
const MAX_DIRECTORIES: usize = 50_000;

/// What was heard of.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Directories in which something changed.
    pub dirty: BTreeSet<Vec<u8>>,
    /// Directories that came to be there: what lies below them may be nothing of what was there before.
    pub fresh: BTreeSet<Vec<u8>>,
}

impl News {
    /// Whether nothing happened in this directory itself, and all that happened further down lies below what is known
    /// of it. A directory without a file is watched, but not known.
    pub(super) fn is_known_below(&self, dir: &[u8], known: &Dir) -> bool {
        let prefix = if dir.is_empty() { Vec::new() } else { [dir, b"/"].concat() };
        let below = self.dirty.range::<[u8], _>((Bound::Included(prefix.as_slice()), Bound::Unbounded));
        let mut names = below.map_while(|path| path.strip_prefix(prefix.as_slice()));
        let is_known = |name: &[u8]| {
            let first = name.split(|byte| *byte == b'/').next().unwrap_or_default();
            matches!(known.get(first), Some(Node::Dir(_)))
        };
        !self.dirty.contains(dir) && names.all(is_known)
    }
}

/// Ears for one workspace.
pub(in crate::domain) struct Watch {
    fd: OwnedFd,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    paths: HashMap<i32, Vec<u8>>,
    news: News,
    /// Something may have been missed: only a look at everything is the truth.
    missed: bool,
    /// No more directories can be watched here.
    deaf: bool,
}

impl Watch {
    /// None where the system has no such thing, or has no more of it to give.
    pub(super) fn new() -> Option<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
        let heard = Heard { missed: true, ..Heard::default() };
        Some(Self { fd, heard: Mutex::new(heard) })
    }

    /// The descriptor that is readable when there is something to hear.
    pub(in crate::domain) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Watches a directory that is open, known by this path.
    pub(super) fn add(&self, dir: BorrowedFd<'_>, path: &Path) {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        let mut heard = self.heard();
        if heard.deaf {
            return;
        }
        // By descriptor: the name may lead elsewhere by now.
        match inotify::add_watch(&self.fd, format!("/proc/self/fd/{}", dir.as_raw_fd()), flags) {
            Ok(number) if heard.paths.len() < MAX_DIRECTORIES || heard.paths.contains_key(&number) => {
                heard.paths.insert(number, path.as_os_str().as_bytes().to_vec());
            }
            Ok(_) | Err(_) => {
                tracing::info!("not all directories of the workspace can be watched; changes are found by looking");
                heard.deaf = true;
            }
        }
    }

    /// Hears all that has happened up to now. Answers the directories that may have changed, and forgets them; none
    /// where everything has to be looked at.
    pub(super) fn take(&self) -> Option<News> {
        let mut heard = self.drain();
        let news = std::mem::take(&mut heard.news);
        let missed = std::mem::replace(&mut heard.missed, false);
        (!missed && !heard.deaf).then_some(news)
    }

    /// What was taken was not looked at after all.
    pub(super) fn missed(&self) {
        self.heard().missed = true;
    }

    /// Hears all that has happened up to now. Answers whether there is anything to look at.
    pub(in crate::domain) fn hear(&self) -> bool {
        let heard = self.drain();
        heard.missed || !heard.news.dirty.is_empty()
    }

    fn drain(&self) -> MutexGuard<'_, Heard> {
        let mut heard = self.heard();
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut events = inotify::Reader::new(&self.fd, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes()).unwrap_or_default();
                    heard.take_in(event.wd(), event.events(), name);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return heard,
                Err(_) => {
                    heard.missed = true;
                    return heard;
                }
            }
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn take_in(&mut self, number: i32, events: ReadFlags, name: &[u8]) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.missed = true;
            return;
        }
        if events.contains(ReadFlags::IGNORED) {
            self.paths.remove(&number);
            return;
        }
        let is_ours = name.starts_with(super::TEMPORARY.0.as_bytes()) && name.ends_with(super::TEMPORARY.1.as_bytes());
        if is_ours || name.eq_ignore_ascii_case(b".git") {
            return;
        }
        if events.contains(ReadFlags::ISDIR) && events.intersects(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO) {
            // Another directory may have this name now, whose content nobody heard of; and what is heard below has the
            // old name.
            self.missed = true;
            return;
        }
        if let Some(path) = self.paths.get(&number) {
            if events.contains(ReadFlags::ISDIR) && events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                let above: &[u8] = if path.is_empty() { b"" } else { b"/" };
                self.news.fresh.insert([path, above, name].concat());
            }
            self.news.dirty.insert(path.clone());
        }
    }
}

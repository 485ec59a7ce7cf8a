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

use super::{
    super::temporary,
    manifest::{Dir, Node},
};

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
    /// The last look came upon a file system that others may change: what is heard there is not all.
    shared: bool,
}

/// File systems that nobody but this machine changes, by what statfs says of them: ext2 to ext4, XFS, Btrfs, tmpfs,
/// overlayfs, ZFS, F2FS, bcachefs.
const LOCAL: [u32; 8] =
    [0x0000_ef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e];

/// Whether all changes of a directory are made on this machine. One on a network is not, and of one that is not known
/// here, such as FUSE, that cannot be said.
fn is_local(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(dir).is_ok_and(|found| LOCAL.contains(&(found.f_type as u32)))
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
        let is_local = is_local(dir);
        let mut heard = self.heard();
        if !is_local && !heard.shared {
            tracing::debug!(path = %path.display(), "changes may be made elsewhere; all are found by looking");
        }
        heard.shared |= !is_local;
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
    /// where everything has to be looked at, which the caller does then.
    pub(super) fn take(&self) -> Option<News> {
        let mut heard = self.drain();
        let news = std::mem::take(&mut heard.news);
        // Whether anything is shared is seen anew by the look at everything that follows.
        let missed = std::mem::take(&mut heard.missed) | std::mem::take(&mut heard.shared);
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
        if events.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
            self.missed = true;
            return;
        }
        if events.contains(ReadFlags::IGNORED) {
            self.paths.remove(&number);
            return;
        }
        if temporary::is_one(name) {
            return;
        }
        // In no version; but where a repository begins or ceases to be, other rules hold.
        let is_below = events.contains(ReadFlags::ISDIR) && !name.eq_ignore_ascii_case(b".git");
        if is_below && events.intersects(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO) {
            // Another directory may have this name now, whose content nobody heard of; and what is heard below has the
            // old name.
            self.missed = true;
            return;
        }
        if let Some(path) = self.paths.get(&number) {
            if is_below && events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                let above: &[u8] = if path.is_empty() { b"" } else { b"/" };
                self.news.fresh.insert([path, above, name].concat());
            }
            self.news.dirty.insert(path.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};

    use super::*;

    #[test]
    fn what_may_be_changed_elsewhere_is_looked_at() {
        let watch = Watch::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let add = |path: &Path, name: &str| {
            let dir = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            watch.add(dir.as_fd(), Path::new(name));
        };
        assert!(watch.take().is_none(), "nothing was looked at yet");
        add(folder.path(), "");
        assert!(watch.take().is_some());
        // Not on a disk of this machine, as far as is known of it.
        add(Path::new("/proc"), "mounted");
        assert!(watch.take().is_none());
        // The look at everything that follows did not come upon it any more.
        assert!(watch.take().is_some());
        add(Path::new("/proc"), "mounted");
        assert!(watch.take().is_none());
    }
}

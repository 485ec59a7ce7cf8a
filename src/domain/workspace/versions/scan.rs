//! One look at the whole workspace: every directory is read, every file's figures are compared with what is known, and
//! what differs is read and stored. Several threads share the directories; each is opened by descriptor from the one
//! above it, never through a link, so that the look cannot leave the workspace.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    Lack, LackReason, Limits,
    assemble::{Seen, assemble},
    content::{self, Read},
    manifest::{Dir, Figures, File, Kind, Name, Node},
    objects::{Keeper, Objects},
    rules::{Compiled, Rules},
    seed::Seed,
};

/// Directories below each other that a look follows.
const MAX_DEPTH: usize = 512;
/// Threads of a look.
const MAX_THREADS: usize = 4;

/// What a look needs to know.
pub(super) struct Scan<'a> {
    pub root: BorrowedFd<'a>,
    pub objects: &'a Objects,
    pub known: &'a Dir,
    pub seed: Option<&'a Seed>,
    pub compiled: &'a Compiled,
    /// Ignored by a rule, but in the user's index.
    pub forced: &'a [Vec<u8>],
    pub limits: &'a Limits,
    pub stop: &'a AtomicBool,
}

/// What it saw.
pub(super) struct Scanned {
    pub root: Dir,
    pub lacks: Vec<Lack>,
    /// Whether anything is another than it was.
    pub changed: bool,
    /// Whether a rule ignored anything.
    pub ignored: bool,
}

/// A directory that is to be looked at.
struct Job {
    above: Arc<OwnedFd>,
    name: OsString,
    path: PathBuf,
    depth: usize,
    known: Option<Arc<Dir>>,
    rules: Arc<Rules>,
    /// A rule above has changed: what was not ignored may be now.
    rematch: bool,
    /// Where the answer goes.
    slot: usize,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    /// Jobs that wait or are worked on.
    open: usize,
    slots: Vec<Option<Seen>>,
    lacks: Vec<Lack>,
    failure: Option<io::Error>,
}

struct Shared<'a> {
    scan: &'a Scan<'a>,
    queue: Mutex<Queue>,
    more: Condvar,
    ignored: AtomicBool,
}

impl Scan<'_> {
    /// Looks at everything. Blocks.
    pub(super) fn run(&self) -> io::Result<Scanned> {
        let root = rustix::fs::openat(self.root, ".", DIRECTORY, Mode::empty())?;
        let job = Job {
            above: Arc::new(root),
            name: ".".into(),
            path: PathBuf::new(),
            depth: 0,
            known: Some(Arc::new(self.known.clone())),
            rules: Arc::default(),
            rematch: false,
            slot: 0,
        };
        let queue = Queue { jobs: vec![job], open: 1, slots: vec![None], ..Queue::default() };
        let shared =
            Shared { scan: self, queue: Mutex::new(queue), more: Condvar::new(), ignored: AtomicBool::new(false) };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| shared.work());
            }
            shared.work();
        });
        let ignored = shared.ignored.into_inner();
        let mut queue = shared.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = queue.failure {
            return Err(failure);
        }
        let mut changed = false;
        let mut root = assemble(&mut queue.slots, 0, &mut changed).map(Arc::unwrap_or_clone).unwrap_or_default();
        let store = self.objects.store()?;
        let keeper = store.keeper()?;
        changed |= self.force(&keeper, &mut root, &mut queue.lacks)?;
        keeper.plant(&mut root)?;
        Ok(Scanned { root, lacks: queue.lacks, changed, ignored })
    }

    /// Files below ignored directories that the user's index has all the same.
    fn force(&self, keeper: &Keeper<'_>, root: &mut Dir, lacks: &mut Vec<Lack>) -> io::Result<bool> {
        let mut changed = false;
        for path in self.forced {
            if root.holds(path) {
                continue;
            }
            let place = Path::new(OsStr::from_bytes(path));
            let Some((above, name)) = super::open_above(self.root, place) else { continue };
            let Ok(stat) = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let Some(kind) = Kind::of(&stat) else { continue };
            let file = match self.known.file(path) {
                Some(file) if file.kind == kind && file.figures == Figures::of(&stat) && !file.racy => *file,
                Some(_) | None => match content::read(keeper, above.as_fd(), name, kind, self.limits)? {
                    Read::File(file) => {
                        changed = true;
                        file
                    }
                    Read::Gone => continue,
                    Read::Lacks(reason) => {
                        lacks.push(Lack::file(path.clone(), reason));
                        continue;
                    }
                },
            };
            root.put(path, Some(file));
        }
        Ok(changed)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Shared<'_> {
    /// Takes directories until there are none left.
    fn work(&self) {
        let outcome = (|| {
            let store = self.scan.objects.store()?;
            let keeper = store.keeper()?;
            while let Some(job) = self.next() {
                // A panic here would leave the other threads waiting: the guard ends them.
                let guard = Working(self);
                let outcome = self.look(&keeper, job);
                std::mem::forget(guard);
                self.finished(outcome.err());
            }
            Ok(())
        })();
        if let Err(error) = outcome {
            let mut queue = self.lock();
            queue.failure.get_or_insert(error);
            self.more.notify_all();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.open == 0 || queue.failure.is_some() {
                return None;
            }
            if let Some(job) = queue.jobs.pop() {
                return Some(job);
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finished(&self, failure: Option<io::Error>) {
        let mut queue = self.lock();
        queue.open -= 1;
        if let Some(failure) = failure {
            queue.failure.get_or_insert(failure);
        }
        if queue.open == 0 || queue.failure.is_some() {
            self.more.notify_all();
        }
    }

    fn lacks(&self, lack: Lack) {
        self.lock().lacks.push(lack);
    }

    fn look(&self, keeper: &Keeper<'_>, job: Job) -> io::Result<()> {
        if self.scan.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let below = |reason| self.lacks(Lack::below(job.path.as_os_str().as_bytes().to_vec(), reason));
        if job.depth > MAX_DEPTH {
            below(LackReason::TooDeep);
            return Ok(());
        }
        if self.scan.limits.is_over() {
            below(LackReason::Time);
            return Ok(());
        }
        let dir = match rustix::fs::openat(&job.above, &job.name, DIRECTORY, Mode::empty()) {
            Ok(dir) => dir,
            // Gone, or no directory any more.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(Errno::ACCESS | Errno::PERM) => {
                below(LackReason::Unreadable);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let entries = match names(&dir) {
            Ok(entries) => entries,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.sort_out(keeper, &job, dir, entries)
    }

    /// Which of the entries belong to a version, and what they are.
    fn sort_out(
        &self,
        keeper: &Keeper<'_>,
        job: &Job,
        dir: OwnedFd,
        entries: Vec<(OsString, FileType)>,
    ) -> io::Result<()> {
        let known = job.known.as_deref();
        let (rules, rematch) = self.rules(job, &dir, &entries);
        let dir = Arc::new(dir);
        let (mut files, mut same, mut jobs) = (Vec::new(), true, Vec::new());
        for (name, mut kind) in entries {
            if kind == FileType::Unknown {
                let Ok(stat) = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            let old = known.and_then(|known| known.get(name.as_bytes()));
            let path = job.path.join(&name);
            match kind {
                FileType::Directory => {
                    let old = match old {
                        Some(Node::Dir(old)) => Some(Arc::clone(old)),
                        Some(Node::File(_)) | None => None,
                    };
                    if (rematch || old.is_none()) && rules.ignores(&path, true) {
                        self.ignored.store(true, Ordering::Relaxed);
                        if old.is_some() {
                            self.lacks(Lack::below(path.into_os_string().into_vec(), LackReason::Ignored));
                        }
                        continue;
                    }
                    let (above, rules) = (Arc::clone(&dir), Arc::clone(&rules));
                    jobs.push(Job { above, name, path, depth: job.depth + 1, known: old, rules, rematch, slot: 0 });
                }
                FileType::RegularFile | FileType::Symlink => {
                    let old = match old {
                        Some(Node::File(old)) => Some(old),
                        Some(Node::Dir(_)) | None => None,
                    };
                    if (rematch || old.is_none()) && rules.ignores(&path, false) && !self.is_forced(&path) {
                        self.ignored.store(true, Ordering::Relaxed);
                        if old.is_some() {
                            self.lacks(Lack::file(path.into_os_string().into_vec(), LackReason::Ignored));
                        }
                        continue;
                    }
                    match self.file(keeper, dir.as_fd(), &name, &path, old, &rules)? {
                        Some((file, unchanged)) => {
                            same &= unchanged;
                            files.push((name.into_vec().into_boxed_slice(), file));
                        }
                        None => same = false,
                    }
                }
                _ => {}
            }
        }
        let old_files =
            known.map_or(0, |known| known.entries.iter().filter(|(_, node)| matches!(node, Node::File(_))).count());
        let files = (!same || files.len() != old_files).then_some(files);
        self.answer(job, files, jobs);
        Ok(())
    }

    /// A file as it is now, and whether it is as it was. None if it is gone or unknown.
    fn file(
        &self,
        keeper: &Keeper<'_>,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        old: Option<&File>,
        rules: &Rules,
    ) -> io::Result<Option<(File, bool)>> {
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(None) };
        let Some(kind) = Kind::of(&stat) else { return Ok(None) };
        let figures = Figures::of(&stat);
        if let Some(old) = old
            && old.kind == kind
            && old.figures == figures
            && !old.racy
        {
            return Ok(Some((*old, true)));
        }
        if let Some(seed) = self.scan.seed
            && let Some(file) = seed.file(keeper, path, kind, &stat, rules)
        {
            return Ok(Some((file, false)));
        }
        match content::read(keeper, dir, name, kind, self.scan.limits)? {
            Read::File(file) => {
                let unchanged = old.is_some_and(|old| (old.oid, old.kind) == (file.oid, file.kind));
                // New figures are kept, but make no new tree.
                let known = old.is_some_and(|old| old.figures == file.figures && old.racy == file.racy);
                Ok(Some((file, unchanged && known)))
            }
            Read::Gone => Ok(None),
            Read::Lacks(reason) => {
                self.lacks(Lack::file(path.as_os_str().as_bytes().to_vec(), reason));
                Ok(None)
            }
        }
    }

    fn is_forced(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        self.scan.forced.binary_search_by(|own| own.as_slice().cmp(path)).is_ok()
    }

    /// The rules in this directory, and whether one of them is another than it was.
    fn rules(&self, job: &Job, dir: &OwnedFd, entries: &[(OsString, FileType)]) -> (Arc<Rules>, bool) {
        let compiled = self.scan.compiled;
        let mut rules = Arc::clone(&job.rules);
        let mut rematch = job.rematch;
        let has = |wanted: &str| entries.iter().any(|(name, _)| name == wanted);
        if job.depth == 0 {
            // What the user's own repository excludes; a repository below has its own, which git reads there alone.
            if let Ok(info) = rustix::fs::openat(dir, ".git/info", DIRECTORY, Mode::empty()) {
                let ignored = compiled.ignored(info.as_fd(), "exclude", &job.path).map(|(_, rules)| rules);
                let converted = self.scan.seed.and_then(|_| compiled.converted(info.as_fd(), "attributes", &job.path));
                rules = Rules::below(&rules, ignored, converted);
            }
        }
        let known = job.known.as_ref().and_then(|known| match known.get(b".gitignore") {
            Some(Node::File(file)) => Some(file.figures),
            Some(Node::Dir(_)) | None => None,
        });
        let own = has(".gitignore").then(|| compiled.ignored(dir.as_fd(), ".gitignore", &job.path)).flatten();
        if own.as_ref().map(|(figures, _)| *figures) != known {
            rematch = true;
        }
        let converted = self.scan.seed.filter(|_| has(".gitattributes"));
        let converted = converted.and_then(|_| compiled.converted(dir.as_fd(), ".gitattributes", &job.path));
        (Rules::below(&rules, own.map(|(_, rules)| rules), converted), rematch)
    }

    fn answer(&self, job: &Job, files: Option<Vec<(Name, File)>>, mut jobs: Vec<Job>) {
        let mut queue = self.lock();
        let mut below = Vec::with_capacity(jobs.len());
        for job in &mut jobs {
            job.slot = queue.slots.len();
            below.push((job.name.as_bytes().into(), job.slot));
            queue.slots.push(None);
        }
        queue.slots[job.slot] = Some(Seen { files, below, known: job.known.clone() });
        queue.open += jobs.len();
        let waken = jobs.len() > 1;
        queue.jobs.extend(jobs);
        drop(queue);
        if waken {
            self.more.notify_all();
        }
    }
}

/// Ends the look when the thread that holds it panics.
struct Working<'a, 'b>(&'a Shared<'b>);

impl Drop for Working<'_, '_> {
    fn drop(&mut self) {
        self.0.finished(Some(io::Error::other("a thread that looked at the workspace panicked")));
    }
}

/// The names in a directory that can belong to a version or lead to what does.
fn names(dir: &OwnedFd) -> Result<Vec<(OsString, FileType)>, Errno> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut found = Vec::new();
    let mut entries = rustix::fs::RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let is_ours =
            || name.starts_with(super::TEMPORARY.0.as_bytes()) && name.ends_with(super::TEMPORARY.1.as_bytes());
        if name == b"." || name == b".." || name.eq_ignore_ascii_case(b".git") || is_ours() {
            continue;
        }
        match entry.file_type() {
            FileType::Directory | FileType::RegularFile | FileType::Symlink | FileType::Unknown => {
                found.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
            _ => {}
        }
    }
    Ok(found)
}

//! One look at the whole workspace: every directory is read, every file's figures are compared with what is known, and
//! what differs is read and stored. Several threads share the directories; each is opened by descriptor from the one
//! above it, never through a link, so that the look cannot leave the workspace.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    io,
    ops::Bound,
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

use git2::IndexEntry;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    Lack, LackReason, Limits,
    assemble::{Seen, assemble},
    content::{self, Read},
    crew::{Job, Queue, Shared},
    forced::is_within,
    manifest::{Dir, File, Kind, Name, Node},
    objects::{Keeper, Objects},
    rules::{Compiled, Rules},
    seed::Seed,
    watch::{News, Watch},
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
    pub watch: Option<&'a Watch>,
    /// A rule that holds everywhere is another than it was: what was not ignored may be now.
    pub rematch: bool,
    /// Only these directories can have changed; none for all.
    pub only: Option<&'a News>,
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
            rematch: self.rematch,
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
        keeper.plant(&mut root, self.seed.is_some())?;
        Ok(Scanned { root, lacks: queue.lacks, changed, ignored })
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Shared<'_> {
    fn lacks(&self, lack: Lack) {
        self.lock().lacks.push(lack);
    }

    pub(super) fn look(&self, keeper: &Keeper<'_>, job: &Job) -> io::Result<()> {
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
        if let (Some(only), Some(known), false) = (self.scan.only, &job.known, job.rematch)
            && only.is_known_below(job.path.as_os_str().as_bytes(), known)
        {
            self.pass_through(job, dir, known);
            return Ok(());
        }
        if let Some(watch) = self.scan.watch {
            // Before it is read: whatever happens from now on is heard of.
            watch.add(dir.as_fd(), &job.path);
        }
        let entries = match names(&dir) {
            Ok(entries) => entries,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.sort_out(keeper, job, dir, entries)
    }

    /// A directory that is as it was, on the way to one that may not be.
    fn pass_through(&self, job: &Job, dir: OwnedFd, known: &Dir) {
        let (rules, _) = self.rules(job, &dir, true, true);
        let dir = Arc::new(dir);
        let (mut jobs, mut kept) = (Vec::new(), Vec::new());
        for (name, node) in &known.entries {
            let Node::Dir(below) = node else { continue };
            let path = job.path.join(OsStr::from_bytes(name));
            if self.scan.leads_to_forced(&path) && rules.ignores(&path, true) {
                // Nothing of it belongs to a version but what the user's index has.
                continue;
            }
            if self.leads_to_change(&path) {
                let (above, rules, name) = (Arc::clone(&dir), Arc::clone(&rules), OsStr::from_bytes(name).to_owned());
                let known = Some(Arc::clone(below));
                jobs.push(Job { above, name, path, depth: job.depth + 1, known, rules, rematch: false, slot: 0 });
            } else {
                kept.push((name.clone(), Arc::clone(below)));
            }
        }
        self.answer(job, None, kept, jobs);
    }

    /// Whether a directory or anything below it can have changed.
    fn leads_to_change(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        self.scan.only.is_none_or(|News { dirty: only, .. }| {
            only.range::<[u8], _>((Bound::Included(path), Bound::Unbounded))
                .next()
                .is_some_and(|found| is_within(found, path))
                // Names such as "a.b" sort between "a" and "a/b".
                || only.range::<[u8], _>((Bound::Included([path, b"/"].concat().as_slice()), Bound::Unbounded))
                    .next()
                    .is_some_and(|found| is_within(found, path))
        })
    }

    /// Whether a directory came to be where it is since the last look.
    fn is_fresh(&self, path: &Path) -> bool {
        self.scan.only.is_some_and(|only| only.fresh.contains(path.as_os_str().as_bytes()))
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
        let has = |wanted: &str| entries.iter().any(|(name, _)| name == wanted);
        let (rules, rematch) = self.rules(job, &dir, has(".gitignore"), has(".gitattributes"));
        let dir = Arc::new(dir);
        let seed = self.scan.seed.map(|seed| (seed, seed.below(&job.path)));
        let (mut files, mut same, mut jobs, mut kept) = (Vec::new(), true, Vec::new(), Vec::new());
        for (name, mut kind) in entries {
            if kind == FileType::Unknown {
                let Ok(stat) = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            let place = known.and_then(|known| known.place(name.as_bytes()));
            let old = place.map(|(_, node)| node);
            if let (Some((name, Node::File(old))), false) = (place, rematch)
                && let Some(stat) = stat(dir.as_fd(), name)
                && old.is_as(&stat)
            {
                // What most files are costs nothing but the look.
                files.push((Cow::Borrowed(name), *old));
                continue;
            }
            let path = job.path.join(&name);
            match kind {
                FileType::Directory => {
                    let old = match old {
                        Some(Node::Dir(old)) => Some(Arc::clone(old)),
                        Some(Node::File(_)) | None => None,
                    };
                    let is_forced = self.scan.leads_to_forced(&path);
                    if (rematch || old.is_none() || is_forced) && rules.ignores(&path, true) {
                        self.ignored.store(true, Ordering::Relaxed);
                        if old.is_some() && !is_forced {
                            self.lacks(Lack::below(path.into_os_string().into_vec(), LackReason::Ignored));
                        }
                        continue;
                    }
                    // Another directory of that name: what is known of the one before says nothing of what is below it.
                    let rematch = rematch || self.is_fresh(&path);
                    if let Some(old) = old.as_ref().filter(|_| !rematch && !self.leads_to_change(&path)) {
                        kept.push((name.as_bytes().into(), Arc::clone(old)));
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
                    if (rematch || old.is_none()) && rules.ignores(&path, false) && !self.scan.is_forced(&path) {
                        self.ignored.store(true, Ordering::Relaxed);
                        if old.is_some() {
                            self.lacks(Lack::file(path.into_os_string().into_vec(), LackReason::Ignored));
                        }
                        continue;
                    }
                    match self.file(keeper, dir.as_fd(), &name, &path, old, (&rules, seed))? {
                        Some((file, unchanged)) => {
                            same &= unchanged;
                            files.push((Cow::Owned(name.into_vec()), file));
                        }
                        None => same = false,
                    }
                }
                _ => {}
            }
        }
        let old_files =
            known.map_or(0, |known| known.entries.iter().filter(|(_, node)| matches!(node, Node::File(_))).count());
        let files = (!same || files.len() != old_files)
            .then(|| files.into_iter().map(|(name, file)| (name.into_owned().into_boxed_slice(), file)).collect());
        self.answer(job, files, kept, jobs);
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
        (rules, seed): (&Rules, Option<(&Seed, &[IndexEntry])>),
    ) -> io::Result<Option<(File, bool)>> {
        let Some(stat) = stat(dir, name.as_bytes()) else { return Ok(None) };
        let Some(kind) = Kind::of(&stat) else { return Ok(None) };
        if let Some(old) = old.filter(|old| old.is_as(&stat)) {
            return Ok(Some((*old, true)));
        }
        if let Some((seed, below)) = seed
            && let Some(file) = seed.file(below, keeper, path, kind, &stat, rules)
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

    /// The rules in this directory, which may have files of them, and whether one of them is another than it was.
    fn rules(&self, job: &Job, dir: &OwnedFd, may_ignore: bool, may_convert: bool) -> (Arc<Rules>, bool) {
        let compiled = self.scan.compiled;
        let mut rules = Arc::clone(&job.rules);
        let mut rematch = job.rematch;
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
        let own = may_ignore.then(|| compiled.ignored(dir.as_fd(), ".gitignore", &job.path)).flatten();
        if own.as_ref().map(|(figures, _)| *figures) != known {
            rematch = true;
        }
        let converted = self.scan.seed.filter(|_| may_convert);
        let converted = converted.and_then(|_| compiled.converted(dir.as_fd(), ".gitattributes", &job.path));
        (Rules::below(&rules, own.map(|(_, rules)| rules), converted), rematch)
    }

    fn answer(&self, job: &Job, files: Option<Vec<(Name, File)>>, kept: Vec<(Name, Arc<Dir>)>, mut jobs: Vec<Job>) {
        let mut queue = self.lock();
        let mut below = Vec::with_capacity(jobs.len());
        for job in &mut jobs {
            job.slot = queue.slots.len();
            below.push((job.name.as_bytes().into(), job.slot));
            queue.slots.push(None);
        }
        queue.slots[job.slot] = Some(Seen { files, kept, below, known: job.known.clone() });
        queue.open += jobs.len();
        let waken = jobs.len() > 1;
        queue.jobs.extend(jobs);
        drop(queue);
        if waken {
            self.more.notify_all();
        }
    }
}

fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> Option<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()
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

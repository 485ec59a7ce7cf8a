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

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    super::{
        figures::Figures,
        rules::{Compiled, InForce, Reads},
    },
    Lack, LackReason, Limits, Repositories,
    assemble::{Seen, assemble},
    crew::{Job, Queue, Shared},
    entry::names,
    forced::is_within,
    links::Links,
    manifest::{Dir, File, Name, Node},
    objects::{Keeper, Objects},
    seed::Seed,
    watch::{News, Watch},
};

/// Directories below each other that a look follows.
const MAX_DEPTH: usize = 512;
/// Threads of a look.
pub(super) const MAX_THREADS: usize = 4;

/// What a look needs to know.
pub(super) struct Scan<'a> {
    pub root: BorrowedFd<'a>,
    pub objects: &'a Objects,
    pub known: &'a Dir,
    pub seed: Option<&'a Seed>,
    pub rules: &'a Compiled,
    /// The repositories in it that are known.
    pub repositories: &'a Repositories,
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
    /// Files that have other names.
    pub links: Links,
    /// Directories that have become repositories, with the figures of what they exclude, or have ceased to be.
    pub repositories: Vec<(Vec<u8>, Option<Option<Figures>>)>,
    /// Whether anything is another than it was.
    pub changed: bool,
    /// Whether a rule ignored anything.
    pub ignored: bool,
}

impl Scan<'_> {
    /// Whether what the user's repository has is enough for now.
    pub(super) fn borrows(&self) -> bool {
        self.seed.is_some()
    }

    /// Looks at everything. Blocks.
    pub(super) fn run(&self) -> io::Result<Scanned> {
        let root = match rustix::fs::openat(self.root, ".", DIRECTORY, Mode::empty()) {
            Ok(root) => root,
            Err(Errno::ACCESS | Errno::PERM) => {
                let lacks = vec![Lack::below(Vec::new(), LackReason::Unreadable)];
                let (root, links, repositories) = (Dir::default(), Links::default(), Vec::new());
                return Ok(Scanned { root, lacks, links, repositories, changed: true, ignored: false });
            }
            Err(error) => return Err(error.into()),
        };
        let job = Job {
            above: Arc::new(root),
            name: ".".into(),
            path: PathBuf::new(),
            depth: 0,
            known: Some(Arc::new(self.known.clone())),
            rules: None,
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
        let keeper = store.keeper(self.borrows())?;
        self.read_late(std::mem::take(&mut queue.late), &mut root, &mut queue.lacks)?;
        changed |= self.force(&keeper, &mut root, (&mut queue.lacks, &mut queue.links))?;
        keeper.plant(&mut root)?;
        let Queue { lacks, links, repositories, .. } = queue;
        Ok(Scanned { root, lacks, links, repositories, changed, ignored })
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Shared<'_> {
    pub(super) fn lacks(&self, lack: Lack) {
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
        // Neither is it as a repository, of which nobody hears below it.
        let has = |name: &str| rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let (rules, _) = self.rules(job, &dir, has);
        let dir = Arc::new(dir);
        let (mut jobs, mut kept) = (Vec::new(), Vec::new());
        for (name, node) in &known.entries {
            let Node::Dir(below) = node else { continue };
            let path = job.path.join(OsStr::from_bytes(name));
            if self.scan.leads_to_forced(&path) && ignores(&rules, &path, true) {
                // Nothing of it belongs to a version but what the user's index has.
                continue;
            }
            if self.leads_to_change(&path) {
                let (above, rules, name) = (Arc::clone(&dir), rules.clone(), OsStr::from_bytes(name).to_owned());
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
        (entries, is_repository): (Vec<(OsString, FileType)>, bool),
    ) -> io::Result<()> {
        let known = job.known.as_deref();
        let has = |wanted: &str| match wanted {
            ".git" => is_repository,
            _ => entries.iter().any(|(name, _)| name == wanted),
        };
        let (rules, rematch) = self.rules(job, &dir, has);
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
                self.note_link(|| job.path.join(OsStr::from_bytes(name)), &stat);
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
                    if (rematch || old.is_none() || is_forced) && ignores(&rules, &path, true) {
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
                    let (above, rules) = (Arc::clone(&dir), rules.clone());
                    jobs.push(Job { above, name, path, depth: job.depth + 1, known: old, rules, rematch, slot: 0 });
                }
                FileType::RegularFile | FileType::Symlink => {
                    let old = match old {
                        Some(Node::File(old)) => Some(old),
                        Some(Node::Dir(_)) | None => None,
                    };
                    if (rematch || old.is_none()) && ignores(&rules, &path, false) && !self.scan.is_forced(&path) {
                        self.ignored.store(true, Ordering::Relaxed);
                        if old.is_some() {
                            self.lacks(Lack::file(path.into_os_string().into_vec(), LackReason::Ignored));
                        }
                        continue;
                    }
                    match self.file(keeper, dir.as_fd(), &name, &path, old, (rules.as_deref(), seed))? {
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

    /// The rules in this directory, and whether one of them is another than it was.
    fn rules(&self, job: &Job, dir: &OwnedFd, has: impl Fn(&str) -> bool) -> (InForce, bool) {
        let reads = Reads { dot_ignore: false, attributes: self.scan.seed.is_some() };
        let path = job.path.as_os_str().as_bytes();
        let entered = self.scan.rules.enter(job.rules.clone(), dir.as_fd(), path, reads, has);
        let known = job.known.as_ref().and_then(|known| match known.get(b".gitignore") {
            Some(Node::File(file)) => Some(file.figures),
            Some(Node::Dir(_)) | None => None,
        });
        let repository = self.scan.repositories.get(path).copied();
        if entered.repository != repository {
            self.lock().repositories.push((path.to_vec(), entered.repository));
        }
        let rematch = job.rematch || entered.gitignore != known || entered.repository != repository;
        (entered.rules, rematch)
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

fn ignores(rules: &InForce, path: &Path, is_directory: bool) -> bool {
    rules.as_ref().is_some_and(|rules| rules.ignores(path.as_os_str().as_bytes(), is_directory))
}

fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> Option<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

//! The versions of the workspace: what it held at a moment, as trees in a git repository of our own in the data
//! directory. The user's repository is read where that spares work, and never written. All of this blocks.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use git2::Oid;
use rustix::fs::{AtFlags, Mode, OFlags};

mod assemble;
mod content;
mod crew;
mod difference;
mod forced;
mod lack;
mod manifest;
mod narrow;
mod objects;
mod prune;
mod restore;
mod revision;
mod rules;
mod scan;
mod seed;
mod user;
mod watch;

use self::{
    content::Read,
    manifest::{Dir, Figures, File, Kind},
    objects::{Keeper, Objects},
    rules::Compiled,
    scan::Scan,
    seed::UserGit,
    watch::Watch,
};
pub(in crate::domain) use self::{
    difference::{Ask, Compared, Contents, Difference, DifferenceKind},
    lack::{Lack, LackReason, Limits, lacks_from, lacks_to},
    objects::{MAX_STORED, nobodys_settings},
};

/// What the names of half-written files begin and end with; they are in no version.
pub(in crate::domain) const TEMPORARY: (&str, &str) = (".opencode-", ".tmp");

/// The versions of one workspace.
pub(in crate::domain) struct Versions {
    root: OwnedFd,
    root_path: PathBuf,
    folder: PathBuf,
    objects: Objects,
    compiled: Compiled,
    state: Mutex<State>,
    /// What files were before the agent changed them, while a look that has to see them as they were is under way.
    preserved: Mutex<Option<HashMap<Vec<u8>, Option<File>>>>,
    stop: AtomicBool,
    watch: Option<Watch>,
}

/// How far a look goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::domain) enum Reach {
    /// Everything.
    All,
    /// Everything, and what the agent changes meanwhile is taken as it was.
    AllBefore,
    /// What may have changed, as far as that was heard; everything else where something was missed.
    Heard,
}

struct State {
    manifest: Arc<Dir>,
    git: Option<UserGit>,
    /// The user's index when it was last read, and what it has although a rule ignores it.
    index: Option<(u64, i64, i64)>,
    forced: Arc<Vec<Vec<u8>>>,
    excluded: Option<Figures>,
    /// Whether anything was ever looked at: the first look can be spared by the user's index.
    empty: bool,
    /// Whether the last look at everything came upon something that a rule ignores.
    ignored: bool,
}

/// What a look saw.
#[derive(Clone, Debug)]
pub(in crate::domain) struct Looked {
    /// The tree of everything that belongs to the version.
    pub tree: Oid,
    /// What it should hold and does not.
    pub lacks: Vec<Lack>,
}

impl Versions {
    /// Opens the versions of the workspace `root`, kept in `folder`.
    pub(in crate::domain) fn open(root: &Path, folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let git = UserGit::of(root);
        let objects = Objects::open(&folder.join("objects.git"), git.as_ref().map(UserGit::objects).as_deref())?;
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let manifest = manifest::load(&folder.join("manifest"));
        let state = State {
            empty: manifest.is_none(),
            manifest: Arc::new(manifest.unwrap_or_default()),
            git,
            index: None,
            forced: Arc::default(),
            excluded: None,
            ignored: false,
        };
        Ok(Self {
            root: fd,
            root_path: root.to_owned(),
            folder: folder.to_owned(),
            objects,
            compiled: Compiled::default(),
            state: Mutex::new(state),
            preserved: Mutex::default(),
            stop: AtomicBool::new(false),
            watch: Watch::new(),
        })
    }

    /// Looks at the workspace. `carried` is what the last version lacked: what was left out as ignored stays so while it
    /// is there.
    pub(in crate::domain) fn look(&self, limits: &Limits, carried: &[Lack], reach: Reach) -> io::Result<Looked> {
        let before = reach == Reach::AllBefore;
        if before {
            *self.preserved() = Some(HashMap::new());
        }
        let looked = self.look_around(limits, carried, reach);
        let looked = match (looked, before.then(|| self.preserved().take()).flatten()) {
            (Ok(looked), Some(files)) if !files.is_empty() => self.put_back(looked, files),
            (looked, _) => looked,
        };
        self.preserved().take_if(|_| before);
        looked
    }

    fn look_around(&self, limits: &Limits, carried: &[Lack], reach: Reach) -> io::Result<Looked> {
        let mut state = self.state();
        let (seed, news) = self.meet_the_user(&mut state)?;
        let heard = self.watch.as_ref().and_then(Watch::take);
        let is_whole = carried.iter().all(|lack| lack.reason == LackReason::Ignored);
        let only = heard.filter(|_| reach == Reach::Heard && !news && is_whole && !state.empty);
        if only.as_ref().is_some_and(|only| only.dirty.is_empty()) {
            return Ok(Looked { tree: self.tree(&state.manifest)?, lacks: self.still(carried, &state.manifest) });
        }
        let scanned = Scan {
            root: self.root.as_fd(),
            objects: &self.objects,
            known: &state.manifest,
            seed: seed.as_ref(),
            compiled: &self.compiled,
            forced: &state.forced,
            limits,
            stop: &self.stop,
            watch: self.watch.as_ref(),
            rematch: news,
            only: only.as_ref(),
        }
        .run();
        let scanned = scanned.inspect_err(|_| {
            if let Some(watch) = &self.watch {
                watch.missed();
            }
        })?;
        let mut lacks = scanned.lacks;
        lacks.extend(self.still(carried, &scanned.root));
        state.ignored = scanned.ignored || (only.is_some() && state.ignored);
        state.manifest = Arc::new(scanned.root);
        if scanned.changed || state.empty {
            self.save(&state.manifest);
        }
        // A first look that was cut short can still be spared work by the index.
        state.empty = state.empty && lacks.iter().any(|lack| lack.reason == LackReason::Time);
        Ok(Looked { tree: self.tree(&state.manifest)?, lacks: lack::bounded(lacks) })
    }

    /// What was left out as ignored, and still is.
    fn still(&self, carried: &[Lack], root: &Dir) -> Vec<Lack> {
        let is_still =
            |lack: &&Lack| lack.reason == LackReason::Ignored && !root.holds(&lack.path) && self.exists(&lack.path);
        carried.iter().filter(is_still).cloned().collect()
    }

    /// Where changes are heard of, if they can be.
    pub(in crate::domain) fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    /// Looks at some paths alone, after they were changed here.
    pub(in crate::domain) fn look_at(
        &self,
        paths: &[PathBuf],
        limits: &Limits,
        carried: &[Lack],
    ) -> io::Result<Looked> {
        let mut state = self.state();
        let store = self.objects.store()?;
        let keeper = store.keeper()?;
        let mut root = Dir::clone(&state.manifest);
        let mut lacks = carried.to_vec();
        for path in paths {
            let bytes = path.as_os_str().as_bytes();
            lacks.retain(|lack| lack.path != bytes);
            if self.is_ignored(&state, path) {
                continue;
            }
            match self.read(&keeper, path, limits)? {
                Read::File(file) => root.put(bytes, Some(file)),
                Read::Gone => root.put(bytes, None),
                Read::Lacks(reason) => {
                    root.put(bytes, None);
                    lacks.push(Lack::file(bytes.to_vec(), reason));
                }
            }
        }
        keeper.plant(&mut root, false)?;
        state.manifest = Arc::new(root);
        self.save(&state.manifest);
        Ok(Looked { tree: self.tree(&state.manifest)?, lacks: lack::bounded(lacks) })
    }

    /// Keeps what a file holds, before the agent changes it, for the look that is under way and has to see it so.
    pub(in crate::domain) fn preserve(&self, path: &Path) -> io::Result<()> {
        let bytes = path.as_os_str().as_bytes();
        if self.preserved().as_ref().is_none_or(|files| files.contains_key(bytes)) {
            return Ok(());
        }
        let store = self.objects.store()?;
        let file = match self.read(&store.keeper()?, path, &Limits::none())? {
            Read::File(file) => Some(file),
            Read::Gone | Read::Lacks(_) => None,
        };
        if let Some(files) = self.preserved().as_mut() {
            files.entry(bytes.to_vec()).or_insert(file);
        }
        Ok(())
    }

    /// Makes the trees of the last look our own, as far as they are only borrowed: a first look leaves that for later.
    pub(in crate::domain) fn own_trees(&self) -> io::Result<()> {
        let root = Arc::clone(&self.state().manifest);
        let store = self.objects.store()?;
        let keeper = store.keeper()?;
        let mut open = vec![root];
        while let Some(dir) = open.pop() {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Some(tree) = dir.tree {
                keeper.own_tree(tree)?;
            }
            open.extend(dir.entries.iter().filter_map(|(_, node)| match node {
                manifest::Node::Dir(below) => Some(Arc::clone(below)),
                manifest::Node::File(_) => None,
            }));
        }
        Ok(())
    }

    /// Whether a rule kept anything out of the last look.
    pub(in crate::domain) fn ignores_anything(&self) -> bool {
        self.state().ignored
    }

    /// Ends a look that is under way, for the end of the server.
    pub(in crate::domain) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn put_back(&self, looked: Looked, files: HashMap<Vec<u8>, Option<File>>) -> io::Result<Looked> {
        let mut state = self.state();
        let store = self.objects.store()?;
        // The changes may have been heard of before the look, which is to be taken for one from before them.
        if let Some(watch) = &self.watch {
            watch.missed();
        }
        let mut root = Dir::clone(&state.manifest);
        for (path, file) in files {
            let is_versioned = root.holds(&path) || file.is_some();
            if is_versioned && !self.is_ignored(&state, Path::new(OsStr::from_bytes(&path))) {
                // Racy: the next look reads what is there now.
                root.put(&path, file.map(|file| File { racy: true, ..file }));
            }
        }
        store.keeper()?.plant(&mut root, false)?;
        state.manifest = Arc::new(root);
        self.save(&state.manifest);
        Ok(Looked { tree: self.tree(&state.manifest)?, ..looked })
    }

    fn tree(&self, root: &Dir) -> io::Result<Oid> {
        match root.tree {
            Some(tree) => Ok(tree),
            None => self.objects.store()?.keeper()?.empty_tree(),
        }
    }

    fn read(&self, keeper: &Keeper<'_>, path: &Path, limits: &Limits) -> io::Result<Read> {
        let Some((above, name)) = open_above(self.root.as_fd(), path) else { return Ok(Read::Gone) };
        let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW);
        match stat.ok().and_then(|stat| Kind::of(&stat)) {
            Some(kind) => content::read(keeper, above.as_fd(), name, kind, limits),
            None => Ok(Read::Gone),
        }
    }

    fn exists(&self, path: &[u8]) -> bool {
        let Some((above, name)) = open_above(self.root.as_fd(), Path::new(OsStr::from_bytes(path))) else {
            return false;
        };
        rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    fn save(&self, manifest: &Dir) {
        // Losing it costs the next start a longer look, nothing else.
        if let Err(error) = manifest::save(manifest, &self.folder.join("manifest")) {
            tracing::warn!(%error, "the manifest of the workspace could not be stored");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn preserved(&self) -> MutexGuard<'_, Option<HashMap<Vec<u8>, Option<File>>>> {
        self.preserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the directory that a path's last name is in, name by name and through no link.
pub(super) fn open_above<'a>(root: BorrowedFd<'_>, path: &'a Path) -> Option<(OwnedFd, &'a OsStr)> {
    let name = path.file_name()?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some((open_dir(root, above)?, name))
}

fn open_dir(root: BorrowedFd<'_>, path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::fs::openat(root, ".", flags, Mode::empty()).ok()?;
    for name in path.components().filter(|part| *part != std::path::Component::CurDir) {
        here = rustix::fs::openat(&here, name.as_os_str(), flags, Mode::empty()).ok()?;
    }
    Some(here)
}

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
mod difference;
mod lack;
mod manifest;
mod objects;
mod prune;
mod restore;
mod revision;
mod rules;
mod scan;
mod seed;

use self::{
    content::Read,
    manifest::{Dir, File, Kind},
    objects::{Keeper, Objects},
    rules::{Compiled, Rules},
    scan::Scan,
    seed::{Seed, UserGit},
};
pub(in crate::domain) use self::{
    difference::{Ask, Compared, Contents, Difference, DifferenceKind},
    lack::{Lack, LackReason, Limits, lacks_from, lacks_to},
    objects::MAX_STORED,
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
}

struct State {
    manifest: Arc<Dir>,
    git: Option<UserGit>,
    /// The user's index when it was last read, and what it has although a rule ignores it.
    index: Option<(u64, i64, i64)>,
    forced: Arc<Vec<Vec<u8>>>,
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
        })
    }

    /// Looks at everything. With `before`, files that the agent changes meanwhile are taken as they were. `carried` is
    /// what the last version lacked: what was left out as ignored stays so while it is there.
    pub(in crate::domain) fn look(&self, limits: &Limits, carried: &[Lack], before: bool) -> io::Result<Looked> {
        if before {
            *self.preserved() = Some(HashMap::new());
        }
        let looked = self.look_at_all(limits, carried);
        let looked = match (looked, before.then(|| self.preserved().take()).flatten()) {
            (Ok(looked), Some(files)) if !files.is_empty() => self.put_back(looked, files),
            (looked, _) => looked,
        };
        self.preserved().take_if(|_| before);
        looked
    }

    fn look_at_all(&self, limits: &Limits, carried: &[Lack]) -> io::Result<Looked> {
        let mut state = self.state();
        let seed = self.meet_the_user(&mut state)?;
        let scanned = Scan {
            root: self.root.as_fd(),
            objects: &self.objects,
            known: &state.manifest,
            seed: seed.as_ref(),
            compiled: &self.compiled,
            forced: &state.forced,
            limits,
            stop: &self.stop,
        }
        .run()?;
        let mut lacks = scanned.lacks;
        let still = carried.iter().filter(|lack| {
            lack.reason == LackReason::Ignored && !scanned.root.holds(&lack.path) && self.exists(&lack.path)
        });
        lacks.extend(still.cloned());
        state.ignored = scanned.ignored;
        state.manifest = Arc::new(scanned.root);
        if scanned.changed || state.empty {
            self.save(&state.manifest);
        }
        // A first look that was cut short can still be spared work by the index.
        state.empty = state.empty && lacks.iter().any(|lack| lack.reason == LackReason::Time);
        Ok(Looked { tree: self.tree(&state.manifest)?, lacks: lack::bounded(lacks) })
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
        keeper.plant(&mut root)?;
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
        let mut root = Dir::clone(&state.manifest);
        for (path, file) in files {
            let is_versioned = root.holds(&path) || file.is_some();
            if is_versioned && !self.is_ignored(&state, Path::new(OsStr::from_bytes(&path))) {
                // Racy: the next look reads what is there now.
                root.put(&path, file.map(|file| File { racy: true, ..file }));
            }
        }
        store.keeper()?.plant(&mut root)?;
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

    /// Reads what is new of the user's repository. Answers its index for the first look.
    fn meet_the_user(&self, state: &mut State) -> io::Result<Option<Seed>> {
        let git = UserGit::of(&self.root_path);
        if git != state.git {
            self.objects.borrow_from(git.as_ref().map(UserGit::objects).as_deref())?;
            // What was borrowed may be gone with the repository that had it.
            state.manifest = Arc::new(without_seeds(&state.manifest));
            state.git = git;
        }
        let figures = state.git.as_ref().and_then(UserGit::index_figures);
        if figures == state.index && !(state.empty && figures.is_some()) {
            return Ok(None);
        }
        state.index = figures;
        let entries = state.git.as_ref().and_then(|git| git.entries(&self.folder.join("index")));
        let Some((entries, written)) = entries else {
            state.forced = Arc::default();
            return Ok(None);
        };
        state.forced = Arc::new(seed::tracked(&entries, self.ignores()));
        Ok(state.empty.then(|| Seed::new((entries, written))))
    }

    /// Whether a rule ignores a path or a directory above it. To be asked in the order of paths, or it is slow.
    fn ignores(&self) -> impl Fn(&Path) -> bool {
        let base = std::cell::RefCell::new(Vec::<(PathBuf, Arc<Rules>, bool)>::new());
        move |path: &Path| {
            let mut known = base.borrow_mut();
            let above = path.parent().unwrap_or(Path::new(""));
            while known.last().is_some_and(|(dir, ..)| !above.starts_with(dir)) {
                known.pop();
            }
            if known.is_empty() {
                known.push((PathBuf::new(), self.rules_of(Path::new(""), &Arc::default()), false));
            }
            let depth = known.last().map_or(0, |(dir, ..)| dir.components().count());
            let mut dir = known.last().map(|(dir, ..)| dir.clone()).unwrap_or_default();
            for name in above.components().skip(depth) {
                let Some((_, rules, is_ignored)) = known.last().cloned() else { return false };
                dir.push(name);
                let is_ignored = is_ignored || rules.ignores(&dir, true);
                known.push((dir.clone(), self.rules_of(&dir, &rules), is_ignored));
            }
            known.last().is_some_and(|(_, rules, is_ignored)| *is_ignored || rules.ignores(path, false))
        }
    }

    fn rules_of(&self, dir: &Path, above: &Arc<Rules>) -> Arc<Rules> {
        let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let Some(fd) = open_dir(self.root.as_fd(), here) else { return Arc::clone(above) };
        let mut rules = Arc::clone(above);
        if dir.as_os_str().is_empty()
            && let Some(info) = open_dir(self.root.as_fd(), Path::new(".git/info"))
        {
            rules = Rules::below(&rules, self.compiled.ignored(info.as_fd(), "exclude", dir).map(|(_, own)| own), None);
        }
        Rules::below(&rules, self.compiled.ignored(fd.as_fd(), ".gitignore", dir).map(|(_, own)| own), None)
    }

    fn is_ignored(&self, state: &State, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        state.forced.binary_search_by(|own| own.as_slice().cmp(bytes)).is_err() && self.ignores()(path)
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

/// The manifest with everything that was borrowed to be read again.
fn without_seeds(dir: &Dir) -> Dir {
    let entries = dir.entries.iter().map(|(name, node)| {
        let node = match node {
            manifest::Node::Dir(below) => manifest::Node::Dir(Arc::new(without_seeds(below))),
            manifest::Node::File(file) => manifest::Node::File(File { racy: file.racy || file.seeded, ..*file }),
        };
        (name.clone(), node)
    });
    Dir { entries: entries.collect(), tree: None }
}

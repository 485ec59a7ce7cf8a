//! What a first look borrowed of the user's repository, made our own afterwards: its objects are linked, as git's own
//! local clone does it, or copied where they are on another file system. Only then may the user's git throw them away.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use git2::Oid;
use rustix::fs::OFlags;

use super::{
    Versions,
    manifest::{Dir, Node},
    objects::Keeper,
    seed::UserGit,
};

/// Bytes that are copied at most, where they cannot be linked.
const MAX_COPIED: u64 = 512 * 1024 * 1024;

/// Bytes that are copied between two looks at whether the server ends.
const PIECE: u64 = 8 * 1024 * 1024;

/// How often it is tried: the user's git may be packing its objects anew.
const ROUNDS: usize = 3;

/// What the name of a file on its way in begins with.
const ON_ITS_WAY: &str = "tmp_";

impl Versions {
    /// Makes all that the manifest only borrows our own. Trees come without limit, since without them nothing could be
    /// said of a version; contents as far as they can be linked or are not too much to copy. Answers whether all of it
    /// is ours. Blocks.
    pub(in crate::domain) fn own_what_is_lent(&self) -> io::Result<bool> {
        for _ in 0..ROUNDS {
            let (root, git) = {
                let state = self.state();
                (Arc::clone(&state.manifest), state.git.clone())
            };
            let lent = self.lent(&root)?;
            let Some(git) = git.filter(|_| !lent.is_empty()) else { return Ok(lent.is_empty()) };
            if !self.take(&git, &lent)? {
                break;
            }
        }
        let root = Arc::clone(&self.state().manifest);
        let store = self.objects.store()?;
        let keeper = store.keeper(false)?;
        for_each(&root, &mut |id, is_tree| if is_tree { keeper.own_tree(id) } else { Ok(()) })?;
        Ok(self.lent(&root)?.is_empty())
    }

    /// What of the manifest only the user's repository has.
    fn lent(&self, root: &Dir) -> io::Result<Vec<Oid>> {
        let store = self.objects.store()?;
        let keeper: Keeper<'_> = store.keeper(false)?;
        let mut lent = Vec::new();
        for_each(root, &mut |id, _| {
            if keeper.is_lent(id) {
                lent.push(id);
            }
            Ok(())
        })?;
        Ok(lent)
    }

    /// Takes the files that have these objects: the loose ones by name, and for what is in packs all packs, since which
    /// one it is only git knows. Answers whether it makes sense to look again for what is missing.
    fn take(&self, git: &UserGit, lent: &[Oid]) -> io::Result<bool> {
        let (from, to) = (git.objects(), self.objects.taken());
        // What a killed server left.
        for left in files(&to.join("pack")).filter(|file| name(file).starts_with(ON_ITS_WAY)) {
            let _ = fs::remove_file(left);
        }
        let mut packed = false;
        let mut room = MAX_COPIED;
        for id in lent {
            let id = id.to_string();
            let place = Path::new(&id[..2]).join(&id[2..]);
            match self.take_file(&from.join(&place), &to.join(&place), &mut room) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => packed = true,
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => return Ok(false),
                outcome => outcome?,
            }
        }
        if packed {
            let packs: Vec<PathBuf> = files(&from.join("pack")).collect();
            // The index last: by it a pack is known.
            for kind in ["pack", "idx"] {
                for pack in packs.iter().filter(|pack| pack.extension().is_some_and(|it| it == kind)) {
                    let Some(file) = pack.file_name() else { continue };
                    match self.take_file(pack, &to.join("pack").join(file), &mut room) {
                        // Packed anew meanwhile: the next round finds it where it is now.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => return Ok(false),
                        outcome => outcome?,
                    }
                }
            }
        }
        self.objects.lean_on_taken()?;
        Ok(true)
    }

    /// Links a file, or copies it: [`io::ErrorKind::QuotaExceeded`] where there is no `room` for that.
    fn take_file(&self, from: &Path, to: &Path, room: &mut u64) -> io::Result<()> {
        // A link could lead out of the workspace.
        let data = fs::symlink_metadata(from)?;
        if !data.is_file() || to.exists() {
            return Ok(());
        }
        let folder = to.parent().unwrap_or(to);
        fs::create_dir_all(folder)?;
        match fs::hard_link(from, to) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            // Another file system, or another owner.
            Err(_) => {}
        }
        *room = room.checked_sub(data.len()).ok_or(io::ErrorKind::QuotaExceeded)?;
        let on_its_way = folder.join(format!("{ON_ITS_WAY}{}", name(to)));
        let copied = self.copy(from, &on_its_way).and_then(|()| fs::rename(&on_its_way, to));
        if copied.is_err() {
            let _ = fs::remove_file(&on_its_way);
        }
        copied
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut from = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(from)?;
        let mut to = File::create(to)?;
        while io::copy(&mut (&mut from).take(PIECE), &mut to)? > 0 {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        to.flush()
    }
}

/// Every object of a manifest, and whether it is a tree.
fn for_each(root: &Dir, act: &mut impl FnMut(Oid, bool) -> io::Result<()>) -> io::Result<()> {
    if let Some(tree) = root.tree {
        act(tree, true)?;
    }
    for (_, node) in &root.entries {
        match node {
            Node::File(file) => act(file.oid, false)?,
            Node::Dir(below) => for_each(below, act)?,
        }
    }
    Ok(())
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

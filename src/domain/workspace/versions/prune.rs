//! Removing what no version needs any more.

use std::{
    collections::HashSet,
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use git2::{ObjectType, Oid};

use super::Versions;

/// Younger objects are left: a look that has just stored them may not have its version yet.
const YOUNG: Duration = Duration::from_secs(15 * 60);

impl Versions {
    /// Bytes of all objects of our own.
    pub(in crate::domain) fn stored_bytes(&self) -> io::Result<u64> {
        Ok(self.own()?.iter().map(|(_, _, size)| size).sum())
    }

    /// Removes the objects that none of these trees needs. Answers how many bytes are left. Blocks.
    pub(in crate::domain) fn prune(&self, trees: &[Oid]) -> io::Result<u64> {
        // An older one on the disk may know directories that no tree has any more, and come to be believed again.
        self.settle();
        let store = self.objects.store()?;
        let mut needed = HashSet::new();
        let current = self.state().manifest.tree;
        let mut open: Vec<Oid> = trees.iter().copied().chain(current).collect();
        while let Some(tree) = open.pop() {
            if !needed.insert(tree) {
                continue;
            }
            // A tree that is gone needs nothing.
            let Ok(tree) = store.repository.find_tree(tree) else { continue };
            for entry in &tree {
                match entry.kind() {
                    Some(ObjectType::Tree) => open.push(entry.id()),
                    _ => {
                        needed.insert(entry.id());
                    }
                }
            }
        }
        let old_enough = SystemTime::now().checked_sub(YOUNG).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut left = 0;
        for (oid, file, size) in self.own()? {
            let is_old = fs::metadata(&file).and_then(|data| data.modified()).is_ok_and(|at| at < old_enough);
            if needed.contains(&oid) || !is_old || fs::remove_file(&file).is_err() {
                left += size;
            }
        }
        let taken = self.objects.taken();
        if let Ok(odb) = git2::Odb::new()
            && odb.add_disk_alternate(&taken.to_string_lossy()).is_ok()
            && !needed.iter().any(|oid| odb.exists(*oid))
        {
            let _ = fs::remove_dir_all(&taken);
            self.objects.lean_on_taken()?;
        }
        for entry in fs::read_dir(self.objects.large()).into_iter().flatten().flatten() {
            let oid = entry.file_name().to_str().and_then(|name| Oid::from_str(name).ok());
            if oid.is_none_or(|oid| !needed.contains(&oid)) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(left)
    }

    /// The objects of our own, with file and size.
    fn own(&self) -> io::Result<Vec<(Oid, PathBuf, u64)>> {
        let mut found = Vec::new();
        for folder in fs::read_dir(self.objects.own())? {
            let folder = folder?;
            let start = folder.file_name().to_string_lossy().into_owned();
            if start.len() != 2 {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let name = format!("{start}{}", file.file_name().to_string_lossy());
                if let Ok(oid) = Oid::from_str(&name) {
                    found.push((oid, file.path(), file.metadata()?.len()));
                }
            }
        }
        Ok(found)
    }

    /// Makes everything stored so far survive the machine, not just the process. Blocks.
    pub(in crate::domain) fn sync(&self) -> io::Result<()> {
        rustix::fs::syncfs(fs::File::open(self.objects.own())?)?;
        Ok(())
    }
}

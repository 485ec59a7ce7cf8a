//! Files as they were before the agent changed them, while a first look is under way that has to see them so.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Arc, MutexGuard, PoisonError},
};

use super::{
    Limits, Looked, Versions,
    content::Read,
    manifest::{Dir, File},
};

impl Versions {
    /// Keeps what a file holds, before the agent changes it, for the look that is under way and has to see it so.
    pub(in crate::domain) fn preserve(&self, path: &Path) -> io::Result<()> {
        let bytes = path.as_os_str().as_bytes();
        if self.preserved().as_ref().is_none_or(|files| files.contains_key(bytes)) {
            return Ok(());
        }
        let store = self.objects.store()?;
        let file = match self.read(&store.keeper(false)?, path, &Limits::none())? {
            Read::File(file) => Some(file),
            Read::Gone | Read::Lacks(_) => None,
        };
        if let Some(files) = self.preserved().as_mut() {
            files.entry(bytes.to_vec()).or_insert(file);
        }
        Ok(())
    }

    /// What was changed during a look that has to be taken for one from before it.
    pub(super) fn put_back(&self, looked: Looked, files: HashMap<Vec<u8>, Option<File>>) -> io::Result<Looked> {
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
        store.keeper(false)?.plant(&mut root)?;
        state.manifest = Arc::new(root);
        self.save(&mut state);
        Ok(Looked { tree: self.tree(&state.manifest)?, ..looked })
    }

    pub(super) fn preserved(&self) -> MutexGuard<'_, Option<HashMap<Vec<u8>, Option<File>>>> {
        self.preserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

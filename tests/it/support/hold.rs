//! Holding up the first look at a workspace, as a large one does by itself.

use std::{fs, path::PathBuf, process::Command};

use super::{Setup, repo::said};

/// What a server that is started now waits for before it looks at its workspace.
pub struct Held(PathBuf);

impl Setup {
    /// Makes what is remembered of the workspace a pipe, which nobody has read to its end before somebody wrote to it.
    pub fn hold_versions(&self) -> Held {
        let folder = self.data_dir().join("versions");
        fs::create_dir_all(&folder).expect("a folder");
        let pipe = folder.join("manifest");
        said(Command::new("mkfifo").arg(&pipe));
        Held(pipe)
    }
}

impl Held {
    /// Lets it look. Waits for a server that is still on its way there.
    pub fn let_go(self) {
        drop(fs::File::options().write(true).open(self.0).expect("a pipe"));
    }
}

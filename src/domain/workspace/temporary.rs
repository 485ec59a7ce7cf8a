//! Names of files on their way in. They tell whose they are, so that what a killed server left is known as that by the
//! next one, and nothing else is ever taken for it.

use std::{os::unix::ffi::OsStrExt, path::Path, sync::OnceLock};

use sha2::{Digest, Sha256};

/// What all of them begin with that servers of this data directory and workspace make, and those of this process.
struct Own {
    all: String,
    ours: String,
}

static OWN: OnceLock<Own> = OnceLock::new();

/// Says whose workspace this process has. To be called before any file is written; later calls change nothing.
pub(super) fn belong_to(data_dir: &Path, root: &Path) {
    OWN.get_or_init(|| {
        let mut hash = Sha256::new();
        for path in [data_dir, root] {
            hash.update(path.as_os_str().as_bytes());
            hash.update([0]);
        }
        let owner: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let all = format!(".opencode-{owner}-");
        let ours = format!("{all}{}-", &random()[..8]);
        Own { all, ours }
    });
}

/// A short name: the file's may already be as long as names can be.
pub(super) fn name() -> String {
    let ours = OWN.get().map_or(".opencode-", |own| own.ours.as_str());
    format!("{ours}{}.tmp", &random()[..16])
}

/// Whether it is the name of a file on its way in.
pub(super) fn is_one(name: &[u8]) -> bool {
    OWN.get().is_some_and(|own| name.starts_with(own.all.as_bytes()) && name.ends_with(b".tmp"))
}

/// Whether a server that is no more has left it.
pub(super) fn is_left(name: &[u8]) -> bool {
    is_one(name) && OWN.get().is_some_and(|own| !name.starts_with(own.ours.as_bytes()))
}

fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

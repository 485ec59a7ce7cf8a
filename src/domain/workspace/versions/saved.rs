//! The manifest as a file, so that the next start need not read what is unchanged. It is written whole, so not at each
//! change: an older one is as true of every file whose figures are still the same.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use git2::Oid;
use sha2::{Digest, Sha256};

use super::{
    super::figures::Figures,
    manifest::{Dir, File, Kind, Node},
};

/// So many times as long as storing it took it is not stored again.
const REST: u32 = 100;

/// What was stored, and when.
#[derive(Default)]
pub(super) struct Saved {
    /// Something is not stored.
    behind: bool,
    /// When it can be stored again.
    rests_until: Option<Instant>,
}

impl Saved {
    /// The manifest is another one: stores it, unless that was done a short while ago.
    pub(super) fn changed(&mut self, manifest: &Dir, folder: &Path) {
        self.behind = true;
        if self.rests_until.is_none_or(|until| Instant::now() >= until) {
            self.settle(manifest, folder);
        }
    }

    /// Stores what is not yet stored.
    pub(super) fn settle(&mut self, manifest: &Dir, folder: &Path) {
        if !std::mem::take(&mut self.behind) {
            return;
        }
        let began = Instant::now();
        // Losing it costs the next start a longer look, nothing else.
        if let Err(error) = save(manifest, &folder.join(NAME)) {
            tracing::warn!(%error, "the manifest of the workspace could not be stored");
        }
        self.rests_until = Some(Instant::now() + began.elapsed().max(Duration::from_millis(1)) * REST);
    }
}

/// Its name in the folder of the versions.
const NAME: &str = "manifest";

/// What the file begins with: format and version.
const MAGIC: &[u8] = b"opencode manifest 1\n";

/// Stores the manifest, whole or not at all.
fn save(root: &Dir, file: &Path) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    write(root, &mut bytes);
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    let fresh = file.with_extension("new");
    let saved = std::fs::write(&fresh, bytes).and_then(|()| std::fs::rename(&fresh, file));
    // Half of one helps nobody, on a full disk least of all.
    saved.inspect_err(|_| drop(std::fs::remove_file(&fresh)))
}

/// Reads it back; none where it is missing or damaged.
pub(super) fn load(folder: &Path) -> Option<Dir> {
    let bytes = std::fs::read(folder.join(NAME)).ok()?;
    let (content, sum) = bytes.split_last_chunk::<32>()?;
    if Sha256::digest(content).as_slice() != sum {
        return None;
    }
    let mut rest = content.strip_prefix(MAGIC)?;
    read(&mut rest).filter(|_| rest.is_empty())
}

fn write(dir: &Dir, out: &mut Vec<u8>) {
    let tree = dir.tree.map(|tree| <[u8; 20]>::try_from(tree.as_bytes()).unwrap_or_default()).unwrap_or_default();
    out.extend_from_slice(&tree);
    out.extend_from_slice(&(dir.entries.len() as u32).to_le_bytes());
    for (name, node) in &dir.entries {
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
        match node {
            Node::Dir(dir) => {
                out.push(0);
                write(dir, out);
            }
            Node::File(file) => {
                let kind = match file.kind {
                    Kind::Plain => 1,
                    Kind::Executable => 2,
                    Kind::Link => 3,
                };
                out.push(kind | u8::from(file.racy) << 2 | u8::from(file.seeded) << 3);
                out.extend_from_slice(file.oid.as_bytes());
                let Figures { size, mtime, ctime, inode } = file.figures;
                for figure in [size, mtime as u64, ctime as u64, inode] {
                    out.extend_from_slice(&figure.to_le_bytes());
                }
            }
        }
    }
}

fn read(from: &mut &[u8]) -> Option<Dir> {
    let tree = take::<20>(from)?;
    let tree = (tree != [0; 20]).then(|| Oid::from_bytes(&tree).ok()).flatten();
    let count = u32::from_le_bytes(take(from)?);
    let mut entries = Vec::new();
    for _ in 0..count {
        let length = usize::from(u16::from_le_bytes(take(from)?));
        let (name, rest) = from.split_at_checked(length)?;
        *from = rest;
        let [flags] = take::<1>(from)?;
        let kind = match flags & 3 {
            0 => {
                entries.push((name.into(), Node::Dir(Arc::new(read(from)?))));
                continue;
            }
            1 => Kind::Plain,
            2 => Kind::Executable,
            _ => Kind::Link,
        };
        let oid = Oid::from_bytes(&take::<20>(from)?).ok()?;
        let mut figure = || take::<8>(from).map(u64::from_le_bytes);
        let figures = Figures { size: figure()?, mtime: figure()? as i64, ctime: figure()? as i64, inode: figure()? };
        let file = File { oid, kind, figures, racy: flags & 4 != 0, seeded: flags & 8 != 0 };
        entries.push((name.into(), Node::File(file)));
    }
    Some(Dir { entries, tree })
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::{super::manifest::tests::file, *};

    #[test]
    fn a_manifest_comes_back_as_it_was_and_damage_is_noticed() {
        let mut root = Dir::default();
        for (path, seed) in [("b/c/d", 1), ("a", 2), ("b/\u{e9}", 3), ("b/c/e", 6)] {
            root.put(path.as_bytes(), Some(file(seed)));
        }
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("manifest");
        save(&root, &at).unwrap();
        assert_eq!(format!("{:?}", load(folder.path()).unwrap()), format!("{root:?}"));
        let mut bytes = std::fs::read(&at).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&at, bytes).unwrap();
        assert!(load(folder.path()).is_none());
    }
}

//! What the workspace held when it was last looked at: each file with its figures and the id of its content, in
//! directories that are shared between one look and the next. It spares reading what is unchanged; losing it costs time
//! and nothing else.

use std::{io, path::Path, sync::Arc};

use git2::Oid;
use rustix::fs::{FileType, Stat};
use sha2::{Digest, Sha256};

/// Name of a file or directory, as bytes: it need not be UTF-8.
pub(super) type Name = Box<[u8]>;

/// A directory and all that is below it and belongs to a version.
#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    /// Sorted by name.
    pub entries: Vec<(Name, Node)>,
    /// Its tree in the object store; none where it holds no file.
    pub tree: Option<Oid>,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Dir(Arc<Dir>),
    File(File),
}

/// A file or link.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    /// Git's id of its content, as raw bytes.
    pub oid: Oid,
    pub kind: Kind,
    pub figures: Figures,
    /// Written so shortly before it was read that a later write may leave its figures as they are: read it again.
    pub racy: bool,
    /// Its content is in the user's own repository, and was not read here.
    pub seeded: bool,
}

/// What git tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Executable,
    Link,
}

/// What the file system knows of a file. As long as it is the same, so is the content, unless the file is racy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime: i64,
    pub ctime: i64,
    pub inode: u64,
}

impl Figures {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = |seconds: i64, part: i64| seconds.saturating_mul(1_000_000_000).saturating_add(part);
        Self {
            size: stat.st_size.max(0) as u64,
            mtime: nanos(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: nanos(stat.st_ctime, stat.st_ctime_nsec as i64),
            inode: stat.st_ino,
        }
    }
}

impl File {
    /// Whether these figures say that it is as it was.
    pub(super) fn is_as(&self, stat: &Stat) -> bool {
        !self.racy && self.figures == Figures::of(stat) && Kind::of(stat) == Some(self.kind)
    }
}

impl Kind {
    /// None for what is in no version: directories, pipes, sockets, devices.
    pub(super) fn of(stat: &Stat) -> Option<Self> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_mode & 0o100 != 0 => Some(Self::Executable),
            FileType::RegularFile => Some(Self::Plain),
            FileType::Symlink => Some(Self::Link),
            _ => None,
        }
    }

    /// As it stands in a tree.
    pub(super) fn mode(self) -> &'static str {
        match self {
            Self::Plain => "100644",
            Self::Executable => "100755",
            Self::Link => "120000",
        }
    }
}

impl Dir {
    pub(super) fn get(&self, name: &[u8]) -> Option<&Node> {
        self.place(name).map(|(_, node)| node)
    }

    /// An entry, with its name as it is kept here.
    pub(super) fn place(&self, name: &[u8]) -> Option<(&[u8], &Node)> {
        let place = self.entries.binary_search_by(|(own, _)| own.as_ref().cmp(name)).ok()?;
        let (name, node) = &self.entries[place];
        Some((name, node))
    }

    /// The file at a path below.
    pub(super) fn file(&self, path: &[u8]) -> Option<&File> {
        let mut here = self;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = parts.next() {
            match (here.get(name)?, parts.peek().is_some()) {
                (Node::Dir(dir), true) => here = dir,
                (Node::File(file), false) => return Some(file),
                (Node::Dir(_), false) | (Node::File(_), true) => return None,
            }
        }
        None
    }

    /// Whether anything is at a path or below it.
    pub(super) fn holds(&self, path: &[u8]) -> bool {
        let mut here = self;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = parts.next() {
            match (here.get(name), parts.peek().is_some()) {
                (Some(Node::Dir(dir)), true) => here = dir,
                (Some(_), false) => return true,
                (Some(Node::File(_)) | None, _) => return false,
            }
        }
        false
    }

    /// Puts a file at a path, or takes away what is there. The trees on the way are to be made anew.
    pub(super) fn put(&mut self, path: &[u8], file: Option<File>) {
        self.tree = None;
        let (name, rest) = match path.iter().position(|byte| *byte == b'/') {
            Some(end) => (&path[..end], Some(&path[end + 1..])),
            None => (path, None),
        };
        let place = self.entries.binary_search_by(|(own, _)| own.as_ref().cmp(name));
        match (rest, file) {
            (None, Some(file)) => self.set(place, name, Node::File(file)),
            (None, None) => {
                if let Ok(place) = place {
                    self.entries.remove(place);
                }
            }
            (Some(rest), file) => {
                let mut below = match place.ok().map(|place| &self.entries[place].1) {
                    Some(Node::Dir(dir)) => Dir::clone(dir),
                    // Nothing lies below a file.
                    Some(Node::File(_)) | None if file.is_none() => return,
                    Some(Node::File(_)) | None => Dir::default(),
                };
                below.put(rest, file);
                if below.entries.is_empty() {
                    if let Ok(place) = place {
                        self.entries.remove(place);
                    }
                } else {
                    self.set(place, name, Node::Dir(Arc::new(below)));
                }
            }
        }
    }

    fn set(&mut self, place: Result<usize, usize>, name: &[u8], node: Node) {
        match place {
            Ok(place) => self.entries[place].1 = node,
            Err(place) => self.entries.insert(place, (name.into(), node)),
        }
    }
}

/// What the file begins with: format and version.
const MAGIC: &[u8] = b"opencode manifest 1\n";

/// Stores the manifest, whole or not at all.
pub(super) fn save(root: &Dir, file: &Path) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    write(root, &mut bytes);
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, bytes)?;
    std::fs::rename(fresh, file)
}

/// Reads it back; none where it is missing or damaged.
pub(super) fn load(file: &Path) -> Option<Dir> {
    let bytes = std::fs::read(file).ok()?;
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
    use super::*;

    fn file(seed: u8) -> File {
        let figures = Figures { size: 1, mtime: -2, ctime: 3, inode: u64::from(seed) };
        let oid = Oid::from_bytes(&[seed; 20]).unwrap();
        File { oid, kind: Kind::Executable, figures, racy: seed & 1 == 0, seeded: seed == 3 || seed == 6 }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was_and_damage_is_noticed() {
        let mut root = Dir::default();
        for (path, seed) in [("b/c/d", 1), ("a", 2), ("b/\u{e9}", 3), ("b/c/e", 6)] {
            root.put(path.as_bytes(), Some(file(seed)));
        }
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("manifest");
        save(&root, &at).unwrap();
        assert_eq!(format!("{:?}", load(&at).unwrap()), format!("{root:?}"));
        let mut bytes = std::fs::read(&at).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&at, bytes).unwrap();
        assert!(load(&at).is_none());
    }

    #[test]
    fn files_are_put_and_taken_away_at_any_depth() {
        let mut root = Dir::default();
        root.put(b"a/b/c", Some(file(1)));
        root.put(b"a/d", Some(file(2)));
        assert!(root.file(b"a/b/c").is_some() && root.file(b"a/b").is_none() && root.holds(b"a/b"));
        root.put(b"a/b/c", None);
        assert!(!root.holds(b"a/b") && root.holds(b"a/d"));
        root.put(b"a", Some(file(3)));
        assert!(root.file(b"a").is_some() && !root.holds(b"a/d"));
        root.put(b"a/x/y", None);
        assert!(root.file(b"a").is_some());
    }
}
